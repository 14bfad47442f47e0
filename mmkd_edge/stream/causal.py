"""A causal student that follows one stream: samples become blocks, and blocks become steps.

A state lost by an engine failure or a swap is rebuilt from the last window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from mmkd_edge.backends.base import Answers
from mmkd_edge.backends.steps import Steps
from mmkd_edge.bundle.manifest import Streaming
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import missing_samples, prepare
from mmkd_edge.predict.student import OpenStudent


def check_hop(hop: object, streaming: Streaming) -> None:
    """Raise UsageError for a hop at which no step ends."""
    if isinstance(hop, int) and hop % streaming.stride:
        raise UsageError(
            f"hop: expected a multiple of {streaming.stride}, the samples of one step of this causal student, got {hop}"
        )


class Stepping:
    """The steps of one stream; `fresh` if a block was completed since the last answer.

    `student` returns the current student; `failed` is called on an engine failure.
    """

    def __init__(self, student: Callable[[], OpenStudent], *, failed: Callable[[], None]) -> None:
        self._student = student
        self._failed = failed
        self._steps: Steps | None = None
        self.begin()

    def begin(self) -> None:
        """Forget all samples. Missing samples fill up the first block, so that the last ends with a window."""
        self._open(self._student())

    def _open(self, student: OpenStudent) -> None:
        self._of = student
        self._answer: Answers | None = None
        self.fresh = False
        self._steps = None
        if student.step is None or student.entry.streaming is None:
            return
        streaming: Streaming = student.entry.streaming
        self._block = missing_samples(student.modality, streaming.stride)
        self._filled = -student.modality.samples % streaming.stride
        try:
            self._steps = Steps(student.step, streaming)
        except Exception:  # an engine that cannot begin is one that fails
            self._failed()

    def put(self, rows: NDArray[Any]) -> None:
        """Take rows (n, C), NaN = missing; video frames (n, H, W, C), masked where missing."""
        start = 0
        while self._steps is not None and start < len(rows):
            part = rows[start : start + len(self._block) - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            start += len(part)
            if self._filled == len(self._block):
                self._filled = 0
                self._step(self._steps)

    def _step(self, steps: Steps) -> None:
        values, present = prepare(self._block, self._of.modality, self._of.reference)
        try:
            self._answer = steps.push(values, present)
            self.fresh = True
        except Exception:  # the state is lost; the next answer rebuilds it
            self._steps = self._answer = None
            self._failed()

    def answer(self, window: NDArray[Any]) -> Answers | None:
        """Return the outputs (1, ...) after the newest block of `window`; None to answer the window as a whole."""
        student = self._student()
        if student.step is not self._of.step or self._steps is None:
            self._open(student)
            self.put(window)
        self.fresh = False
        return self._answer
