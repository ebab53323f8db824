"""What every back end promises; `tests/contract/test_backends.py` holds them all to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from srt_operator.processes import ProcessStatus
from srt_operator.reconciler import Action


class Backend(Protocol):
    """Carries out actions on the processes of one job, and says how they stand.

    * A process that was never started is absent from what is observed.
    * ``Start`` of a living process and ``Stop`` of one that does not live do nothing.
    * A stopped process ends for certain, if need be by force.
    * After `close` nothing of the job runs, whatever state it was in.
    """

    async def observe(self) -> Mapping[str, ProcessStatus]:
        """How the processes stand now."""
        ...

    async def apply(self, actions: Sequence[Action]) -> None:
        """Carry out actions in their order; returns before processes are ready or gone."""
        ...

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Return when something may have changed, at the latest after ``timeout_seconds``."""
        ...

    async def close(self) -> None:
        """End what still runs. Idempotent."""
        ...
