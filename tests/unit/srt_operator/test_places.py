"""Where files of a cluster's jobs may lie."""

from __future__ import annotations

import pytest

from srt_operator import places
from support.jobs import make_job

ROOTS = ("/models", "/data")


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srt/private/x.jsonl",
        "file:///data/../srt/private/x.jsonl",
        "file:///data/%2e%2e/srt/private/x.jsonl",
        "file:///data/..%2fsrt/private/x.jsonl",
        "file:///database/x.jsonl",
        "file:///data",
    ],
)
def test_a_data_set_outside_the_roots_is_refused_however_it_is_spelt(uri: str) -> None:
    job = make_job(spec__dataset__uri=uri)
    [fault] = places.cluster_faults(job.spec, file_roots=ROOTS)
    assert fault.startswith("spec.dataset.uri is ")
    assert "below /models or /data" in fault


@pytest.mark.parametrize("uri", ["file:///data/x.jsonl", "file:///data/a%2fb.jsonl"])
def test_a_data_set_below_a_root_is_allowed(uri: str) -> None:
    job = make_job(spec__dataset__uri=uri)
    assert places.cluster_faults(job.spec, file_roots=ROOTS) == []
