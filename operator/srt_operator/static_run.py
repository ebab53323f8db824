"""A job whose processes somebody else runs: the operator of docker compose.

* Leaves in the run folder what the others wait for: secrets first, the trainer's job description
  last. Then it watches, opens bubbles and sends run-ahead until the job is over.
* Status, summary and report lie in the run folder, as after ``srt run``, whose table is shown.
* Started again it goes on: the trainer's own journal decides where.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, SecretStr
from rich.console import Console

from srt_common.clock import Clock, SystemClock
from srt_common.coordination import Coordination
from srt_common.errors import ConfigurationError, CoordinationUnavailable
from srt_common.settings import ServiceSettings
from srt_operator.backends.local import write_private
from srt_operator.backends.models import local_folder
from srt_operator.backends.readiness import is_ready
from srt_operator.backends.site import furnish
from srt_operator.backends.static import Look, Sight, StaticBackend
from srt_operator.constants import EXIT_COMPLETE, EXIT_FAILED, EXIT_REFUSED, Phase
from srt_operator.display import display
from srt_operator.job_file import load_job
from srt_operator.layout import RunLayout
from srt_operator.local_run import interruptible, supervise
from srt_operator.manifests import trainer
from srt_operator.manifests.process import Endpoint, HttpReadiness, LocalSite, Site, serving
from srt_operator.manifests.runahead import engine_of
from srt_operator.outcome import failure_of, show_outcome
from srt_operator.processes import Component, Member, members
from srt_operator.resources import SRTJob
from srt_operator.run_folder import open_folder
from srt_operator.run_lines import LineFile
from srt_operator.runahead.dispatch import CeleryDispatcher

PHASE_MAX_AGE_SECONDS: Final = 30.0
"""A trainer that has said nothing for so long is not there."""


class StaticSettings(ServiceSettings, env_prefix="SRT_STATIC_"):
    """What is given."""

    job_file: Path
    """The SRTJob as YAML. Required."""
    run_dir: Path
    """Run folder, shared with trainer and engines under the same path. Required."""
    endpoints: dict[str, Annotated[str, Field(pattern=r"^http://[A-Za-z0-9.-]+:[0-9]{1,5}$")]]
    """``http://HOST:PORT`` of every engine and tree cache by name, as JSON. Required."""
    redis_url: SecretStr
    """Redis-protocol server of update log, coordination and task queue. Required."""


def given_site(job: SRTJob, settings: StaticSettings) -> LocalSite:
    """What is given, as the job's builders want it.

    Raises:
        ConfigurationError: an endpoint is missing or belongs to nobody, or there is no model.
    """
    wanted = {member.name for member in serving(job)}
    allowed = ", ".join(sorted(wanted))
    faults = [
        f"SRT_STATIC_ENDPOINTS has {sorted(settings.endpoints)}; {name} is {problem}; "
        f"allowed are exactly {allowed}"
        for problem, names in (
            ("missing", wanted - settings.endpoints.keys()),
            ("not a process of the job", settings.endpoints.keys() - wanted),
        )
        for name in sorted(names)
    ]
    if faults:
        raise ConfigurationError(faults=faults)
    url, name = settings.redis_url.get_secret_value(), job.metadata.name
    layout = RunLayout(settings.run_dir)
    return LocalSite(
        python=sys.executable,
        layout=layout,
        model=local_folder(job.spec.model.uri),
        job_id=name,
        job_name=name,
        cache_id=name,
        endpoints={process: _endpoint(at) for process, at in settings.endpoints.items()},
        listen_host="0.0.0.0",
        server_command=(),
        server_url=url,
        broker_url=url.replace("unix://", "redis+socket://"),
        scratch=Path(tempfile.gettempdir()),
        telemetry=layout.telemetry,
        cache_token=layout.token,
        num_engine_threads=None,
    )


def _endpoint(address: str) -> Endpoint:
    parts = urlsplit(address)
    return Endpoint(str(parts.hostname), int(parts.port or 80))


async def run_given(job: SRTJob, site: LocalSite, console: Console, clock: Clock) -> int:
    """Prepare, watch, and show what came out; the exit status.

    Raises:
        ConfigurationError: the run folder holds another job.
        CoordinationUnavailable: the server does not answer.
    """
    layout = site.layout
    has_run = layout.job.exists()
    open_folder(job, layout, resume=has_run, fresh=False)
    layout.trainer_settings.unlink(missing_ok=True)
    furnish(layout)
    async with AsyncExitStack() as stack:
        coordination = Coordination.from_url(site.server_url, job=job.metadata.name)
        stack.push_async_callback(coordination.close)
        await coordination.forget_job()
        dispatcher = CeleryDispatcher(site.broker_url, job=job.metadata.name)
        stack.push_async_callback(dispatcher.close)
        description = trainer.local(job, site, _trainer_of(job)).files
        for path, text in description.items():
            write_private(path, text)
        looks = Looks(job, site, coordination, dispatcher, clock)
        backend = StaticBackend(
            {member.name: looks.at(member) for member in members(job.spec)}, clock=clock
        )
        interruption = await stack.enter_async_context(interruptible())
        show = stack.enter_context(display(console, job.metadata.name, LineFile(layout.metrics)))
        status = await supervise(job, site, backend, show, interruption)
    if failure := failure_of(status):
        console.print(failure, markup=False, soft_wrap=True)
    show_outcome(console, layout)
    return EXIT_COMPLETE if status.phase is Phase.COMPLETE else EXIT_FAILED


def _trainer_of(job: SRTJob) -> Member:
    return next(m for m in members(job.spec) if m.component is Component.TRAINER)


class Looks:
    """How to look at each member of a job."""

    def __init__(
        self,
        job: SRTJob,
        site: Site,
        coordination: Coordination,
        dispatcher: CeleryDispatcher,
        clock: Clock,
    ) -> None:
        self._job = job
        self._site = site
        self._coordination = coordination
        self._dispatcher = dispatcher
        self._clock = clock

    def at(self, member: Member) -> Look:
        """The look at one member."""
        if member.component is Component.TRAINER:
            return self._trainer
        if member.component is Component.SERVER:
            return self._server
        if member.component is Component.RUN_AHEAD:
            engine = engine_of(self._job, member).name
            return lambda: self._worker(engine)
        url = self._site.url(member.name) + "/readyz"
        return lambda: self._serving(url)

    async def _serving(self, url: str) -> Sight:
        return _sight(await is_ready(HttpReadiness(url)))

    async def _server(self) -> Sight:
        try:
            await self._coordination.phase()
        except CoordinationUnavailable:
            return Sight.ABSENT
        return Sight.READY

    async def _worker(self, engine: str) -> Sight:
        return _sight(engine in await self._dispatcher.served_engines([engine]))

    async def _trainer(self) -> Sight:
        try:
            report = await self._coordination.phase()
        except CoordinationUnavailable:
            return Sight.ABSENT
        if report is None:
            return Sight.ABSENT
        if report.phase == "finished":
            return Sight.FINISHED
        return _sight(self._clock.unix() - report.reported_at_unix < PHASE_MAX_AGE_SECONDS)


def _sight(is_there: bool) -> Sight:
    return Sight.READY if is_there else Sight.ABSENT


def main() -> int:
    """Read the settings and the job, and carry it through."""
    console = Console()
    try:
        settings = StaticSettings.from_environment()
        job = load_job(settings.job_file.read_text())
        site = given_site(job, settings)
        return asyncio.run(run_given(job, site, console, SystemClock()))
    except (ConfigurationError, OSError) as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return EXIT_REFUSED
    except CoordinationUnavailable as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return EXIT_FAILED
