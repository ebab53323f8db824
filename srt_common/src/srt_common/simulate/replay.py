"""Walks recorded rollouts again, batch after batch, through the replicas of one drafter.

* A batch decodes in lock step on each replica: a step's drafts are made from what all rows had
  given before it. The next batch starts when the last row of a batch has ended.
* With several replicas a batch's rollouts go to random ones, so as many rows are in flight as with
  one: only what a replica has seen differs. Replicas share tokens through a log that shows them
  after a delay, on a clock that the cost model drives; each replica has its own clock.
* Exact replays (known distributions) draft the first token too, as the testbed's peers did.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from srt_common.simulate.budget import Budget, CostModel, Limits
from srt_common.simulate.drafters import Drafter
from srt_common.simulate.row import Row
from srt_common.simulate.tally import Account, resident_bytes
from srt_common.simulate.trace import Rollout, Trace
from srt_common.tree import Update


@dataclass(frozen=True, slots=True)
class Episode:
    """A replay that starts with empty trees."""

    history: Sequence[Rollout]
    """Inserted first, not decoded."""
    batches: Sequence[Sequence[Rollout]]


class Parcel(NamedTuple):
    """Updates on their way; sorts by when they may be seen."""

    visible_at: float
    number: int
    updates: list[Update]


@dataclass(slots=True)
class Replica:
    """One engine: a drafter, the rows it decodes, its clock."""

    drafter: Drafter
    budget: Budget
    rows: list[Row] = field(default_factory=list)
    clock: float = 0.0
    inbox: list[Parcel] = field(default_factory=list)
    """A heap."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all arms of a replay have in common."""

    cost: CostModel
    publish_delay_seconds: float
    is_shared: bool
    first_token_counts: bool
    seed: int


class Arm:
    """One drafter on its replicas, through one episode."""

    def __init__(
        self, name: str, trace: Trace, setting: Setting, make_replicas: Callable[[], list[Replica]]
    ) -> None:
        self.name = name
        self.account = Account()
        self._trace = trace
        self._setting = setting
        self._make_replicas = make_replicas
        self._replicas: list[Replica] = []
        self._random = random.Random(setting.seed)
        self._num_rows = 0
        self._num_parcels = 0
        self._resident_before = 0

    def begin(self, history: Sequence[Rollout]) -> None:
        """Empty trees, then history: known to every replica that shares, else spread."""
        self._resident_before = resident_bytes()
        self._replicas = self._make_replicas()
        self.account.timings = [replica.drafter.timing for replica in self._replicas]
        for rollout in history:
            self._insert(rollout)
        self._publish_all()

    def run(self, batch: Sequence[Rollout]) -> None:
        """Decode a batch: it ends with its longest rollout."""
        tally = self.account.tally
        tally.undrafted_seconds += self._start(batch)
        start = max(replica.clock for replica in self._replicas)
        for replica in self._replicas:
            replica.clock = start
        while running := [replica for replica in self._replicas if replica.rows]:
            self._step(min(running, key=lambda it: it.clock))
        tally.seconds += max(replica.clock for replica in self._replicas) - start

    def end(self) -> Account:
        """Note what the drafters hold; everything there is to know."""
        self.account.tally.grown_bytes = resident_bytes() - self._resident_before
        for replica in self._replicas:
            self.account.held = self.account.held.plus(replica.drafter.held())
        return self.account

    def _start(self, batch: Sequence[Rollout]) -> float:
        """Give every rollout to a replica; returns what the batch takes without drafts."""
        num_steps: dict[int, list[int]] = {}
        for rollout in batch:
            number = self._random.randrange(len(self._replicas))
            self._open(self._replicas[number], rollout, 0)
            from_prefill = 0 if self._setting.first_token_counts else len(rollout.turns)
            num_steps.setdefault(number, []).append(rollout.num_generated - from_prefill)
        cost = self._setting.cost
        seconds = (
            cost.c0_seconds * max(it) + cost.c1_seconds * sum(it) for it in num_steps.values()
        )
        return max(seconds)

    def _open(self, replica: Replica, rollout: Rollout, turn: int, conversation: int = 0) -> None:
        """Start a turn; 0: of a conversation of its own."""
        self._num_rows += 1
        prompt = self._trace.prompts[rollout.prompt_index]
        conversation = conversation or self._num_rows
        row = Row(self._num_rows, conversation, prompt, rollout, rollout.turns[turn])
        replica.drafter.open(row)
        if not self._setting.first_token_counts:
            row.prefill()
        replica.rows.append(row)

    def _insert(self, rollout: Rollout) -> None:
        """A rollout of the past, as if some replica had sampled it without drafting."""
        replica = self._random.choice(self._replicas)
        limits = Limits(max_draft_tokens=0, min_survival=1.0)
        conversation = 0
        for turn in range(len(rollout.turns)):
            self._open(replica, rollout, turn, conversation)
            row = replica.rows.pop()
            conversation = row.conversation
            row.new_tokens, row.at = row.text, row.turn.end
            replica.drafter.step([row], limits)
            replica.drafter.close(row)

    def _step(self, replica: Replica) -> None:
        """One decoding pass of a replica, and its drafts for the next one."""
        while replica.inbox and replica.inbox[0].visible_at <= replica.clock:
            replica.drafter.apply(heapq.heappop(replica.inbox).updates)
        self._verify(replica)
        rows = replica.rows
        drafts = replica.drafter.step(rows, replica.budget.limits(len(rows)))
        for row, draft in zip(rows, drafts, strict=True):
            row.draft, row.is_new = draft, False
        replica.rows = [row for row in rows if not row.is_done]
        for row in rows:
            if row.is_done:
                replica.drafter.close(row)
                if not row.is_last_turn:
                    turn = row.rollout.turns.index(row.turn) + 1
                    self._open(replica, row.rollout, turn, row.conversation)
        self._publish(replica)

    def _verify(self, replica: Replica) -> None:
        """The decoding pass of rows that have something to verify, if only their next token."""
        num_tokens = num_drafted = num_rows = 0
        for row in replica.rows:
            if row.is_new:
                continue
            given = row.verify()
            self.account.tally.verified(len(row.draft), row.num_accepted, given)
            num_rows += 1
            num_tokens += given
            num_drafted += len(row.draft)
        if num_rows:
            self.account.tally.num_passes += 1
            replica.clock += self._setting.cost.step_seconds(num_rows + num_drafted)
            replica.budget.observe(num_rows, num_drafted, num_tokens)

    def _publish(self, replica: Replica) -> None:
        """Put what a replica sampled where the others see it after the delay."""
        if not self._setting.is_shared:
            return
        if updates := replica.drafter.drain():
            visible_at = replica.clock + self._setting.publish_delay_seconds
            for other in self._replicas:
                if other is not replica:
                    heapq.heappush(other.inbox, Parcel(visible_at, self._num_parcels, updates))
                    self._num_parcels += 1

    def _publish_all(self) -> None:
        """Let every replica see everything now."""
        for replica in self._replicas:
            self._publish(replica)
        for replica in self._replicas:
            while replica.inbox:
                replica.drafter.apply(heapq.heappop(replica.inbox).updates)


def batches(trace: Trace, batch_size: int) -> list[list[Rollout]]:
    """Rollouts in order, ``batch_size`` at a time."""
    made: list[list[Rollout]] = []
    for rollout in trace.rollouts:
        is_full = not made or len(made[-1]) == batch_size
        if not is_full and trace.batches_end_with_version:
            is_full = made[-1][-1].policy_version != rollout.policy_version
        if is_full:
            made.append([])
        made[-1].append(rollout)
    return made


def exact_episodes(trace: Trace, versions: Sequence[int]) -> list[Episode]:
    """One replay a policy version, with everything before it as history; all its rollouts at once.

    Only rollouts with complete distributions are decoded.
    """
    return [
        Episode(
            history=[it for it in trace.rollouts if it.policy_version < version],
            batches=[[it for it in trace.rollouts if it.policy_version == version and it.is_exact]],
        )
        for version in versions
    ]
