"""One span and a few counters per finished rollout, from inside the engine.

Nothing is recorded per decoding step: the trees count in plain integers and this module reads them
once, when a rollout ends. Counters appear on vLLM's own ``/metrics`` (its multi-process registry,
see the gateway's engine environment); lookups, which the gateway cannot see, also go through
OpenTelemetry.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from opentelemetry import metrics, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter, Gauge

from srt_common.governor import GovernorStats
from srt_common.messages.rollouts import ExtraArgs
from srt_common.telemetry import names
from srt_common.telemetry.instruments import DraftInstruments
from srt_common.tree import RowStats

_PROPAGATOR = TraceContextTextMapPropagator()

SOURCES = ("history", "online", "run_ahead")
"""Order of ``RowStats.accepted_by_source``."""


@dataclass(frozen=True, slots=True)
class _Opened:
    extra: ExtraArgs
    prompt_key: str
    num_prompt_tokens: int
    started_ns: int


class _GovernorMetrics:
    """Counters follow the governor's own, which only grow."""

    def __init__(self) -> None:
        self._probes = Counter("srt_draft_probe_steps", "Steps spent on measuring step time")
        self._off = Counter("srt_draft_off_steps", "Steps undrafted because drafting did not pay")
        self._base = Gauge(
            "srt_step_time_base_seconds", "Fitted c0", multiprocess_mode="livemostrecent"
        )
        self._per_token = Gauge(
            "srt_step_time_per_token_seconds", "Fitted c1", multiprocess_mode="livemostrecent"
        )
        self._num_probes = self._num_off = 0

    def set(self, stats: GovernorStats) -> None:
        self._probes.inc(max(0, stats.num_probe_steps - self._num_probes))
        self._off.inc(max(0, stats.num_off_steps - self._num_off))
        self._num_probes, self._num_off = stats.num_probe_steps, stats.num_off_steps
        self._base.set(stats.base_seconds)
        self._per_token.set(stats.per_token_seconds)


class RolloutTelemetry:
    """Spans and counters of one engine's rollouts. Never fails a request."""

    def __init__(self, engine_name: str) -> None:
        self._engine_name = engine_name
        self._tracer = trace.get_tracer("srt_rollout.vllm_plugin")
        self._drafts = DraftInstruments.of(metrics.get_meter("srt_rollout.vllm_plugin"))
        self._opened: dict[str, _Opened] = {}
        self._lookups = Counter("srt_cache_lookups", "Draft lookups", ["srt_cache_result"])
        self._drafted = Counter("srt_draft_tokens", "Verified draft tokens")
        self._accepted = Counter(
            "srt_draft_accepted_tokens", "Accepted draft tokens", ["srt_draft_source"]
        )
        self._steps = Counter("srt_draft_steps", "Decoding steps of single requests")
        self._skipped = Counter(
            "srt_draft_skipped", "Steps without drafts after an error", ["error_type"]
        )
        self._memory = Gauge(
            "srt_tree_memory_bytes", "Bytes of all trees", multiprocess_mode="livesum"
        )
        self._governor = _GovernorMetrics()

    def opened(self, request_id: str, extra: ExtraArgs, prompt_key: bytes, num_prompt: int) -> None:
        """A rollout has been scheduled for the first time."""
        self._opened[request_id] = _Opened(extra, prompt_key.hex(), num_prompt, time.time_ns())

    def closed(self, request_id: str, stats: RowStats, tree_memory_bytes: int) -> None:
        """A rollout has ended, however it ended."""
        opened = self._opened.pop(request_id)
        self._count(stats)
        self._memory.set(tree_memory_bytes)
        carrier = {"traceparent": opened.extra.traceparent} if opened.extra.traceparent else {}
        span = self._tracer.start_span(
            names.SPAN_ENGINE_ROLLOUT,
            context=_PROPAGATOR.extract(carrier),
            start_time=opened.started_ns,
            attributes=self._attributes(opened, stats),
        )
        span.end()

    def skipped(self, error: Exception) -> None:
        """A step went undrafted because of this error."""
        self._skipped.labels(type(error).__name__).inc()

    def governed(self, stats: GovernorStats) -> None:
        """The governor as it is now."""
        self._governor.set(stats)

    def _count(self, stats: RowStats) -> None:
        num_misses = stats.num_lookups - stats.num_hits
        for result, count in (("hit", stats.num_hits), ("miss", num_misses)):
            self._lookups.labels(result).inc(count)
            self._drafts.lookups.add(count, {names.ATTR_CACHE_RESULT: result})
        self._drafted.inc(stats.num_draft_tokens)
        self._steps.inc(stats.num_steps)
        for source, accepted in zip(SOURCES, stats.accepted_by_source, strict=True):
            self._accepted.labels(source).inc(accepted)

    def _attributes(self, opened: _Opened, stats: RowStats) -> dict[str, str | int | float]:
        by_source = dict(zip(SOURCES, stats.accepted_by_source, strict=True))
        best = max(by_source, key=by_source.__getitem__) if stats.num_accepted_tokens else "none"
        return {
            names.ATTR_ENGINE_NAME: self._engine_name,
            names.ATTR_LANE: opened.extra.srt_lane,
            names.ATTR_ROLLOUT_ID: opened.extra.srt_rollout_id,
            names.ATTR_PROMPT_KEY: opened.prompt_key,
            names.ATTR_INPUT_TOKENS: opened.num_prompt_tokens,
            names.ATTR_DRAFT_STEPS: stats.num_steps,
            names.ATTR_DRAFT_TOKENS: stats.num_draft_tokens,
            names.ATTR_ACCEPTED_TOKENS: stats.num_accepted_tokens,
            names.ATTR_ACCEPTED_HISTORY: by_source["history"],
            names.ATTR_ACCEPTED_ONLINE: by_source["online"],
            names.ATTR_ACCEPTED_RUN_AHEAD: by_source["run_ahead"],
            names.ATTR_DRAFT_SOURCE: best,
            names.ATTR_REMOTE_DRAFT_TOKENS: stats.num_remote_draft_tokens,
            names.ATTR_CACHE_LOOKUPS: stats.num_lookups,
            names.ATTR_CACHE_HITS: stats.num_hits,
            names.ATTR_MATCH_LENGTH: stats.sum_match_length / max(1, stats.num_hits),
        }
