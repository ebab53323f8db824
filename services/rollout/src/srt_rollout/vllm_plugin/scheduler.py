"""The preempting scheduler (``--scheduler-cls``): policy work never waits for a run-ahead slot.

vLLM's priority scheduling orders its queue but evicts a running request only when blocks run out.
Here a waiting request takes the slot of a running one of larger ``priority`` value (later in order)
in the same step. The victim keeps its tokens and resumes when slots are free again.
"""

from __future__ import annotations

import time
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler


class PreemptingScheduler(Scheduler):
    """vLLM's scheduler with preemption on arrival."""

    def schedule(self, *args: Any, **options: Any) -> Any:
        self._make_room()
        return super().schedule(*args, **options)

    def _make_room(self) -> None:
        """Preempt as many later requests as earlier ones wait beyond the free slots, youngest
        first.
        """
        num_free = self.max_num_running_reqs - len(self.running)
        if not self.waiting or num_free >= len(self.waiting):
            return
        most_urgent = self.waiting.peek_request().priority
        victims = [request for request in self.running if request.priority > most_urgent]
        if not victims:
            return
        num_urgent = sum(request.priority <= most_urgent for request in self.waiting)
        victims.sort(key=lambda request: (-request.priority, -request.arrival_time))
        for victim in victims[: max(0, num_urgent - num_free)]:
            self.running.remove(victim)
            self._preempt_request(victim, time.monotonic())
