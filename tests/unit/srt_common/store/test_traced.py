"""The traced store passes everything on: spans for snapshots, numbers for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from srt_common.errors import TreeStoreUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.tree_updates import PromptRemoved, TreeUpdate
from srt_common.store.base import START, StoredSnapshot
from srt_common.store.memory import MemoryStore
from srt_common.store.traced import TracedStore
from srt_common.telemetry import names
from srt_common.telemetry.instruments import StoreInstruments
from support.otel import RecordedTelemetry

KEY = PromptKey(bytes(16))
ERRORS = {names.ATTR_ERROR_TYPE: "TreeStoreUnavailable"}


class StoreThatIsAway(MemoryStore):
    """Answers nothing."""

    async def append(self, _updates: Sequence[TreeUpdate]) -> None:
        raise TreeStoreUnavailable(address="here", reason="away")

    async def snapshot(self, _prompt_key: PromptKey) -> StoredSnapshot | None:
        raise TreeStoreUnavailable(address="here", reason="away")


@pytest.fixture
def telemetry() -> RecordedTelemetry:
    return RecordedTelemetry()


def traced(inner: MemoryStore, telemetry: RecordedTelemetry) -> TracedStore:
    instruments = StoreInstruments.of(telemetry.meter)
    return TracedStore(inner, tracer=telemetry.tracer, instruments=instruments)


async def test_every_call_reaches_the_store(telemetry: RecordedTelemetry) -> None:
    inner = MemoryStore(num_shards=1)
    store = traced(inner, telemetry)
    await store.append([PromptRemoved(KEY)])
    [batch] = await store.read({0: START}, block_seconds=1.0, max_entries=1)
    assert batch.updates == [PromptRemoved(KEY)]
    assert await store.heads() == await inner.heads() == {0: batch.cursor}
    await store.put_snapshot(KEY, StoredSnapshot(b"x", batch.cursor))
    assert await store.snapshot_keys(store.num_shards - 1) == [KEY]
    await store.trim(0, batch.cursor)
    assert await store.floors() == {0: batch.cursor}
    await store.remove_prompt(KEY)
    assert await inner.snapshot(KEY) is None
    await store.close()


async def test_a_snapshot_has_a_span_that_says_whether_there_was_one(
    telemetry: RecordedTelemetry,
) -> None:
    store = traced(MemoryStore(num_shards=1), telemetry)
    await store.snapshot(KEY)
    await store.put_snapshot(KEY, StoredSnapshot(b"x", START))
    await store.snapshot(KEY)
    spans = telemetry.spans(names.SPAN_TREE_SNAPSHOT)
    results = [(span.attributes or {})[names.ATTR_CACHE_RESULT] for span in spans]
    assert results == ["miss", "hit"]
    assert {(span.attributes or {})[names.ATTR_PROMPT_KEY] for span in spans} == {KEY.hex()}


async def test_rejected_entries_are_counted(telemetry: RecordedTelemetry) -> None:
    inner = MemoryStore(num_shards=1)
    await inner.append_entry(0, b"\xff")
    await inner.append_entry(0, b"")
    await traced(inner, telemetry).read({0: START})
    assert telemetry.value(names.METRIC_LOG_REJECTED) == 2


async def test_a_failed_call_is_counted_and_the_error_goes_on(telemetry: RecordedTelemetry) -> None:
    store = traced(StoreThatIsAway(num_shards=1), telemetry)
    with pytest.raises(TreeStoreUnavailable):
        await store.append([PromptRemoved(KEY)])
    with pytest.raises(TreeStoreUnavailable):
        await store.snapshot(KEY)
    assert telemetry.value(names.METRIC_STORE_ERRORS, ERRORS) == 2
    assert telemetry.value(names.METRIC_LOG_APPEND_DURATION) == 1
