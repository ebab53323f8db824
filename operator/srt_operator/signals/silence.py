"""When somebody who did not answer is asked again: after a pause that doubles.

* A question to a host that is not there costs 2 ms of one core, a name that does not resolve holds
  a thread for seconds: asked ten times a second, the engines of a few jobs would fill an operator.
* Who answered a moment ago is asked as ever: a bubble may rest on that answer, and ends in time.
"""

from __future__ import annotations

import math
import random
from typing import Final

BEARABLE_SECONDS: Final = 3.0
"""From the last answer to the first pause; a bubble without an answer ends by then."""
FIRST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 5.0


class Silence:
    """Of one process that is asked. Times are seconds, monotonic."""

    def __init__(self) -> None:
        self._answered_at = -math.inf
        self._pause = 0.0
        self._ask_again_at = -math.inf

    def is_over(self, now: float) -> bool:
        """Whether the next question is due."""
        return now >= self._ask_again_at

    def note(self, *, is_answered: bool, now: float) -> None:
        """A question came to its end. Pauses are up to a third shorter, so that those who fell
        silent together are not asked together.
        """
        if is_answered:
            self._answered_at, self._pause, self._ask_again_at = now, 0.0, -math.inf
        elif now - self._answered_at >= BEARABLE_SECONDS:
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
            self._ask_again_at = now + self._pause * random.uniform(2 / 3, 1.0)
