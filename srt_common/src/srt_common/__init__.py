"""Shared core of SRT: trees, messages, stores, settings, telemetry. Importable without torch and
vLLM.
"""

__version__ = "0.1.0"
