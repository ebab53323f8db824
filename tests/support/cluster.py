"""A real Kubernetes control plane: etcd, API server, and on request controllers and scheduler.

* Every process is a child of this one and ended by its handle; state lies in the folder given.
* `enter` is what stands before a command: nothing here, a node's namespaces in `cluster_node`.
* A command that fails raises with what it wrote to stderr.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

NODE_SCRIPTS = Path(__file__).parents[1] / "cluster" / "node"
DEFINITIONS = Path(__file__).parents[2] / "charts" / "srt-crds" / "templates"
SERVICE_NETWORK = "10.96.0.0/16"
READY_SECONDS = 90.0
STOP_SECONDS = 10.0

Document = dict[str, Any]


class CommandError(RuntimeError):
    """A command ended with another code than 0."""

    def __init__(self, command: Sequence[str], code: int, stderr: str) -> None:
        super().__init__(f"{' '.join(command)} ended with {code}: {stderr.strip()}")
        self.stderr = stderr.strip()
        self.code = code


def output_of(
    command: Sequence[str],
    *,
    called: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
    folder: Path | None = None,
    stdin: str = "",
) -> str:
    """Standard output of a command, in a folder if one is given.

    Raises:
        CommandError: it failed; ``called`` is what it says was run.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    if done.returncode:
        raise CommandError(called, done.returncode, done.stderr)
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a cluster's programs lie, its state, and how one gets in."""

    programs: Path
    state: Path
    enter: tuple[str, ...] = ()

    def command(self, program: str, *arguments: str) -> list[str]:
        """The whole command line of one of our programs, or of one on the PATH."""
        ours = self.programs / program
        return [*self.enter, str(ours) if ours.exists() else program, *arguments]

    def environment(self) -> dict[str, str]:
        """For programs inside: helm's folders are the cluster's own."""
        path = f"{self.programs}:{os.environ['PATH']}:/usr/sbin:/sbin"
        kubeconfig = str(self.state / "pki" / "admin.kubeconfig")
        helm = {f"HELM_{n}_HOME": str(self.state / "helm" / n) for n in ("CACHE", "CONFIG", "DATA")}
        return os.environ | {"PATH": path, "KUBECONFIG": kubeconfig} | helm


class Processes:
    """Programs that run until `stop`, newest ended first; each writes ``<name>.log``."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one; it does not wait."""
        with (self._place.state / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self._place.command(program, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._place.environment(),
            )
        return self._running[name]

    def freeze(self, name: str) -> None:
        """It keeps its connections and answers nobody."""
        self._running[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """It answers again."""
        self._running[name].send_signal(signal.SIGCONT)

    def stop(self, name: str) -> None:
        """End one: politely, then not."""
        process = self._running.pop(name)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End all."""
        for name in reversed(list(self._running)):
            self.stop(name)

    def check(self) -> None:
        """Raise with the end of the log of a process that has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                log = (self._place.state / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{name} ended with {process.returncode}: {log[-2000:]}")


class Client:
    """kubectl and helm as the cluster's administrator, or as the user of another kubeconfig."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def run(self, program: str, *arguments: str, stdin: str = "", seconds: float = 120) -> str:
        """Standard output of a command inside; raises `CommandError`."""
        return output_of(
            self.place.command(program, *arguments),
            called=[program, *arguments],
            stdin=stdin,
            seconds=seconds,
            environment=self.place.environment(),
        )

    def kubectl(self, *arguments: str, stdin: str = "", seconds: float = 120) -> str:
        """Standard output of kubectl."""
        return self.run("kubectl", *arguments, stdin=stdin, seconds=seconds)

    def helm(self, *arguments: str, seconds: float = 300) -> str:
        """Standard output of helm."""
        return self.run("helm", *arguments, seconds=seconds)

    def apply(self, document: Document, *arguments: str) -> Document:
        """Apply one object and return it as the API server stored it."""
        text = yaml.safe_dump(document)
        stored = self.kubectl("apply", "-f", "-", "-o", "json", *arguments, stdin=text)
        return dict(json.loads(stored))

    def get(self, *arguments: str) -> Document:
        """An object or a list of them."""
        return dict(json.loads(self.kubectl("get", *arguments, "-o", "json")))

    def names(self, kinds: str, *arguments: str) -> list[str]:
        """What there is, as kind/name."""
        return self.kubectl("get", kinds, "-o", "name", *arguments).split()


class ControlPlane(Client):
    """etcd and API server; with ``has_controllers`` also controller-manager and scheduler."""

    def __init__(
        self,
        place: Place,
        *,
        has_controllers: bool = False,
        has_watch_cache: bool = True,
        advertised: str = "127.0.0.1",
    ) -> None:
        super().__init__(place)
        self._has_watch_cache = has_watch_cache
        self.processes = Processes(place)
        self._has_controllers = has_controllers
        self._advertised = advertised
        self._etcd_port, self._peer_port, self.port = free_ports(3)
        (place.state / "pki").mkdir(parents=True, exist_ok=True)

    @classmethod
    @contextmanager
    def started(
        cls,
        programs: Path,
        state: Path,
        *,
        has_controllers: bool = False,
        has_watch_cache: bool = True,
    ) -> Iterator[ControlPlane]:
        """A control plane that answers, gone afterwards."""
        plane = cls(
            Place(programs=programs, state=state),
            has_controllers=has_controllers,
            has_watch_cache=has_watch_cache,
        )
        try:
            plane.start()
            yield plane
        finally:
            plane.stop()

    def start(self) -> None:
        """Start and wait until the API server is ready and a namespace has its account."""
        pki = self.place.state / "pki"
        url = f"https://127.0.0.1:{self.port}"
        subprocess.run([str(NODE_SCRIPTS / "certificates"), str(pki), url], check=True)
        self.start_etcd()
        self.start_api_server()
        if self._has_controllers:
            self._start_controllers()
            self.until(lambda: self.names("serviceaccount/default"), "the default account")

    def stop(self) -> None:
        """End every process."""
        self.processes.stop_all()

    def start_etcd(self) -> None:
        """Without fsync: nothing here outlives a power cut."""
        clients, peers = (
            f"http://127.0.0.1:{self._etcd_port}",
            f"http://127.0.0.1:{self._peer_port}",
        )
        self.processes.start(
            "etcd",
            "etcd",
            f"--data-dir={self.place.state}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--log-level=warn",
        )

    def compact(self) -> None:
        """Have etcd forget every earlier version: who watches from one hears that it is gone. Only
        without a watch cache does the API server ask etcd.
        """
        url = f"http://127.0.0.1:{self._etcd_port}/v3"
        with httpx.Client(timeout=STOP_SECONDS, trust_env=False) as etcd:
            seen = etcd.post(f"{url}/kv/range", json={"key": "AA=="})
            revision = {"revision": seen.json()["header"]["revision"]}
            etcd.post(f"{url}/kv/compaction", json=revision).raise_for_status()

    def start_api_server(self) -> None:
        """Start it and wait until it is ready."""
        pki = self.place.state / "pki"
        self.processes.start(
            "apiserver",
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=0.0.0.0" if self.place.enter else "--bind-address=127.0.0.1",
            f"--advertise-address={self._advertised}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--kubelet-client-certificate={pki}/admin.crt",
            f"--kubelet-client-key={pki}/admin.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--cert-dir={self.place.state}/apiserver",
            f"--watch-cache={str(self._has_watch_cache).lower()}",
            f"--endpoint-reconciler-type={'lease' if self.place.enter else 'none'}",
        )
        self.until(lambda: self.kubectl("get", "--raw", "/readyz"), "the API server")

    def _start_controllers(self) -> None:
        pki = self.place.state / "pki"
        self.processes.start(
            "controller-manager",
            "kube-controller-manager",
            f"--kubeconfig={pki}/controller-manager.kubeconfig",
            f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/ca.crt",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_ports(1)[0]}",
            f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key",
            "--node-monitor-grace-period=20s",
        )
        self.processes.start(
            "scheduler",
            "kube-scheduler",
            f"--kubeconfig={pki}/scheduler.kubeconfig",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_ports(1)[0]}",
        )

    def until(
        self, answer: Callable[[], object], what: str, seconds: float = READY_SECONDS
    ) -> None:
        """Wait until ``answer`` is true; a refused command counts as not yet."""
        deadline = time.monotonic() + seconds
        last = "nothing yet"
        while time.monotonic() < deadline:
            self.processes.check()
            try:
                if answer():
                    return
            except CommandError as error:
                last = error.stderr
            time.sleep(0.2)
        raise TimeoutError(f"{what} was not there after {seconds:.0f} s: {last}")


def apply_definitions(cluster: Client) -> None:
    """Make our resources known, and wait until they are."""
    files = ("-f", str(DEFINITIONS))
    cluster.kubectl("apply", "--server-side", *files)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
