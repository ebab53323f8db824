"""The operator beside many jobs: 256 engines with a GPU each, on nodes that kwok plays.

    make bench-cluster             # or: PYTHONPATH=tests python docs/benchmarks/cluster_scale.py

Real API server, controllers and scheduler; pods are Ready and answer nobody, and their names do not
resolve: what a leader is left with when engines or a network are gone. Asking costs little beside
what is asked: one connection, and the API server's own counters only where a stretch begins or
ends. Writes docs/benchmarks/<date>-cluster-scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import ssl
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import yaml
from context import describe, page
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from support import cluster_tools, fake_nodes
from support.cluster import ControlPlane, apply_definitions
from support.jobs import JOB
from support.operator_process import OperatorProcess
from support.redis_server import RedisServer

NUM_JOBS = 20
NUM_ENGINES = 256
NUM_GPUS = 8
"""Of a node."""
NAMESPACE = "scale"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/srt-operator"
OURS = f"/apis/srt-rl.dev/v1alpha1/namespaces/{NAMESPACE}"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 900.0
MB = 2**20


Histogram = Mapping[float, float]
"""Number of observations of at most so many seconds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the operator has counted of itself, and what the machine knows of it."""

    at: float
    answer_seconds: float
    """How long it took to say so."""
    num_calls: float
    cpu_seconds: float
    resident_bytes: int
    looks: Histogram
    """How long looks took."""
    waits: Histogram
    """How long they were due before they began."""
    machine: tuple[float, float]
    """Seconds that all cores were busy, and that they had."""


@dataclass(slots=True)
class Stretch:
    """A part of the run: its ends, and the extremes inside."""

    name: str
    begin: Reading
    end: Reading
    server_seconds: float = math.nan
    """Mean answer of the API server to all calls but watches, whoever's."""
    peak_bytes: int = 0
    slowest_answer: float = 0.0
    """Seconds, of ``/metrics``."""
    oldest_renewal: float = 0.0
    """Seconds since the lease was renewed, at most, as looked at every `LOOK_SECONDS`."""

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end.at - self.begin.at

    @property
    def num_looks(self) -> int:
        """Finished ones."""
        return round(self.end.looks[math.inf] - self.begin.looks.get(math.inf, 0.0))

    @property
    def calls_a_job_and_minute(self) -> float:
        """Of the Kubernetes API; the lease's included, watches not."""
        return (self.end.num_calls - self.begin.num_calls) / NUM_JOBS / (self.seconds / 60)

    @property
    def cpu(self) -> float:
        """Share of one core."""
        return (self.end.cpu_seconds - self.begin.cpu_seconds) / self.seconds

    @property
    def busy(self) -> float:
        """Share of all cores that somebody used."""
        (used_before, before), (used, had) = self.begin.machine, self.end.machine
        return (used - used_before) / max(1e-9, had - before)

    def look_seconds(self, share: float) -> float:
        """A quantile; NaN: no look ended."""
        return quantile(share, self.begin.looks, self.end.looks)

    def wait_seconds(self, share: float) -> float:
        """A quantile of how long looks were due before they began; NaN: none began."""
        return quantile(share, self.begin.waits, self.end.waits)


def quantile(share: float, before: Histogram, after: Histogram) -> float:
    """Of what came in between, interpolated inside a bucket; NaN: nothing came."""
    rank, lower, below = share * (after[math.inf] - before.get(math.inf, 0.0)), 0.0, 0.0
    for bound in sorted(after):
        count = after[bound] - before.get(bound, 0.0)
        if 0 < rank <= count:
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return math.nan


@dataclass(slots=True)
class Run:
    """One operator on one control plane."""

    plane: ControlPlane
    operator: OperatorProcess
    server: httpx.Client
    """The API server, as its administrator."""
    stretches: list[Stretch] = field(default_factory=list)

    def read(self) -> Reading:
        """Now, however long it takes to answer."""
        asked_at = time.monotonic()
        while (answer := self.operator.probe("metrics"))[0] != HTTPStatus.OK:
            if self.operator.exit_status() is not None:
                raise RuntimeError(f"the operator is gone: {self.operator.log()[-2000:]}")
        at, text = time.monotonic(), answer[1]
        samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]
        [calls] = [s.value for s in samples if s.name == "srt_operator_api_calls_total"]
        process = Path("/proc") / str(self.operator.pid)
        ticks = (process / "stat").read_text().rsplit(")", maxsplit=1)[1].split()[11:13]
        pages = int((process / "statm").read_text().split()[1])
        return Reading(
            at=at,
            answer_seconds=at - asked_at,
            num_calls=calls,
            cpu_seconds=sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
            resident_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
            looks=histogram("srt_operator_reconcile_duration_seconds", samples),
            waits=histogram("srt_operator_queue_wait_seconds", samples),
            machine=_machine(),
        )

    def measure(self, name: str, is_over: Callable[[float], bool]) -> None:
        """Look on until ``is_over`` after so many seconds."""
        (taken_before, before), begin = self._answers(), self.read()
        stretch = Stretch(name, begin, begin)
        while not is_over(stretch.seconds):
            if stretch.seconds > PATIENCE_SECONDS:
                raise TimeoutError(f"{name}: not within {PATIENCE_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)
            stretch.end = self.read()
            stretch.peak_bytes = max(stretch.peak_bytes, stretch.end.resident_bytes)
            stretch.slowest_answer = max(stretch.slowest_answer, stretch.end.answer_seconds)
            stretch.oldest_renewal = max(stretch.oldest_renewal, self._lease_age())
        taken, number = self._answers()
        stretch.server_seconds = (taken - taken_before) / max(1.0, number - before)
        self.stretches.append(stretch)
        sys.stderr.write(f"{row_of(stretch)}\n")

    def _get(self, path: str, **query: str) -> httpx.Response:
        return self.server.get(path, params=query).raise_for_status()

    def _answers(self) -> tuple[float, float]:
        """Seconds that the API server took for all calls but watches, and their number."""
        text = self._get("/metrics").text
        totals = []
        for what in ("sum", "count"):
            lines = re.findall(
                rf"^apiserver_request_duration_seconds_{what}{{(.*)}} (.*)$", text, re.M
            )
            totals.append(sum(float(n) for labels, n in lines if 'verb="WATCH"' not in labels))
        return totals[0], totals[1]

    def _lease_age(self) -> float:
        renewed = datetime.fromisoformat(self._get(LEASE).json()["spec"]["renewTime"])
        return time.time() - renewed.timestamp()

    def num_ready(self) -> int:
        """Jobs whose every part is Ready."""
        jobs = self._get(f"{OURS}/srtjobs").json()["items"]
        return sum(
            condition["type"] == "Ready" and condition["status"] == "True"
            for job in jobs
            for condition in job.get("status", {}).get("conditions", ())
        )

    def is_empty(self) -> bool:
        """Whether nothing of any job is left."""
        kinds = (f"{OURS}/srtjobs", f"{OURS}/rolloutpools", f"{OURS}/treecaches", PODS)
        return not any(self._get(kind, limit="1").json()["items"] for kind in kinds)


def histogram(name: str, samples: Sequence[Sample]) -> Histogram:
    """Of all labels together."""
    found: dict[float, float] = defaultdict(float)
    for sample in samples:
        if sample.name == f"{name}_bucket":
            found[float(sample.labels["le"])] += sample.value
    return found


def _machine() -> tuple[float, float]:
    """Seconds that all cores were busy since the start, and that they had."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, idle, waiting, *others = map(float, line.split()[1:9])
    busy = user + nice + system + sum(others)
    ticks = os.sysconf("SC_CLK_TCK")
    return busy / ticks, (busy + idle + waiting) / ticks


def jobs() -> list[dict[str, Any]]:
    """Valid ones, with the engines spread over them and a GPU for each."""
    made = []
    for index in range(NUM_JOBS):
        job: dict[str, Any] = yaml.safe_load(JOB)
        job["metadata"] = {"name": f"job-{index:02d}", "namespace": NAMESPACE}
        engines = job["spec"]["rollout"]["template"]
        engines["replicas"] = len(range(index, NUM_ENGINES, NUM_JOBS))
        engines["podTemplate"] = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
        made.append(job)
    return made


def administrator(plane: ControlPlane) -> httpx.Client:
    """One connection to the API server with every right; closed by whoever enters it."""
    pki = plane.place.state / "pki"
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    url = f"https://127.0.0.1:{plane.port}"
    return httpx.Client(base_url=url, verify=context, timeout=60, trust_env=False)


@contextmanager
def stage() -> Iterator[Run]:
    """Control plane, nodes, Redis and an operator that leads."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="srt-scale-")))
        programs = cluster_tools.programs()
        started = ControlPlane.started(programs, folder / "plane", has_controllers=True)
        plane = stack.enter_context(started)
        apply_definitions(plane)
        nodes = fake_nodes.fake_nodes(plane, NUM_ENGINES // NUM_GPUS, num_gpus=NUM_GPUS)
        stack.enter_context(nodes)
        redis = stack.enter_context(RedisServer.started())
        operator = OperatorProcess.started(plane, folder, redis.url)
        server = stack.enter_context(administrator(plane))
        run = Run(plane, stack.enter_context(operator), server)
        plane.kubectl("create", "namespace", NAMESPACE)
        plane.until(run.operator.is_leading, "a leader")
        yield run


def measure(minutes: float) -> Run:
    """All jobs come, stay for so long, and go."""
    with stage() as run:
        made = {"apiVersion": "v1", "kind": "List", "items": jobs()}
        run.measure("nothing to do", lambda seconds: seconds >= 20)
        run.plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(made))
        run.measure("from apply to all jobs Ready", lambda _: run.num_ready() == NUM_JOBS)
        run.measure("at rest", lambda seconds: seconds >= 60 * minutes)
        run.plane.kubectl("delete", "srtjobs", "--all", "-n", NAMESPACE, "--wait=false")
        run.measure("from delete to nothing left", lambda _: run.is_empty())
        return run


HEAD = [
    "| stretch | seconds | looks | p50, s | p99, s | p99 of the wait, s "
    "| mean answer of the API server, s | API calls/job/minute | operator's CPU "
    "| all cores busy | resident, at most | slowest answer of /metrics, s "
    "| oldest renewal of the lease, s |",
    f"|{'---|' * 13}",
]


def row_of(it: Stretch) -> str:
    """One line of the table."""
    return (
        f"| {it.name} | {it.seconds:.0f} | {it.num_looks} | {it.look_seconds(0.5):.3f} "
        f"| {it.look_seconds(0.99):.3f} | {it.wait_seconds(0.99):.3f} | {it.server_seconds:.3f} "
        f"| {it.calls_a_job_and_minute:.1f} | {it.cpu:.0%} of a core | {it.busy:.0%} "
        f"| {it.peak_bytes / MB:.0f} MB "
        f"| {it.slowest_answer:.2f} | {it.oldest_renewal:.1f} |"
    )


def targets(run: Run) -> list[str]:
    """The issue's numbers beside ours."""
    looks = [it for it in run.stretches if it.num_looks]
    peak = max(it.peak_bytes for it in run.stretches) / MB
    rows = [(f"p99 of a look, {it.name}", it.look_seconds(0.99), 1.0, "s", 2) for it in looks]
    rows += [("memory of the operator, at most", peak, 300.0, "MB", 0)]
    return [
        "| what | below | measured | |",
        "|---|---|---|---|",
        *(
            f"| {what} | {limit:.0f} {unit} | {value:.{digits}f} {unit} "
            f"| {'met' if value < limit else 'missed'} |"
            for what, value, limit, unit, digits in rows
        ),
    ]


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="at rest")
    run = measure(parser.parse_args().minutes)
    lines = [
        "# The operator beside 20 jobs and 256 engines",
        "",
        describe("make bench-cluster"),
        "",
    ]
    lines += [
        f"{NUM_JOBS} jobs, {NUM_ENGINES} rollout pods with a GPU each, {NUM_JOBS} trainers and",
        f"{NUM_JOBS} tree caches on {NUM_ENGINES // NUM_GPUS} nodes of {NUM_GPUS} GPUs that kwok",
        "plays; API server, etcd, controllers and scheduler are real and share the machine. Pods",
        "are Ready and answer nobody, and their names do not resolve. A look is one reconcile of",
        "one resource, from its turn to its end, which is what controller-runtime measures as",
        "`controller_runtime_reconcile_time_seconds`; the wait for its turn, its",
        "`workqueue_queue_duration_seconds`, stands beside it. Four looks go on at once. Calls",
        "are those of the operator's own connections without its watches, of which the lease's",
        f"are {60 / NUM_JOBS:.0f} a job and minute. Everything shares the cores: where the API",
        "server takes long, looks do.",
        "",
        *targets(run),
        "",
        *HEAD,
        *map(row_of, run.stretches),
    ]
    page("cluster-scale", ".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
