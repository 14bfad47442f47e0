"""Which bundle answers, after failures and swaps: a prediction reads `current` once, and a lock guards changes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from mmkd_edge.backends.base import Backend
from mmkd_edge.bundle.manifest import ModelEntry, release_number
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.health.monitor import Monitor
from mmkd_edge.opening.deadline import Deadline
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.opening.selftest import run_selftest
from mmkd_edge.opening.students import Students, open_students
from mmkd_edge.predict.student import OpenStudent
from mmkd_edge.spec import labels_text

# Golden windows per swap; all would keep threads waiting.
_MAX_GOLDEN = 32
_ADVICE = "the earlier bundle answers on; swap again when this machine is less busy, or with a higher limit_s"


class ActiveStudents:
    """The students that answer now, and those before the last swap."""

    def __init__(self, students: Students, options: OpenOptions, *, monitor: Monitor) -> None:
        self.current = students
        self.closed = False
        self.proven = True  # whether they answered since their last failure
        self._earlier: Students | None = None
        self._options = options
        self._monitor = monitor
        self._changing = threading.RLock()
        self._swapping = threading.Lock()
        self._process = os.getpid()

    def check_usable(self) -> None:
        """Raise UsageError after `close`, and in another process."""
        if self.closed:
            raise UsageError("the predictor is closed; open the bundle again")
        if os.getpid() != self._process:
            raise UsageError(
                f"the predictor was opened in process {self._process} and cannot be used in its child {os.getpid()}; "
                "open the bundle in the process that asks"
            )

    def recover(self, students: Students, student: OpenStudent, error: Exception) -> bool:
        """Reopen a failed engine, or return to the earlier bundle; return whether anything can answer."""
        self.check_usable()
        with self._changing:
            self.check_usable()
            if self.current is not students:  # another call recovered, or a swap closed the engine
                return True
            self._monitor.event("backend_failures")
            if self.proven and student.reopen is not None:
                self.proven = False
                try:
                    self._replace(student, student.reopen())
                except Exception:
                    pass
                else:
                    return True
            if self._earlier is not None:
                self._return_to(self._earlier).close()
                return True
        if self._options.policy == "raise":
            raise error if isinstance(error, BackendError) else BackendError(f"the engine failed: {error}") from error
        return False

    def swap(self, path: str | os.PathLike[str], *, limit_s: float) -> None:
        """Replace the bundle; see `EdgePredictor.swap`."""
        self.check_usable()
        if self.current.bundle is None:
            raise UsageError("swap: this predictor was made without a bundle; open one with EdgePredictor.open")
        with self._swapping:
            # A state folder has already checked the release.
            any_release = Path(path).is_dir()
            deadline = Deadline(limit_s, where=f"{os.fspath(path)}: swap", advice=_ADVICE)
            students = deadline.run(
                lambda: open_students(
                    path,
                    self._options,
                    check=lambda new: self._check_successor(new, any_release=any_release),
                    deadline=deadline,
                )
            )
            try:
                with self._changing:
                    self.check_usable()
                    dropped, self._earlier = self._earlier, self.current
                    self.current, self.proven = students, True
            except BaseException:
                students.close()
                raise
            self._monitor.event("swaps")
            if dropped is not None:
                dropped.close()

    def rollback(self) -> None:
        """See `EdgePredictor.rollback`."""
        self.check_usable()  # a forked child would wait forever for locks that its parent holds
        with self._swapping, self._changing:
            self.check_usable()
            if self._earlier is None:
                raise UsageError("rollback: there is no earlier bundle to return to; swap keeps the last one")
            failed = self._return_to(self._earlier)
        failed.close()

    def reopen(self) -> None:
        """Open the engines again; see `EdgePredictor.reopen`."""
        self.check_usable()
        with self._changing:
            self.check_usable()
            for student in self.current.opened:
                if student.reopen is None:
                    raise UsageError(
                        "reopen: this predictor was made without a bundle; open one with EdgePredictor.open"
                    )
                self._replace(student, student.reopen())

    def close(self) -> None:
        """Close engines and bundles; repeated calls are allowed, and do nothing in a forked child."""
        self.closed = True
        if os.getpid() != self._process:  # it lacks the engines' threads and the holders of locks
            return
        with self._changing:
            earlier, self._earlier = self._earlier, None
        self.current.close()
        if earlier is not None:
            earlier.close()

    def _replace(self, student: OpenStudent, backend: Backend) -> None:
        self.current = self.current.with_backend(student, backend)
        self._monitor.event("reopens")
        student.backend.close()

    def _return_to(self, earlier: Students) -> Students:
        failed, self.current, self._earlier = self.current, earlier, None
        self.proven = True
        self._monitor.event("rollbacks")
        return failed

    def _check_successor(self, students: Students, *, any_release: bool) -> None:
        now = self.current
        expected = [describe_contract(student.entry) for student in now.opened]
        got = [describe_contract(student.entry) for student in students.opened]
        assert students.bundle is not None
        if got != expected:
            raise UsageError(
                f"{students.bundle.path}: swap: expected a bundle that takes and answers {'; '.join(expected)}, "
                f"got {'; '.join(got)}; open it with a predictor of its own"
            )
        release, least = release_number(students.bundle.manifest), 0
        if now.bundle is not None and not any_release:
            least = release_number(now.bundle.manifest)
        if release < least:
            raise UsageError(
                f"{students.bundle.path}: swap: expected release {least} or later, got {release}; rollback() returns "
                "to the bundle before, and mmkd-edge install --allow-downgrade takes any"
            )
        for student in students.opened:
            run_selftest(student, students.bundle, most=_MAX_GOLDEN)


def describe_contract(entry: ModelEntry) -> str:
    """Describe what a student takes and answers, which a successor must too."""
    modality = entry.modality
    channels, labels = ", ".join(modality.channels), labels_text(entry.task)
    scale = "" if modality.normalise == "none" else ", normalised per group"
    return (
        f"{modality.name!r} ({modality.samples} samples of {channels} at {modality.rate_hz:g} Hz{scale}) for {labels}"
    )
