"""What ``helm test`` runs: does the installed release serve?

* The operator is ready, the server of trees and tasks answers with the operator's credentials, and
  the API server accepts an SRTJob as a dry run.
* Every check runs; each one that fails is one line on the log, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from srt_common.coordination import Coordination
from srt_common.errors import CoordinationUnavailable
from srt_operator.backends.kubernetes_api import KubernetesApi, KubernetesError
from srt_operator.constants import API_VERSION

TIMEOUT_SECONDS: Final = 10.0

SAMPLE: Final[dict[str, Any]] = {
    "apiVersion": API_VERSION,
    "kind": "SRTJob",
    "spec": {
        "model": {"uri": "file:///data/examples/tiny-math/model"},
        "dataset": {"uri": "reasoning-gym://chain_sum?seed=1&size=24&max_digits=2"},
        "reward": {"name": "reasoning-gym"},
        "sampling": {"maxPromptTokens": 96, "maxResponseTokens": 320},
        "algorithm": {"type": "GRPO", "steps": 1, "promptsPerStep": 1, "rolloutsPerPrompt": 2},
        "rollout": {"template": {"engine": {"maxModelLen": 512}}},
        "treeCache": {"template": {}},
    },
}

_LOG = logging.getLogger(__name__)


class CheckFailed(Exception):
    """One check said no; the message is for the person who ran ``helm test``."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the parts of a release are."""

    operator_url: str
    redis_url_file: Path
    job_namespace: str


async def check(installation: Installation) -> list[str]:
    """What is wrong, a sentence each; empty: nothing."""
    checks: list[Callable[[Installation], Awaitable[None]]] = [
        _operator_is_ready,
        _server_answers,
        _job_is_accepted,
    ]
    faults = []
    for one in checks:
        try:
            await one(installation)
        except CheckFailed as failure:
            faults.append(str(failure))
    return faults


async def _operator_is_ready(installation: Installation) -> None:
    url = installation.operator_url + "/readyz"
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as http:
            answer = await http.get(url)
    except httpx.HTTPError as error:
        raise CheckFailed(f"{url} does not answer: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise CheckFailed(f"{url} answers {answer.status_code}; 200 is wanted")


async def _server_answers(installation: Installation) -> None:
    url = installation.redis_url_file.read_text().strip()
    coordination = Coordination.from_url(url, job="helm-test")
    try:
        await coordination.next_epoch()
        await coordination.forget_job()
    except CoordinationUnavailable as error:
        raise CheckFailed(f"redis: {error}") from error
    finally:
        await coordination.close()


async def _job_is_accepted(installation: Installation) -> None:
    sample = SAMPLE | {"metadata": {"name": "helm-test", "namespace": installation.job_namespace}}
    try:
        api = await KubernetesApi.connect()
        try:
            await api.create(sample, is_dry_run=True)
        finally:
            await api.close()
    except KubernetesError as error:
        raise CheckFailed(f"an SRTJob is refused: {error}") from error


def _arguments(words: Sequence[str] | None = None) -> Installation:
    parser = argparse.ArgumentParser(prog="python -m srt_operator.install_check")
    parser.add_argument("--operator-url", required=True)
    parser.add_argument("--redis-url-file", required=True, type=Path)
    parser.add_argument("--job-namespace", required=True)
    given = parser.parse_args(words)
    return Installation(given.operator_url, given.redis_url_file, given.job_namespace)


def main() -> None:
    """In a pod, with its service account."""
    logging.basicConfig(level=logging.INFO)
    faults = asyncio.run(check(_arguments()))
    for fault in faults:
        _LOG.error(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
