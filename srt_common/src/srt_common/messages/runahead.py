"""One chunk of run-ahead: what the dispatcher sends through Celery and what the worker reports.

* Carries keys and numbers only; prompt tokens are looked up under ``prompt_key`` (design 12.14).
* Never a learning target: the tokens reach the trees and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

RUNAHEAD_TASK = "srt.runahead.generate"


class RunaheadJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of one task. JSON; below 4 kB."""

    job: str
    """Job id, the prefix of its coordination keys."""
    engine: str
    """Name of the engine whose bubble this chunk fills."""
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    """Epoch of that bubble; a chunk of another epoch is dropped."""
    prompt_key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    """Hex of the 16-byte key."""
    sample: Annotated[int, msgspec.Meta(ge=0)]
    """Which sample of this prompt, 0-based, within one policy version."""
    policy_version: Annotated[int, msgspec.Meta(ge=0)]
    chunk_tokens: Annotated[int, msgspec.Meta(ge=1)]
    """Most tokens this chunk may sample."""
    deadline_at_unix: float
    """Not started after this instant."""
    chunk: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Which chunk of the sample, from 0; later ones go on where the one before ended."""


RunaheadResult = Literal["completed", "aborted", "expired", "duplicate", "failed"]


class RunaheadOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one chunk."""

    result: RunaheadResult
    num_tokens: int
    """Tokens sampled, partial ones of an aborted chunk included."""
    is_finished: bool
    """The response ended (stop token or length)."""
    duration_seconds: float
    abort_seconds: float | None = None
    """From the close of the bubble to the engine's answer, for aborted chunks."""
