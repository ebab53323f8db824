"""A turn on its way through a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from srt_common.simulate.trace import IntArray, Rollout, Turn


@dataclass(slots=True, eq=False)
class Row:
    """One request: a turn of a rollout that decodes again.

    Lifecycle: `prefill` (not in exact replays), a drafter's step, then in turn a decoding pass that
    `verify`s the draft and a drafter's step, until `is_done`.
    """

    number: int
    """Unique in the replay of an arm."""
    conversation: int
    """The same for all turns of a rollout."""
    prompt: IntArray
    rollout: Rollout
    turn: Turn
    at: int = field(init=False)
    """Place of its next token in the rollout's tokens."""
    text: list[int] = field(init=False)
    """The whole turn."""
    new_tokens: Sequence[int] = ()
    """Given since the drafter's last step."""
    draft: list[int] = field(default_factory=list)
    num_accepted: int = 0
    """Of the last draft."""
    is_new: bool = True
    """No drafter's step has seen it: it has nothing to verify yet."""

    def __post_init__(self) -> None:
        self.at = self.turn.start
        self.text = self.rollout.tokens[self.turn.start : self.turn.end].tolist()

    @property
    def is_done(self) -> bool:
        """Every token has been given."""
        return self.at >= self.turn.end

    @property
    def is_last_turn(self) -> bool:
        """Nothing of the rollout is sampled after it."""
        return self.turn is self.rollout.turns[-1]

    @property
    def context(self) -> IntArray:
        """What stands between prompt and turn."""
        return self.rollout.tokens[: self.turn.start]

    @property
    def next_row(self) -> int:
        """Number of its next token among the trace's generated tokens."""
        return self.turn.first_row + self.at - self.turn.start

    def text_before(self, num_known: int) -> list[int]:
        """Prompt and context from token ``num_known`` on."""
        missing = num_known - len(self.prompt)
        if missing >= 0:
            return list(self.context[missing:].tolist())
        return [*self.prompt[num_known:].tolist(), *self.context.tolist()]

    def prefill(self) -> None:
        """The first token, which no draft can save."""
        self.new_tokens = self.text[:1]
        self.at += 1

    def verify(self) -> int:
        """One decoding pass: accept the draft as far as the recorded text has it, and one token
        more. Returns how many tokens that gave.
        """
        start = self.at - self.turn.start
        rest = self.text[start : start + len(self.draft) + 1]
        self.num_accepted = common_prefix(self.draft, rest)
        self.new_tokens = rest[: self.num_accepted + 1]
        self.at += len(self.new_tokens)
        return len(self.new_tokens)


def common_prefix(draft: Sequence[int], text: Sequence[int]) -> int:
    """How many tokens of a draft the text begins with."""
    for count, (drafted, recorded) in enumerate(zip(draft, text, strict=False)):
        if drafted != recorded:
            return count
    return min(len(draft), len(text))
