"""The demo's model folder: its solutions are right, its tokenizer loses nothing, its files load.

Promise covered: the demo starts from correct worked solutions and from a model that the stock
`transformers` loaders accept.
"""

import importlib.util
import json
import random
import re
from pathlib import Path
from types import ModuleType

import pytest
import reasoning_gym
from reasoning_gym.utils import extract_answer
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "tiny-math"
MODEL = EXAMPLE / "model"
EQUATION = re.compile(r"(-?\d+(?: [+-] \d+)+) = (-?\d+)")
SEEDS = (1, 2, 1_000, 1_000_000)


def _load_solutions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_math_solutions", EXAMPLE / "solutions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


solutions = _load_solutions()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(MODEL)
    return loaded


def _texts(seed: int, size: int) -> list[tuple[str, str]]:
    problems = reasoning_gym.create_dataset("chain_sum", seed=seed, size=size, max_digits=2)
    rng = random.Random(seed)
    return [
        (problem["question"], solutions.write_solution(problem["question"], rng))
        for problem in problems
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_solution_is_right_by_the_librarys_own_scorer(seed: int) -> None:
    problems = reasoning_gym.create_dataset("chain_sum", seed=seed, size=300, max_digits=2)
    rng = random.Random(seed)
    for problem in problems:
        solution = solutions.write_solution(problem["question"], rng)
        assert problems.score_answer(extract_answer(solution), problem) == 1.0, solution


@pytest.mark.parametrize("seed", SEEDS)
def test_every_equation_of_a_solution_holds(seed: int) -> None:
    found = [
        (solution, left, right)
        for _, solution in _texts(seed, 300)
        for left, right in EQUATION.findall(solution)
    ]
    assert len(found) > 800
    for solution, left, right in found:
        assert sum(solutions.parse_terms(f"{left} =")) == int(right), solution


def test_the_same_random_state_writes_the_same_solution_and_another_one_varies() -> None:
    question = "State the final answer to the following arithmetic problem: 52 - 71 + 8 + 64 ="
    written = {solutions.write_solution(question, random.Random(seed)) for seed in range(64)}
    assert len(written) > 50
    assert solutions.write_solution(question, random.Random(3)) in written


def test_a_question_of_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="chain of sums"):
        solutions.write_solution("What is 3 * 4?", random.Random(0))


@pytest.mark.parametrize("seed", SEEDS)
def test_questions_and_solutions_survive_the_tokenizer(
    tokenizer: PreTrainedTokenizerBase, seed: int
) -> None:
    for text in (text for pair in _texts(seed, 100) for text in pair):
        token_ids = tokenizer.encode(text)
        assert tokenizer.decode(token_ids) == text
        assert tokenizer.decode(token_ids, skip_special_tokens=True) == text


def test_foreign_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "caf\u00e9 \u4e16 ~ x_1\t<answer> 1,234 </answer>\n\n  end "
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_digits_and_answer_tags_are_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer.encode("0123456789")) == 10
    assert len(tokenizer.encode("<answer>7</answer>")) == 3


def test_the_weights_are_small_untied_and_fit_the_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    config = AutoConfig.from_pretrained(MODEL)
    weights = load_file(MODEL / "model.safetensors")
    assert weights["lm_head.weight"].shape == (len(tokenizer), config.hidden_size)
    assert not (weights["lm_head.weight"] == weights["model.embed_tokens.weight"]).all()
    assert {str(weight.dtype) for weight in weights.values()} == {"float32"}
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 12 * 10**6


def test_generation_samples_the_plain_policy(tokenizer: PreTrainedTokenizerBase) -> None:
    generation = json.loads((MODEL / "generation_config.json").read_text(encoding="ascii"))
    assert (generation["temperature"], generation["top_p"], generation["top_k"]) == (1.0, 1.0, 0)
    assert generation["eos_token_id"] == tokenizer.eos_token_id
