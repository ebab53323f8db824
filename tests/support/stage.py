"""A namespace of a control plane, and what one does and sees there."""

from __future__ import annotations

from typing import Any

import yaml

from support.cluster import ControlPlane
from support.jobs import JOB
from support.operator_process import PlayedKubelet, wait_for


class Stage:
    """A namespace, and what one does there."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        self.kubelet = PlayedKubelet(plane, namespace)

    def apply(self, name: str, **changes: Any) -> None:
        document = yaml.safe_load(JOB)
        document["metadata"] = {"name": name, "namespace": self.namespace}
        for path, value in changes.items():
            part = document["spec"]
            *parents, last = path.split("__")
            for parent in parents:
                part = part.setdefault(parent, {})
            part[last] = value
        self.plane.apply(document, "--server-side")

    def job(self, name: str) -> dict[str, Any]:
        return self.plane.get("srtjob", name, "-n", self.namespace)

    def condition(self, kind: str, name: str, of_type: str) -> dict[str, Any]:
        found = self.plane.get(kind, name, "-n", self.namespace).get("status", {})
        matching = [c for c in found.get("conditions", ()) if c["type"] == of_type]
        return matching[0] if matching else {"status": "Unknown", "reason": "", "message": ""}

    def until(self, kind: str, name: str, of_type: str, status: str = "True") -> dict[str, Any]:
        wait_for(
            lambda: self.condition(kind, name, of_type)["status"] == status,
            f"{of_type} of {kind} {name} is {status}",
        )
        return self.condition(kind, name, of_type)

    def names(self, kinds: str) -> list[str]:
        return self.plane.names(kinds, "-n", self.namespace)

    def run_until_training(self, job: str) -> None:
        self.kubelet.make_ready(1, role="tree-cache")
        self.kubelet.make_ready(2, role="rollout")
        self.kubelet.make_ready(1, role="trainer")
        self.until("srtjob", job, "TrainerReady")

    def swept(self, answer: Any, what: str) -> None:
        def look() -> object:
            self.kubelet.sweep()
            return answer()

        wait_for(look, what)

    def pods_are_of(self, uid: str, count: int) -> bool:
        """Whether there are at least so many pods, all of the job with this uid."""
        pods = self.plane.get("pods", "-n", self.namespace)["items"]
        owners = {pod["metadata"]["labels"].get("srt-rl.dev/job-uid") for pod in pods}
        return len(pods) >= count and owners == {uid}

    def reasons(self) -> set[str]:
        return {e["reason"] for e in self.plane.get("events", "-n", self.namespace)["items"]}
