"""A real operator process against a control plane, and a kubelet played by hand.

* It has the rights of the chart's account and no other.
* Pods never start: `PlayedKubelet` writes the statuses that a kubelet would write.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from support import chart_access
from support.chart_access import OPERATOR
from support.cluster import CommandError, ControlPlane, free_ports

JOB_REDIS_URL = "redis://srt-job@nowhere:6379/0"
"""What pods of jobs are told; none of them starts."""
PATIENCE_SECONDS = 150.0
START_SECONDS = 200.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Home:
    """Where an operator runs, and the namespaces whose jobs it looks after; none: all."""

    namespace: str = "default"
    watches: tuple[str, ...] = ()


class OperatorProcess:
    """One replica."""

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        redis_url: str,
        *,
        identity: str = "operator-a",
        enter: Sequence[str] = (),
        home: Home | None = None,
    ) -> None:
        """Make its account: with a ClusterRole, or with Roles in the namespaces it watches.

        ``enter``: what stands before the command.
        """
        home = home or Home()
        chart_access.grant(plane, home.namespace, {"watchNamespaces": list(home.watches)})
        file = folder / f"{identity}.kubeconfig"
        account = chart_access.kubeconfig(plane, home.namespace, OPERATOR, file)
        self._enter = tuple(enter)
        self.variables = plane.place.environment() | {"KUBECONFIG": str(account)}
        """Of its environment; changes count from the next start."""
        self._log = folder / f"{identity}.log"
        self._identity = identity
        self.port = free_ports(1)[0]
        url_file, job_url_file = folder / "redis-url", folder / "job-redis-url"
        url_file.write_text(redis_url)
        job_url_file.write_text(JOB_REDIS_URL)
        self._settings = {
            "SRT_OPERATOR_NAMESPACE": home.namespace,
            "SRT_OPERATOR_WATCH_NAMESPACES": json.dumps(home.watches),
            "SRT_OPERATOR_IDENTITY": identity,
            "SRT_OPERATOR_REDIS_URL_FILE": str(url_file),
            "SRT_OPERATOR_JOB_REDIS_URL_FILE": str(job_url_file),
            "SRT_OPERATOR_IMAGE_TRAINER": "localhost/srt-trainer:1",
            "SRT_OPERATOR_IMAGE_ROLLOUT": "localhost/srt-rollout:1",
            "SRT_OPERATOR_IMAGE_TREE_CACHE": "localhost/srt-tree-cache:1",
            "SRT_OPERATOR_IMAGE_RUNAHEAD": "localhost/srt-runahead:1",
            "SRT_OPERATOR_HOST": "127.0.0.1",
            "SRT_OPERATOR_PORT": str(self.port),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def started(
        cls,
        plane: ControlPlane,
        folder: Path,
        redis_url: str,
        *,
        identity: str = "operator-a",
        home: Home | None = None,
    ) -> Iterator[OperatorProcess]:
        """A running replica, ended politely."""
        operator = cls(plane, folder, redis_url, identity=identity, home=home)
        operator.start()
        try:
            operator.wait_until_up()
            yield operator
        finally:
            operator.stop()

    def start(self) -> None:
        """Start it; it does not wait for the lease."""
        environment = self.variables | self._settings
        environment = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._enter, sys.executable, "-m", "srt_operator"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            )

    def wait_until_up(self) -> None:
        """Wait for its probes; importing takes long on a busy machine."""
        wait_for(self._answers, "the operator's probes", seconds=START_SECONDS)

    def _answers(self) -> bool:
        assert self.exit_status() is None, self.log()
        return self.probe("readyz") == (200, "ok")

    def probe(self, path: str) -> tuple[int, str]:
        """Status and text of one of its pages; 0: it does not answer."""
        url = f"http://127.0.0.1:{self.port}/{path}"
        try:
            answer = httpx.get(url, timeout=2, trust_env=False)
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.text.strip()

    def is_leading(self) -> bool:
        """Whether it says that it acts."""
        return "srt_operator_leading 1.0" in self.probe("metrics")[1]

    @property
    def pid(self) -> int:
        """Of the process, or of what stands before it."""
        assert self._process is not None
        return self._process.pid

    def exit_status(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def freeze(self) -> None:
        """It does nothing, and its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text(errors="replace")


class PlayedKubelet:
    """Statuses of pods."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self._namespace = namespace

    def pods(self, **labels: str) -> list[dict[str, Any]]:
        """Pods with labels of ours."""
        selector = ",".join(f"srt-rl.dev/{name}={value}" for name, value in labels.items())
        found = self._plane.get("pods", "-n", self._namespace, "-l", selector)
        items: list[dict[str, Any]] = found["items"]
        return items

    def make_ready(self, count: int, **labels: str) -> None:
        """Wait for so many pods and have them serve."""
        wait_for(lambda: len(self.pods(**labels)) >= count, f"{count} pods of {labels}")
        for pod in self.pods(**labels):
            if pod["status"].get("phase") == "Pending":
                started = pod["metadata"]["creationTimestamp"]
                self.set_state(pod, {"running": {"startedAt": started}})

    def end(self, exit_code: int, **labels: str) -> None:
        """Every container of these pods ends."""
        when = "2026-01-01T00:00:00Z"
        state = {"terminated": {"exitCode": exit_code, "finishedAt": when, "startedAt": when}}
        for pod in self.pods(**labels):
            self.set_state(pod, state, phase="Failed" if exit_code else "Succeeded")

    def set_state(
        self,
        pod: dict[str, Any],
        state: dict[str, Any],
        *,
        phase: str = "Running",
        restarts: int = 0,
        last: dict[str, Any] | None = None,
    ) -> None:
        """Write one pod's status, unless the pod has gone."""
        is_ready = "running" in state
        statuses = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": is_ready,
                "restartCount": restarts,
                "state": state,
                "lastState": last or {},
            }
            for container in pod["spec"]["containers"]
        ]
        ready = {"type": "Ready", "status": "True" if is_ready else "False"}
        status = {"phase": phase, "containerStatuses": statuses, "conditions": [ready]}
        arguments = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        try:
            self._plane.kubectl(
                "patch", "pod", pod["metadata"]["name"], "-n", self._namespace, *arguments
            )
        except CommandError as error:
            if "NotFound" not in error.stderr:
                raise

    def sweep(self) -> None:
        """Let pods go that are told to."""
        for pod in self._plane.get("pods", "-n", self._namespace)["items"]:
            if pod["metadata"].get("deletionTimestamp"):
                self._plane.kubectl(
                    "delete",
                    "pod",
                    pod["metadata"]["name"],
                    "-n",
                    self._namespace,
                    "--force",
                    "--grace-period=0",
                    "--ignore-not-found",
                )


def wait_for(
    answer: Callable[[], object], what: str, *, seconds: float = PATIENCE_SECONDS
) -> float:
    """Wait until ``answer`` is true; how long it took."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        try:
            if answer():
                return time.monotonic() - started
        except CommandError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")
