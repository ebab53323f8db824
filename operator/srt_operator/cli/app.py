"""The commands of `srt` put together."""

from __future__ import annotations

import typer

from srt_operator.cli import inspect, run, tools

app = typer.Typer(
    name="srt",
    help="Reinforcement learning with rollouts drafted from what was sampled before.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run", epilog=run.EPILOG)(run.run)
app.command("get")(inspect.get)
app.command("logs")(inspect.logs)
app.command("report")(tools.report)
app.command("doctor")(tools.doctor)
app.command("verify", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    tools.verify
)
