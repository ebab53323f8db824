"""Which prompts changed since their last snapshot, and up to where in the log. Pure.

* A change is settled by any snapshot whose cursor includes it, whoever wrote that.
* A floor settles everything below it: logs are trimmed only after snapshots were written.
"""

from __future__ import annotations

from srt_common.keys import PromptKey
from srt_common.store.base import START
from srt_common.store.cursors import is_before


class ChangedPrompts:
    """Changes of one shard."""

    def __init__(self) -> None:
        self._changed_at: dict[PromptKey, str] = {}
        self.num_bytes = 0
        """Appended since the last `start_anew`."""

    def __len__(self) -> int:
        return len(self._changed_at)

    def __contains__(self, prompt_key: PromptKey) -> bool:
        return prompt_key in self._changed_at

    def note(self, prompt_key: PromptKey, cursor: str, num_bytes: int) -> None:
        """A prompt gained ``num_bytes`` by an entry at or before ``cursor``."""
        self._changed_at[prompt_key] = cursor
        self.num_bytes += num_bytes

    def prompt_keys(self) -> list[PromptKey]:
        """Changed prompts."""
        return list(self._changed_at)

    def start_anew(self) -> None:
        """A compaction begins: count bytes from here."""
        self.num_bytes = 0

    def settle(self, prompt_key: PromptKey, cursor: str) -> None:
        """A snapshot of the prompt includes everything up to ``cursor``."""
        changed_at = self._changed_at.get(prompt_key)
        if changed_at is not None and not is_before(cursor, changed_at):
            del self._changed_at[prompt_key]

    def settle_below(self, floor: str) -> None:
        """Everything up to ``floor`` is in snapshots."""
        if floor == START:
            return
        self._changed_at = {
            key: cursor for key, cursor in self._changed_at.items() if is_before(floor, cursor)
        }

    def forget(self, prompt_key: PromptKey) -> None:
        """The prompt has no tree any more."""
        self._changed_at.pop(prompt_key, None)
