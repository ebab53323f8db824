"""A replica owns a shard only while nobody else can, and knows at once when it does not."""

from __future__ import annotations

from srt_common.coordination import LEASE_TTL_SECONDS
from srt_tree_cache.leases import RENEW_SECONDS, SAFE_SECONDS, LeaseKeeper
from support.replicas import FakeLease, ManualClock


class Lost:
    """Counts calls."""

    def __init__(self) -> None:
        self.num = 0

    def __call__(self) -> None:
        self.num += 1


def keeper(leases: list[FakeLease], clock: ManualClock) -> LeaseKeeper:
    return LeaseKeeper(leases, clock=clock, on_lost=Lost())


async def test_free_shards_are_taken_and_others_left() -> None:
    leases = [FakeLease(), FakeLease(is_free=False), FakeLease()]
    kept = keeper(leases, ManualClock())
    assert kept.owned() == []
    await kept.renew()
    assert kept.owned() == [0, 2]
    assert not kept.owns(1)


async def test_a_held_lease_is_renewed_and_not_taken_again() -> None:
    lease, clock = FakeLease(), ManualClock()
    kept = keeper([lease], clock)
    for _ in range(10):
        await kept.renew()
        clock.advance(RENEW_SECONDS)
        assert kept.owns(0)
    assert lease.log == ["acquire"] + ["renew"] * 9


async def test_a_shard_that_becomes_free_is_taken() -> None:
    lease = FakeLease(is_free=False)
    kept = keeper([lease], ManualClock())
    await kept.renew()
    lease.is_free = True
    await kept.renew()
    assert kept.owns(0)


async def test_a_lease_taken_over_ends_ownership_at_once_and_is_counted() -> None:
    lease, lost = FakeLease(), Lost()
    kept = LeaseKeeper([lease], clock=ManualClock(), on_lost=lost)
    await kept.renew()
    lease.take_away()
    await kept.renew()
    assert kept.owned() == []
    assert kept.num_lost == lost.num == 1
    await kept.renew()
    assert (kept.owned(), kept.num_lost) == ([], 1)


async def test_without_the_server_ownership_ends_before_the_server_would_end_it() -> None:
    lease, clock = FakeLease(), ManualClock()
    kept = keeper([lease], clock)
    await kept.renew()
    lease.is_away = True
    clock.advance(SAFE_SECONDS - 0.1)
    await kept.renew()
    assert kept.owns(0)
    clock.advance(0.1)
    assert not kept.owns(0)
    assert SAFE_SECONDS < LEASE_TTL_SECONDS


async def test_time_spent_asking_counts_against_the_lease() -> None:
    clock = ManualClock()

    class SlowLease(FakeLease):
        async def acquire(self) -> bool:
            clock.advance(SAFE_SECONDS)
            return await super().acquire()

    kept = keeper([SlowLease()], clock)
    await kept.renew()
    assert not kept.owns(0)


async def test_a_server_that_is_away_is_asked_once_a_round() -> None:
    leases = [FakeLease(is_away=True) for _ in range(3)]
    await keeper(leases, ManualClock()).renew()
    assert [len(lease.log) for lease in leases] == [1, 0, 0]


async def test_everything_held_is_released_at_the_end() -> None:
    leases = [FakeLease(), FakeLease(is_free=False)]
    kept = keeper(leases, ManualClock())
    await kept.renew()
    await kept.release()
    assert kept.owned() == []
    assert leases[0].log[-1] == "release"
    assert "release" not in leases[1].log
    assert not leases[0].is_held


async def test_release_gives_up_when_the_server_is_away() -> None:
    leases = [FakeLease(), FakeLease()]
    kept = keeper(leases, ManualClock())
    await kept.renew()
    leases[0].is_away = True
    await kept.release()
    assert kept.owned() == []
    assert "release" not in leases[1].log
