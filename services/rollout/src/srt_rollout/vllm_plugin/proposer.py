"""The class vLLM asks for drafts (``--speculative-config`` method ``custom_class``).

One engine step as this class sees it:

    on_schedule -> draft_distributions -> on_bonus -> on_verified -> propose
    (requests come  (q of the drafts     (p after     (which were     (learn, append to the trees,
     and go)         now verified)        each draft)  accepted)       draft the next ones)

* vLLM does not call `propose` in every step, so rows are brought up to date from its token buffer.
* Where the governor drafts nothing, the trees hear of several steps at once: an engine that does
  not draft is to cost what one without us does.
* `_tell` is the single place where trouble with the trees turns into "no draft"; it is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.distributed.parallel_state import get_tp_group
from vllm.utils.torch_utils import async_tensor_h2d

from srt_common import keys
from srt_common.clock import SystemClock
from srt_common.errors import TreeError
from srt_common.governor import UNDRAFTED, Plan
from srt_common.messages.rollouts import ExtraArgs
from srt_common.messages.tree_updates import LANE_POLICY, LANE_RUN_AHEAD
from srt_common.telemetry.setup import configure
from srt_common.tree import MODE_OFF, MODE_POINT_MASS, MODE_SAMPLED, PromptForest
from srt_rollout.drafter import DraftBook, Drafter, Proposal, RowRequest, StepBatch
from srt_rollout.tree_sync import TreeSync
from srt_rollout.vllm_plugin import compat
from srt_rollout.vllm_plugin.prompt_keys import PromptKeys
from srt_rollout.vllm_plugin.rollout_telemetry import RolloutTelemetry
from srt_rollout.vllm_plugin.sampler import SparseDraft, Verification
from srt_rollout.vllm_plugin.settings import DrafterSettings
from srt_rollout.vllm_plugin.step_record import MAX_SOFT_TARGETS, StepRecord
from srt_rollout.vllm_plugin.step_timer import StepTimer

_LOG = logging.getLogger(__name__)
_MODES = {"sampled": MODE_SAMPLED, "point_mass": MODE_POINT_MASS, "off": MODE_OFF}
_MAX_OUTBOX_TOKENS = 1 << 22
"""Wait for the store at most, then the oldest are dropped."""
_MAX_UNTOLD_STEPS = 32
"""Undrafted steps in a row after which the trees are told of them."""
_LANES = {"policy": LANE_POLICY, "run_ahead": LANE_RUN_AHEAD}


class TreeDrafter:
    """Drafts from trees of earlier rollouts. One per worker; only the first tensor-parallel rank
    keeps trees.
    """

    def __init__(self, vllm_config: Any) -> None:
        settings = DrafterSettings.from_environment()
        self._config = vllm_config
        self._policy_version = 0
        self._keys = PromptKeys.of(settings, Path(vllm_config.model_config.tokenizer))
        self._sync: TreeSync | None = None
        self.configure(settings)

    def configure(self, settings: DrafterSettings) -> None:
        """Start with empty trees under these settings; no request may be running."""
        self._settings = settings
        self._mode = _MODES[settings.mode]
        self.forest = PromptForest(
            engine_id=keys.engine_id(settings.engine_name),
            max_bytes=settings.max_tree_bytes,
            seed=settings.seed,
            soft_targets=settings.soft_targets,
            max_recent_positions=settings.max_recent_positions,
            num_threads=settings.num_threads,
            max_outbox_tokens=0 if settings.cache_url is None else _MAX_OUTBOX_TOKENS,
        )
        is_off = self._mode == MODE_OFF
        limit = 0 if is_off else self._config.speculative_config.num_speculative_tokens
        min_survival = 1.0 if is_off else settings.min_survival
        self._drafter = Drafter(self.forest, max_draft_tokens=limit, min_survival=min_survival)
        self._timer = StepTimer(SystemClock())
        self._book = DraftBook((), None)
        self._record = StepRecord()
        self._num_untold_steps = 0
        self._scheduled: dict[str, list[int]] = {}

    # -- called by vLLM and by SRTWorker
    def load_model(self, *_args: Any, **_options: Any) -> None:
        """There is no draft model; vLLM's CPU runner calls this all the same."""

    def bind(self, runner: Any) -> None:
        """Take part in the engine whose model has just been loaded, and start sharing trees."""
        compat.attach(runner, self)
        configure("srt-engine", instance=self._settings.engine_name)
        self._runner = runner
        self._is_processed = runner.rejection_sampler.is_processed_logprobs_mode
        self._is_lead = torch.distributed.get_rank() % _tensor_parallel_size(self._config) == 0
        self._telemetry = RolloutTelemetry(self._settings.engine_name)
        if self._is_lead and self._settings.cache_url is not None:
            self._sync = TreeSync.of(self.forest, self._settings)
            self._sync.start()

    def shutdown(self) -> None:
        """Publish what is left and stop sharing. Idempotent."""
        if self._sync is not None:
            self._sync.stop()
            self._sync = None

    def prompt_key(self, token_ids: Sequence[int]) -> keys.PromptKey:
        """The key under which this engine keeps a prompt's rollouts."""
        return self._keys.key(token_ids, None)

    def set_policy_version(self, policy_version: int) -> None:
        """From now on tokens are sampled by these weights."""
        self._policy_version = policy_version

    def stats(self) -> dict[str, Any]:
        """Counters of trees, drafts, the governor and sharing, as plain values."""
        sync = {} if self._sync is None else self._sync.stats()
        governor = self._drafter.governor
        return {
            "engine": self._settings.engine_name,
            "policy_version": self._policy_version,
            "trees": self.forest.stats().as_dict(),
            "governor": {} if governor is None else asdict(governor.stats()),
            "sync": sync,
        }

    def on_schedule(self, scheduler_output: Any) -> None:
        """Before the runner acts on a schedule: open what is new, close what has ended."""
        self._record = StepRecord()
        self._scheduled = scheduler_output.scheduled_spec_decode_tokens
        if not self._is_lead:
            return
        governor = self._drafter.governor
        is_asked = governor is not None and governor.is_listening
        measured = self._timer.on_schedule(scheduler_output, is_asked=is_asked)
        if measured is not None and governor is not None:
            governor.observe(measured)
        if scheduler_output.finished_req_ids:
            self._close(scheduler_output.finished_req_ids)
        for new in scheduler_output.scheduled_new_reqs:
            is_text = new.sampling_params is not None and new.prompt_token_ids
            if is_text and new.req_id not in self._drafter.request_ids:
                self._open(new)

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        slot_mappings: Any = None,  # noqa: ARG002 -- part of vLLM's call
    ) -> list[list[int]]:
        """Drafts for the next step, one list per row of the batch; ``[]`` decodes normally."""
        request_ids: list[str] = self._runner.input_batch.req_ids
        open_ids = self._drafter.request_ids
        rows = [
            row
            for row, sampled in enumerate(sampled_token_ids)
            if sampled and request_ids[row] in open_ids
        ]
        proposed: list[list[int]] = [[] for _ in sampled_token_ids]
        self._book = DraftBook((), None)
        if not rows:
            return proposed
        emitted = [len(sampled_token_ids[row]) for row in rows]
        self._timer.on_sampled(num_rows=len(rows), num_emitted=sum(emitted))
        plan = self._drafter.plan(len(rows))
        if self._may_wait(plan):
            return proposed
        batch = self._batch(rows, emitted, num_tokens_no_spec, token_ids_cpu)
        drafts = self._tell(batch, plan)
        if drafts is None:
            return proposed
        self._book = DraftBook(batch.request_ids, drafts)
        for row, drafted in zip(rows, self._book.drafted, strict=True):
            proposed[row] = drafted.copy()  # the engine may change its own
        return proposed

    # -- compat.VerificationListener
    def is_plain(self, num_draft_tokens: list[int]) -> bool:
        """Whether nothing is verified in this step and the trees will not ask for its soft targets.
        The random numbers are those of verification, so tensor-parallel ranks need not agree.
        """
        governor = self._drafter.governor
        is_undrafted = self._num_untold_steps > 0 or (governor is not None and governor.is_paused)
        return is_undrafted and not any(num_draft_tokens)

    def draft_distributions(self, num_draft_tokens: list[int]) -> SparseDraft:
        """Q of the drafts about to be verified; a draft that is not ours counts as a point mass,
        which is exact.
        """
        num_total = sum(num_draft_tokens)
        ids = np.zeros((num_total, MAX_SOFT_TARGETS), dtype=np.int64)
        probs = np.zeros((num_total, MAX_SOFT_TARGETS), dtype=np.float32)
        starts, lengths, is_ours, end = [], [], [], 0
        request_ids = self._runner.input_batch.req_ids
        for request_id, count in zip(request_ids, num_draft_tokens, strict=False):
            end += count
            scheduled = self._scheduled.get(request_id, ()) if count else ()
            start = self._book.find(request_id, scheduled)
            is_ours.append(start is not None and count == len(scheduled))
            if start is not None and is_ours[-1]:
                starts.append(start)
                lengths.append(count)
            elif count:
                drafted = np.asarray(scheduled[:count], dtype=np.int64)
                ids[end - count : end, 0] = np.maximum(drafted, 0)
                probs[end - count : end, 0] = drafted >= 0
        if starts:
            known = np.repeat(is_ours, num_draft_tokens)
            ids[known], probs[known] = self._book.distributions(starts, lengths)
        self._record.num_draft_tokens, self._record.is_ours = num_draft_tokens, is_ours
        device = self._runner.device
        draft = SparseDraft(async_tensor_h2d(ids, device), async_tensor_h2d(probs, device))
        if num_total == 0 or _tensor_parallel_size(self._config) == 1:
            return draft  # nothing to agree on, and the lead may not come here in a plain step
        return _of_first_rank(draft)

    def on_bonus(self, logits: Tensor, sampling: Any) -> None:
        self._record.on_bonus(logits, sampling)

    def on_verified(self, verification: Verification) -> None:
        self._record.verification = verification

    # -- inside
    def _open(self, new: Any) -> None:
        params = new.sampling_params
        extra = _extra_args(params.extra_args)
        num_prompt = extra.srt_num_prompt_tokens or 0
        if not 1 <= num_prompt <= len(new.prompt_token_ids):
            num_prompt = len(new.prompt_token_ids)
        prompt = new.prompt_token_ids[:num_prompt]
        prompt_key = self._keys.key(prompt, extra.srt_prompt_id)
        stops = set(params.stop_token_ids or ())
        if params.eos_token_id is not None:
            stops.add(params.eos_token_id)
        is_sampled = params.structured_outputs is None and params.temperature > 0
        mode = self._mode if is_sampled else min(self._mode, MODE_POINT_MASS)
        request = RowRequest(
            request_id=new.req_id,
            prompt_key=prompt_key,
            prompt_token_ids=prompt,
            context_token_ids=new.prompt_token_ids[num_prompt:],
            policy_version=self._policy_version,
            lane=_LANES[extra.srt_lane],
            mode=mode,
            max_new_tokens=params.max_tokens or 0,
            stop_token_ids=sorted(stops),
            rollout_id=extra.srt_rollout_id,
        )
        if self._sync is not None:  # an open row has a tree, and nothing would be missed
            self._sync.want(prompt_key, extra.traceparent)
        self._drafter.open(request)
        self._telemetry.opened(new.req_id, extra, prompt_key, len(prompt))

    def _close(self, request_ids: Iterable[str]) -> None:
        finished = [it for it in request_ids if it in self._drafter.request_ids]
        self._tell_rest(finished)
        for request_id in finished:
            stats = self._drafter.close(request_id)
            self._telemetry.closed(request_id, stats, self.forest.memory_bytes())
        if self._drafter.governor is not None:
            self._telemetry.governed(self._drafter.governor.stats())

    def _may_wait(self, plan: Plan) -> bool:
        """Whether the trees may hear of a step later: nothing is drafted, nothing was verified."""
        is_plain = not plan.is_drafting and not any(self._record.num_draft_tokens)
        self._num_untold_steps = (self._num_untold_steps + 1) % _MAX_UNTOLD_STEPS if is_plain else 0
        return self._num_untold_steps > 0

    def _tell(self, batch: StepBatch, plan: Plan) -> Proposal | None:
        """Drafts for the rows of a batch, or None when the trees fail."""
        try:
            return self._drafter.step(batch, plan)
        except TreeError as error:
            self._telemetry.skipped(error)
            return None

    def _tell_rest(self, request_ids: Sequence[str]) -> None:
        """Tell the trees what ending requests sampled since they last heard of them. Preempted ones
        have left the engine's batch: what they sampled in undrafted steps just before is not kept.
        """
        in_batch = self._runner.input_batch
        rows = [in_batch.req_id_to_index.get(request_id) for request_id in request_ids]
        news = {
            request_id: self._news(request_id, in_batch.token_ids_cpu[row], end)
            for request_id, row in zip(request_ids, rows, strict=True)
            if row is not None
            and (end := in_batch.num_tokens_no_spec[row]) > self._drafter.num_known(request_id)
        }
        if news:
            none_verified = np.zeros(len(news), dtype=np.int32)
            no_overlap = np.zeros(0, dtype=np.float32)
            batch = StepBatch(list(news), list(news.values()), none_verified, no_overlap)
            self._tell(batch, UNDRAFTED)

    def _news(self, request_id: str, token_ids: NDArray[np.int32], end: int) -> NDArray[np.int32]:
        """What a request sampled since the trees last heard of it, of its first ``end`` tokens."""
        return token_ids[self._drafter.num_known(request_id) : end].astype(np.int32, copy=False)

    def _batch(
        self,
        rows: Sequence[int],
        emitted: Sequence[int],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
    ) -> StepBatch:
        """What the rows sampled since the trees last heard of them."""
        request_ids = [self._runner.input_batch.req_ids[row] for row in rows]
        ends = num_tokens_no_spec[list(rows)].tolist()
        new_tokens = [
            self._news(request_id, token_ids_cpu[row], end)
            for row, request_id, end in zip(rows, request_ids, ends, strict=True)
        ]
        batch = StepBatch(
            request_ids=request_ids,
            new_tokens=new_tokens,
            num_verified=self._record.num_verified(rows),
            overlap=self._record.overlap(rows, emitted),
        )
        has_missed_steps = any(len(new) != n for new, n in zip(new_tokens, emitted, strict=True))
        if has_missed_steps or not self._settings.soft_targets:
            return batch
        soft = self._record.soft_rows(rows, emitted, is_processed=self._is_processed)
        return StepBatch(
            batch.request_ids, batch.new_tokens, batch.num_verified, batch.overlap, soft
        )


def _tensor_parallel_size(config: Any) -> int:
    return int(config.parallel_config.tensor_parallel_size)


def _of_first_rank(draft: SparseDraft) -> SparseDraft:
    """What the first tensor-parallel rank holds, on every rank. Each verifies by itself, with the
    same random numbers: with another q it would go on with other tokens.
    """
    ids, probs = draft.token_ids.to(torch.int32), draft.probs.view(torch.int32)
    ids, probs = get_tp_group().broadcast(torch.cat((ids, probs), dim=1), src=0).chunk(2, dim=1)
    return SparseDraft(ids.to(torch.int64), probs.contiguous().view(torch.float32))


def _extra_args(values: dict[str, Any] | None) -> ExtraArgs:
    """The ``srt_*`` keys of a request; what cannot be read is as if it had not been sent."""
    try:
        return msgspec.convert(values or {}, ExtraArgs)
    except msgspec.ValidationError as error:
        _LOG.warning("extra_args ignored: %s", error)
        return ExtraArgs()
