"""Requests as the drafter meets them: what it makes of odd ones, and what it asks the store for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from srt_common.keys import PromptKey
from srt_rollout.drafter import DraftBook, Proposal
from srt_rollout.vllm_plugin.proposer import TreeDrafter
from srt_rollout.vllm_plugin.settings import DrafterSettings

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


def test_each_draft_is_verified_with_its_own_q(drafter: TreeDrafter) -> None:
    """Drafts come back whole, cut short, or as somebody else's; rows may have moved."""
    proposed = {
        "whole": [11, 12],
        "cut": [21, 22, 23],
        "left": [31],
        "changed": [41, 42],
        "last": [51],
    }
    tokens = np.array([token for draft in proposed.values() for token in draft], np.int32)
    offsets = np.cumsum([0, *map(len, proposed.values())], dtype=np.int32)
    q_token_ids, q_probs = np.zeros((2, len(tokens), 8))
    q_token_ids[:, 0], q_probs[:, 0] = tokens, tokens / 100
    q_token_ids[:, 1], q_probs[:, 1] = tokens + 1, 1 - tokens / 100
    proposal = Proposal(offsets, tokens, q_token_ids.astype(np.int32), q_probs.astype(np.float32))
    drafter._book = DraftBook(list(proposed), proposal)
    scheduled = {
        "last": [51],
        "cut": [21, 22],
        "stranger": [7, -1],
        "whole": [11, 12],
        "changed": [41, 40],
    }
    order = ["last", "nothing", "cut", "stranger", "whole", "changed"]
    drafter._scheduled = scheduled
    drafter._runner.input_batch.req_ids = order
    drafter._runner.device = torch.device("cpu")
    drafter._config.parallel_config = SimpleNamespace(tensor_parallel_size=1)
    draft = drafter.draft_distributions([len(scheduled.get(name, [])) for name in order])
    assert draft.token_ids[:, 0].tolist() == [51, 21, 22, 7, 0, 11, 12, 41, 40]
    assert draft.token_ids[:, 1].tolist() == [52, 22, 23, 0, 0, 12, 13, 0, 0]
    certain = [0.51, 0.21, 0.22, 1, 0, 0.11, 0.12, 1, 1]
    assert draft.probs[:, 0].tolist() == pytest.approx(certain)
    assert drafter._record.is_ours == [True, False, True, False, True, False]


def test_the_engine_may_change_the_drafts_it_was_given(drafter: TreeDrafter) -> None:
    drafter.configure(DrafterSettings(min_survival=0.0, soft_targets=False))
    drafter.on_schedule(schedule("first"))
    sampled = np.array([[*PROMPT, 8, 9, 8, 9, 8, 0, 0, 0]], np.int32)
    drafter._runner.input_batch.req_ids = ["first"]
    given: list[list[int]] = []
    for end in range(4, 9):
        given = drafter.propose([[int(sampled[0, end - 1])]], np.array([end], np.int32), sampled)
    assert given[0], "nothing was drafted"
    drafted = list(given[0])
    given[0].append(-1)
    assert drafter._book.find("first", drafted) == 0
    assert drafter._book.find("first", given[0]) is None
