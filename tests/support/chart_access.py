"""The chart's accounts on a real API server: roles as helm renders them, and a token's way in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import yaml

from support.cluster import Client, ControlPlane
from support.helm import Object, render

KINDS: Final = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
OPERATOR: Final = "srt-operator"
HOOKS: Final = "srt-hooks"

Right = tuple[str, str, str, str]
"""API group, resource, name or nothing for any, verb."""


def grant(cluster: ControlPlane, namespace: str, values: Object | None = None) -> list[Object]:
    """Make the accounts and roles of a release ``srt`` in a namespace, which hold when it returns.

    Returns:
        What was made.
    """
    made = [found for found in render(values, namespace=namespace) if found["kind"] in KINDS]
    text = yaml.safe_dump_all(made)
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    for account in (OPERATOR, HOOKS):
        wanted = rights_of_roles(made, account, namespace)

        def holds(account: str = account, wanted: set[Right] = wanted) -> bool:
            return wanted <= rights_of_server(cluster, namespace, account, namespace)

        cluster.until(holds, f"the rights of {account}")
    return made


def kubeconfig(cluster: Client, namespace: str, account: str, file: Path) -> Path:
    """Write a kubeconfig with a token of an account, as a pod has one."""
    token = cluster.kubectl("create", "token", account, "--namespace", namespace).strip()
    document = yaml.safe_load(
        cluster.kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "yaml")
    )
    document["users"] = [{"name": document["users"][0]["name"], "user": {"token": token}}]
    file.write_text(yaml.safe_dump(document))
    file.chmod(0o600)
    return file


def rights_of_rules(rules: Iterable[Object]) -> set[Right]:
    """One by one."""
    return {
        (group, resource, name, verb)
        for rule in rules
        for group in rule.get("apiGroups", ())
        for resource in rule.get("resources", ())
        for name in rule.get("resourceNames") or ("",)
        for verb in rule["verbs"]
    }


def rights_of_roles(objects: Iterable[Object], account: str, namespace: str) -> set[Right]:
    """What rendered roles say that an account may do in a namespace."""
    objects = list(objects)
    found: set[Right] = set()
    for binding in objects:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        where = binding["metadata"].get("namespace")
        is_its = account in {subject["name"] for subject in binding["subjects"]}
        if is_its and where in (None, namespace):
            [role] = [
                role
                for role in objects
                if (role["kind"], role["metadata"]["name"], role["metadata"].get("namespace"))
                == (binding["roleRef"]["kind"], binding["roleRef"]["name"], where)
            ]
            found |= rights_of_rules(role["rules"])
    return found


def rights_of_server(cluster: Client, home: str, account: str, namespace: str) -> set[Right]:
    """What the API server itself says that an account of ``home`` may do in a namespace."""
    question = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    identity = f"--as=system:serviceaccount:{home}:{account}"
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    text = json.dumps(question)
    answer = cluster.kubectl("create", "--raw", path, "-f", "-", identity, stdin=text)
    status = json.loads(answer)["status"]
    assert not status["incomplete"], status
    return rights_of_rules(status["resourceRules"])
