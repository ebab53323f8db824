"""Who may use an engine's slots: policy rollouts always, run-ahead only what they leave over.

* Pure: no clock, no I/O. `flights` acts on what is decided here.
* Policy requests are admitted at once, in arrival order; those beyond ``max_num_seqs`` wait in
  vLLM's own queue, ahead of run-ahead (their ``priority``).
* Run-ahead is admitted only while all requests together leave ``reserve_slots`` free, and is let
  go, youngest first, as soon as policy requests reach into that reserve.
"""

from __future__ import annotations

from enum import Enum

from srt_common.messages.rollouts import Lane


class Verdict(Enum):
    """What becomes of a request that arrives."""

    ADMITTED = "admitted"
    BUSY = "busy"
    DUPLICATE = "duplicate"


class Lanes:
    """The requests of one engine that are in flight, by lane."""

    def __init__(self, *, max_num_seqs: int, reserve_slots: int, max_waiting: int) -> None:
        self._max_num_seqs = max_num_seqs
        self._reserve_slots = reserve_slots
        self._max_waiting = max_waiting
        self._policy: set[str] = set()
        self._run_ahead: dict[str, bool] = {}
        """Oldest first; True once it has been asked to leave."""
        self.is_run_ahead_open = True
        """False while run-ahead must stay out altogether: weights are loaded, the pod drains."""

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._policy or request_id in self._run_ahead

    @property
    def num_running_policy(self) -> int:
        """Policy requests that have a slot, or get one with the engine's next step."""
        return min(len(self._policy), self._max_num_seqs)

    @property
    def num_waiting_policy(self) -> int:
        """Policy requests beyond the engine's slots."""
        return len(self._policy) - self.num_running_policy

    @property
    def num_run_ahead(self) -> int:
        """Run-ahead requests in the engine, those asked to leave included."""
        return len(self._run_ahead)

    def enter(self, request_id: str, lane: Lane) -> Verdict:
        """Decide on an arrival; nothing changes unless it is admitted."""
        if request_id in self:
            return Verdict.DUPLICATE
        if lane == "policy":
            if len(self._policy) >= self._max_num_seqs + self._max_waiting:
                return Verdict.BUSY
            self._policy.add(request_id)
            return Verdict.ADMITTED
        if not self.is_run_ahead_open or self._num_beyond_reserve(len(self._run_ahead)) >= 0:
            return Verdict.BUSY
        self._run_ahead[request_id] = False
        return Verdict.ADMITTED

    def leave(self, request_id: str) -> None:
        """The engine has answered this request. Unknown ids are ignored."""
        self._policy.discard(request_id)
        self._run_ahead.pop(request_id, None)

    def evict(self) -> list[str]:
        """Run-ahead requests that must leave now, youngest first; each is named once."""
        staying = [
            request_id for request_id, is_leaving in self._run_ahead.items() if not is_leaving
        ]
        num_evicted = min(len(staying), max(0, self._num_beyond_reserve(len(staying))))
        return self._marked(staying[::-1][:num_evicted])

    def evict_all(self) -> list[str]:
        """Every run-ahead request not yet asked to leave, youngest first."""
        staying = [
            request_id for request_id, is_leaving in self._run_ahead.items() if not is_leaving
        ]
        return self._marked(staying[::-1])

    def policy_requests(self) -> list[str]:
        """Policy requests in flight, in no order."""
        return list(self._policy)

    def _num_beyond_reserve(self, num_run_ahead: int) -> int:
        """How many slots are used that the reserve should keep free; negative: still free."""
        return len(self._policy) + num_run_ahead - (self._max_num_seqs - self._reserve_slots)

    def _marked(self, request_ids: list[str]) -> list[str]:
        for request_id in request_ids:
            self._run_ahead[request_id] = True
        return request_ids
