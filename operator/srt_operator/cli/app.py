"""The commands of `srt` put together, each with examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import typer

from srt_operator.cli import change, cluster, inspect, run, tools
from srt_operator.cli.doctor import doctor
from srt_operator.cli.top import top
from srt_operator.cli.trace import trace

HELP: Final = """Reinforcement learning with rollouts drafted from what was sampled before.

Exit status: 0 done; 1 the job or a check failed; 2 wrong job, option or folder, nothing was
started; 130 interrupted, --resume goes on."""

COMMANDS: Final[Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]] = {
    "run": (
        run.run,
        (
            "srt run job.yaml",
            "srt run job.yaml --set spec.algorithm.steps=20 --resume",
            "srt run job.yaml --compare",
            "srt run job.yaml --dry-run",
        ),
    ),
    "submit": (
        cluster.submit,
        ("srt submit job.yaml -n team", "srt submit job.yaml --dry-run -o yaml"),
    ),
    "get": (
        inspect.get,
        ("srt get runs/tiny-math", "srt get runs", "srt get -n team -o wide"),
    ),
    "watch": (inspect.watch, ("srt watch runs/tiny-math", "srt watch tiny-math -n team")),
    "logs": (
        inspect.logs,
        (
            "srt logs runs/tiny-math",
            "srt logs runs/tiny-math trainer -f",
            "srt logs tiny-math rollout-0 -n team",
        ),
    ),
    "top": (
        top,
        ("srt top runs/tiny-math", "srt top --once -n team", "srt top tiny-math -n team -o json"),
    ),
    "suspend": (change.suspend, ("srt suspend runs/tiny-math", "srt suspend tiny-math -n team")),
    "resume": (change.resume, ("srt resume runs/tiny-math", "srt resume tiny-math -n team")),
    "cancel": (change.cancel, ("srt cancel runs/tiny-math", "srt cancel tiny-math -n team")),
    "delete": (change.delete, ("srt delete runs/tiny-math", "srt delete tiny-math -n team")),
    "report": (tools.report, ("srt report runs/tiny-math",)),
    "trace": (
        trace,
        (
            "srt trace runs/tiny-math",
            "srt trace runs/tiny-math/on --step 3",
            "srt trace runs/tiny-math --rollout tiny-math/3/0/1",
        ),
    ),
    "doctor": (doctor, ("srt doctor", "srt doctor --context prod -n team")),
    "verify": (
        tools.verify,
        (
            "srt verify docs/examples/tiny-math/model",
            "srt verify docs/examples/tiny-math/model --full",
        ),
    ),
    "simulate": (
        tools.simulate,
        (
            "srt simulate runs/tiny-math",
            "srt simulate rollouts.jsonl --drafter srt --drafter suffix --c0-ms 8 --c1-ms 0.02",
            "srt simulate rollouts.npz --replicas 8 --publish-delay 0.2 --json",
        ),
    ),
}
"""What each command calls, and examples of its use."""

PASSED_ON: Final = ("verify", "simulate")
"""Commands whose arguments, --help among them, another process reads."""

_PASS_ON_SETTINGS: Final[dict[str, Any]] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def make_app() -> typer.Typer:
    """The whole command."""
    app = typer.Typer(
        name="srt",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name, (command, examples) in COMMANDS.items():
        settings = _PASS_ON_SETTINGS if name in PASSED_ON else {}
        epilog = "\n\n".join(("Examples:", *(f"  {line}" for line in examples)))
        app.command(name, epilog=epilog, context_settings=settings)(command)
    return app
