"""A namespace that refuses is told of, stops no other, and comes back when it answers."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from srt_operator.backends.kubernetes_api import KubernetesApi, KubernetesRefused
from srt_operator.cluster.listing import KEEP_SECONDS, Listing
from srt_operator.cluster.store import Key, Store
from support.replicas import ManualClock

ONE, TWO = ("SRTJob", "team-a", "sums"), ("SRTJob", "team-b", "sums")


class Api:
    """A job in every namespace; those of ``refusing`` do so with this status."""

    def __init__(self, **refusing: int) -> None:
        self.kinds: frozenset[str] | None = None
        """That are refused; None: all."""
        self.refusing = {name.replace("_", "-"): status for name, status in refusing.items()}
        self.asked: list[str | None] = []

    async def list(
        self, kind: str, namespace: str | None, **_: str
    ) -> tuple[list[dict[str, Any]], str]:
        self.asked.append(namespace)
        status = self.refusing.get(namespace or "all")
        if status and (self.kinds is None or kind in self.kinds):
            raise KubernetesRefused(status=status, reason=f"{kind} is refused in {namespace}")
        metadata = {"name": "sums", "namespace": namespace, "resourceVersion": "1", "uid": "u"}
        return ([{"kind": kind, "metadata": metadata}] if kind in ("SRTJob", "Pod") else []), "1"


class Looked:
    """A listing of two namespaces, and what it tells."""

    def __init__(self, api: Api, *namespaces: str) -> None:
        self.clock, self.store, self.num_forbidden = ManualClock(), Store(), -1
        self.listing = Listing(
            cast(KubernetesApi, api),
            self.store,
            self.clock,
            namespaces=namespaces,
            observe_forbidden=self.note,
        )

    def note(self, number: int) -> None:
        self.num_forbidden = number

    def has(self, key: Key) -> bool:
        return self.store.get(*key) is not None


async def test_resources_of_all_namespaces_are_looked_at_and_nothing_else() -> None:
    looked = Looked(Api(), "team-a", "team-b")
    assert await looked.listing.everything() == [ONE, TWO]
    assert looked.has(("Pod", "team-a", "sums"))
    assert (looked.num_forbidden, looked.listing.fault()) == (0, None)


async def test_a_namespace_that_refuses_stops_no_other_and_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looked = Looked(Api(team_a=403), "team-a", "team-b")
    with caplog.at_level(logging.WARNING):
        assert await looked.listing.everything() == [TWO]
        assert await looked.listing.everything() == [TWO]
    assert [record.message for record in caplog.records] == ["a namespace is not looked after"]
    assert (looked.num_forbidden, looked.listing.fault()) == (1, None)


async def test_only_those_that_refused_are_asked_again_and_they_come_back() -> None:
    api = Api(team_a=403)
    looked = Looked(api, "team-a", "team-b")
    await looked.listing.everything()
    api.asked.clear()
    assert await looked.listing.forbidden() == []
    api.refusing.clear()
    assert await looked.listing.forbidden() == [ONE]
    assert set(api.asked) == {"team-a"}
    assert looked.num_forbidden == 0
    assert await looked.listing.forbidden() == []


async def test_what_was_seen_is_kept_for_a_while_and_then_forgotten() -> None:
    api = Api()
    looked = Looked(api, "team-a", "team-b")
    await looked.listing.everything()
    api.refusing = {"team-a": 403}
    assert await looked.listing.forbidden() == []
    assert await looked.listing.everything() == [TWO]
    looked.clock.advance(KEEP_SECONDS - 1)
    assert await looked.listing.forbidden() == []
    assert looked.has(ONE)
    looked.clock.advance(1)
    assert await looked.listing.forbidden() == [ONE], "looked at once more, so that it is let go"
    assert (looked.has(ONE), looked.has(TWO)) == (False, True)


@pytest.mark.parametrize("namespaces", [(), ("team-a",)])
async def test_when_all_refuse_nothing_is_looked_after(namespaces: tuple[str, ...]) -> None:
    looked = Looked(Api(all=403, team_a=403), *namespaces)
    assert await looked.listing.everything() == []
    where = namespaces[0] if namespaces else None
    assert looked.listing.fault() == f"resources cannot be listed: SRTJob is refused in {where}"


async def test_any_other_refusal_comes_out() -> None:
    looked = Looked(Api(team_a=404), "team-a", "team-b")
    with pytest.raises(KubernetesRefused):
        await looked.listing.everything()


async def test_a_namespace_is_known_once_it_has_been_listed_and_until_it_is_forgotten() -> None:
    api = Api()
    looked = Looked(api, "team-a", "team-b")
    assert not looked.listing.knows("team-a")
    await looked.listing.everything()
    assert looked.listing.knows("team-a")
    api.refusing = {"team-a": 403}
    await looked.listing.everything()
    assert looked.listing.knows("team-a"), "for a while"
    looked.clock.advance(KEEP_SECONDS)
    await looked.listing.forbidden()
    assert (looked.listing.knows("team-a"), looked.listing.knows("team-b")) == (False, True)
    api.refusing.clear()
    await looked.listing.forbidden()
    assert looked.listing.knows("team-a")


async def test_one_kind_that_is_refused_makes_nothing_forgotten() -> None:
    api = Api()
    looked = Looked(api, "team-a")
    await looked.listing.everything()
    api.refusing, api.kinds = {"team-a": 403}, frozenset({"Pod"})
    await looked.listing.everything()
    looked.clock.advance(KEEP_SECONDS)
    assert await looked.listing.everything() == [ONE]
    assert looked.has(("Pod", "team-a", "sums"))
    assert looked.listing.knows("team-a")
    assert looked.num_forbidden == 1


async def test_what_was_found_before_a_failure_is_told_of_after_it() -> None:
    api = Api(team_b=500)
    looked = Looked(api, "team-a", "team-b")
    with pytest.raises(KubernetesRefused):
        await looked.listing.everything()
    api.refusing.clear()
    assert await looked.listing.everything() == [ONE, ONE, TWO]
