"""Replays recorded rollouts through drafters, to say what drafting would gain: `srt simulate`.

No model runs. Each recorded response is walked again as an engine would decode it: a drafter that
knows only what an engine would know by then proposes tokens, and the recorded ones say how many
are accepted.

    sources -> Trace -> replay: batches through the replicas of an Arm -> Account
                                       |                                     |
                            drafters, srt, suffix; budget        figures (JSON), forecast, show

* Text traces are judged by point-mass drafts: a drafted token is accepted when the recorded text
  has it, which happens with the probability the policy gave it.
* Where the policy's distributions were recorded, drafts are sampled and coupled with the text
  (`srt_common.tree.PromptForest.step`), which is exact too.
"""
