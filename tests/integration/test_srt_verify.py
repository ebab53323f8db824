"""`srt verify` says with its exit status whether a build samples what it must."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny_model import make_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.processes, pytest.mark.timeout(300)]

CASE = ("--only", "point mass, T=1", "--sequences", "4000")
VERIFY = "from srt_operator.cli import main; main()"
BIASED = """
import torch
from srt_rollout.vllm_plugin import sampler

def from_policy(probs, draft, at, *rest):
    return torch.multinomial(probs[at], 1).squeeze(1)

sampler._draw_residual = from_policy
import sys
from srt_rollout.verify.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def verify(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_a_lossless_build_passes_and_every_figure_is_printed(model: Path) -> None:
    done = verify(VERIFY, "verify", str(model), *CASE)
    assert done.returncode == 0, done.stderr[-2000:]
    head, row, verdict = done.stdout.splitlines()[-3:]
    assert head.split() == ["case", "sequences", "chi-square", "df", "p", "accepted"]
    sequences, chi_square, degrees, p_value, accepted = row.removeprefix(CASE[1]).split()
    assert (sequences, verdict.split(" (")[0]) == ("4000", "lossless: 1 of 1 cases")
    assert float(chi_square) > 0 and int(degrees) > 10 and float(p_value) > 1e-3
    assert 0 < float(accepted) < 1


def test_a_biased_build_fails(model: Path) -> None:
    done = verify(BIASED, str(model), *CASE)
    assert done.returncode == 1, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f"NOT LOSSLESS: {CASE[1]}"


def test_wrong_usage_is_neither(tmp_path: Path) -> None:
    done = verify(VERIFY, "verify", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"MODEL is {tmp_path}; allowed is a folder with a config.json\n"
