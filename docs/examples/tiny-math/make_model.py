"""Makes the demo model: its tokenizer, a supervised warm start, and the files vLLM loads.

Invariants:

* It learns from problems of ``FIRST_SEED`` and above, which no job should use: problem ``i`` of
  a `chain_sum` data set depends on ``seed + i`` alone, so neighbouring seeds share problems.
* Everything is drawn from ``--seed``: on one machine two runs write the same files.
* Nothing is downloaded.

It stops while the policy still makes slips that reinforcement learning can remove.
"""

import argparse
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import reasoning_gym
import torch
from reasoning_gym.utils import extract_answer
from solutions import write_solution
from tokenizers import AddedToken
from torch.nn.functional import cross_entropy
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

FIRST_SEED = 1_000_000
PAD = "<|pad|>"
VOCABULARY = 400
MAX_CONTEXT = 1024
ANSWER_TAGS = ("<answer>", "</answer>")
ROW_TOKENS = 512
MAX_RESPONSE_TOKENS = 480
NOT_LEARNED = -100
"""Label of a token without loss (the default of `cross_entropy`)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line sets; the defaults made the model in this folder."""

    out: Path
    seed: int
    response_tokens: int
    rows_per_batch: int
    learning_rate: float
    eval_every: int
    device: str


@dataclass(frozen=True)
class Row:
    """Whole examples laid end to end; positions start again at 0 with each of them."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]


class ProblemSet(Protocol):
    """What is used of a data set of `reasoning-gym`."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Problems in order, each with a ``question``."""
        ...

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """1 for a right answer to the problem ``entry``, less for others."""
        ...


def chain_sum(*, seed: int, size: int) -> ProblemSet:
    """The demo's task: sums of 2 to 6 numbers of one or two digits."""
    problems: ProblemSet = reasoning_gym.create_dataset(
        "chain_sum", seed=seed, size=size, max_digits=2
    )
    return problems


def write_texts(seed: int) -> Iterator[tuple[str, str]]:
    """Endless questions, each with one solution."""
    rng = random.Random(seed)
    for problem in chain_sum(seed=FIRST_SEED, size=100_000_000):
        yield problem["question"], write_solution(problem["question"], rng)


def build_tokenizer(texts: Iterator[tuple[str, str]], num_texts: int) -> Qwen2Tokenizer:
    """Qwen2's byte-level scheme with `VOCABULARY` entries; digits and answer tags are one token."""
    words = [text for pair in islice(texts, num_texts) for text in pair]
    tokenizer = Qwen2Tokenizer(pad_token=PAD, model_max_length=MAX_CONTEXT)
    tokenizer = tokenizer.train_new_from_iterator(
        (text.split("<")[0] for text in words), VOCABULARY - len(ANSWER_TAGS), show_progress=False
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ANSWER_TAGS])
    return tokenizer


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A Qwen2 of 1.3 M parameters, untied, with heads of 32 (which vLLM serves on CPU).

    Deep and thin: a decoding step costs much and a further token of it little, as on a GPU.
    """
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=MAX_CONTEXT,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pack(texts: Iterator[tuple[str, str]], tokenizer: Qwen2Tokenizer) -> Iterator[Row]:
    """Fill rows of `ROW_TOKENS`; an example that does not fit opens the next row."""
    row = Row([], [], [])
    for question, solution in texts:
        prompt = tokenizer.encode(question)
        response = [*tokenizer.encode(solution), tokenizer.eos_token_id]
        length = len(prompt) + len(response)
        if len(row.input_ids) + length > ROW_TOKENS:
            yield _pad(row, tokenizer.pad_token_id)
            row = Row([], [], [])
        row.input_ids.extend(prompt + response)
        row.labels.extend([NOT_LEARNED] * len(prompt) + response)
        row.position_ids.extend(range(length))


def _pad(row: Row, pad_token_id: int) -> Row:
    missing = ROW_TOKENS - len(row.input_ids)
    return Row(
        row.input_ids + [pad_token_id] * missing,
        row.labels + [NOT_LEARNED] * missing,
        row.position_ids + list(range(missing)),
    )


def batch_loss(model: Qwen2ForCausalLM, rows: list[Row]) -> tuple[torch.Tensor, int]:
    """Mean loss over the response tokens of the rows, and how many they are."""
    device = model.device
    input_ids = torch.tensor([row.input_ids for row in rows], device=device)
    labels = torch.tensor([row.labels for row in rows], device=device)[:, 1:]
    position_ids = torch.tensor([row.position_ids for row in rows], device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten())
    return loss, int((labels != NOT_LEARNED).sum())


def learning_rate_factor(progress: float) -> float:
    """Linear warm-up over the first 3 %, then a cosine to a tenth."""
    warmup = min(1.0, progress / 0.03)
    return warmup * (0.55 + 0.45 * math.cos(math.pi * min(1.0, progress)))


def train(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, settings: Settings) -> None:
    """Supervised steps until ``response_tokens`` have been seen, each once."""
    rows = pack(write_texts(settings.seed), tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.1
    )
    seen, measured = 0, 0
    with tqdm(total=settings.response_tokens, unit="tok", unit_scale=True) as progress:
        while seen < settings.response_tokens:
            factor = learning_rate_factor(seen / settings.response_tokens)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * factor
            loss, num_tokens = batch_loss(
                model, [next(rows) for _ in range(settings.rows_per_batch)]
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            seen += num_tokens
            progress.update(num_tokens)
            progress.set_postfix(loss=f"{loss.item():.3f}")
            if seen // settings.eval_every > measured:
                measured = seen // settings.eval_every
                accuracy = sampled_accuracy(model, tokenizer)
                progress.write(f"{seen} tokens: loss {loss.item():.4f}, accuracy {accuracy:.3f}")
                save(model, tokenizer, settings.out)


@torch.no_grad()
def sampled_accuracy(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> float:
    """Share of 256 held-out problems solved by one rollout each at temperature 1."""
    problems = chain_sum(seed=2, size=256)
    prompts = [problem["question"] for problem in problems]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    outputs = model.generate(
        **inputs.to(model.device), do_sample=True, top_k=0, max_new_tokens=MAX_RESPONSE_TOKENS
    )
    responses = tokenizer.batch_decode(
        outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    scores = [
        problems.score_answer(extract_answer(response), problem)
        for response, problem in zip(responses, problems, strict=True)
    ]
    return sum(score == 1.0 for score in scores) / len(scores)


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, out: Path) -> None:
    """Write weights, configuration and tokenizer; plain sampling is the generation default."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def parse_arguments() -> Settings:
    """Settings from the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    here = Path(__file__).parent / "model"
    parser.add_argument("--out", type=Path, default=here, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="weights, solutions and samples")
    parser.add_argument("--response-tokens", type=int, default=7_000_000, help="to learn from")
    parser.add_argument("--rows-per-batch", type=int, default=16, help=f"of {ROW_TOKENS} tokens")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="at its peak")
    parser.add_argument("--eval-every", type=int, default=1_000_000, help="response tokens")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device, help="torch device")
    return Settings(**vars(parser.parse_args()))


def main() -> None:
    """Make the model."""
    settings = parse_arguments()
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer(write_texts(settings.seed), num_texts=5_000)
    model = build_model(tokenizer).to(settings.device)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"parameters": num_parameters, "vocabulary": len(tokenizer)}))
    train(model, tokenizer, settings)
    save(model, tokenizer, settings.out)
    print(f"accuracy of 256 rollouts: {sampled_accuracy(model, tokenizer):.3f}")


if __name__ == "__main__":
    main()
