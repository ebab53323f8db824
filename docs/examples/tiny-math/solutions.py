"""Varied, correct, step-by-step solutions of `chain_sum` problems.

Invariants:

* Every solution ends with ``<answer>N</answer>`` and N is the exact result.
* A solution is a pure function of the question and of the random state it is given.
* Two solutions of one question share numbers and wording, yet differ in route, detail and phrase.
"""

import random
import re
from collections.abc import Callable

Writer = Callable[[int, int, random.Random], str]
"""Two operands and a random state in, one sentence that ends with the exact result out."""

_EXPRESSION = re.compile(r"(-?\d+(?: [+-] -?\d+)*) =$")


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
    mixed = len(terms) > 2 and any(term < 0 for term in terms)
    grouped = mixed and rng.random() < 0.2
    lines = _group_by_sign(terms, rng) if grouped else _left_to_right(terms, rng)
    if rng.random() < 0.15:
        lines.append(_check(terms, rng))
    lines.append(rng.choice(_CLOSINGS).format(sum(terms)))
    return "\n" + "\n".join(lines) + f"\n<answer>{sum(terms)}</answer>"


def _left_to_right(terms: list[int], rng: random.Random) -> list[str]:
    """Lines of the running sum, one for each term after the first."""
    lines = [rng.choice(_OPENINGS).format(terms[0])]
    total = terms[0]
    for term in terms[1:]:
        lines.append(_step(total, term, rng))
        total += term
    return lines


def _group_by_sign(terms: list[int], rng: random.Random) -> list[str]:
    """Lines that sum what is added, then what is taken away, then subtract once."""
    plus = [term for term in terms if term >= 0]
    minus = [-term for term in terms if term < 0]
    lines = [rng.choice(_GROUP_OPENINGS)]
    for name, group in (("Added", plus), ("Taken away", minus)):
        lines.append(f"{name}: {' + '.join(map(str, group))}.")
        total = group[0]
        for term in group[1:]:
            lines.append(_step(total, term, rng))
            total += term
    return [*lines, _step(sum(plus), -sum(minus), rng)]


def _check(terms: list[int], rng: random.Random) -> str:
    """One line that undoes the last step."""
    total, last = sum(terms), terms[-1]
    undone = f"{total} {'-' if last >= 0 else '+'} {abs(last)} = {total - last}"
    return rng.choice(("Check: {}, good.", "To check, {}, as before.")).format(undone)


def _step(total: int, term: int, rng: random.Random) -> str:
    """One line that takes the running ``total`` to ``total + term``."""
    lead = rng.choice(_LEADS["add" if term >= 0 else "take"]).format(abs(term))
    sign = "+" if term >= 0 else "-"
    claim = f"{total} {sign} {abs(term)} = {total + term}"
    if rng.random() < 0.25:
        return f"{lead}{claim}."
    ending = rng.choice((f"So {claim}", f"Hence {claim}", f"This gives {total + term}"))
    return f"{lead}{total} {sign} {abs(term)}. {_work(total, term, rng)} {ending}."


def _work(total: int, term: int, rng: random.Random) -> str:
    """The reasoning behind one step on magnitudes, then the sign if it is not plain."""
    if (total >= 0) == (term >= 0):
        low = "" if total >= 0 else rng.choice(_BOTH_BELOW)
        return low + _choose(_ADDERS, abs(term), rng)(abs(total), abs(term), rng)
    large, small = max(abs(total), abs(term)), min(abs(total), abs(term))
    below = rng.choice(_ENDS_BELOW) if total + term < 0 else ""
    return below + _choose(_SUBTRACTERS, small, rng)(large, small, rng)


def _choose(writers: tuple[Writer, ...], operand: int, rng: random.Random) -> Writer:
    """Columns mostly; parts only where the operand has tens."""
    return rng.choices(writers, weights=(5, 2 if operand >= 10 else 0, 1))[0]


def _add_columns(left: int, right: int, rng: random.Random) -> str:
    """Column addition with every carry spelled out."""
    parts, carry = [], 0
    for name, a, b in _columns(left, right):
        column = a + b + carry
        extra = f" + {carry}" if carry else ""
        parts.append(f"{name} {a} + {b}{extra} = {column}")
        carry = column // 10
        if carry:
            parts[-1] += rng.choice((", carry 1", ", keep 1"))
    return "; ".join(parts).capitalize() + "."


def _subtract_columns(large: int, small: int, rng: random.Random) -> str:
    """Column subtraction, ``large >= small``, with every borrow spelled out."""
    parts, borrow = [], 0
    for name, a, b in _columns(large, small):
        lent = 10 if a - borrow < b else 0
        kept = f" - {borrow}" if borrow else ""
        parts.append(f"{name} {a + lent}{kept} - {b} = {a + lent - borrow - b}")
        borrow = lent // 10
        if borrow:
            parts[-1] += rng.choice((", borrow 1", ", owe 1"))
    return "; ".join(parts).capitalize() + "."


def _columns(left: int, right: int) -> list[tuple[str, int, int]]:
    """Name and both digits of each column, ones first."""
    width = max(len(str(left)), len(str(right)))
    names = ("ones", "tens", "hundreds", "thousands")[:width]
    return [(name, left // 10**i % 10, right // 10**i % 10) for i, name in enumerate(names)]


def _add_in_parts(left: int, right: int, rng: random.Random) -> str:
    """Tens first, then ones."""
    tens, ones = right - right % 10, right % 10
    joined = rng.choice(("then", "and then"))
    return f"{left} + {tens} = {left + tens}, {joined} {left + tens} + {ones} = {left + right}."


def _subtract_in_parts(large: int, small: int, rng: random.Random) -> str:
    """Tens first, then ones."""
    tens, ones = small - small % 10, small % 10
    joined = rng.choice(("then", "and then"))
    return f"{large} - {tens} = {large - tens}, {joined} {large - tens} - {ones} = {large - small}."


def _add_at_once(left: int, right: int, rng: random.Random) -> str:
    return rng.choice(("{0} + {1} is {2}.", "{0} and {1} make {2}.")).format(
        left, right, left + right
    )


def _subtract_at_once(large: int, small: int, rng: random.Random) -> str:
    return rng.choice(("{0} - {1} is {2}.", "From {1} to {0} is {2}.")).format(
        large, small, large - small
    )


_ADDERS: tuple[Writer, ...] = (_add_columns, _add_in_parts, _add_at_once)
_SUBTRACTERS: tuple[Writer, ...] = (_subtract_columns, _subtract_in_parts, _subtract_at_once)

_OPENINGS = (
    "Start with {}.",
    "We begin at {}.",
    "Let's go from left to right, starting with {}.",
    "The first number is {}.",
)
_GROUP_OPENINGS = (
    "Let's sort the numbers by sign.",
    "First what is added, then what is taken away.",
)
_LEADS = {
    "add": ("", "Add {}: ", "Now add {}: ", "Next, plus {}: "),
    "take": ("", "Subtract {}: ", "Now subtract {}: ", "Next, minus {}: "),
}
_BOTH_BELOW = ("Both are below zero. ", "Both count down. ")
_ENDS_BELOW = ("It ends below zero. ", "The result is negative. ")
_CLOSINGS = ("The answer is {}.", "So the result is {}.", "That makes {} in the end.", "Total: {}.")
