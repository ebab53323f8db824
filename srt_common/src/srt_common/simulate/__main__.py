"""``python -m srt_common.simulate SOURCE``: exit 0 when done, 2 on wrong usage or a bad source."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from srt_common.errors import ConfigurationError
from srt_common.simulate.arms import DRAFTERS, SRT, SUFFIX, Options, episodes
from srt_common.simulate.budget import CostModel
from srt_common.simulate.sources import read_trace
from srt_common.simulate.tally import Account, figures
from srt_common.simulate.trace import Trace

MAX_REPLICAS = 64
MAX_DRAFT_TOKENS = 128
STDOUT = "-"

Number = TypeVar("Number", int, float)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, replay, print."""
    parsed = _parser().parse_args(arguments)
    try:
        options = _options(parsed)
        trace = read_trace(parsed.source).first(parsed.rollouts)
        _check(trace, options)
        accounts = _replay(trace, options)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _report(trace, options, accounts, parsed.json)
    return 0


def _options(parsed: argparse.Namespace) -> Options:
    drafters = tuple(dict.fromkeys(parsed.drafter or [SRT]))
    if parsed.equal_drafts and not {SRT, SUFFIX} <= set(drafters):
        fault = f"--equal-drafts with --drafter {', '.join(drafters)}: allowed with srt and suffix"
        raise ConfigurationError(faults=[fault])
    if parsed.equal_drafts and parsed.governor:
        raise ConfigurationError(faults=["--equal-drafts and --governor: allowed is one of them"])
    return Options(
        drafters=drafters,
        max_draft_tokens=parsed.max_draft_tokens,
        min_survival=parsed.min_survival,
        has_governor=parsed.governor,
        has_equal_drafts=parsed.equal_drafts,
        batch_size=parsed.batch_size,
        num_replicas=parsed.replicas,
        is_shared=parsed.trees == "shared",
        publish_delay_seconds=parsed.publish_delay,
        cost=CostModel(parsed.c0_ms / 1e3, parsed.c1_ms / 1e3),
        visits=parsed.visits,
        seed=parsed.seed,
    )


def _check(trace: Trace, options: Options) -> None:
    """What can only be said once the source is known, before any process starts."""
    if not trace.rollouts:
        fault = (
            f"SOURCE {trace.name!r} holds 0 rollouts with generated tokens; allowed is 1 or more"
        )
        raise ConfigurationError(faults=[fault])
    if options.visits is not None and options.visits[1] >= len(trace.exact_versions):
        num_visits = len(trace.exact_versions)
        allowed = f"0 to {num_visits - 1}" if num_visits else "sources with distributions only"
        first, last = options.visits
        raise ConfigurationError(faults=[f"--visits is {first}-{last}: allowed: {allowed}"])
    if SUFFIX in options.drafters:
        from srt_common.simulate.suffix import SuffixDecoding

        SuffixDecoding()


def _replay(trace: Trace, options: Options) -> dict[str, Account]:
    from rich.console import Console
    from rich.progress import Progress

    from srt_common.simulate.workers import replay

    replayed = [batch for it in episodes(trace, options) for batch in it.batches]
    total = sum(map(len, replayed)) * len(options.drafters)
    console = Console(stderr=True)
    with Progress(
        console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("replaying rollouts", total=total)

        def advance(num_rollouts: int) -> None:
            progress.update(task, advance=num_rollouts, refresh=True)

        return replay(trace, options, advance)


def _report(
    trace: Trace, options: Options, accounts: dict[str, Account], json_file: str | None
) -> None:
    found = {name: figures(it, trace.num_generated) for name, it in accounts.items()}
    text = json.dumps(found, indent=2)
    if json_file == STDOUT:
        sys.stdout.write(text + "\n")
        return
    if json_file is not None:
        Path(json_file).write_text(text + "\n")
    from rich.console import Console

    from srt_common.simulate.forecast import forecast
    from srt_common.simulate.show import Outcome, show

    outcomes = {
        name: Outcome(it, found[name], forecast(it, options.cost)) for name, it in accounts.items()
    }
    show(Console(), trace, options, outcomes)


# -- the command line ------------------------------------------------------------------------------
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="srt simulate",
        description="Replay recorded rollouts through drafters and say what drafting would gain. "
        "No model runs; docs/simulate.md explains each figure.",
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help=".npz rollout trace, run folder (its journal), or .jsonl of token ids",
    )
    _add_drafting(parser)
    _add_machine(parser)
    parser.add_argument("--seed", type=_within(int, 0, 2**32 - 1), default=0)
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="write the figures of every arm to FILE, or print them instead of the table",
    )
    return parser


def _add_drafting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--drafter",
        action="append",
        choices=DRAFTERS,
        help="may be repeated: arms side by side (default: srt)",
    )
    parser.add_argument(
        "--max-draft-tokens",
        type=_within(int, 1, MAX_DRAFT_TOKENS),
        default=16,
        metavar="K",
        help="per row and step (default: %(default)s)",
    )
    parser.add_argument(
        "--min-survival",
        type=_within(float, 0, 1),
        default=0.1,
        metavar="P",
        help="srt stops a draft where its chance of being accepted falls below (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--governor",
        action="store_true",
        help="let srt's governor decide how far to draft, up to K",
    )
    parser.add_argument(
        "--equal-drafts",
        action="store_true",
        help="let srt draft as many tokens a step as suffix does beside it",
    )
    parser.add_argument(
        "--visits",
        type=_visits,
        metavar="A-B",
        help="exact replay: which visits of the prompts to replay (default: the later half)",
    )
    parser.add_argument(
        "--rollouts",
        type=_within(int, 1, 2**31),
        metavar="N",
        help="only the first N of the source",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size",
        type=_within(int, 1, 4096),
        default=32,
        metavar="N",
        help="rollouts in flight, over all replicas (default: %(default)s)",
    )
    parser.add_argument(
        "--replicas",
        type=_within(int, 1, MAX_REPLICAS),
        default=1,
        metavar="N",
        help="engines, 1 to 64; rollouts go to random ones (default: %(default)s)",
    )
    parser.add_argument(
        "--trees",
        choices=("shared", "private"),
        default="shared",
        help="of srt's replicas; suffix cannot share (default: %(default)s)",
    )
    parser.add_argument(
        "--publish-delay",
        type=_within(float, 0, 3600),
        default=0.2,
        metavar="SECONDS",
        help="until other replicas see what one has sampled (default: %(default)s)",
    )
    parser.add_argument(
        "--c0-ms",
        type=_within(float, 1e-6, 1e6),
        default=3.0,
        metavar="MS",
        help="a decoding step takes c0 + c1 n for n tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--c1-ms",
        type=_within(float, 0, 1e6),
        default=0.05,
        metavar="MS",
        help="(default: %(default)s)",
    )


def _within(kind: type[Number], low: Number, high: Number) -> Callable[[str], Number]:
    """What reads a number of a kind between two bounds."""
    spec = "" if kind is int else "g"

    def parse(text: str) -> Number:
        with suppress(ValueError):
            if low <= (value := kind(text)) <= high:
                return value
        allowed = f"{low:{spec}} to {high:{spec}}"
        raise argparse.ArgumentTypeError(f"is {text!r}; allowed are {allowed}")

    return parse


def _visits(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not dash)):
        raise argparse.ArgumentTypeError(f"is {text!r}; allowed is a range such as 4-7")
    span = (int(first), int(last or first))
    if span[0] > span[1]:
        raise argparse.ArgumentTypeError(f"is {text!r}; allowed is a range such as 4-7")
    return span


if __name__ == "__main__":
    sys.exit(main())
