"""Losslessness test for users: real vLLM against the enumerated distribution (``srt verify``).

Sequences are sampled through the engine with drafting on and counted; the same distribution is
enumerated from the model itself. If drafting changed what is sampled, a chi-square test says so.
"""
