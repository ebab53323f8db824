"""The situations in which drafts could bias what is sampled, each as a way to draw sequences.

Every case starts with empty trees unless it fills them itself, and draws in rounds so that later
rounds draft from what earlier ones sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from srt_common.tree import pack_soft_targets, pack_tokens
from srt_rollout.verify.engine import BLOCK_SIZE, Request, Sampling, VerifyEngine
from srt_rollout.verify.exact import Path
from srt_rollout.vllm_plugin.settings import DrafterSettings

ROUND = 512
"""Sequences drawn before the trees are seen to have grown."""

PLAIN = Sampling()
CUT = Sampling(temperature=0.7, top_k=8, top_p=0.9)


@dataclass(frozen=True, slots=True)
class Case:
    """One setting of the drafter and one way to draw."""

    name: str
    settings: DrafterSettings
    sampling: Sampling = PLAIN
    prompt_length: int = 4
    fill: Callable[[VerifyEngine, Path], None] | None = None
    has_late_arrivals: bool = False

    def prompt(self, vocab_size: int) -> Path:
        """The prompt all sequences continue."""
        rng = np.random.default_rng(self.prompt_length)
        return tuple(rng.integers(2, vocab_size, self.prompt_length).tolist())

    def draw(self, engine: VerifyEngine, *, num_sequences: int, length: int) -> list[Path]:
        """Sequences of ``length`` tokens drawn with drafting on."""
        prompt = self.prompt(engine.vocab_size)
        engine.configure(self.settings)
        if self.fill is not None:
            self.fill(engine, prompt)
        request = Request(prompt, length, self.sampling)
        sequences: list[Path] = []
        for count in _rounds(num_sequences):
            if self.has_late_arrivals:
                sequences += self._draw_preempted(engine, request, count)
            else:
                sequences += engine.sample([request] * count)
        return sequences

    def _draw_preempted(self, engine: VerifyEngine, request: Request, count: int) -> list[Path]:
        """Run-ahead sequences that policy requests push out and that resume; all are counted."""
        early = replace(request, priority=10, lane="run_ahead")
        num_early = count * 2 // 3
        return engine.sample([early] * num_early, late=[request] * (count - num_early))


def _rounds(num_sequences: int) -> Iterator[int]:
    while num_sequences > 0:
        yield min(ROUND, num_sequences)
        num_sequences -= ROUND


def fill_with_lies(engine: VerifyEngine, prompt: Path) -> None:
    """Trees that are wrong on purpose: random tokens whose soft targets name other random
    tokens.
    """
    rng = np.random.default_rng(7)
    vocab_size = engine.vocab_size
    forest = engine.drafter.forest
    key = engine.drafter.prompt_key(prompt)
    forest.set_prompt(key, np.asarray(prompt, dtype=np.int32))
    for sequence_id in range(1, 65):
        tokens = rng.integers(0, vocab_size, 12)
        soft = [
            list(zip(rng.permutation(vocab_size)[:4].tolist(), (0.7, 0.1, 0.1, 0.1), strict=True))
            for _ in tokens
        ]
        forest.extend(
            key,
            sequence_id,
            0,
            policy_version=0,
            lane=0,
            engine_id=1,
            flags=0,
            tokens=pack_tokens(tokens),
            soft=pack_soft_targets(soft),
        )


def all_cases() -> list[Case]:
    """What ``srt verify`` runs."""
    sampled = DrafterSettings(min_survival=0.02)
    hard = sampled.model_copy(update={"soft_targets": False})
    point = sampled.model_copy(update={"mode": "point_mass"})
    return [
        Case("sampled, soft targets, T=1", sampled),
        Case("sampled, soft targets, T=0.7 top-k 8 top-p 0.9", sampled, CUT),
        Case("sampled, hard trees, T=1", hard),
        Case("point mass, T=1", point),
        Case("point mass, T=0.7 top-k 8 top-p 0.9", point, CUT),
        Case("sampled, trees that lie, T=1", sampled, fill=fill_with_lies),
        Case("point mass, trees that lie, T=1", point, fill=fill_with_lies),
        Case("sampled, cut by the governor, T=1", DrafterSettings()),
        Case("preempted and resumed, T=1", sampled, has_late_arrivals=True),
        Case("prefix-cached prompt, T=1", sampled, prompt_length=3 * BLOCK_SIZE + 5),
        Case("prompt with one uncached token, T=1", sampled, prompt_length=BLOCK_SIZE + 1),
    ]
