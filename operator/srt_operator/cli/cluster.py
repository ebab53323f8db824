"""`srt` in a cluster: submit, watch, suspend, resume, cancel, delete; get and logs of its jobs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml
from rich.console import Console
from rich.table import Table

from srt_common.errors import ConfigurationError
from srt_operator.cli.reading import read_job
from srt_operator.constants import EXIT_COMPLETE, EXIT_FAILED, Kind
from srt_operator.job_file import load_job

POLL_SECONDS: Final = 2.0
_CONTAINERS: Final = {
    "trainer": ("trainer", "trainer"),
    "rollout": ("rollout", "gateway"),
    "runahead": ("rollout", "runahead"),
    "tree-cache": ("tree-cache", "tree-cache"),
}


class Output(StrEnum):
    """How resources are shown."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


ContextOption = Annotated[
    str | None, typer.Option("--context", help="Of the kubeconfig.  [default: its current one]")
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="[default: the context's]")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How it is shown.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name of an SRTJob.")]


def submit(
    job_file: Annotated[Path, typer.Argument(metavar="FILE", help="An SRTJob as YAML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a field. May be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have the API server check it; nothing is stored.")
    ] = False,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Create an SRTJob in a cluster."""
    job = load_job(read_job(job_file), overrides=list(overrides or ()))
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True)

    async def create(api: Any, where: str) -> dict[str, Any]:
        document["metadata"]["namespace"] = job.metadata.namespace or where
        made: dict[str, Any] = await api.create(document, is_dry_run=dry_run)
        return made

    made = _run(create, context, namespace)
    if output in (Output.JSON, Output.YAML):
        _show([made], output, is_list=False)
        return
    suffix = " (dry run)" if dry_run else ""
    typer.echo(f"srtjob/{made['metadata']['name']} created{suffix}")


def show(name: str | None, output: Output, context: str | None, namespace: str | None) -> None:
    """One job, or all of a namespace."""

    async def look(api: Any, where: str) -> list[dict[str, Any]]:
        if name is not None:
            return [await _job(api, where, name)]
        found, _ = await api.list(Kind.SRT_JOB, where)
        return list(found)

    _show(_run(look, context, namespace), output, is_list=name is None)


def watch(name: JobName, context: ContextOption = None, namespace: NamespaceOption = None) -> None:
    """Follow a job of a cluster until it ends; the exit status says how."""

    async def follow(api: Any, where: str) -> str:
        last = ""
        while True:
            job = await _job(api, where, name)
            if (text := _line(job)) != last:
                typer.echo(text)
                last = text
            phase = str(job.get("status", {}).get("phase", "Pending"))
            if phase in ("Complete", "Failed"):
                return phase
            await asyncio.sleep(POLL_SECONDS)

    phase = _run(follow, context, namespace)
    raise typer.Exit(EXIT_COMPLETE if phase == "Complete" else EXIT_FAILED)


def show_log(
    name: str, process: str | None, *, follow: bool, context: str | None, namespace: str | None
) -> None:
    """The log of one process of a job; none: which there are."""

    async def read(api: Any, where: str) -> None:
        processes = await _processes(api, where, await _job(api, where, name))
        if process is None:
            typer.echo("\n".join(sorted(processes)))
            return
        if process not in processes:
            allowed = ", ".join(sorted(processes)) or "none yet"
            fault = f"PROCESS is {process!r}: allowed are {allowed}"
            raise ConfigurationError(faults=[fault])
        pod, container = processes[process]
        async for chunk in api.log(where, pod, container, follows=follow):
            sys.stdout.write(chunk.decode(errors="replace"))
            sys.stdout.flush()

    _run(read, context, namespace)


def suspend(
    name: JobName, context: ContextOption = None, namespace: NamespaceOption = None
) -> None:
    """Stop a job of a cluster; `srt resume` goes on with it."""
    _change(name, {"spec": {"suspend": True}}, "suspended", context, namespace)


def resume(name: JobName, context: ContextOption = None, namespace: NamespaceOption = None) -> None:
    """Go on with a suspended job of a cluster."""
    _change(name, {"spec": {"suspend": False}}, "resumed", context, namespace)


def cancel(name: JobName, context: ContextOption = None, namespace: NamespaceOption = None) -> None:
    """Give a job of a cluster up: its pods stop and it fails; the resource stays to be read."""
    change = {"metadata": {"annotations": {"srt-rl.dev/cancelled": "true"}}}
    _change(name, change, "cancelled", context, namespace)


def delete(name: JobName, context: ContextOption = None, namespace: NamespaceOption = None) -> None:
    """Delete a job of a cluster with everything it owns."""

    async def remove(api: Any, where: str) -> None:
        await _job(api, where, name)
        await api.delete(Kind.SRT_JOB, where, name)

    _run(remove, context, namespace)
    typer.echo(f"srtjob/{name} deleted")


# -- how
def _run(
    work: Callable[[Any, str], Awaitable[Any]], context: str | None, namespace: str | None
) -> Any:
    """Do something with a cluster. Raises ConfigurationError with the API server's sentence."""
    from srt_operator.backends.kubernetes_api import KubernetesError

    async def go() -> Any:
        async with _connected(context) as (api, default):
            return await work(api, namespace or default)

    try:
        return asyncio.run(go())
    except KubernetesError as error:
        raise ConfigurationError(faults=[str(error)]) from error


@asynccontextmanager
async def _connected(context: str | None) -> AsyncIterator[tuple[Any, str]]:
    from srt_operator.backends.kubernetes_api import KubernetesApi, default_namespace

    api = await KubernetesApi.connect(context=context)
    try:
        yield api, default_namespace(context)
    finally:
        await api.close()


def _change(
    name: str, change: Mapping[str, Any], done: str, context: str | None, namespace: str | None
) -> None:
    async def work(api: Any, where: str) -> None:
        await _job(api, where, name)
        await api.merge(Kind.SRT_JOB, where, name, change)

    _run(work, context, namespace)
    typer.echo(f"srtjob/{name} {done}")


async def _job(api: Any, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] | None = await api.get(Kind.SRT_JOB, namespace, name)
    if found is None:
        fault = (
            f"JOB is {name!r}: allowed is an SRTJob of namespace {namespace}; srt get lists them"
        )
        raise ConfigurationError(faults=[fault])
    return found


async def _processes(
    api: Any, namespace: str, job: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """Pod and container of each process, by the name that statuses give it."""
    metadata, status = job["metadata"], job.get("status", {})
    selectors = [
        f"srt-rl.dev/job-name={metadata['name']}",
        f"srt-rl.dev/pool={status.get('rollout', {}).get('poolName') or metadata['name']}",
        f"srt-rl.dev/tree-cache={status.get('cache', {}).get('cacheName') or metadata['name']}",
    ]
    found: dict[str, tuple[str, str]] = {}
    for selector in selectors:
        pods, _ = await api.list("Pod", namespace, labels=selector)
        for pod in pods:
            found |= dict(_of_pod(pod))
    return found


def _of_pod(pod: Mapping[str, Any]) -> list[tuple[str, tuple[str, str]]]:
    name = pod["metadata"]["name"]
    role = pod["metadata"]["labels"].get("srt-rl.dev/role")
    containers = {container["name"] for container in pod["spec"]["containers"]}
    number = name.rsplit("-", 1)[-1]
    return [
        (process if role == "trainer" else f"{process}-{number}", (name, container))
        for process, (of_role, container) in _CONTAINERS.items()
        if of_role == role and container in containers
    ]


def _show(jobs: list[dict[str, Any]], output: Output, *, is_list: bool) -> None:
    if output in (Output.JSON, Output.YAML):
        document: Any = jobs[0]
        if is_list:
            document = {"apiVersion": "v1", "kind": "List", "items": jobs}
        text = json.dumps(document, indent=2)
        typer.echo(text if output is Output.JSON else yaml.safe_dump(document, sort_keys=False))
        return
    wide = ("RUN-AHEAD", "MESSAGE") if output is Output.WIDE else ()
    table = Table("NAME", "PHASE", "STEP", "ROLLOUT", "HITRATE", *wide, box=None)
    for job in jobs:
        table.add_row(job["metadata"]["name"], *_cells(job, is_wide=bool(wide)))
    Console().print(table)


def _cells(job: Mapping[str, Any], *, is_wide: bool) -> list[str]:
    status = job.get("status", {})
    cells = [
        status.get("phase", "Pending"),
        status.get("progress", {}).get("display", ""),
        status.get("rollout", {}).get("display", ""),
        status.get("cache", {}).get("hitRate", ""),
    ]
    if is_wide:
        cells += [str(status.get("runAhead", {}).get("completed", 0)), _message(job)]
    return cells


def _message(job: Mapping[str, Any]) -> str:
    """Why it is not ready, if it is not."""
    for condition in job.get("status", {}).get("conditions", ()):
        is_telling = condition["type"].endswith("Ready") or condition["type"] == "Accepted"
        if is_telling and condition["status"] == "False" and condition.get("message"):
            return str(condition["message"])
    return ""


def _line(job: Mapping[str, Any]) -> str:
    phase, step, rollout, hit_rate = _cells(job, is_wide=False)
    parts = [phase, f"step {step}" if step else "", f"engines {rollout}" if rollout else ""]
    parts += [f"hit rate {hit_rate}" if hit_rate else "", _message(job)]
    return ", ".join(part for part in parts if part)
