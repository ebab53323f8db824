"""Reference pages made from the code: ``python -m srt_operator.reference docs/reference``.

A test compares them with what lies in the repository, so they cannot drift.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperArgument, TyperCommand, TyperGroup

from srt_operator import fields, quantities
from srt_operator.caches import TreeCache, TreeCacheSpec
from srt_operator.pools import RolloutPool, RolloutPoolSpec
from srt_operator.resource_parts import Metadata
from srt_operator.resources import SRTJob, SRTJobSpec

_HEAD = "<!-- Made by `python -m srt_operator.reference docs/reference`; do not edit. -->\n"


def srtjob_page() -> str:
    """Every field of an SRTJob: what it is, what it accepts, its default."""
    told = (
        "The file that `srt run` and `srt submit` take. `--set spec.algorithm.steps=20` overrides "
        "any field. Unknown fields are refused.\n",
    )
    return _page(SRTJob, SRTJobSpec, told)


def pool_page() -> str:
    """Every field of a RolloutPool."""
    return _page(RolloutPool, RolloutPoolSpec, (_sentence_of(RolloutPool.__doc__),))


def cache_page() -> str:
    """Every field of a TreeCache."""
    return _page(TreeCache, TreeCacheSpec, (_sentence_of(TreeCache.__doc__),))


def _page(resource: type[BaseModel], spec: type[BaseModel], told: tuple[str, ...]) -> str:
    kind = resource.__name__
    lines = [
        _HEAD,
        f"# {kind}\n",
        *told,
        f"`apiVersion: srt-rl.dev/v1alpha1`, `kind: {kind}`, `metadata.name` and the fields marked "
        "*required* must be given.\n",
    ]
    for name, field in fields.by_alias(spec).items():
        nested = fields.submodel(field.annotation)
        lines += [f"\n## spec.{name}\n", _sentence(field), "\n"]
        if nested is None:
            lines += [_TABLE, _row(f"spec.{name}", field)]
        else:
            rows = fields.walk(nested, f"spec.{name}.")
            lines += [_TABLE, *(_row(path, inner) for path, inner in rows if _is_leaf(inner))]
    lines += ["\n## metadata\n", "\n", _TABLE]
    lines += [_row(path, inner) for path, inner in fields.walk(Metadata, "metadata.")]
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def _sentence_of(docstring: str | None) -> str:
    return " ".join((docstring or "").split()) + "\n"


def cli_page() -> str:
    """Every command of `srt` with its options and examples."""
    from srt_operator.cli.app import COMMANDS, HELP, make_app

    group = typer.main.get_command(make_app())
    assert isinstance(group, TyperGroup)
    lines = [_HEAD, "# srt\n", f"{HELP}\n"]
    for name, command in group.commands.items():
        assert isinstance(command, TyperCommand)
        lines += [f"\n## srt {name}\n", f"{command.help}\n"]
        if options := list(_options(command)):
            lines += ["\n| argument or option | meaning |\n|---|---|\n", *options]
        examples = "\n".join(COMMANDS[name][1])
        lines.append(f"\n```sh\n{examples}\n```\n")
    return "".join(lines)


_TABLE = "| field | meaning | accepts | default |\n|---|---|---|---|\n"


def _options(command: TyperCommand) -> Iterator[str]:
    for parameter in command.params:
        names = list(parameter.opts)
        if isinstance(parameter, TyperArgument):
            names = [parameter.metavar or parameter.opts[0].upper()]
        elif parameter.metavar:
            names[0] += f" {parameter.metavar}"
        cells = (f"`{'`, `'.join(names)}`", getattr(parameter, "help", None) or "")
        yield "| {} | {} |\n".format(*(cell.replace("|", "\\|") for cell in cells))


def _is_leaf(field: FieldInfo) -> bool:
    return fields.submodel(field.annotation) is None


def _row(path: str, field: FieldInfo) -> str:
    accepts = fields.allowed_by(field).replace("|", "\\|")
    return f"| `{path}` | {_sentence(field)} | {accepts} | {_default(field)} |\n"


def _sentence(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("``", "`")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "*required*" if field.default_factory is None else "none"
    return _shown(field, field.default)


def _shown(field: FieldInfo, value: Any) -> str:
    if value is None:
        return "absent"
    is_bytes = any(getattr(item, "text", "") == quantities.ALLOWED for item in field.metadata)
    if is_bytes:
        return f"`{quantities.format_bytes(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "`[]`" if value == () else f"`{value}`"


def main() -> None:
    """Write every page into the folder given."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "srtjob.md").write_text(srtjob_page())
    (folder / "rolloutpool.md").write_text(pool_page())
    (folder / "treecache.md").write_text(cache_page())
    (folder / "cli.md").write_text(cli_page())


if __name__ == "__main__":
    main()
