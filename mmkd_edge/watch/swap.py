"""Which bundle answers: what happens when an engine fails, when another bundle takes over, and at the end.

Owns the line of engines behind a predictor, and the locks around it. A prediction reads `line` once and keeps to it;
whoever changes it puts another line in its place.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import cache
from typing import NoReturn

from mmkd_edge.backends.base import Backend
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import BackendError, MmkdError, UsageError
from mmkd_edge.predict.engine import Engine, Line, run_selftest
from mmkd_edge.predict.opening import Choice, open_line
from mmkd_edge.spec import labels_text
from mmkd_edge.watch.health import Monitor

# Golden windows that a swap asks for: another result shows in any of them, and all of them would take most of the time
# of a swap from the threads that are being answered meanwhile.
_MOST_GOLDEN = 32


class Control:
    """The line of engines that answers now, and the one before the last swap.

    Args:
        line: what answers first; closed by `close`.
        choice: how bundles are opened; None where the line was made without one.
        monitor: counts what happens.
        raises: whether an engine that failed for good is an error, and not an answer that says so.

    Attributes:
        line: what answers now.
        closed: whether `close` was called.
        usable: whether it may be asked: not after `close`, and not in the child of a fork.
        proven: whether the line has answered since its last failure, so that the next one gets an attempt of its own.
    """

    def __init__(self, line: Line, *, choice: Choice | None, monitor: Monitor, raises: bool) -> None:
        self.line = line
        self.closed = False
        self.usable = True
        self.proven = True
        self._earlier: Line | None = None
        self._choice = choice
        self._monitor = monitor
        self._raises = raises
        self._changing = threading.RLock()  # whoever changes the line holds it
        self._swapping = threading.Lock()
        self._process = os.getpid()
        _watched().add(self)

    def check_usable(self) -> None:
        """Refuse after `close`, and in another process.

        Raises:
            UsageError: it is closed, or belongs to another process.
        """
        if not self.usable:
            self.refuse()

    def refuse(self) -> NoReturn:
        """Say why nothing can be asked here any more.

        Raises:
            UsageError: always.
        """
        if self.closed:
            raise UsageError("the predictor is closed; open the bundle again")
        raise UsageError(
            f"the predictor was opened in process {self._process} and cannot be used in its child {os.getpid()}; "
            "open the bundle in the process that asks"
        )

    def recover(self, line: Line, engine: Engine, error: Exception) -> bool:
        """Put something that may work in the place of an engine that failed; whether there is something.

        Raises:
            BackendError: there is nothing, and this control raises.
            UsageError: it was closed meanwhile.
        """
        self.check_usable()
        with self._changing:
            if self.line is not line:  # another call recovered already, or a swap closed what this call held
                return True
            self._monitor.event("backend_failures")
            if self.proven and engine.reopen is not None:
                self.proven = False
                try:
                    self._replace(engine, engine.reopen())
                except MmkdError:
                    pass  # the failure of the call is what is reported; below there may be another way
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
        if self._choice is None:
            raise UsageError("swap: this predictor was made without a bundle; open one with EdgePredictor.open")
        with self._swapping:
            line = open_line(path, self._choice)
            try:
                self._check_successor(line)
                with self._changing:
                    if self.closed:
                        self.refuse()
                    dropped, self._earlier, self.line = self._earlier, self.line, line
                    self.proven = True
            except BaseException:
                line.close()
                raise
            self._monitor.event("swaps")
            if dropped is not None:
                dropped.close()

    def rollback(self) -> None:
        """Return to the line before the last swap; see `EdgePredictor.rollback`."""
        with self._swapping, self._changing:
            if self.closed:
                self.refuse()
            if self._earlier is None:
                raise UsageError("rollback: there is no earlier bundle to return to; swap keeps the last one")
            failed = self._return_to_earlier(self._earlier)
        failed.close()

    def reopen(self) -> None:
        """Open the engines once more; see `EdgePredictor.reopen`."""
        self.check_usable()
        with self._changing:
            for engine in self.line.engines:
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
        self.line.close()
        if earlier is not None:
            earlier.close()

    def leave(self) -> None:
        """Give up in the child of a fork: the threads of the engines, and whoever holds a lock, are not there."""
        self.usable = False
        self._changing = threading.RLock()
        self._swapping = threading.Lock()

    def _replace(self, engine: Engine, backend: Backend) -> None:
        self.line = self.line.with_backend(engine, backend)
        self._monitor.event("reopens")
        engine.backend.close()

    def _return_to_earlier(self, earlier: Line) -> Line:
        """Switch back; gives the line that answered until now."""
        failed, self.line, self._earlier = self.line, earlier, None
        self.proven = True
        self._monitor.event("rollbacks")
        return failed

    def _check_successor(self, line: Line) -> None:
        """Refuse a bundle that takes or answers something else, or that does not compute here what it did at export."""
        wanted = [_contract(engine.entry) for engine in self.line.engines]
        found = [_contract(engine.entry) for engine in line.engines]
        assert line.bundle is not None
        if found != wanted:
            raise UsageError(
                f"{line.bundle.path}: swap: expected a bundle that takes and answers {'; '.join(wanted)}, "
                f"got {'; '.join(found)}; open it with a predictor of its own"
            )
        for engine in line.engines:
            run_selftest(engine, line.bundle, most=_MOST_GOLDEN)


@cache
def _watched() -> weakref.WeakSet[Control]:
    """The controls that learn of a fork. Asking for the process at every prediction would cost a microsecond or two."""
    controls: weakref.WeakSet[Control] = weakref.WeakSet()

    def leave_all() -> None:
        for control in controls:
            control.leave()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave_all)
    return controls


def _contract(entry: ModelEntry) -> str:
    """What an application relies on, in words."""
    modality = entry.modality
    channels, labels = ", ".join(modality.channels), labels_text(entry.task)
    scale = "" if modality.normalise == "none" else ", normalised per group"
    return (
        f"{modality.name!r} ({modality.samples} samples of {channels} at {modality.rate_hz:g} Hz{scale}) for {labels}"
    )
