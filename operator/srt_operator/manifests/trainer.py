"""The trainer of a run and its job description, ``trainer.json``."""

from __future__ import annotations

import json
from typing import Any

from srt_operator.manifests.process import LocalProcess, LocalSite, Site, shared
from srt_operator.processes import Component, Member, members
from srt_operator.resources import SRTJob, SRTJobSpec


def local(job: SRTJob, site: LocalSite, member: Member) -> LocalProcess:
    """One process; it goes on where it was when it is started again."""
    file = site.layout.trainer_settings
    return LocalProcess(
        name=member.name,
        command=(site.python, "-m", "srt_trainer", "--config", str(file)),
        environment=variables(job, site),
        files={file: json.dumps(settings(job, site), indent=2) + "\n"},
        grace_seconds=10.0,
    )


def variables(job: SRTJob, site: Site) -> dict[str, str]:
    """Settings that depend on where it runs."""
    found = shared(site, trace_sample_ratio=job.spec.telemetry.trace_sample_ratio)
    return (
        found if site.weights_url is None else found | {"SRT_TRAINER_WEIGHTS_URL": site.weights_url}
    )


def settings(job: SRTJob, site: Site) -> dict[str, Any]:
    """Content of ``trainer.json``."""
    spec, layout = job.spec, site.layout
    evaluation = spec.evaluation
    return {
        "job": site.job_id,
        "run_dir": str(layout.root),
        "model": {"path": str(site.model)},
        "dataset": _plain(spec.dataset),
        "reward": spec.reward.name,
        "environment": spec.environment.name,
        "sampling": _plain(spec.sampling),
        "algorithm": _plain(spec.algorithm),
        "optimizer": _plain(spec.optimizer),
        "evaluation": None if evaluation is None else _plain(evaluation),
        "storage": {
            "weights_dir": str(layout.weights),
            "checkpoints_dir": str(layout.checkpoints),
            "checkpoint_every_steps": spec.storage.checkpoint_every_steps,
            "keep_checkpoints": spec.storage.keep_checkpoints,
        },
        **_engines(spec, site),
        "token_file": str(layout.token),
        "coordination_url": site.server_url,
        "cache": _cache(spec, site),
        "max_concurrent_rollouts": spec.rollout.pool.engine.max_num_seqs,
        "report_to": list(spec.telemetry.report_to),
    }


def _engines(spec: SRTJobSpec, site: Site) -> dict[str, Any]:
    if site.engine_service is not None:
        return {"engine_service": site.engine_service}
    engines = [member.name for member in members(spec) if member.component is Component.ROLLOUT]
    return {"engines": [{"name": name, "url": site.url(name)} for name in engines]}


def _cache(spec: SRTJobSpec, site: Site) -> dict[str, str] | None:
    if not spec.rollout.pool.drafter.enabled:
        return None
    return {"secret_file": str(site.layout.cache_secret)}


def _plain(part: Any) -> Any:
    return part.model_dump(mode="json", by_alias=False)
