"""The targets that need neither GPU nor network, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from traces import Measured

Pick = Callable[["Measured"], float]


class Target(NamedTuple):
    """One row: what, where it is measured, what is wanted."""

    what: str
    source: str
    setting: str
    pick: Pick
    at_least: float | None
    """None: the peer's figure in the same run."""
    goal: float | None
    """None: 4 % above the peer's."""
    is_cost: bool = False


def _tokens_per_step(it: Measured) -> float:
    return it.figures["tokens_per_step"]


TARGETS = (
    Target("tokens/step, T=1, K 16", "rl_t10", "K 16", _tokens_per_step, 4.4, 4.7),
    Target("same, K 32, at most 13 drafted", "rl_t10", "K 32", _tokens_per_step, 4.7, 5.2),
    Target("same, first step (cold)", "rl_t10", "K 16, cold", _tokens_per_step, 1.9, 2.2),
    Target("tokens/step, T=0.6, K 16", "rl_t06", "K 16", _tokens_per_step, 6.2, 6.8),
    Target("same, K 32", "rl_t06", "K 32", _tokens_per_step, 7.2, 8.0),
    *(
        Target(f"tokens/step, {name}, equal drafts", name, "equal drafts", _tokens_per_step, *none)
        for none in [(None, None)]
        for name in ("amc23_rl100", "math_cot8", "rg_algebra_graphs")
    ),
    Target(
        "propose, point mass, us a row, p50",
        "amc23_rl100",
        "equal drafts",
        lambda it: it.figures["propose_us_p50"],
        5,
        2,
        is_cost=True,
    ),
    Target(
        "same, p99",
        "amc23_rl100",
        "equal drafts",
        lambda it: it.figures["propose_us_p99"],
        20,
        8,
        is_cost=True,
    ),
    Target(
        "propose, sampled, us a drafted token",
        "rl_t10",
        "K 16",
        lambda it: it.account.propose_us_per_draft_token,
        1.5,
        0.5,
        is_cost=True,
    ),
    Target(
        "insert, us a token, learning included, 1.85 M",
        "amc23_rl100",
        "equal drafts",
        lambda it: it.figures["insert_us_per_token"],
        1.5,
        0.6,
        is_cost=True,
    ),
    Target(
        "bytes a token, hard",
        "amc23_rl100",
        "equal drafts",
        lambda it: it.figures["bytes_per_token"],
        100,
        50,
        is_cost=True,
    ),
    Target(
        "bytes a token, soft targets",
        "rl_t10",
        "K 16",
        lambda it: it.figures["bytes_per_token"],
        130,
        70,
        is_cost=True,
    ),
    Target(
        "new turn of a conversation, us",
        "tau2_ckpt",
        "equal drafts",
        lambda it: it.account.open_us,
        500,
        50,
        is_cost=True,
    ),
)


def target_table(measured: Sequence[Measured], replicas: Sequence[Measured]) -> list[str]:
    """One line a target whose source was replayed."""
    found = {(it.source, it.setting, it.arm): it for it in measured}
    lines = ["| what | suffix | srt | at least | goal | reached |", "|---|---|---|---|---|---|"]
    for target in TARGETS:
        ours = found.get((target.source, target.setting, "srt"))
        peers = found.get((target.source, target.setting, "suffix"))
        if ours is not None and peers is not None:
            lines.append(_line(target, target.pick(ours), target.pick(peers)))
    return lines + _sharing(replicas)


def _line(target: Target, ours: float, peers: float) -> str:
    at_least = peers if target.at_least is None else target.at_least
    goal = 1.04 * peers if target.goal is None else target.goal
    reached = _reached(ours, at_least, goal, is_cost=target.is_cost)
    return f"| {target.what} | {peers:.4g} | {ours:.4g} | {at_least:.4g} | {goal:.4g} | {reached} |"


def _sharing(replicas: Sequence[Measured]) -> list[str]:
    found = {(it.source, it.setting, it.arm): _tokens_per_step(it) for it in replicas}
    lines = []
    for source in dict.fromkeys(it.source for it in replicas):
        kept = {
            arm: found[source, "8 replicas", arm] / found[source, "1 replica", arm]
            for arm in ("srt", "suffix")
        }
        reached = _reached(kept["srt"], 0.95, 0.99, is_cost=False)
        lines.append(
            f"| 8 replicas, kept of one cache, {source} | {kept['suffix']:.1%} "
            f"| {kept['srt']:.1%} | 95 % | 99 % | {reached} |"
        )
    return lines


def _reached(ours: float, at_least: float, goal: float, *, is_cost: bool) -> str:
    sign = -1 if is_cost else 1
    if sign * ours >= sign * goal:
        return "goal"
    return "at least" if sign * ours >= sign * at_least else "NO"
