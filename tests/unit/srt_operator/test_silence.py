"""Who does not answer is asked less and less often; who does, as ever."""

from __future__ import annotations

import asyncio

import httpx

from srt_operator.signals import rollout_pods
from srt_operator.signals.rollout_pods import RolloutPods
from srt_operator.signals.silence import BEARABLE_SECONDS, MAX_PAUSE_SECONDS, Silence
from support.replicas import ManualClock

TICK_SECONDS = 0.1
LOAD = {
    "engine": "rollout-0",
    "policy_version": 3,
    "max_num_seqs": 8,
    "reserve_slots": 2,
    "num_running_policy": 0,
    "num_waiting_policy": 0,
    "num_running_run_ahead": 0,
}


class Gateways:
    """Engines by host name; those in ``silent`` are not there, those in ``slow`` never answer."""

    def __init__(self, *names: str) -> None:
        self.clock = ManualClock()
        self.silent: set[str] = set()
        self.slow: set[str] = set()
        self.num_asked = dict.fromkeys(names, 0)
        client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        self.pods = RolloutPods(client, {name: f"http://{name}" for name in names}, self.clock)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.num_asked[request.url.host] += 1
        if request.url.host in self.silent:
            raise httpx.ConnectError("nobody there", request=request)
        if request.url.host in self.slow:
            await asyncio.Event().wait()
        return httpx.Response(200, json=LOAD)

    async def look(self, seconds: float) -> None:
        """As often as a controller does that is in a hurry."""
        for _ in range(round(seconds / TICK_SECONDS)):
            await self.pods.read()
            self.clock.advance(TICK_SECONDS)


def test_pauses_double_up_to_the_longest() -> None:
    silence, now, pauses = Silence(), 0.0, []
    for _ in range(12):
        silence.note(is_answered=False, now=now)
        begun = now
        while not silence.is_over(now):
            now += 0.01
        pauses.append(now - begun)
    for pause, longest in zip(pauses, (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * 6), strict=True):
        assert longest * 2 / 3 <= pause <= longest + 0.02


def test_one_answer_ends_the_pauses() -> None:
    silence = Silence()
    for now in range(100):
        silence.note(is_answered=False, now=float(now))
    silence.note(is_answered=True, now=100.0)
    assert silence.is_over(100.0)
    silence.note(is_answered=False, now=100.0 + BEARABLE_SECONDS - 0.1)
    assert silence.is_over(100.0 + BEARABLE_SECONDS - 0.1)


async def test_engines_that_are_not_there_are_asked_a_few_times_a_minute() -> None:
    gateways = Gateways("away", "there")
    gateways.silent.add("away")
    await gateways.look(60.0)
    assert 60.0 / MAX_PAUSE_SECONDS <= gateways.num_asked["away"] <= 30
    assert gateways.num_asked["there"] == 600


async def test_an_engine_that_comes_back_is_heard_within_the_longest_pause() -> None:
    gateways = Gateways("away")
    gateways.silent.add("away")
    await gateways.look(60.0)
    gateways.silent.clear()
    await gateways.look(MAX_PAUSE_SECONDS + TICK_SECONDS)
    before = gateways.num_asked["away"]
    await gateways.look(1.0)
    assert gateways.num_asked["away"] - before == 10


async def test_an_engine_that_answered_just_now_is_asked_at_every_look() -> None:
    gateways = Gateways("away")
    await gateways.look(1.0)
    gateways.silent.add("away")
    await gateways.look(BEARABLE_SECONDS - TICK_SECONDS)
    assert gateways.num_asked["away"] == round((1.0 + BEARABLE_SECONDS) / TICK_SECONDS) - 1


async def test_an_engine_that_keeps_us_waiting_holds_up_no_other() -> None:
    gateways = Gateways("slow", "there")
    gateways.slow.add("slow")
    for _ in range(3):
        began = asyncio.get_running_loop().time()
        assert list(await gateways.pods.read()) == ["there"]
        assert asyncio.get_running_loop().time() - began < 2.5 * rollout_pods.PATIENCE_SECONDS
    assert gateways.num_asked == {"slow": 1, "there": 3}
    await gateways.pods.close()
