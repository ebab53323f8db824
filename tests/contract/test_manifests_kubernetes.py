"""What the operator hands to pods is what the processes in them accept, and pods keep to the
restricted Pod Security Standard whatever a user's template and the site's defaults ask for.

Whether an API server takes the objects is shown in tests/cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError

from srt_common.settings import ServiceSettings
from srt_operator import quantities
from srt_operator.caches import TreeCacheSpec
from srt_operator.constants import Kind
from srt_operator.manifests.kubernetes import rollout_pool, training, tree_cache
from srt_operator.manifests.kubernetes.cluster import Cache, Cluster, Pool
from srt_operator.manifests.kubernetes.objects import Manifest, Resource
from srt_operator.manifests.kubernetes.pods import PodDefaults
from srt_operator.manifests.parts import cache_of, pool_of
from srt_operator.pools import RolloutPool, RolloutPoolSpec
from srt_operator.resources import SRTJob
from srt_rollout.settings import RolloutSettings
from srt_rollout.vllm_plugin.settings import DrafterSettings
from srt_runahead.settings import RunaheadSettings
from srt_trainer.serving import ServingSettings
from srt_trainer.settings import TrainerSettings, parse_settings
from srt_tree_cache.settings import TreeCacheSettings
from support.bad_resources import SOUND, changed
from support.jobs import make_job

Settings = TypeVar("Settings", bound=ServiceSettings)
URL = "redis://srt-job:secret@valkey:6379/0"
OPERATOR_URL = "redis://srt-operator:another@valkey:6379/0"
CLUSTER = Cluster(
    image_trainer="srt-trainer:1",
    image_rollout="srt-rollout:1",
    image_tree_cache="srt-tree-cache:1",
    image_runahead="srt-runahead:1",
    pull_policy="IfNotPresent",
    redis_url=OPERATOR_URL,
    job_redis_url=URL,
    key=b"k" * 32,
)
TEMPLATE = json.dumps(
    {
        "resources": {"limits": {"cpu": 2, "memory": "4Gi"}},
        "env": [{"name": "HF_HOME", "value": "/cache"}],
        "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}],
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "nodeSelector": {"pool": "a"},
        "imagePullSecrets": [{"name": "registry"}],
    }
)


def resource(kind: Kind, spec: Any, **fields: Any) -> Resource[Any]:
    made: dict[str, Any] = {
        "namespace": "team",
        "name": "sums",
        "uid": f"{kind.lower()}-uid",
        **fields,
    }
    return Resource(kind=kind, spec=spec, **made)


def parts(job: SRTJob) -> tuple[Resource[Any], Pool, Cache | None]:
    owner = resource(Kind.SRT_JOB, job.spec)
    pool = resource(Kind.ROLLOUT_POOL, pool_of(job), owner_uid=owner.uid)
    has_cache = pool.spec.tree_cache_ref is not None
    cache = resource(Kind.TREE_CACHE, cache_of(job), owner_uid=owner.uid) if has_cache else None
    return owner, pool, cache


def everything(job: SRTJob, cluster: Cluster = CLUSTER) -> list[Manifest]:
    owner, pool, cache = parts(job)
    found = [training.pool(owner, job), *rollout_pool.objects(cluster, pool, cache)]
    if cache is not None:
        found += [training.cache(owner, job), *tree_cache.objects(cluster, cache)]
    return found + training.training(cluster, owner, job, pool=pool, cache=cache)


def test_a_gateway_gets_what_the_job_says(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(spec__rollout__template__drafter__maxDraftTokens=9)
    container = container_of(everything(job), "gateway")
    read = settings_of(RolloutSettings, container, monkeypatch)
    assert (read.engine_name, read.host, read.port) == ("sums-rollout-0", "0.0.0.0", 8000)
    assert read.model == Path("/models/tiny")
    assert (read.max_draft_tokens, read.reserve_slots, read.dtype) == (9, 2, "float32")
    assert read.tree_cache_url == "http://sums-tree-cache.team.svc:8080"
    assert read.weights_url_prefix == "http://sums-trainer.team.svc:8090"
    drafter = settings_of(DrafterSettings, container, monkeypatch)
    assert (drafter.cache_url, drafter.cache_id) == (URL, "srtjob-uid")
    assert drafter.num_shards == 16
    mounted = files(everything(job), "StatefulSet", "sums-rollout")
    assert {read.token_file, read.tree_cache_token_file, read.cache_secret_file} <= mounted


def test_a_run_ahead_worker_stands_in_its_engines_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    container = container_of(everything(make_job()), "runahead")
    read = settings_of(RunaheadSettings, container, monkeypatch)
    assert (read.job, read.engine_name) == ("srtjob-uid", "sums-rollout-0")
    assert read.gateway_url == "http://127.0.0.1:8000"
    assert read.broker_url.get_secret_value() == read.coordination_url.get_secret_value() == URL


def test_a_tree_cache_gets_what_the_job_says(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = everything(make_job(spec__treeCache__template__retention__maxBytes="64Mi"))
    read = settings_of(TreeCacheSettings, container_of(objects, "tree-cache"), monkeypatch)
    assert (read.cache_id, read.num_shards, read.port) == ("srtjob-uid", 16, 8080)
    assert read.memory_limit_bytes == 64 * 2**20
    assert read.token_file in files(objects, "StatefulSet", "sums-tree-cache")


def test_the_trainer_reads_its_file_and_serves_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = everything(make_job())
    read = trainer_settings(objects)
    assert read.engine_service == "http://sums-rollout.team.svc:8000"
    assert (read.job, read.coordination_url) == ("srtjob-uid", URL)
    assert read.file_roots == (Path("/models"), Path("/data"))
    container = container_of(objects, "trainer")
    serving = settings_of(ServingSettings, container, monkeypatch)
    assert serving.weights_url == "http://sums-trainer.team.svc:8090"
    mounted = files(objects, "Job", "sums-trainer")
    assert {read.token_file, Path(container["command"][-1])} <= mounted
    assert read.cache is not None
    assert read.cache.secret_file in mounted
    [service] = [o for o in named(objects, "Service", "sums-trainer")]
    pod = one(objects, "Job", "sums-trainer")["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_a_claim_takes_the_run_folder_and_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = everything(make_job(spec__storage="{claimName: runs, path: here}"))
    home = mounts(objects, "Job", "sums-trainer")["srt-home"]
    weights = mounts(objects, "StatefulSet", "sums-rollout")["srt-weights"]
    assert (home["mountPath"], home["subPath"]) == ("/srt", "here/sums")
    assert (weights["mountPath"], weights["subPath"]) == ("/srt/weights", "here/sums/weights")
    container = container_of(objects, "gateway")
    read = settings_of(RolloutSettings, container, monkeypatch)
    assert (read.weights_url_prefix, str(read.weights_root)) == (None, "/srt/weights")
    assert str(trainer_settings(objects).storage.weights_dir) == "/srt/weights"


def test_stock_engines_have_no_cache_and_no_worker() -> None:
    objects = everything(make_job(spec__rollout__template__drafter__enabled="false"))
    assert {c["name"] for _, c in containers(objects)} == {"gateway", "trainer"}
    assert not [o for o in objects if o["kind"] in ("TreeCache", "PodDisruptionBudget")]
    assert trainer_settings(objects).cache is None


def test_a_model_on_a_claim_is_mounted_where_processes_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects = everything(make_job(spec__model__uri="pvc://models/tiny/v1"))
    read = settings_of(RolloutSettings, container_of(objects, "gateway"), monkeypatch)
    for kind, name in (("StatefulSet", "sums-rollout"), ("Job", "sums-trainer")):
        mount = mounts(objects, kind, name)["srt-model"]
        assert (mount["mountPath"], mount["subPath"]) == (str(read.model), "tiny/v1")
    assert trainer_settings(objects).model.path == read.model


HOSTILE = PodDefaults(
    env=tuple(
        {"name": name, "value": "theirs"}
        for name in ("SRT_ROLLOUT_HOST", "HOME", "REDIS_URL", "POD_NAME")
    ),
    volumes=({"name": "host", "hostPath": {"path": "/env"}},),
    volumeMounts=({"name": "host", "mountPath": "/env"},),
)


@pytest.mark.parametrize("defaults", [PodDefaults(), HOSTILE], ids=["plain", "site"])
def test_every_pod_is_restricted(defaults: PodDefaults) -> None:
    cluster = replace(
        CLUSTER, pod_defaults=dict.fromkeys(("rollout", "trainer", "treeCache"), defaults)
    )
    job = make_job(
        spec__trainer__podTemplate=TEMPLATE, spec__rollout__template__podTemplate=TEMPLATE
    )
    objects = everything(job, cluster)
    for pod, container in containers(objects):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert "hostNetwork" not in pod
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        names = [e["name"] for e in container["env"]]
        assert len(names) == len(set(names))
        values = {e["name"]: e.get("value") for e in container["env"]}
        assert values["HOME"] == "/tmp"
        assert (values["REDIS_URL"], values["POD_NAME"]) == (None, None), "they come from elsewhere"
        if container["name"] == "gateway":
            assert values["SRT_ROLLOUT_HOST"] == "0.0.0.0"


def test_a_template_shapes_the_main_container_and_its_pod() -> None:
    objects = everything(make_job(spec__rollout__template__podTemplate=TEMPLATE))
    pod = one(objects, "StatefulSet", "sums-rollout")["spec"]["template"]["spec"]
    gateway, worker = pod["containers"]
    assert gateway["resources"] == {"limits": {"cpu": "2", "memory": "4Gi"}}
    assert {"name": "HF_HOME", "value": "/cache"} in gateway["env"]
    assert {"name": "HF_HOME", "value": "/cache"} not in worker["env"]
    assert pod["nodeSelector"] == {"pool": "a"}
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert {"name": "SRT_ROLLOUT_NUM_THREADS", "value": "2"} in gateway["env"]


def test_containers_that_no_template_shapes_ask_for_little() -> None:
    objects = everything(make_job())
    small = {"requests": {"cpu": "50m", "memory": "128Mi"}}
    assert container_of(objects, "runahead")["resources"] == small
    assert container_of(objects, "tree-cache")["resources"] == small
    assert "resources" not in container_of(objects, "gateway")
    site = PodDefaults.model_validate({"resources": {"limits": {"memory": "64Mi"}}})
    cluster = replace(CLUSTER, pod_defaults={"treeCache": site})
    assert container_of(everything(make_job(), cluster), "tree-cache")["resources"] == {
        "limits": {"memory": "64Mi"},
        "requests": {"cpu": "50m"},
    }


def test_scratch_and_shared_memory_are_bounded() -> None:
    for pod, _ in containers(everything(make_job())):
        volumes = {v["name"]: v["emptyDir"] for v in pod["volumes"] if "emptyDir" in v}
        assert volumes["srt-tmp"]["sizeLimit"]
        assert volumes.get("srt-shm", {"sizeLimit": "absent"})["sizeLimit"]


def test_an_engine_on_an_accelerator_takes_its_own_threads() -> None:
    template = '{"resources": {"limits": {"nvidia.com/gpu": 1}}}'
    objects = everything(make_job(spec__rollout__template__podTemplate=template))
    names = [e["name"] for e in container_of(objects, "gateway")["env"]]
    assert not {"SRT_ROLLOUT_NUM_THREADS", "SRT_ROLLOUT_ENFORCE_EAGER"} & set(names)


@pytest.mark.parametrize("cpu", ["0", "1m", "0.5", "64", "1k", "0.5k", "1Ki", "1024", "1e3"])
def test_an_engine_has_a_thread_a_core_however_cores_are_spelt(cpu: str) -> None:
    spec = RolloutPool.model_validate(with_cpu(cpu)).spec
    objects = rollout_pool.objects(CLUSTER, resource(Kind.ROLLOUT_POOL, spec), None)
    [threads] = [
        e for e in container_of(objects, "gateway")["env"] if e["name"] == "SRT_ROLLOUT_NUM_THREADS"
    ]
    assert int(threads["value"]) == max(1, int(quantities.parse(cpu)))


@pytest.mark.parametrize("cpu", ["1025", "2Ki", "1M", "1E", "1e99", "1e999", "1x", "inf", "9" * 33])
def test_cores_that_no_machine_has_are_a_sentence(cpu: str) -> None:
    with pytest.raises(ValidationError, match=r"podTemplate\.resources\.requests"):
        RolloutPool.model_validate(with_cpu(cpu))


def test_secrets_lie_in_secrets_only() -> None:
    objects = everything(make_job())
    values = {v for o in objects if o["kind"] == "Secret" for v in o["stringData"].values()}
    others = json.dumps([o for o in objects if o["kind"] != "Secret"])
    assert len(values) >= 4
    assert not [value for value in values if value in others]
    assert "secret@" not in others


def test_what_the_operator_may_do_on_the_server_no_pod_may() -> None:
    assert "another@" not in json.dumps(everything(make_job()))


def test_every_container_finds_the_servers_authority_where_there_is_one() -> None:
    objects = everything(make_job(), replace(CLUSTER, redis_ca="an authority"))
    file = Path("/srt/private/redis-ca.crt")
    for kind, name in (
        ("StatefulSet", "sums-rollout"),
        ("StatefulSet", "sums-tree-cache"),
        ("Job", "sums-trainer"),
    ):
        assert file in files(objects, kind, name)
        assert file not in files(everything(make_job()), kind, name)
        pod = one(objects, kind, name)["spec"]["template"]["spec"]
        for container in pod["containers"]:
            assert "/srt/private" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_tokens_stay_the_same_and_differ_between_jobs_and_purposes() -> None:
    _, pool, cache = parts(make_job())
    assert cache is not None
    again = rollout_pool.token(CLUSTER, pool)
    assert again == rollout_pool.token(CLUSTER, replace(pool, uid="made anew"))
    others = [
        rollout_pool.token(CLUSTER, replace(pool, owner_uid="another job")),
        rollout_pool.token(replace(CLUSTER, key=b"x" * 32), pool),
        tree_cache.token(CLUSTER, cache),
    ]
    assert again not in others
    assert len(set(others)) == 3


def test_every_object_is_owned_and_names_fit() -> None:
    for made in everything(make_job(metadata__name="a" * 40)):
        [owner] = made["metadata"]["ownerReferences"]
        assert owner["controller"] is True
        assert len(made["metadata"]["name"]) <= 63
        assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "srt-operator"


def test_the_same_job_makes_the_same_objects_and_another_spec_another_digest() -> None:
    first, second = everything(make_job()), everything(make_job())
    assert first == second
    other = everything(make_job(spec__rollout__template__replicas=3))
    changed = {
        (a["kind"], a["metadata"]["name"])
        for a, b in zip(first, other, strict=True)
        if a["metadata"]["annotations"] != b["metadata"]["annotations"]
    }
    assert changed == {("RolloutPool", "sums"), ("StatefulSet", "sums-rollout")}


def test_a_jobs_pool_is_a_pool_that_a_user_could_have_written() -> None:
    made = training.pool(resource(Kind.SRT_JOB, make_job().spec), make_job())
    document = {**made, "metadata": {"name": made["metadata"]["name"]}}
    assert RolloutPool.model_validate(document).spec == pool_of(make_job())
    assert isinstance(pool_of(make_job()), RolloutPoolSpec)
    assert isinstance(cache_of(make_job()), TreeCacheSpec)


# -- looking
def with_cpu(cpu: str) -> dict[str, Any]:
    """A pool whose engines have no accelerator."""
    return changed(SOUND["RolloutPool"], "spec.podTemplate.resources.requests.cpu", cpu)


def named(objects: list[Manifest], kind: str, name: str) -> Iterator[Manifest]:
    return (o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name))


def one(objects: list[Manifest], kind: str, name: str) -> Manifest:
    [found] = named(objects, kind, name)
    return found


def containers(objects: list[Manifest]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for made in objects:
        if made["kind"] in ("StatefulSet", "Job"):
            pod = made["spec"]["template"]["spec"]
            yield from ((pod, container) for container in pod["containers"])


def container_of(objects: list[Manifest], name: str) -> dict[str, Any]:
    [found] = [c for _, c in containers(objects) if c["name"] == name]
    return found


def mounts(objects: list[Manifest], kind: str, name: str) -> dict[str, dict[str, Any]]:
    pod = one(objects, kind, name)["spec"]["template"]["spec"]
    return {m["name"]: m for m in pod["containers"][0]["volumeMounts"]}


def files(objects: list[Manifest], kind: str, name: str) -> set[Path | None]:
    """Secret files of a pod, each of which a Secret among ``objects`` holds."""
    pod = one(objects, kind, name)["spec"]["template"]["spec"]
    found: set[Path | None] = set()
    for volume in pod["volumes"]:
        for source in volume.get("projected", {}).get("sources", ()):
            held = one(objects, "Secret", source["secret"]["name"])["stringData"]
            for item in source["secret"]["items"]:
                assert item["key"] in held
                found.add(Path("/srt/private", item["path"]))
    return found


def trainer_settings(objects: list[Manifest]) -> TrainerSettings:
    [held] = [
        o["stringData"]
        for o in objects
        if o["kind"] == "Secret" and "trainer.json" in o["stringData"]
    ]
    return parse_settings(json.loads(held["trainer.json"]))


def settings_of(
    kind: type[Settings], container: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """What the process itself would read, once the kubelet has filled in what values name."""
    known = {"POD_NAME": "sums-rollout-0", "REDIS_URL": URL}
    for variable in container["env"]:
        if "value" in variable:
            value = re.sub(r"\$\((\w+)\)", lambda m: known[m[1]], variable["value"])
            monkeypatch.setenv(variable["name"], value)
    return kind.from_environment()
