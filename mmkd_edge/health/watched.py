"""A predictor whose calls are timed from outside: predictions contain no timers."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import msgspec

from mmkd_edge.health.monitor import HasHealth, Health
from mmkd_edge.health.timing import SecondsHistogram
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.stream.stream import Stream


class Predicts(HasHealth, Protocol):
    """An `EdgePredictor`, or a stand-in."""

    def predict(self, window: object, *, input_age_s: float | None, deadline_s: float | None) -> Prediction:
        """Answer for one window."""
        ...


class Watched:
    """Times the calls of a predictor, thread-safe; does not close it.

    >>> from mmkd_edge import ModalitySpec
    >>> from mmkd_edge.testing import fake_predictor
    >>> acc = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=2)
    >>> watched = Watched(fake_predictor([0.25, 0.75], modality=acc, labels=("ok", "worn")))
    >>> watched.predict([[0.0], [1.0]], input_age_s=0.5).label
    'worn'
    >>> watched.health().latency.count, watched.health().input_age.max_s
    (1, 0.5)
    """

    def __init__(self, predictor: Predicts) -> None:
        self._predictor = predictor
        self._latency = SecondsHistogram()
        self._lock = threading.RLock()  # a signal handler may interrupt a call of its thread

    def predict(
        self, window: object, *, input_age_s: float | None = None, deadline_s: float | None = None
    ) -> Prediction:
        """Call `EdgePredictor.predict`, timed."""
        began_s = time.perf_counter()
        prediction = self._predictor.predict(window, input_age_s=input_age_s, deadline_s=deadline_s)
        self._note(began_s)
        return prediction

    def push(
        self, stream: Stream, samples: object, time_s: object = None, *, now_s: float | None = None
    ) -> list[Prediction]:
        """Call `Stream.push`, timing all its predictions together."""
        began_s = time.perf_counter()
        predictions = stream.push(samples, time_s, now_s=now_s)
        if predictions:
            self._note(began_s)
        return predictions

    def health(self) -> Health:
        """Return `EdgePredictor.health` with the latency of these calls."""
        with self._lock:
            latency = self._latency.timing()
        return msgspec.structs.replace(self._predictor.health(), latency=latency)

    def _note(self, began_s: float) -> None:
        seconds = time.perf_counter() - began_s
        with self._lock:
            self._latency.add(seconds)
