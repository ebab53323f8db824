"""What has been sent in this policy version, and what is known of it. Pure.

* A chunk is in flight while the bubble it was sent into is open and nothing newer is known of it.
* A sample whose bubble closed before its chunk began may have that chunk sent again; one of which
  nothing is known any more counts as finished. Run-ahead is best effort.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from srt_common.coordination import UnfinishedSample
from srt_operator.runahead.planner import Chunk, Sample


@dataclass(frozen=True, slots=True)
class _Sent:
    """The last chunk sent of a sample."""

    chunk: int
    engine: str
    epoch: int


class Ledger:
    """Chunks sent at one policy version; a new version begins empty."""

    def __init__(self) -> None:
        self._policy_version: int | None = None
        self._sent: dict[tuple[bytes, int], _Sent] = {}
        self._step: int | None = None
        self._num_tokens = 0
        self.num_sent = 0
        """Chunks sent since the start."""

    def begin(self, *, step: int, policy_version: int) -> None:
        """What follows belongs to this step and version."""
        if policy_version != self._policy_version:
            self._policy_version = policy_version
            self._sent.clear()
        if step != self._step:
            self._step, self._num_tokens = step, 0

    def record(self, chunk: Chunk, *, epoch: int) -> None:
        """A chunk has been sent."""
        self._sent[chunk.prompt_key, chunk.sample] = _Sent(chunk.index, chunk.engine, epoch)
        self._num_tokens += chunk.max_tokens
        self.num_sent += 1

    def num_tokens_left(self, limit: int | None) -> int | None:
        """Of what a step may ask for; None: no limit."""
        return None if limit is None else max(0, limit - self._num_tokens)

    def samples(
        self, unfinished: Iterable[UnfinishedSample], open_epochs: Mapping[str, int]
    ) -> list[Sample]:
        """Every sample begun at the current policy version.

        Args:
            unfinished: samples that wait for a next chunk, of any policy version.
            open_epochs: of the open bubbles, by engine.
        """
        waiting = {
            (bytes.fromhex(sample.prompt_key), sample.sample): sample
            for sample in unfinished
            if sample.policy_version == self._policy_version
        }
        names = self._sent.keys() | waiting.keys()
        return [
            self._sample(name, self._sent.get(name), waiting.get(name), open_epochs)
            for name in sorted(names)
        ]

    def _sample(
        self,
        name: tuple[bytes, int],
        sent: _Sent | None,
        waiting: UnfinishedSample | None,
        open_epochs: Mapping[str, int],
    ) -> Sample:
        prompt_key, index = name
        is_open = sent is not None and open_epochs.get(sent.engine) == sent.epoch
        has_come_further = waiting is not None and (sent is None or waiting.chunk > sent.chunk)
        is_in_flight = is_open and not has_come_further
        return Sample(
            prompt_key=prompt_key,
            policy_version=self._policy_version or 0,
            index=index,
            engine="" if sent is None else sent.engine,
            num_chunks=0 if waiting is None else waiting.chunk,
            num_tokens=0 if waiting is None else len(waiting.token_ids),
            is_in_flight=is_in_flight,
            is_finished=not is_in_flight and waiting is None,
        )
