"""Jobs for the operator's tests."""

from __future__ import annotations

from typing import Any

from srt_operator.job_file import load_job
from srt_operator.resources import SRTJob

JOB = """
apiVersion: srt-rl.dev/v1alpha1
kind: SRTJob
metadata: {name: sums}
spec:
  model: {uri: "file:///models/tiny"}
  dataset: {uri: "reasoning-gym://chain_sum?seed=1&size=8"}
  sampling: {maxPromptTokens: 32, maxResponseTokens: 96}
  algorithm: {type: GRPO, steps: 3, promptsPerStep: 2, rolloutsPerPrompt: 4}
  rollout: {template: {replicas: 2, engine: {maxNumSeqs: 8, maxModelLen: 128}}}
  treeCache: {template: {shards: 16}}
  runAhead: {reserveSlots: 2, chunkTokens: 16}
"""
"""A valid job with little more than what is required."""


def make_job(**overrides: Any) -> SRTJob:
    """`JOB` with fields changed: ``make_job(spec__suspend="true")`` sets spec.suspend."""
    assignments = [f"{name.replace('__', '.')}={value}" for name, value in overrides.items()]
    return load_job(JOB, overrides=assignments)
