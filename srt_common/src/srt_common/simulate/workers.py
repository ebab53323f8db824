"""One process per arm and episode, taking turns batch by batch.

* Interleaved: whatever else the machine does falls on all arms alike.
* Apart: the growth of an arm's process is its own, and ends with it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from srt_common.simulate.arms import SUFFIX, Options, Target, episodes, make_arm, order
from srt_common.simulate.replay import Episode
from srt_common.simulate.tally import Account
from srt_common.simulate.trace import Trace

_FORK = multiprocessing.get_context("fork")  # the trace is not copied


class _Worker:
    """An arm in a process of its own."""

    def __init__(self, name: str, trace: Trace, options: Options, episode: Episode) -> None:
        self.name = name
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(
            target=_serve, args=(name, trace, options, episode, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def turn(self, drafted_per_step: float) -> float:
        """Let it do its next part; returns its drafted tokens a request-step so far."""
        self._pipe.send(drafted_per_step)
        done: float = self._pipe.recv()
        return done

    def account(self) -> Account:
        """What came of it, when all parts are done."""
        self._pipe.send(0.0)
        account: Account = self._pipe.recv()
        self._process.join()
        return account


def _serve(name: str, trace: Trace, options: Options, episode: Episode, pipe: Connection) -> None:
    target = Target()
    arm = make_arm(name, trace, options, target)
    pipe.recv()
    arm.begin(episode.history)
    pipe.send(0.0)
    for batch in episode.batches:
        target.drafted_per_step = pipe.recv()
        arm.run(batch)
        pipe.send(arm.account.tally.drafted_per_step)
    pipe.recv()
    pipe.send(arm.end())


def replay(trace: Trace, options: Options, advance: Callable[[int], None]) -> dict[str, Account]:
    """Run all arms over all episodes; ``advance`` hears of rollouts done, per arm.

    Raises:
        EOFError: a worker has died; its own words are on standard error.
    """
    accounts = {name: Account() for name in options.drafters}
    for episode in episodes(trace, options):
        workers = [_Worker(name, trace, options, episode) for name in order(options)]
        _take_turns(workers, episode, advance)
        for worker in workers:
            accounts[worker.name].add(worker.account())
    return accounts


def _take_turns(
    workers: Sequence[_Worker], episode: Episode, advance: Callable[[int], None]
) -> None:
    drafted_per_step = 0.0
    for batch in ((), *episode.batches):
        for worker in workers:
            drafted = worker.turn(drafted_per_step)
            if worker.name == SUFFIX:
                drafted_per_step = drafted
            advance(len(batch))
