"""What every artifact of one student is proven by: real windows and the checkpoint's answers for them.

Owns which windows calibrate and which judge, and the check that calibration windows are of the kind that the student
was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_edge.errors import GateError
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.calibration import Feeds
from mmkd_export.graph.onnx_graph import STATISTICS_KEY
from mmkd_export.verify.gate import JudgingWindows
from mmkd_export.verify.parity import FP32_TOLERANCE, NetworkAnswers
from mmkd_export.verify.windows import RealWindows

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

LARGEST_SCALE_RATIO = 5.0
"""A channel this many times larger or smaller than in training is in another unit, another range setting, or another
place: m/s^2 for g is a factor of 9.8."""

_LARGEST_SHIFT = 5.0  # standard deviations of the training data


@dataclass(frozen=True, kw_only=True)
class ProofSet:
    """Windows and answers.

    Attributes:
        real: the windows that become golden windows.
        gaps: copies of the windows that miss samples, (N, T, C).
        gap_answers: of the fp32 network for these.
        judging: windows that only judge, with the checkpoint's answers.
        calibration: (M, T, C) windows that ranges and confidence are taken from; none of them judges.
        calibration_labels: (M,) int64, -1 where unknown.
        temperature: that the probabilities of all answers are made with.
        tolerance: of a logit or a probability of an fp32 artifact: `fp32_tolerance`.
        novelty_scores: of the validation windows, rising, by the fp32 network; empty where it gives none.
    """

    modality: ModalitySpec
    task: TaskSpec
    real: RealWindows
    answers: NetworkAnswers
    gaps: NDArray[Any]
    gap_answers: NetworkAnswers
    judging: JudgingWindows
    calibration: NDArray[Any]
    calibration_labels: NDArray[np.int64]
    temperature: float = 1.0
    tolerance: float = FP32_TOLERANCE
    novelty_scores: tuple[float, ...] = ()

    @property
    def recorded(self) -> NDArray[np.float32]:
        """(N, T, C) recorded windows to measure ranges on; never synthetic ones."""
        return self.calibration if self.real.synthetic else self.real.windows


def feeds_of(windows: NDArray[Any], modality: ModalitySpec) -> Iterator[Feeds]:
    """Gives the graph's inputs for each of (N, T, C) windows."""
    for window in windows:
        values, present = prepare(window, modality)
        yield {modality.name: values, f"{modality.name}_present": present}


def judging_of(real: RealWindows, answers: NetworkAnswers) -> JudgingWindows:
    """Gives the judging half of the windows."""
    rows = np.flatnonzero(real.judge)
    return JudgingWindows(
        windows=real.windows[rows],
        labels=real.labels[rows],
        answers=answers.rows(rows),
        source=real.source,
    )


def check_calibration(windows: NDArray[Any], model: onnx.ModelProto, modality: ModalitySpec) -> None:
    """Holds calibration windows against the statistics of the training data that the graph carries.

    Args:
        windows: (N, T, C) as `prepare` takes them; of video (N, T, H, W, C).
        model: the fp32 graph; its front-end holds mean and standard deviation of every channel.
        modality: names the channels.

    Raises:
        GateError: a channel is not what the student was trained on; the message has the factor.
    """
    mean, std = _training_statistics(model)
    for number, channel in enumerate(modality.channels):
        found = windows[..., number]
        found = found.compressed() if isinstance(found, np.ma.MaskedArray) else found
        values = found[np.isfinite(found)].astype(np.float64)
        if len(values) == 0 or std[number] == 0:
            continue
        ratio = values.std() / std[number]
        shift = abs(values.mean() - mean[number]) / std[number]
        if not 1 / LARGEST_SCALE_RATIO <= ratio <= LARGEST_SCALE_RATIO or shift > _LARGEST_SHIFT:
            raise GateError(
                f"calibration windows: channel {channel!r} of {modality.name!r}: expected values like in training, "
                f"mean {mean[number]:.3g} and standard deviation {std[number]:.3g}{_unit(modality)}, got mean "
                f"{values.mean():.3g} and standard deviation {values.std():.3g}: a factor of {ratio:.3g}, where "
                f"{1 / LARGEST_SCALE_RATIO:g} to {LARGEST_SCALE_RATIO:g} is allowed, and a shift of {shift:.3g} "
                f"standard deviations, where {_LARGEST_SHIFT:g} is; check the unit and the sensor's range"
            )


def _unit(modality: ModalitySpec) -> str:
    return f" {modality.unit}" if modality.unit else ""


def _training_statistics(model: onnx.ModelProto) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    text = next(entry.value for entry in model.metadata_props if entry.key == STATISTICS_KEY)
    found = msgspec.json.decode(text, type=dict[str, list[float]])
    return np.array(found["mean"]), np.array(found["std"])
