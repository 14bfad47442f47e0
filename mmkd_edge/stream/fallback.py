"""Fallback between sensors, each with its own stream."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mmkd_edge.predict.postprocess import Prediction, is_available, mark_substitute, no_answer
from mmkd_edge.predict.sensors import WindowFault
from mmkd_edge.spec import ModalitySpec, TaskSpec


class SensorFallback:
    """Chooses among several streams' predictions: the first working sensor answers, best first."""

    def __init__(self, modalities: Sequence[ModalitySpec], task: TaskSpec) -> None:
        nothing = WindowFault(status="invalid", reason="no sample came yet")
        self._last = [no_answer(nothing, modality=modality, task=task) for modality in modalities]
        self._began = [False] * len(modalities)
        self._ended = [False] * len(modalities)

    def end(self, sensor: int) -> None:
        """Note that a sensor has ended."""
        self._ended[sensor] = True

    def choose(self, sensor: int, prediction: Prediction) -> Prediction | None:
        """Return the answer after a sensor's prediction; None if a better sensor works, or this one fails.

        If no sensor works, the first that began and has not ended reports it.
        """
        self._last[sensor], self._began[sensor] = prediction, True
        working = [is_available(last) and not ended for last, ended in zip(self._last, self._ended, strict=True)]
        if any(working[:sensor]):
            return None
        if working[sensor]:
            return mark_substitute([self._failed(better) for better in range(sensor)], prediction)
        expected = [began and not ended for began, ended in zip(self._began, self._ended, strict=True)]
        return None if any(working) or any(expected[:sensor]) else prediction

    def _failed(self, sensor: int) -> Prediction:
        last = self._last[sensor]
        if self._ended[sensor] and is_available(last):  # its reason is empty
            return msgspec.structs.replace(last, reason="its source has ended")
        return last
