"""Varied, correct, step-by-step solutions of `chain_sum` problems.

Invariants:

* Every solution ends with ``<answer>N</answer>`` and N is the exact result.
* A solution is a pure function of the question and of the random state it is given.
* Two solutions of one question share numbers and wording, yet differ in route, detail and phrase.

A solution is written in one of three habits, which its first line tells: careful (nearly every
column spelled out), quick (half of the steps claimed at once) or a guess (no step at all). A policy
warm-started on them slips most often when it guesses and least when it is careful: that choice is
the first thing reinforcement learning can improve.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[int, int, random.Random], str]
"""Two operands and a random state in, a sentence that reaches the exact result out."""

_EXPRESSION = re.compile(r"(-?\d+(?: [+-] -?\d+)*) =$")


@dataclass(frozen=True, kw_only=True)
class Habit:
    """How one solution is written from its first line to its last step."""

    openings: tuple[str, ...]
    """First lines of a running sum; ``{}`` is the first number."""
    group_openings: tuple[str, ...]
    """First lines of a solution that sorts the numbers by sign."""
    work_share: float
    """Share of steps that show their work."""
    work_weights: tuple[int, int, int]
    """Relative frequency of columns, tens-then-ones, and a bare claim as that work."""


CAREFUL = Habit(
    openings=(
        "Let's go column by column, starting with {}.",
        "Start with {} and work it out slowly.",
        "We begin at {}, one digit at a time.",
    ),
    group_openings=("Let's sort the numbers by sign, then go column by column.",),
    work_share=0.9,
    work_weights=(10, 2, 0),
)
QUICK = Habit(
    openings=("Start with {}.", "We begin at {}.", "The first number is {}."),
    group_openings=("Let's sort the numbers by sign.",),
    work_share=0.5,
    work_weights=(1, 2, 2),
)
GUESS_SHARE = 0.2


def parse_terms(question: str) -> list[int]:
    """Signed terms of a `chain_sum` question, in order.

    Raises:
        ValueError: the question does not end with a chain of sums and ``=``.
    """
    found = _EXPRESSION.search(question)
    if found is None:
        raise ValueError(f"question must end with a chain of sums and '=', got {question!r}")
    words = found.group(1).split()
    signs = [1, *(1 if word == "+" else -1 for word in words[1::2])]
    return [sign * int(word) for sign, word in zip(signs, words[::2], strict=True)]


def write_solution(question: str, rng: random.Random) -> str:
    """One worked solution of ``question``, drawn from many that are right."""
    terms = parse_terms(question)
    guessed = rng.random() < GUESS_SHARE
    lines = [rng.choice(_GUESS_OPENINGS)] if guessed else _worked_lines(terms, rng)
    lines.append(rng.choice(_CLOSINGS).format(sum(terms)))
    return "\n" + "\n".join(lines) + f"\n<answer>{sum(terms)}</answer>"


def _worked_lines(terms: list[int], rng: random.Random) -> list[str]:
    """Every line before the closing one, for a solution that shows its steps."""
    habit = rng.choice((CAREFUL, QUICK))
    mixed = len(terms) > 2 and any(term < 0 for term in terms)
    grouped = mixed and rng.random() < 0.15
    lines = (_group_by_sign if grouped else _left_to_right)(terms, habit, rng)
    if rng.random() < 0.15:
        lines.append(_check(terms, rng))
    return lines


def _left_to_right(terms: list[int], habit: Habit, rng: random.Random) -> list[str]:
    """Lines of the running sum, one for each term after the first."""
    return [rng.choice(habit.openings).format(terms[0]), *_running_sum(terms, habit, rng)]


def _group_by_sign(terms: list[int], habit: Habit, rng: random.Random) -> list[str]:
    """Lines that sum what is added, then what is taken away, then subtract once."""
    plus = [term for term in terms if term >= 0]
    minus = [-term for term in terms if term < 0]
    lines = [rng.choice(habit.group_openings)]
    for name, group in (("Added", plus), ("Taken away", minus)):
        lines.append(f"{name}: {' + '.join(map(str, group))}.")
        lines.extend(_running_sum(group, habit, rng))
    return [*lines, _step(sum(plus), -sum(minus), habit, rng)]


def _running_sum(terms: list[int], habit: Habit, rng: random.Random) -> list[str]:
    """One line for each term after the first."""
    totals = [sum(terms[:count]) for count in range(1, len(terms))]
    return [_step(total, term, habit, rng) for total, term in zip(totals, terms[1:], strict=True)]


def _check(terms: list[int], rng: random.Random) -> str:
    """One line that undoes the last step."""
    total, last = sum(terms), terms[-1]
    undone = f"{total} {'-' if last >= 0 else '+'} {abs(last)} = {total - last}"
    return rng.choice(("Check: {}, good.", "To check, {}, as before.")).format(undone)


def _step(total: int, term: int, habit: Habit, rng: random.Random) -> str:
    """One line that takes the running ``total`` to ``total + term``."""
    lead = rng.choice(_LEADS["add" if term >= 0 else "take"]).format(abs(term))
    sum_text = f"{total} {'+' if term >= 0 else '-'} {abs(term)}"
    result = total + term
    if rng.random() >= habit.work_share:
        return f"{lead}{sum_text} = {result}."
    ending = rng.choice(_ENDINGS).format(f"{sum_text} = {result}", result)
    return f"{lead}{sum_text}. {_work(total, term, habit, rng)} {ending}"


def _work(total: int, term: int, habit: Habit, rng: random.Random) -> str:
    """The reasoning behind one step, on magnitudes, with a word on a sign that is not plain."""
    large, small = max(abs(total), abs(term)), min(abs(total), abs(term))
    if (total >= 0) == (term >= 0):
        sign_hint = "" if total >= 0 else rng.choice(_BOTH_BELOW)
        return sign_hint + _choose(_ADDERS, small, habit, rng)(abs(total), abs(term), rng)
    sign_hint = rng.choice(_ENDS_BELOW) if total + term < 0 else ""
    return sign_hint + _choose(_SUBTRACTERS, small, habit, rng)(large, small, rng)


def _choose(works: tuple[Work, ...], small: int, habit: Habit, rng: random.Random) -> Work:
    """By the habit's weights, but tens-then-ones only where the smaller operand has tens."""
    columns, parts, claim = habit.work_weights
    return rng.choices(works, weights=(columns, parts if small >= 10 else 0, claim))[0]


def _add_columns(left: int, right: int, rng: random.Random) -> str:
    """Column addition with every carry spelled out."""
    parts, carry = [], 0
    for name, a, b in _columns(left, right):
        column = a + b + carry
        extra = f" + {carry}" if carry else ""
        parts.append(f"{name} {a} + {b}{extra}{rng.choice(_EQUALS)}{column}")
        carry = column // 10
        if carry:
            parts[-1] += rng.choice((", carry 1", ", keep 1"))
    return rng.choice(_JOINTS).join(parts).capitalize() + "."


def _subtract_columns(large: int, small: int, rng: random.Random) -> str:
    """Column subtraction, ``large >= small``, with every borrow spelled out."""
    parts, borrow = [], 0
    for name, a, b in _columns(large, small):
        lent = 10 if a - borrow < b else 0
        kept = f" - {borrow}" if borrow else ""
        difference = a + lent - borrow - b
        parts.append(f"{name} {a + lent}{kept} - {b}{rng.choice(_EQUALS)}{difference}")
        borrow = lent // 10
        if borrow:
            parts[-1] += rng.choice((", borrow 1", ", owe 1"))
    return rng.choice(_JOINTS).join(parts).capitalize() + "."


def _columns(left: int, right: int) -> list[tuple[str, int, int]]:
    """Name and both digits of each column, ones first."""
    width = max(len(str(left)), len(str(right)))
    names = ("ones", "tens", "hundreds", "thousands")[:width]
    return [(name, left // 10**i % 10, right // 10**i % 10) for i, name in enumerate(names)]


def _add_in_parts(left: int, right: int, rng: random.Random) -> str:
    """Tens first, then ones."""
    tens, ones = right - right % 10, right % 10
    joined = rng.choice(_THEN)
    return f"{left} + {tens} = {left + tens}, {joined} {left + tens} + {ones} = {left + right}."


def _subtract_in_parts(large: int, small: int, rng: random.Random) -> str:
    """Tens first, then ones."""
    tens, ones = small - small % 10, small % 10
    joined = rng.choice(_THEN)
    return f"{large} - {tens} = {large - tens}, {joined} {large - tens} - {ones} = {large - small}."


def _claim_sum(left: int, right: int, rng: random.Random) -> str:
    claims = ("{0} + {1} is {2}.", "{0} and {1} make {2}.")
    return rng.choice(claims).format(left, right, left + right)


def _claim_difference(large: int, small: int, rng: random.Random) -> str:
    claims = ("{0} - {1} is {2}.", "From {1} to {0} is {2}.")
    return rng.choice(claims).format(large, small, large - small)


_ADDERS: tuple[Work, ...] = (_add_columns, _add_in_parts, _claim_sum)
_SUBTRACTERS: tuple[Work, ...] = (_subtract_columns, _subtract_in_parts, _claim_difference)

_GUESS_OPENINGS = ("I can see it at once.", "No steps are needed here.")
_LEADS = {
    "add": ("", "Add {}: ", "Now add {}: ", "Next, plus {}: "),
    "take": ("", "Subtract {}: ", "Now subtract {}: ", "Next, minus {}: "),
}
_EQUALS = (" = ", " is ")
_JOINTS = ("; ", ", then ", ", next ")
_THEN = ("then", "and then", "next")
_ENDINGS = ("So {0}.", "Hence {0}.", "This gives {1}.", "We get {1}.")
_BOTH_BELOW = ("Both are below zero. ", "Both count down. ")
_ENDS_BELOW = ("It ends below zero. ", "The result is negative. ")
_CLOSINGS = ("The answer is {}.", "So the result is {}.", "That makes {} in the end.", "Total: {}.")
