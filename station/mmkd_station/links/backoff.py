"""How long to wait before the next try."""

from __future__ import annotations

import random
import threading

FIRST_S, MOST_S = 1.0, 30.0
# Each wait is this share shorter or longer by chance: a hundred stations that lost one broker come back one by one.
_JITTER = 0.2


class Backoff:
    """Waits that double from one failure to the next, with jitter, between one and thirty seconds.

    Args:
        first_s: the first wait.
        most_s: no wait is longer, jitter included.
    """

    def __init__(self, *, first_s: float = FIRST_S, most_s: float = MOST_S) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The seconds to wait after one more failure."""
        wait_s = self._next_s * random.uniform(1 - _JITTER, 1 + _JITTER)
        self._next_s = min(2 * self._next_s, self._most_s)
        return min(max(wait_s, self._first_s), self._most_s)

    def wait(self, stop: threading.Event) -> bool:
        """Wait after a failure; whether to try again, which is not so when `stop` was set."""
        return not stop.wait(self.next_s())

    def succeeded(self) -> None:
        """The next failure is a first one."""
        self._next_s = self._first_s
