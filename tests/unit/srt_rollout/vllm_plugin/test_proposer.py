"""Requests as the drafter meets them: what it makes of odd ones, and what it asks the store for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srt_common.keys import PromptKey
from srt_rollout.vllm_plugin.proposer import TreeDrafter

PROMPT = [5, 6, 7]


class Sync:
    """Notes which prompts were asked for, and whether there was a tree of them."""

    def __init__(self, drafter: TreeDrafter) -> None:
        self._drafter = drafter
        self.wanted: list[tuple[PromptKey, bool]] = []

    def want(self, prompt_key: PromptKey, traceparent: str | None) -> None:
        del traceparent
        self.wanted.append((prompt_key, self._drafter.forest.has_prompt(prompt_key)))


class Telemetry:
    """Notes which rollouts were opened, and how long their prompts are."""

    def __init__(self) -> None:
        self.opened_prompts: dict[str, int] = {}

    def opened(self, request_id: str, extra: object, prompt_key: bytes, num_prompt: int) -> None:
        del extra, prompt_key
        self.opened_prompts[request_id] = num_prompt


@pytest.fixture
def drafter(tmp_path: Path) -> TreeDrafter:
    """Bound to no engine."""
    drafter = TreeDrafter(
        SimpleNamespace(
            model_config=SimpleNamespace(tokenizer=str(tmp_path)),
            speculative_config=SimpleNamespace(num_speculative_tokens=4),
        )
    )
    drafter._is_lead = True
    drafter._telemetry = Telemetry()  # type: ignore[assignment]
    drafter._sync = Sync(drafter)  # type: ignore[assignment]
    drafter._runner = SimpleNamespace(input_batch=SimpleNamespace(req_id_to_index={}))
    return drafter


def schedule(request_id: str, prompt: list[int] | None = PROMPT, **extra_args: Any) -> Any:
    """A step in which one request is new."""
    params = SimpleNamespace(
        extra_args=extra_args,
        stop_token_ids=[],
        eos_token_id=None,
        structured_outputs=None,
        temperature=1.0,
        max_tokens=8,
    )
    new = SimpleNamespace(req_id=request_id, prompt_token_ids=prompt, sampling_params=params)
    return SimpleNamespace(
        scheduled_new_reqs=[new], scheduled_spec_decode_tokens={}, finished_req_ids=set()
    )


def test_the_store_is_asked_for_a_prompt_before_its_row_makes_a_tree(drafter: TreeDrafter) -> None:
    drafter.on_schedule(schedule("first"))
    drafter.on_schedule(schedule("second"))
    key = drafter.prompt_key(PROMPT)
    sync: Any = drafter._sync
    assert sync.wanted == [(key, False), (key, True)]


@pytest.mark.parametrize("num_prompt_tokens", [-9, -1, 0, 4])
def test_an_impossible_length_of_the_prompt_counts_as_none(
    drafter: TreeDrafter, num_prompt_tokens: int
) -> None:
    """Without our gateway nobody has checked it; it must not end the engine."""
    drafter.on_schedule(schedule("r", srt_num_prompt_tokens=num_prompt_tokens))
    telemetry: Any = drafter._telemetry
    assert telemetry.opened_prompts == {"r": len(PROMPT)}


def test_a_prompt_without_tokens_is_left_to_the_engine(drafter: TreeDrafter) -> None:
    drafter.on_schedule(schedule("embedded", prompt=None))
    assert "embedded" not in drafter._drafter.request_ids
