"""The operator with the rights of the chart's roles and no other: what the API server itself says
they are, what it refuses to their token, and a job from its submission to its end in the one
namespace that an operator watches. Every other test of the operator has its ClusterRole.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from support.chart_access import (
    HOOKS,
    OPERATOR,
    Right,
    grant,
    kubeconfig,
    rights_of_roles,
    rights_of_server,
)
from support.cluster import Client, CommandError, ControlPlane
from support.helm import Object
from support.jobs import JOB
from support.operator_process import (
    JOB_REDIS_URL,
    Home,
    OperatorProcess,
    PlayedKubelet,
    wait_for,
)
from support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(900)

EVERYWHERE, SCOPED, TEAM, OTHERS = "srt-everywhere", "srt-scoped", "scoped-team", "others"
OF_ANYBODY: set[Right] = {
    ("authorization.k8s.io", "selfsubjectaccessreviews", "", "create"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "", "create"),
    ("authentication.k8s.io", "selfsubjectreviews", "", "create"),
}
"""What Kubernetes lets everybody ask about themselves."""
REFUSED = (
    ("get", "secrets", "--all-namespaces"),
    ("get", "secret", "theirs", "--namespace", OTHERS),
    ("get", "configmaps", "--all-namespaces"),
    ("get", "nodes"),
    ("get", "namespaces"),
    ("get", "validatingwebhookconfigurations"),
    ("get", "clusterroles"),
    ("get", "leases", "--namespace", OTHERS),
    ("get", "pods", "--all-namespaces", "--as=system:admin"),
    ("get", "pods", "--all-namespaces", "--as=nobody", "--as-group=system:masters"),
    ("create", "token", "default", "--namespace", OTHERS),
    ("create", "clusterrolebinding", "up", "--clusterrole=cluster-admin", "--user=x"),
    ("create", "serviceaccount", "mine", "--namespace", OTHERS),
    ("create", "namespace", "mine"),
    ("run", "mine", "--image=x", "--namespace", OTHERS),
    ("exec", "theirs", "--namespace", OTHERS, "--", "true"),
    ("attach", "theirs", "--namespace", OTHERS),
    ("logs", "theirs", "--namespace", OTHERS),
    ("scale", "deployment/theirs", "--replicas=0", "--namespace", OTHERS),
    ("cordon", "theirs"),
    ("certificate", "approve", "theirs"),
    ("delete", "customresourcedefinition", "srtjobs.srt-rl.dev"),
)


@pytest.fixture(scope="module")
def peopled(plane: ControlPlane) -> ControlPlane:
    """With namespaces, and something of others."""
    for namespace in (EVERYWHERE, SCOPED, TEAM, OTHERS):
        plane.kubectl("create", "namespace", namespace)
    plane.kubectl("create", "secret", "generic", "theirs", "--namespace", OTHERS)
    plane.kubectl("run", "theirs", "--image=localhost/x:1", "--namespace", OTHERS)
    return plane


@pytest.fixture(scope="module")
def everywhere(peopled: ControlPlane) -> list[Object]:
    return grant(peopled, EVERYWHERE)


@pytest.fixture(scope="module")
def scoped(peopled: ControlPlane) -> list[Object]:
    return grant(peopled, SCOPED, {"watchNamespaces": [TEAM]})


@pytest.fixture(scope="module")
def operator_user(
    plane: ControlPlane, everywhere: list[Object], tmp_path_factory: pytest.TempPathFactory
) -> Client:
    """kubectl with the token that the operator's pod has."""
    state = tmp_path_factory.mktemp("operator-user")
    (state / "pki").mkdir()
    kubeconfig(plane, EVERYWHERE, OPERATOR, state / "pki" / "admin.kubeconfig")
    return Client(replace(plane.place, state=state))


@pytest.mark.parametrize("account", [OPERATOR, HOOKS])
@pytest.mark.parametrize("namespace", [EVERYWHERE, OTHERS])
def test_the_server_allows_what_the_cluster_role_says_and_no_more(
    plane: ControlPlane, everywhere: list[Object], account: str, namespace: str
) -> None:
    told = rights_of_server(plane, EVERYWHERE, account, namespace)
    assert told - OF_ANYBODY == rights_of_roles(everywhere, account, namespace)


@pytest.mark.parametrize("account", [OPERATOR, HOOKS])
@pytest.mark.parametrize("namespace", [SCOPED, TEAM, OTHERS])
def test_the_server_allows_nothing_outside_the_watched_namespace(
    plane: ControlPlane, scoped: list[Object], account: str, namespace: str
) -> None:
    told = rights_of_server(plane, SCOPED, account, namespace)
    assert told - OF_ANYBODY == rights_of_roles(scoped, account, namespace)
    if namespace == OTHERS:
        assert told == OF_ANYBODY


@pytest.mark.parametrize("command", REFUSED, ids=" ".join)
def test_the_operators_token_opens_nothing_else(
    operator_user: Client, command: tuple[str, ...]
) -> None:
    with pytest.raises(CommandError, match=r"\(Forbidden\)|is forbidden"):
        operator_user.kubectl(*command)


def test_the_operators_token_does_what_it_may(operator_user: Client) -> None:
    assert operator_user.names("pods", "--namespace", OTHERS) == ["pod/theirs"]
    operator_user.kubectl("get", "srtjobs", "--all-namespaces")


@pytest.fixture(scope="module")
def operator(
    peopled: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """One that watches one namespace, with a Role there."""
    home, folder = Home(SCOPED, (TEAM,)), tmp_path_factory.mktemp("operator")
    with (
        RedisServer.started() as redis,
        OperatorProcess.started(peopled, folder, redis.url, home=home) as process,
    ):
        yield process


def submit(plane: ControlPlane, namespace: str) -> None:
    document = yaml.safe_load(JOB)
    document["metadata"] = {"name": "sums", "namespace": namespace}
    plane.apply(document)


def test_an_operator_of_one_namespace_runs_its_jobs_and_leaves_others_alone(
    plane: ControlPlane, operator: OperatorProcess, tmp_path: Path
) -> None:
    kubelet = PlayedKubelet(plane, TEAM)
    for namespace in (OTHERS, TEAM):
        submit(plane, namespace)
    kubelet.make_ready(1, role="tree-cache")
    kubelet.make_ready(2, role="rollout")
    kubelet.make_ready(1, role="trainer")
    secrets = plane.get("secrets", "-n", TEAM)["items"]
    told = [b64decode(secret["data"]["redis-url"]).decode() for secret in secrets]
    assert told == [JOB_REDIS_URL] * 3, "of the trainer, the engines and the tree cache"
    kubelet.end(0, role="trainer")
    plane.kubectl(
        "wait", "--for=condition=Complete", "srtjob/sums", "--timeout=150s", "-n", TEAM, seconds=160
    )

    def is_gone() -> bool:
        kubelet.sweep()
        return plane.names("srtjobs,rolloutpools,treecaches,pods", "-n", TEAM) == []

    plane.kubectl("delete", "srtjob", "sums", "-n", TEAM, "--wait=false")
    wait_for(is_gone, "everything of the job is gone")
    assert "status" not in plane.get("srtjob", "sums", "-n", OTHERS)
    plane.kubectl("delete", "srtjob", "sums", "-n", OTHERS)
    assert "forbidden" not in operator.log()
