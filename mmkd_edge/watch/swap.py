"""Which bundle answers: what happens when an engine fails, when another bundle takes over, and at the end.

Owns the students behind a predictor, and the locks around them. A prediction reads `students` once and keeps to them;
whoever changes them puts others in their place.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import cache
from pathlib import Path

from mmkd_edge.backends.base import Backend
from mmkd_edge.backends.handlers import let_handlers_through
from mmkd_edge.bundle.manifest import ModelEntry, release_of
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.opening import open_students
from mmkd_edge.predict.config import OpeningRequest
from mmkd_edge.predict.engine import Engine, Students
from mmkd_edge.predict.selftest import run_selftest
from mmkd_edge.spec import labels_text
from mmkd_edge.watch.health import Monitor

# Golden windows that a swap asks for: another result shows in any of them, and all of them would take most of the time
# of a swap from the threads that are being answered meanwhile.
_MOST_GOLDEN = 32


class InService:
    """The students that answer now, and those before the last swap.

    Args:
        students: who answers first; closed by `close`.
        asked: how bundles are opened; None where the students were made without one.
        monitor: counts what happens.
        raises: whether an engine that failed for good is an error, and not an answer that says so.

    Attributes:
        students: who answers now.
        closed: whether `close` was called.
        usable: whether it may be asked: not after `close`, and not in the child of a fork.
        proven: whether they have answered since their last failure, so that the next one gets an attempt of its own.
    """

    def __init__(self, students: Students, *, asked: OpeningRequest | None, monitor: Monitor, raises: bool) -> None:
        self.students = students
        self.closed = False
        self.usable = True
        self.proven = True
        self._earlier: Students | None = None
        self._asked = asked
        self._monitor = monitor
        self._raises = raises
        self._changing = threading.RLock()  # whoever changes the students holds it
        self._swapping = threading.Lock()
        self._process = os.getpid()
        _watched().add(self)

    def check_usable(self) -> None:
        """Refuse after `close`, and in another process.

        Raises:
            UsageError: it is closed, or belongs to another process.
        """
        if self.usable:
            return
        if self.closed:
            raise UsageError("the predictor is closed; open the bundle again")
        raise UsageError(
            f"the predictor was opened in process {self._process} and cannot be used in its child {os.getpid()}; "
            "open the bundle in the process that asks"
        )

    def recover(self, students: Students, engine: Engine, error: Exception) -> bool:
        """Put something that may work in the place of an engine that failed; whether there is something.

        Raises:
            BackendError: there is nothing, and failures are to be raised.
            UsageError: it was closed meanwhile.
        """
        self.check_usable()
        with self._changing:
            if self.students is not students:  # another call recovered already, or a swap closed what this call held
                return True
            self._monitor.event("backend_failures")
            if self.proven and engine.reopen is not None:
                self.proven = False
                try:
                    self._replace(engine, engine.reopen())
                except Exception as failure:  # of an engine of one's own it may be any
                    # The failure of the call is what is reported; below there may be another way.
                    let_handlers_through(failure, handled=error)
                else:
                    return True
            if self._earlier is not None:
                self._return_to_earlier(self._earlier).close()
                return True
        if self._raises:
            raise error if isinstance(error, BackendError) else BackendError(f"the engine failed: {error}") from error
        return False

    def swap(self, path: str | os.PathLike[str]) -> None:
        """Let another bundle take over; see `EdgePredictor.swap`."""
        self.check_usable()
        if self._asked is None:
            raise UsageError("swap: this predictor was made without a bundle; open one with EdgePredictor.open")
        with self._swapping:
            # What a state folder lets in, it has judged by the releases that were ever installed there.
            may_be_earlier = Path(path).is_dir()
            students = open_students(
                path, self._asked, check=lambda found: self._check_successor(found, may_be_earlier=may_be_earlier)
            )
            try:
                with self._changing:
                    self.check_usable()
                    dropped, self._earlier, self.students = self._earlier, self.students, students
                    self.proven = True
            except BaseException:
                students.close()
                raise
            self._monitor.event("swaps")
            if dropped is not None:
                dropped.close()

    def rollback(self) -> None:
        """Return to the students before the last swap; see `EdgePredictor.rollback`."""
        with self._swapping, self._changing:
            self.check_usable()
            if self._earlier is None:
                raise UsageError("rollback: there is no earlier bundle to return to; swap keeps the last one")
            failed = self._return_to_earlier(self._earlier)
        failed.close()

    def reopen(self) -> None:
        """Open the engines once more; see `EdgePredictor.reopen`."""
        self.check_usable()
        with self._changing:
            for engine in self.students.engines:
                if engine.reopen is None:
                    raise UsageError(
                        "reopen: this predictor was made without a bundle; open one with EdgePredictor.open"
                    )
                self._replace(engine, engine.reopen())

    def close(self) -> None:
        """Give engines and bundles back; more than once is fine. Those of another process stay as they are."""
        foreign = not self.usable and not self.closed
        with self._changing:
            self.closed, self.usable = True, False
            earlier, self._earlier = self._earlier, None
        if foreign:
            return
        self.students.close()
        if earlier is not None:
            earlier.close()

    def leave(self) -> None:
        """Give up in the child of a fork: the threads of the engines, and whoever holds a lock, are not there."""
        self.usable = False
        self._changing = threading.RLock()
        self._swapping = threading.Lock()

    def _replace(self, engine: Engine, backend: Backend) -> None:
        self.students = self.students.with_backend(engine, backend)
        self._monitor.event("reopens")
        engine.backend.close()

    def _return_to_earlier(self, earlier: Students) -> Students:
        """Switch back; gives those who answered until now."""
        failed, self.students, self._earlier = self.students, earlier, None
        self.proven = True
        self._monitor.event("rollbacks")
        return failed

    def _check_successor(self, students: Students, *, may_be_earlier: bool) -> None:
        """Refuse a bundle that takes or answers something else, or that does not compute here what it did at export."""
        wanted = [_contract(engine.entry) for engine in self.students.engines]
        found = [_contract(engine.entry) for engine in students.engines]
        assert students.bundle is not None
        if found != wanted:
            raise UsageError(
                f"{students.bundle.path}: swap: expected a bundle that takes and answers {'; '.join(wanted)}, "
                f"got {'; '.join(found)}; open it with a predictor of its own"
            )
        now = self.students.bundle
        release, least = release_of(students.bundle.manifest), 0 if now is None else release_of(now.manifest)
        if release < least and not may_be_earlier:
            raise UsageError(
                f"{students.bundle.path}: swap: expected release {least} or later, got {release}; rollback() returns "
                "to the bundle before, and mmkd-edge install --allow-downgrade takes any"
            )
        for engine in students.engines:
            run_selftest(engine, students.bundle, most=_MOST_GOLDEN)


@cache
def _watched() -> weakref.WeakSet[InService]:
    """All that learn of a fork. Asking for the process at every prediction would cost a microsecond or two."""
    known: weakref.WeakSet[InService] = weakref.WeakSet()

    def leave_all() -> None:
        for one in known:
            one.leave()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave_all)
    return known


def _contract(entry: ModelEntry) -> str:
    """What an application relies on, in words."""
    modality = entry.modality
    channels, labels = ", ".join(modality.channels), labels_text(entry.task)
    scale = "" if modality.normalise == "none" else ", normalised per group"
    return (
        f"{modality.name!r} ({modality.samples} samples of {channels} at {modality.rate_hz:g} Hz{scale}) for {labels}"
    )
