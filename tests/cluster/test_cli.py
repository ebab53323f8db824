"""`srt` against a real API server: what it creates, shows and changes there."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from srt_common.clock import SystemClock
from srt_common.messages.rollouts import EngineLoad
from srt_operator.backends.kubernetes_api import Calls
from srt_operator.cli import main
from srt_operator.cluster.probes import Health, Metrics, serving
from srt_operator.engine_now import EngineNow
from srt_operator.run_lines import Line
from support.cluster import ControlPlane, apply_definitions, free_ports
from support.jobs import JOB

KUBECONFIG_OF_LIBRARY = "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
"""Read from the environment when the library is imported, which is long ago in this process."""


class Command:
    """`srt` as the administrator of a cluster, or as the user of another kubeconfig."""

    def __init__(self, plane: ControlPlane) -> None:
        self._kubeconfig = plane.place.environment()["KUBECONFIG"]

    def run(self, *arguments: str, expected: int = 0, kubeconfig: Path | None = None) -> str:
        """What it prints, in this process: starting another one for each takes seconds."""
        said = io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patched,
            redirect_stdout(said),
            redirect_stderr(said),
            pytest.raises(SystemExit) as ended,
        ):
            patched.setattr(KUBECONFIG_OF_LIBRARY, str(kubeconfig or self._kubeconfig))
            patched.setattr(sys, "argv", ["srt", *arguments])
            patched.setenv("COLUMNS", "200")
            main()
            sys.exit(0)
        assert (ended.value.code or 0) == expected, said.getvalue()
        return said.getvalue()


@pytest.fixture
def srt(api_server: ControlPlane) -> Command:
    apply_definitions(api_server)
    return Command(api_server)


def test_a_job_is_submitted_shown_changed_and_deleted(
    srt: Command, api_server: ControlPlane, tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    assert "created (dry run)" in srt.run("submit", str(file), "--dry-run")
    assert api_server.names("srtjobs") == []
    made = json.loads(srt.run("submit", str(file), "--set", "spec.algorithm.steps=9", "-o", "json"))
    assert made["spec"]["algorithm"]["steps"] == 9
    assert "already exists" in srt.run("submit", str(file), expected=2)
    assert "sums" in srt.run("get", "-o", "wide")
    assert srt.run("suspend", "sums", "--dry-run") == "srtjob/sums suspended (dry run)\n"
    assert api_server.get("srtjob", "sums")["spec"].get("suspend") is not True
    srt.run("suspend", "sums")
    assert api_server.get("srtjob", "sums")["spec"]["suspend"] is True
    srt.run("resume", "sums")
    assert api_server.get("srtjob", "sums")["spec"]["suspend"] is False
    srt.run("cancel", "sums")
    annotations = api_server.get("srtjob", "sums")["metadata"]["annotations"]
    assert annotations["srt-rl.dev/cancelled"] == "true"
    shown = yaml.safe_load(srt.run("get", "sums", "-o", "yaml"))
    assert shown == json.loads(srt.run("get", "-o", "json"))["items"][0]
    assert srt.run("delete", "sums", "--dry-run") == "srtjob/sums deleted (dry run)\n"
    assert srt.run("delete", "sums") == "srtjob/sums deleted\n"
    assert "JOB is 'sums': allowed is an SRTJob of namespace default" in srt.run(
        "get", "sums", expected=2
    )


def test_doctor_says_what_a_cluster_lacks(srt: Command, api_server: ControlPlane) -> None:
    place = ("-n", "default", "--operator-namespace", "default")
    checks = by_name(srt.run("doctor", *place, "-o", "json", expected=1))
    assert checks["API server"]["level"] == "OK"
    assert checks["custom resources"] == {
        "what": "custom resources",
        "level": "OK",
        "text": "srtjobs, rolloutpools, treecaches of srt-rl.dev/v1alpha1",
    }
    assert checks["operator"]["level"] == "FAIL"
    assert checks["your permissions"]["level"] == "OK"
    assert checks["GPUs"]["level"] == "WARN"
    lead(api_server, "operator-0")
    api_server.apply(NODE)
    node = {"status": {"allocatable": {"nvidia.com/gpu": "8"}}}
    patch(api_server, "node/gpu", node)
    api_server.kubectl("label", "namespace", "default", f"{POD_SECURITY}=restricted")
    try:
        text = srt.run("doctor", *place)
    finally:
        api_server.kubectl("label", "namespace", "default", f"{POD_SECURITY}-")
        api_server.kubectl("delete", "node/gpu", "lease/srt-operator")
    assert "OK   operator: operator-0 leads, its Lease is" in text
    assert "OK   GPUs: 8 nvidia.com/gpu on 1 nodes" in text
    assert "OK   Pod Security: default enforces restricted" in text


def test_doctor_says_what_its_caller_may_not_do(
    srt: Command, api_server: ControlPlane, tmp_path: Path
) -> None:
    api_server.kubectl("create", "serviceaccount", "guest")
    token = api_server.kubectl("create", "token", "guest").strip()
    settings = yaml.safe_load(Path(api_server.place.environment()["KUBECONFIG"]).read_text())
    for user in settings["users"]:
        user["user"] = {"token": token}
    kubeconfig = tmp_path / "guest.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(settings))
    text = srt.run("doctor", "-n", "default", expected=1, kubeconfig=kubeconfig)
    assert "FAIL your permissions: you may not get srtjobs, create srtjobs" in text
    assert "WARN GPUs: not seen: nodes is forbidden" in text
    api_server.kubectl("delete", "serviceaccount", "guest")


def test_doctor_says_that_nobody_answers(srt: Command, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    server = {"name": "gone", "cluster": {"server": "https://127.0.0.1:9"}}
    context = {"name": "gone", "context": {"cluster": "gone", "user": "gone"}}
    document = {
        "clusters": [server],
        "contexts": [context],
        "users": [{"name": "gone", "user": {}}],
    }
    kubeconfig.write_text(yaml.safe_dump(document | {"current-context": "gone"}))
    answer = srt.run("doctor", "--context", "gone", expected=1, kubeconfig=kubeconfig)
    [line] = answer.splitlines()
    assert line.startswith("FAIL API server: the API server does not answer")


def test_top_shows_what_the_leading_operator_has_heard(
    srt: Command, api_server: ControlPlane, tmp_path: Path
) -> None:
    """The operator's own route, asked through the API server's proxy to a pod."""
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    srt.run("submit", str(file))
    status = {"phase": "Running", "progress": {"step": 1, "steps": 3, "display": "1/3"}}
    patch(api_server, "srtjob/sums", {"status": status})
    place = ("--operator-namespace", "default")
    assert "sums: engines are not shown" in srt.run("top", "--once", *place)
    with operator_pod(api_server) as pod:
        lead(api_server, pod)
        text = srt.run("top", "sums", "--once", *place)
        told = json.loads(srt.run("top", *place, "-o", "json"))
    rows = [" ".join(row.split()) for row in text.splitlines()]
    assert rows[1] == "sums Running 1/3 5 3 2 -"
    assert rows[-1].startswith("sums sums-rollout-0 7 5 3 2 16 0% - - 2.50")
    assert told[0]["engines"]["sums-rollout-0"]["tokens_per_step"] == 2.5
    api_server.kubectl("delete", "lease/srt-operator", "srtjob/sums")


POD_SECURITY = "pod-security.kubernetes.io/enforce"
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gpu"}}


def by_name(text: str) -> dict[str, dict[str, str]]:
    return {check["what"]: check for check in json.loads(text)}


def patch(plane: ControlPlane, name: str, change: dict[str, Any]) -> None:
    arguments = ("--subresource=status", "--type=merge", "-p", json.dumps(change))
    plane.kubectl("patch", name, *arguments)


def lead(plane: ControlPlane, holder: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    plane.apply(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "srt-operator", "namespace": "default"},
            "spec": {"holderIdentity": holder, "renewTime": now, "leaseDurationSeconds": 15},
        }
    )


def own_address() -> str:
    """Not of the loopback: an API server forwards to no pod there. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but the loopback's")
        return str(probe.getsockname()[0])


@contextmanager
def operator_pod(plane: ControlPlane) -> Iterator[str]:
    """What the operator serves over HTTP, in a pod that nobody but the API server believes in."""
    address, port = own_address(), free_ports(1)[0]
    load = EngineLoad("sums-rollout-0", 7, 16, 2, 5, 3, 2)
    now = {"sums-rollout-0": msgspec.to_builtins(EngineNow(load=load, tokens_per_step=2.5))}

    def engines(namespace: str, job: str) -> Line | None:
        is_known = (namespace, job) == ("default", "sums")
        return {"at_unix": time.time(), "now": now} if is_known else None

    async def serve() -> None:
        health = Health(Calls(), SystemClock())
        async with serving(
            address,
            port,
            metrics=Metrics(),
            refresh=lambda: None,
            health=health,
            engines=engines,
        ):
            is_up.set()
            await asyncio.to_thread(is_over.wait)

    is_up, is_over = threading.Event(), threading.Event()
    server = threading.Thread(target=lambda: asyncio.run(serve()))
    server.start()
    plane.kubectl("create", "serviceaccount", "default")
    container = {"name": "operator", "image": "none", "ports": [{"containerPort": port}]}
    metadata = {"name": "operator-0", "namespace": "default"}
    plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata} | spec_of(container))
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    patch(plane, "pod/operator-0", {"status": status})
    try:
        assert is_up.wait(60)
        yield "operator-0"
    finally:
        is_over.set()
        server.join()
        plane.kubectl("delete", "pod/operator-0", "--force", "--grace-period=0")
        plane.kubectl("delete", "serviceaccount", "default")


def spec_of(container: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"containers": [container]}}
