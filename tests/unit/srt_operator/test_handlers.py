"""What watches tell reaches a listener in another event loop, in order and in that loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sized
from itertools import islice

from srt_operator.event_loops import own_loop
from srt_operator.handlers import LAST_PAUSE, Pauses, _Across, _settings
from srt_operator.manifests.kubernetes.objects import Manifest


class Heard:
    """Records what is told, and where."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.threads: set[threading.Thread] = set()

    def hear(self, manifest: Manifest, is_gone: bool) -> None:
        self._note((manifest["name"], is_gone))

    def hear_of_listing(self) -> None:
        self._note("listing")

    def _note(self, what: object) -> None:
        self.told.append(what)
        self.threads.add(threading.current_thread())


def test_a_watch_that_is_refused_asks_again_for_ever() -> None:
    pauses = _settings().networking.error_backoffs
    assert isinstance(pauses, Pauses) and not isinstance(pauses, Sized), "kopf would give up"
    assert list(islice(pauses, 100))[-1] == LAST_PAUSE
    assert next(iter(pauses)) == 1.0, "each call begins anew"


async def test_a_listener_hears_in_order_in_its_own_loop() -> None:
    heard, looks = Heard(), asyncio.get_running_loop()
    across = _Across(heard, looks)

    async def tell() -> None:
        across.hear({"name": "a"}, False)
        across.hear_of_listing()
        across.hear({"name": "a"}, True)

    async with own_loop("watches") as watches:
        await watches.run(tell())
        await asyncio.sleep(0)
    assert heard.told == [("a", False), "listing", ("a", True)]
    assert heard.threads == {threading.current_thread()}
