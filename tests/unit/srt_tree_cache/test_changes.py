"""A changed prompt stays on the list until a snapshot includes its last change, and no longer."""

from __future__ import annotations

from srt_common.keys import PromptKey
from srt_common.store.base import START
from srt_tree_cache.changes import ChangedPrompts

ONE, TWO = PromptKey(bytes(15) + b"1"), PromptKey(bytes(15) + b"2")


def changed(*changes: tuple[PromptKey, str]) -> ChangedPrompts:
    noted = ChangedPrompts()
    for key, cursor in changes:
        noted.note(key, cursor, 10)
    return noted


def test_a_snapshot_settles_changes_up_to_its_cursor() -> None:
    changes = changed((ONE, "5-0"), (TWO, "10-0"))
    changes.settle(ONE, "4-9")
    assert ONE in changes
    changes.settle(ONE, "5-0")
    assert ONE not in changes
    changes.settle(TWO, "11-0")
    assert len(changes) == 0
    changes.settle(TWO, "11-0")


def test_a_change_after_the_snapshot_was_made_is_not_settled_by_it() -> None:
    changes = changed((ONE, "5-0"))
    changes.note(ONE, "6-0", 10)
    changes.settle(ONE, "5-0")
    assert changes.prompt_keys() == [ONE]


def test_a_floor_settles_everything_below_it() -> None:
    changes = changed((ONE, "9-0"), (TWO, "10-0"))
    changes.settle_below("9-0")
    assert changes.prompt_keys() == [TWO]


def test_no_floor_settles_nothing() -> None:
    changes = changed((ONE, START))
    changes.settle_below(START)
    assert changes.prompt_keys() == [ONE]
    changes.settle(ONE, START)
    assert changes.prompt_keys() == []


def test_a_prompt_without_a_tree_is_forgotten() -> None:
    changes = changed((ONE, "5-0"))
    changes.forget(ONE)
    changes.forget(TWO)
    assert changes.prompt_keys() == []


def test_bytes_are_counted_from_the_last_beginning() -> None:
    changes = changed((ONE, "5-0"), (ONE, "6-0"))
    assert changes.num_bytes == 20
    changes.start_anew()
    changes.note(ONE, "7-0", 3)
    assert (changes.num_bytes, len(changes)) == (3, 1)
