"""Chunks of run-ahead samples on a real server: claims per chunk, unfinished samples, totals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from srt_common.coordination import Coordination, RunaheadTotals, UnfinishedSample
from srt_common.messages.runahead import RunaheadOutcome, RunaheadResult
from support.redis_server import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


@pytest.fixture
async def job(server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[Coordination]:
    job = Coordination.from_url(server.url, job=request.node.name[:40])
    yield job
    await job.close()


def outcome(
    result: RunaheadResult, num_tokens: int = 0, *, abort_seconds: float | None = None
) -> RunaheadOutcome:
    return RunaheadOutcome(
        result=result,
        num_tokens=num_tokens,
        is_finished=result == "completed",
        duration_seconds=0.5,
        abort_seconds=abort_seconds,
    )


async def test_each_chunk_of_a_sample_is_claimed_apart(job: Coordination) -> None:
    assert await job.claim_sample("00ff", 0, 1, "first", chunk=0)
    assert await job.claim_sample("00ff", 0, 1, "second", chunk=1)
    assert not await job.claim_sample("00ff", 0, 1, "second", chunk=0)


async def test_a_released_claim_is_free_for_others_and_only_its_holder_releases_it(
    job: Coordination,
) -> None:
    await job.claim_sample("00ff", 0, 1, "holder", chunk=2)
    await job.release_sample("00ff", 0, 1, "stranger", chunk=2)
    assert not await job.claim_sample("00ff", 0, 1, "other", chunk=2)
    await job.release_sample("00ff", 0, 1, "holder", chunk=2)
    assert await job.claim_sample("00ff", 0, 1, "other", chunk=2)


async def test_an_unfinished_sample_goes_on_until_it_is_dropped(job: Coordination) -> None:
    assert await job.unfinished("00ff", 3, 1) is None
    held = UnfinishedSample("00ff", 3, 1, chunk=1, token_ids=(7, 8))
    await job.put_unfinished(held)
    assert await job.unfinished("00ff", 3, 1) == held
    longer = UnfinishedSample("00ff", 3, 1, chunk=2, token_ids=(7, 8, 9))
    await job.put_unfinished(longer)
    await job.put_unfinished(UnfinishedSample("00ff", 3, 2, chunk=1, token_ids=(1,)))
    assert await job.all_unfinished(1) == [longer]
    await job.drop_unfinished("00ff", 3, 1)
    assert await job.all_unfinished(1) == []
    assert len(await job.all_unfinished(2)) == 1


async def test_totals_add_up_over_all_chunks(job: Coordination) -> None:
    assert await job.outcomes() == RunaheadTotals({}, 0, 0, ())
    for one in (
        outcome("completed", 30),
        outcome("completed", 20),
        outcome("aborted", 5, abort_seconds=0.25),
        outcome("aborted", 4),
        outcome("expired"),
    ):
        await job.record_outcome(one)
    assert await job.outcomes() == RunaheadTotals(
        num_results={"completed": 2, "aborted": 2, "expired": 1},
        num_tokens=59,
        num_finished=2,
        abort_seconds=(0.25,),
    )


async def test_a_forgotten_job_has_no_totals(job: Coordination) -> None:
    await job.record_outcome(outcome("aborted", 5, abort_seconds=0.25))
    await job.forget_job()
    assert await job.outcomes() == RunaheadTotals({}, 0, 0, ())
