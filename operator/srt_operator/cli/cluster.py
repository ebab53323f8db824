"""What the commands of `srt` do in a cluster."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from srt_common.errors import ConfigurationError
from srt_operator.cli.reading import read_job
from srt_operator.cli.showing import line_of, show_jobs
from srt_operator.cli.targets import (
    ContextOption,
    DryRunOption,
    NamespaceOption,
    Output,
    OutputOption,
)
from srt_operator.constants import ENGINES_PATH, EXIT_COMPLETE, EXIT_FAILED, Kind
from srt_operator.job_file import load_job
from srt_operator.run_lines import Line
from srt_operator.status import read_status
from srt_operator.top import JobNow, job_now

POLL_SECONDS: Final = 2.0
_CONTAINERS: Final = {
    "trainer": ("trainer", "trainer"),
    "rollout": ("rollout", "gateway"),
    "runahead": ("rollout", "runahead"),
    "tree-cache": ("tree-cache", "tree-cache"),
}


def submit(
    job_file: Annotated[Path, typer.Argument(metavar="FILE", help="An SRTJob as YAML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a field. May be repeated."),
    ] = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Create an SRTJob in a cluster."""
    job = load_job(read_job(job_file), overrides=list(overrides or ()))
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    own = job.metadata.namespace
    if own and namespace and own != namespace:
        fault = f"metadata.namespace is {own!r}; allowed beside -n {namespace} are that and none"
        raise ConfigurationError(faults=[fault])

    async def create(api: Any, where: str) -> dict[str, Any]:
        document["metadata"]["namespace"] = own or where
        made: dict[str, Any] = await api.create(document, is_dry_run=dry_run)
        return made

    made = ask(create, context, namespace)
    if output in (Output.JSON, Output.YAML):
        show_jobs([made], output, is_list=False)
        return
    suffix = " (dry run)" if dry_run else ""
    typer.echo(f"srtjob/{made['metadata']['name']} created{suffix}")


def show(name: str | None, output: Output, context: str | None, namespace: str | None) -> None:
    """One job, or all of a namespace."""

    async def look(api: Any, where: str) -> list[dict[str, Any]]:
        return await _jobs(api, where, name)

    show_jobs(ask(look, context, namespace), output, is_list=name is None)


def watch(name: str, context: str | None, namespace: str | None) -> int:
    """Follow a job until it ends; the exit status."""

    async def follow(api: Any, where: str) -> str:
        last = ""
        while True:
            job = await _job(api, where, name)
            if (text := line_of(job)) != last:
                typer.echo(text)
                last = text
            phase = str(job.get("status", {}).get("phase", "Pending"))
            if phase in ("Complete", "Failed"):
                return phase
            await asyncio.sleep(POLL_SECONDS)

    phase = ask(follow, context, namespace)
    return EXIT_COMPLETE if phase == "Complete" else EXIT_FAILED


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

    ask(read, context, namespace)


def change(
    name: str,
    wanted: Mapping[str, Any],
    *,
    is_dry_run: bool,
    context: str | None,
    namespace: str | None,
) -> None:
    """Change fields of a job."""

    async def work(api: Any, where: str) -> None:
        await _job(api, where, name)
        await api.merge(Kind.SRT_JOB, where, name, wanted, is_dry_run=is_dry_run)

    ask(work, context, namespace)


def delete(name: str, *, is_dry_run: bool, context: str | None, namespace: str | None) -> None:
    """Delete a job with everything it owns."""

    async def remove(api: Any, where: str) -> None:
        await _job(api, where, name)
        await api.delete(Kind.SRT_JOB, where, name, is_dry_run=is_dry_run)

    ask(remove, context, namespace)


def jobs_now(
    name: str | None, context: str | None, namespace: str | None, operator_namespace: str
) -> list[JobNow]:
    """What one job does now, or all of a namespace, as the leading operator has heard."""

    async def look(api: Any, where: str) -> list[JobNow]:
        return [
            await _job_now(api, job, operator_namespace) for job in await _jobs(api, where, name)
        ]

    found: list[JobNow] = ask(look, context, namespace)
    return found


# -- how
def ask(
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


async def _jobs(api: Any, namespace: str, name: str | None) -> list[dict[str, Any]]:
    if name is not None:
        return [await _job(api, namespace, name)]
    found, _ = await api.list(Kind.SRT_JOB, namespace)
    return list(found)


async def _job(api: Any, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] | None = await api.get(Kind.SRT_JOB, namespace, name)
    if found is None:
        fault = (
            f"JOB is {name!r}: allowed is an SRTJob of namespace {namespace}; srt get lists them"
        )
        raise ConfigurationError(faults=[fault])
    return found


async def _job_now(api: Any, job: Mapping[str, Any], operator_namespace: str) -> JobNow:
    from srt_operator.backends.kubernetes_api import KubernetesError

    line: Line = {}
    note = ""
    try:
        line = await _engines(api, job["metadata"], operator_namespace)
    except KubernetesError as error:
        note = (
            f"engines are not shown, the operator in {operator_namespace} cannot be asked: {error}"
        )
    status = read_status(job.get("status", {}))
    return job_now(job["metadata"]["name"], status, line, now=time.time(), note=note)


async def _engines(api: Any, metadata: Mapping[str, Any], operator_namespace: str) -> Line:
    """The last line that the leading operator has of a job's engines; empty: none."""
    from srt_operator.backends.kubernetes_api import KubernetesRefused
    from srt_operator.election import LEASE

    lease = await api.get("Lease", operator_namespace, LEASE)
    leader = "" if lease is None else lease["spec"].get("holderIdentity")
    if not leader:
        raise KubernetesRefused(
            status=404, reason="nobody leads there; see srt doctor -n NAMESPACE"
        )
    path = ENGINES_PATH.format(namespace=metadata["namespace"], job=metadata["name"])
    line: Line = await api.from_pod(operator_namespace, leader, path)
    return line


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
