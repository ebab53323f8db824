"""``python -m srt_rollout.verify MODEL``: exit 0 when every case passes, 1 when one does not, 2 on
wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from srt_rollout.verify.environment import prepare_environment

NUM_SEQUENCES = 20_000
NUM_SEQUENCES_FULL = 100_000
MIN_SEQUENCES = 1000
"""Fewer tell nothing."""


def main() -> int:
    """Parse, run, print one line a case."""
    options = _parser().parse_args()
    if not (options.model / "config.json").is_file():
        sys.stderr.write(f"MODEL is {options.model}; allowed is a folder with a config.json\n")
        return 2
    if options.sequences < MIN_SEQUENCES:
        sys.stderr.write(
            f"--sequences is {options.sequences}; allowed is at least {MIN_SEQUENCES}\n"
        )
        return 2
    prepare_environment()
    from srt_rollout.verify.cases import all_cases
    from srt_rollout.verify.runner import open_engine, passes, run_case

    cases = [case for case in all_cases() if options.only in case.name]
    if not cases:
        names = ", ".join(case.name for case in all_cases())
        sys.stderr.write(f"--only is {options.only!r}; allowed is a part of one of: {names}\n")
        return 2
    num_sequences = NUM_SEQUENCES_FULL if options.full else options.sequences
    engine, policy = open_engine(options.model)
    results = []
    _write(f"{'case':50} {'sequences':>9} {'chi-square':>10} {'df':>6} {'p':>9} {'accepted':>9}")
    for case in cases:
        result = run_case(engine, policy, case, num_sequences=num_sequences)
        results.append(result)
        accepted = result.num_accepted_tokens / max(1, result.num_draft_tokens)
        test = result.test
        _write(
            f"{result.name:50} {test.num_sequences:9} {test.chi_square:10.1f} "
            f"{test.degrees_of_freedom:6} {test.p_value:9.2g} {accepted:9.2f}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2))
    failed = [r.name for r, ok in zip(results, passes(results), strict=True) if not ok]
    if failed:
        _write(f"NOT LOSSLESS: {', '.join(failed)}")
        return 1
    if silent := [result.name for result in results if not result.tells]:
        _write(f"NOTHING SHOWN, no draft or a single cell: {', '.join(silent)}")
        return 1
    _write(f"lossless: {len(results)} of {len(results)} cases (Holm-corrected p > 0.001)")
    return 0


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="srt verify",
        description="Sample through vLLM with drafting on and test the counts against the model's "
        "own enumerated distribution. Exit status 1 when drafting changes what is sampled.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a causal model")
    parser.add_argument(
        "--sequences",
        type=int,
        default=NUM_SEQUENCES,
        help="sequences per case (default: %(default)s)",
    )
    parser.add_argument(
        "--full", action="store_true", help=f"{NUM_SEQUENCES_FULL} sequences per case"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only cases whose name contains TEXT"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
