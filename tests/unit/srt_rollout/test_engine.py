"""The engine's command line and environment: on the loopback, data only, verifiable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srt_common.errors import ConfigurationError
from srt_rollout.engine import (
    command,
    environment,
    guarded,
    longest_context,
    refused_flags,
    vocabulary_size,
)
from srt_rollout.settings import RolloutSettings


def settings(**changes: Any) -> RolloutSettings:
    given: dict[str, Any] = {
        "engine_name": "engine-0",
        "model": Path("/models/policy"),
        "token_file": Path("/secrets/token"),
        "max_num_seqs": 8,
        "max_model_len": 512,
        "max_draft_tokens": 16,
    }
    return RolloutSettings(**(given | changes))


def value_of(words: list[str], flag: str) -> str:
    assert words.count(flag) == 1
    return words[words.index(flag) + 1]


def test_the_engine_listens_on_the_loopback_and_logs_no_requests() -> None:
    words = command(settings(), port=1234, seed=7)
    assert value_of(words, "--host") == "127.0.0.1"
    assert value_of(words, "--port") == "1234"
    assert "--no-enable-log-requests" in words


def test_drafting_leaves_room_for_a_draft_below_the_length_limit() -> None:
    words = command(settings(), port=1, seed=0)
    assert value_of(words, "--max-model-len") == "528"
    assert json.loads(value_of(words, "--speculative-config"))["num_speculative_tokens"] == 16
    assert value_of(words, "--worker-cls") == "srt_rollout.vllm_plugin.worker.SRTWorker"


@pytest.mark.parametrize(("longest", "length"), [(1024, 528), (520, 520), (512, 512), (256, 528)])
def test_the_room_ends_where_the_model_does(longest: int, length: int) -> None:
    words = command(settings(), port=1, seed=0, longest=longest)
    assert value_of(words, "--max-model-len") == str(length)


def test_the_context_is_what_the_model_was_made_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    assert longest_context(tmp_path) == 512
    (tmp_path / "config.json").write_text("{}")
    assert longest_context(tmp_path) is None


def test_without_the_drafter_vllm_is_stock_but_takes_weights_the_same_way() -> None:
    words = command(settings(drafter_enabled=False), port=1, seed=0)
    for flag in ("--speculative-config", "--worker-cls", "--scheduler-cls"):
        assert flag not in words
    assert value_of(words, "--max-model-len") == "512"
    assert json.loads(value_of(words, "--weight-transfer-config")) == {"backend": "srt_disk"}


@pytest.mark.parametrize(
    "argument",
    [
        "--api-key=x",
        "--host",
        "--trust-remote-code",
        "--trust_remote_code",
        "--trust",
        "--pipeline-parallel-size=2",
        "-pp",
        "--enable-lora",
        "--speculative-config.method=ngram",
        "--speculative_config",
        "--no-enable-log-requests",
        "--enable-log-requests",
        "--worker-cls=x.Y",
        "--logits-processors=x.Y",
        "--async-scheduling",
    ],
)
def test_flags_that_break_a_promise_are_refused_with_a_sentence(argument: str) -> None:
    [sentence] = refused_flags([argument], drafter_enabled=True)
    assert argument in sentence


def test_other_flags_and_values_go_through() -> None:
    extra = ("--block-size=32", "--enable-chunked-prefill", "--max-num-batched-tokens", "-1")
    assert refused_flags(extra, drafter_enabled=True) == []
    assert command(settings(extra_args=extra), port=1, seed=0)[-4:] == list(extra)


def test_every_refused_flag_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        command(settings(extra_args=("--api-key=x", "--enable-lora")), port=1, seed=0)
    assert len(raised.value.faults) == 2


def test_variables_that_would_open_the_engine_are_taken_away() -> None:
    variables = environment(settings(num_threads=1), metrics_folder=Path("/tmp/metrics"))
    words = guarded(["vllm"], variables)
    assert words[words.index("VLLM_ALLOW_INSECURE_SERIALIZATION") - 1] == "-u"
    assert "VLLM_SERVER_DEV_MODE=1" in words
    assert "OMP_NUM_THREADS=1" in words
    assert words[-1] == "vllm"


def test_the_drafter_learns_its_engine_and_its_secret_file() -> None:
    secret = settings(cache_secret_file=Path("/secrets/cache"))
    variables = environment(secret, metrics_folder=Path("/tmp/metrics"))
    assert variables["SRT_DRAFTER_ENGINE_NAME"] == "engine-0"
    assert variables["SRT_DRAFTER_CACHE_SECRET_FILE"] == "/secrets/cache"


@pytest.mark.parametrize("config", ['{"vocab_size": 64}', '{"text_config": {"vocab_size": 64}}'])
def test_the_vocabulary_is_the_embedding_of_the_model(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert vocabulary_size(tmp_path) == 64


@pytest.mark.parametrize("config", ["", "{}", '{"vocab_size": 0}'])
def test_a_folder_without_a_model_is_a_configuration_error(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigurationError, match="SRT_ROLLOUT_MODEL"):
        vocabulary_size(tmp_path)


def test_a_reserve_of_all_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="reserve_slots is 8; allowed are 0 to max_num_seqs - 1"):
        settings(reserve_slots=8)
