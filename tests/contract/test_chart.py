"""What helm makes of the chart: restricted pods, selectors that find them, access that is enough.

Skipped, with one sentence, where there is no helm.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from srt_operator.cluster.settings import OperatorSettings, pod_defaults
from support.helm import CHART, Object, named, of_kind, pods, render, run_helm

pytestmark = pytest.mark.timeout(120)

EVERYTHING: Object = {
    "profile": "gpu",
    "watchNamespaces": ["team-a", "team-b"],
    "image": {"registry": "registry.example/srt", "pullSecrets": ["regcred"]},
    "redis": {"persistence": {"enabled": True}, "tls": {"existingSecret": "redis-tls"}},
    "telemetry": {"otlpEndpoint": "http://collector.monitoring:4318"},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    },
    "monitoring": {
        "prometheusUrl": "http://prometheus.monitoring:9090",
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}
EXTERNAL: Object = {
    "redis": {"enabled": False, "external": {"url": "rediss://redis.example:6380/0"}}
}
VARIANTS: dict[str, Object] = {"default": {}, "everything": EVERYTHING, "external": EXTERNAL}


@pytest.fixture(params=VARIANTS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(VARIANTS[request.param])


def matches(selector: Object, labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def test_lint_has_nothing_to_say() -> None:
    answer = run_helm("lint", "--strict", str(CHART), str(CHART.parent / "srt-crds"))
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("monitor", ["serviceMonitor", "podMonitor"])
def test_a_monitor_that_no_policy_lets_in_is_refused(monitor: str) -> None:
    enabled = f"monitoring.{monitor}.enabled=true"
    answer = run_helm("template", "srt", str(CHART), "--set", enabled)
    assert answer.returncode != 0
    assert "networkPolicy.metricsFrom" in answer.stderr
    without = run_helm(
        "template", "srt", str(CHART), "--set", f"{enabled},networkPolicy.enabled=false"
    )
    assert without.returncode == 0, without.stderr


def test_every_pod_is_restricted(objects: list[Object]) -> None:
    for name, pod in pods(objects).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        for container in spec["containers"] + spec.get("initContainers", []):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["runAsNonRoot"] is True, name
            assert context["runAsUser"] == 65532, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


def test_every_mount_has_its_volume_and_every_volume_is_mounted(objects: list[Object]) -> None:
    claims = {
        claim["metadata"]["name"]
        for stateful in of_kind(objects, "StatefulSet")
        for claim in stateful["spec"].get("volumeClaimTemplates", [])
    }
    for name, pod in pods(objects).items():
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        mounts = {m["name"] for c in pod["spec"]["containers"] for m in c.get("volumeMounts", [])}
        assert volumes <= mounts <= volumes | claims, name


def test_every_mounted_object_is_in_the_release_or_given(objects: list[Object]) -> None:
    ours = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for name, pod in pods(objects).items():
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in ours, name
            if "secret" in volume:
                secret = volume["secret"]["secretName"]
                assert secret == "redis-tls" or ("Secret", secret) in ours, name


def test_a_workload_selects_its_own_pods_and_no_others(objects: list[Object]) -> None:
    made = {name: pod["metadata"]["labels"] for name, pod in pods(objects).items()}
    for one in of_kind(objects, "Deployment") + of_kind(objects, "StatefulSet"):
        name = f"{one['kind']}/{one['metadata']['name']}"
        selector = one["spec"]["selector"]["matchLabels"]
        assert [found for found, labels in made.items() if matches(selector, labels)] == [name]


def test_services_budgets_and_monitors_select_what_there_is(objects: list[Object]) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(objects).values()]
    for service in of_kind(objects, "Service"):
        assert sum(matches(service["spec"]["selector"], one) for one in labels) == 1
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert sum(matches(budget["spec"]["selector"]["matchLabels"], one) for one in labels) == 1
    services = [service["metadata"]["labels"] for service in of_kind(objects, "Service")]
    for monitor in of_kind(objects, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        assert sum(matches(selector, one) for one in services) == 1


def test_every_service_port_is_a_port_of_its_pods(objects: list[Object]) -> None:
    for service in of_kind(objects, "Service"):
        (pod,) = (
            pod
            for pod in pods(objects).values()
            if matches(service["spec"]["selector"], pod["metadata"]["labels"])
        )
        names = {p["name"] for c in pod["spec"]["containers"] for p in c.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def test_every_pod_is_denied_all_that_no_policy_allows(objects: list[Object]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    (deny,) = (one for one in policies if one["metadata"]["name"] == "srt-deny")
    assert set(deny["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert not {"ingress", "egress"} & deny["spec"].keys()
    for name, pod in pods(objects).items():
        labels = pod["metadata"]["labels"]
        assert matches(deny["spec"]["podSelector"]["matchLabels"], labels), name
        allowed = [
            one
            for one in policies
            if one is not deny
            and matches(one["spec"]["podSelector"].get("matchLabels", {"": ""}), labels)
        ]
        assert len(allowed) == 1, name


def test_jobs_reach_nothing_but_names_each_other_and_the_server() -> None:
    jobs = named(render(), "NetworkPolicy", "srt-jobs")["spec"]
    dns, each_other, server = jobs["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert each_other["to"][0]["podSelector"]["matchExpressions"][0]["key"] == "srt-rl.dev/role"
    assert server["ports"] == [{"port": 6379, "protocol": "TCP"}]


def test_nobody_may_do_everything(objects: list[Object]) -> None:
    for role in of_kind(objects, "Role") + of_kind(objects, "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in rule["resources"] + rule["verbs"] + rule["apiGroups"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            assert not {"pods/exec", "pods/attach", "serviceaccounts/token"} & set(
                rule["resources"]
            )
            if "secrets" in rule["resources"]:
                assert not {"list", "watch"} & set(rule["verbs"])


Rights = dict[tuple[str, str], set[str]]


def rights(rules: list[Object]) -> Rights:
    """Verbs by API group and resource."""
    found: Rights = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def stated_rights(heading: str) -> Rights:
    """The table of operator/README.md below a line."""
    text = (CHART.parents[1] / "operator" / "README.md").read_text().split(heading, 1)[1]
    found: Rights = {}
    for line in text[text.index("|---|") :].splitlines()[1:]:
        if not line.startswith("|"):
            break
        group, resources, verbs = (cell.strip() for cell in line.strip("|").split("|"))
        for resource in re.findall(r"`([^`]+)`", resources):
            key = ("" if group == "core" else group.strip("`"), resource)
            words = re.sub(r"\(.*\)", "", verbs).replace(" ", "")
            found.setdefault(key, set()).update(words.split(","))
    return found


def test_the_operator_has_the_rights_it_states_and_no_more() -> None:
    objects = render()
    everywhere = named(objects, "ClusterRole", "srt-operator")["rules"]
    assert rights(everywhere) == stated_rights("In the namespaces it watches")
    at_home = named(objects, "Role", "srt-operator-own")["rules"]
    assert rights(at_home) == stated_rights("In its own namespace")


def test_every_setting_of_the_operator_exists_and_its_images_are_told() -> None:
    told = {
        name
        for name in operator_environment(render(EVERYTHING))
        if name.startswith("SRT_OPERATOR_")
    }
    known = {f"SRT_OPERATOR_{field.upper()}" for field in OperatorSettings.model_fields}
    assert told == known


def test_the_operator_reads_what_the_chart_gives_every_pod(tmp_path: Path) -> None:
    for values in (EVERYTHING, {"podDefaults": {"trainer": {"nodeSelector": {"pool": "rl"}}}}):
        config = named(render(values), "ConfigMap", "srt-pod-defaults")["data"]
        file = tmp_path / "pod-defaults.yaml"
        file.write_text(config["pod-defaults.yaml"])
        read = pod_defaults(OperatorSettings(pod_defaults_file=file))
        assert set(read) == {"trainer", "rollout", "treeCache"}


def test_every_binding_names_a_role_and_an_account_of_the_release(objects: list[Object]) -> None:
    made = {
        (one["kind"], one["metadata"]["name"], one["metadata"].get("namespace")) for one in objects
    }
    for binding in of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding"):
        role = binding["roleRef"]
        assert (role["kind"], role["name"], binding["metadata"].get("namespace")) in made
        for subject in binding["subjects"]:
            assert ("ServiceAccount", subject["name"], "srt-system") in made


def test_an_operator_of_some_namespaces_has_no_rights_elsewhere() -> None:
    objects = render(EVERYTHING)
    roles = {one["metadata"]["name"] for one in of_kind(objects, "ClusterRole")}
    assert roles == {"srt-view", "srt-edit", "srt-admin"}
    assert of_kind(objects, "ClusterRoleBinding") == []
    where = {
        one["metadata"]["namespace"]
        for one in of_kind(objects, "Role")
        if one["metadata"]["name"] == "srt-operator"
    }
    assert where == {"team-a", "team-b"}


def operator_environment(objects: list[Object]) -> dict[str, Any]:
    (container,) = named(objects, "Deployment", "srt-operator")["spec"]["template"]["spec"][
        "containers"
    ]
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def test_the_profile_decides_images_and_accelerators() -> None:
    cpu, gpu = render(), render(EVERYTHING)
    assert operator_environment(cpu)["SRT_OPERATOR_IMAGE_ROLLOUT"] == "srt-rollout:0.1.0"
    environment = operator_environment(gpu)
    assert environment["SRT_OPERATOR_IMAGE_ROLLOUT"] == "registry.example/srt/srt-rollout:0.1.0-gpu"
    assert (
        environment["SRT_OPERATOR_IMAGE_TREE_CACHE"] == "registry.example/srt/srt-tree-cache:0.1.0"
    )
    defaults = {
        name: yaml.safe_load(
            named(objects, "ConfigMap", "srt-pod-defaults")["data"]["pod-defaults.yaml"]
        )
        for name, objects in (("cpu", cpu), ("gpu", gpu))
    }
    assert defaults["cpu"] == {"trainer": {}, "rollout": {}, "treeCache": {}}
    assert defaults["gpu"]["rollout"]["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert "resources" not in defaults["gpu"]["treeCache"]
    assert defaults["gpu"]["treeCache"]["imagePullSecrets"] == [{"name": "regcred"}]


def test_the_operator_is_told_its_namespaces_as_json() -> None:
    assert json.loads(operator_environment(render())["SRT_OPERATOR_WATCH_NAMESPACES"]) == []
    told = operator_environment(render(EVERYTHING))["SRT_OPERATOR_WATCH_NAMESPACES"]
    assert json.loads(told) == ["team-a", "team-b"]


def test_pod_defaults_of_the_site_reach_the_operator() -> None:
    volume = {"name": "models", "hostPath": {"path": "/srv/models"}}
    mount = {"name": "models", "mountPath": "/models", "readOnly": True}
    given = {"volumes": [volume], "volumeMounts": [mount], "nodeSelector": {"pool": "rl"}}
    objects = render({"podDefaults": {"trainer": given}})
    text = named(objects, "ConfigMap", "srt-pod-defaults")["data"]["pod-defaults.yaml"]
    assert yaml.safe_load(text)["trainer"] == given


def test_definitions_come_with_the_release_are_kept_and_can_be_left_out() -> None:
    kept = of_kind(render(), "CustomResourceDefinition")
    assert {one["spec"]["names"]["kind"] for one in kept} == {"SRTJob", "RolloutPool", "TreeCache"}
    for one in kept:
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert of_kind(render({"crds": {"enabled": False}}), "CustomResourceDefinition") == []


def test_the_uninstall_releases_finalizers_first() -> None:
    (hook,) = of_kind(render(), "Job")
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    assert of_kind(render({"hooks": {"releaseFinalizers": False}}), "Job") == []


def test_another_version_does_not_restart_the_server() -> None:
    template = named(render(), "StatefulSet", "srt-redis")["spec"]["template"]
    assert set(template["metadata"]["labels"]) == {
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/component",
    }


def test_another_server_restarts_the_operator() -> None:
    def annotations(url: str) -> Object:
        values = {"redis": {"enabled": False, "external": {"url": url}}}
        deployment = named(render(values), "Deployment", "srt-operator")
        found: Object = deployment["spec"]["template"]["metadata"]["annotations"]
        return found

    assert annotations("redis://a:6379/0") != annotations("redis://b:6379/0")
    assert annotations("redis://a:6379/0") == annotations("redis://a:6379/0")


def test_an_external_server_leaves_none_in_the_release() -> None:
    objects = render(EXTERNAL)
    assert of_kind(objects, "StatefulSet") == []
    url = "rediss://redis.example:6380/0"
    assert named(objects, "Secret", "srt-redis")["stringData"] == {"url": url, "job-url": url}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"redis": {"enabled": False}}, "redis.external.url or redis.external.existingSecret"),
        ({"operator": {"serviceAccount": {"create": False}}}, "operator.serviceAccount.name"),
        ({"operater": {}}, "operater"),
        ({"redis": {"auth": {"password": "x"}}}, "password"),
    ],
    ids=["no server", "no account", "misspelt", "inline password"],
)
def test_wrong_values_are_refused_with_their_name(values: Object, sentence: str) -> None:
    answer = run_helm("template", "srt", str(CHART), "--set-json", json.dumps(values))
    assert answer.returncode != 0
    assert sentence in answer.stderr


def test_the_notes_say_three_commands_and_no_secret(tmp_path: Path) -> None:
    answer = run_helm("install", "srt", str(CHART), "--dry-run=client", "--hide-secret")
    assert answer.returncode == 0, answer.stderr
    notes = answer.stdout.split("NOTES:", 1)[1]
    commands = [line for line in notes.splitlines() if line.startswith("  kubectl ")]
    assert len(commands) == 3
    assert "redis://" not in notes
