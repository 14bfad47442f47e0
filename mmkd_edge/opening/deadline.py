"""One limit of time for an installation or a swap: whoever waits gives up then, and late work changes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mmkd_edge.errors import BundleError

T = TypeVar("T")
LIMIT_S = 60.0


class Deadline:
    """The limit of what `run` does; the work calls `commit` before its first lasting effect."""

    def __init__(self, limit_s: float = LIMIT_S, *, where: str = "", advice: str = "") -> None:
        self.limit_s = limit_s
        self.is_over = False
        self._where, self._advice = where, advice
        self._end_s = time.monotonic() + limit_s
        self._committed = False
        self._lock = threading.Lock()

    def run(self, work: Callable[[], T]) -> T:
        """Run in a thread and return the result, or its error; BundleError at the limit, where the thread stays."""
        from concurrent.futures import Future, wait  # slow, and no start needs it

        future = Future[T]()

        def answer() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=answer, name="deadline", daemon=True).start()
        try:
            while not wait([future], timeout=self._left_s()).done:
                self._expire()
        except BaseException:  # at Ctrl-C too nothing happens later
            with self._lock:
                self.is_over = not self._committed
            raise
        return future.result()

    def commit(self) -> None:
        """Let the work end, however long that takes; BundleError if nobody waits for it."""
        with self._lock:
            if self.is_over:
                raise self._error()
            self._committed = True

    @contextmanager
    def extended(self, limit_s: float) -> Iterator[None]:
        """Do not count what the body takes, up to a limit of its own."""
        begun_s = time.monotonic()
        self._end_s += limit_s
        try:
            yield
        finally:
            self._end_s -= max(0.0, limit_s - (time.monotonic() - begun_s))

    def _left_s(self) -> float | None:
        return None if self._committed else max(0.0, self._end_s - time.monotonic())

    def _expire(self) -> None:
        with self._lock:
            if not self._committed and time.monotonic() >= self._end_s:
                self.is_over = True
                raise self._error()

    def _error(self) -> BundleError:
        limit = f"{self.limit_s:g} s, the limit of time for all of it"
        return BundleError(f"{self._where}: expected an end within {limit}, got none; {self._advice}")
