"""Nodes that are not there: kwok says what kubelets would, and every pod on them is Ready at once.

* ``cd tests && python -m support.fake_nodes`` builds it from the pinned module beside the cluster's
  tools, whose hash it leaves as it is (cold: 3 minutes on two idle cores).
* No container runs: engines are Ready and answer nobody.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from support import go_programs
from support.cluster import ControlPlane, free_ports

MODULE: Final = Path(__file__).parents[1] / "cluster" / "kwok"
PACKAGE: Final = "sigs.k8s.io/kwok"
STAGES: Final = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-delete.yaml",
)
"""What happens to nodes and pods. Pods of Jobs do not complete: a trainer trains on."""
NODE_LEASE_SECONDS: Final = 40
CAPACITY: Final = {"cpu": "64", "memory": "512Gi", "pods": "110"}


def folder() -> Path:
    """Where the program and its stages lie, built or not."""
    return go_programs.kept_at("kwok", MODULE)


@contextmanager
def fake_nodes(plane: ControlPlane, count: int, *, num_gpus: int) -> Iterator[None]:
    """So many nodes of ``plane``, Ready, with ``num_gpus`` GPUs each, while the block lasts."""
    configs = [f"--config={folder() / Path(stage).name}" for stage in STAGES]
    plane.processes.start(
        "kwok",
        str(folder() / "kwok"),
        f"--kubeconfig={plane.place.state}/pki/admin.kubeconfig",
        "--manage-all-nodes=true",
        f"--node-lease-duration-seconds={NODE_LEASE_SECONDS}",
        f"--server-address=127.0.0.1:{free_ports(1)[0]}",
        *configs,
    )
    nodes = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [_node(i, num_gpus) for i in range(count)],
    }
    try:
        plane.kubectl("create", "-f", "-", stdin=json.dumps(nodes))
        plane.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "node", "--all")
        yield
    finally:
        plane.processes.stop("kwok")


def _node(index: int, num_gpus: int) -> dict[str, Any]:
    resources = CAPACITY | {"nvidia.com/gpu": str(num_gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"fake-{index:03d}"},
        "status": {"capacity": resources, "allocatable": resources},
    }


def main() -> None:
    """Build it, or say what is missing."""
    if shutil.which("go") is None:
        sys.stdout.write("no fake nodes here: go missing\n")
        return
    program = folder() / "kwok"
    if program.exists():
        return
    folder().mkdir(parents=True, exist_ok=True)
    where = ["go", "list", "-m", "-f", "{{.Dir}}", PACKAGE]
    subprocess.run(["go", "mod", "download", PACKAGE], cwd=MODULE, check=True)
    found = subprocess.run(where, cwd=MODULE, capture_output=True, text=True, check=True)
    for stage in STAGES:
        source = Path(found.stdout.strip()) / "kustomize" / "stage" / stage
        (folder() / source.name).write_bytes(source.read_bytes())
    go_programs.build(f"{PACKAGE}/cmd/kwok", MODULE, program)


if __name__ == "__main__":
    main()
