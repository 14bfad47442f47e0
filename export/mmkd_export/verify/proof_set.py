"""The proof set: windows and answers that every artifact of a student is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_edge.bundle.golden import Golden
from mmkd_edge.errors import GateError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_graph import STATISTICS_KEY
from mmkd_export.verify.answers import FP32_TOLERANCE, NetworkAnswers, with_missing_samples
from mmkd_export.verify.gate import GateRule, GateWindows
from mmkd_export.verify.windows import RealWindows, windows_from_dataset

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


# A channel this much larger or smaller than in training has another unit: m/s^2 for g is 9.8
_LARGEST_SCALE_RATIO = 5.0

_LARGEST_SHIFT = 5.0  # standard deviations of the training data
_GAPS_SEED = 0
Answer = Callable[["NDArray[Any]"], NetworkAnswers]


@dataclass(frozen=True, kw_only=True)
class ProofSet:
    """The windows of an export, and the checkpoint's answers to them."""

    modality: ModalitySpec
    task: TaskSpec
    real: RealWindows  # clear ones become golden windows of the bundle
    answers: NetworkAnswers
    clear: NDArray[np.bool_]  # (N,) of `real`: those whose answers rounding does not change
    gaps: NDArray[Any]  # copies of `real` with missing samples, (M, T, C), all clear
    gap_answers: NetworkAnswers
    judging: GateWindows
    rule: GateRule  # of lower precision
    calibration: NDArray[Any]  # windows (M, T, C) for ranges and confidence, which no gate uses
    calibration_labels: NDArray[np.int64]
    temperature: float = 1.0
    tolerance: float = FP32_TOLERANCE  # largest allowed difference of a logit or probability in fp32
    novelty_scores: tuple[float, ...] = ()  # of validation windows in torch, rising; may be empty
    name: str = ""  # of the student's folder, if not the modality's

    @property
    def recorded(self) -> NDArray[np.float32]:
        """(N, T, C) recorded windows to measure ranges on, none synthetic."""
        return self.calibration if self.real.synthetic else self.real.windows


def build_proof_set(
    real: RealWindows,
    *,
    modality: ModalitySpec,
    task: TaskSpec,
    answer: Answer,
    find_clear: Callable[[NDArray[Any]], NDArray[np.bool_]],
    rule: GateRule,
    evaluation: Path | None = None,
    temperature: float = 1.0,
    novelty_scores: tuple[float, ...] = (),
) -> ProofSet:
    """Split windows and `answer` them; UsageError if all of `evaluation` calibrate."""
    answers, gaps = answer(real.windows), with_missing_samples(real.windows, seed=_GAPS_SEED)
    gaps = gaps[find_clear(gaps)]
    calibrate, judge = np.flatnonzero(~real.judge & (not real.synthetic)), np.flatnonzero(real.judge)
    if evaluation is None:
        judging = GateWindows(
            windows=real.windows[judge], labels=real.labels[judge], answers=answers.rows(judge), source=real.source
        )
    else:
        named = windows_from_dataset(evaluation, modality=modality, task=task, most=None)
        calibrating = {window.tobytes() for window in real.windows[calibrate]}
        rows = np.flatnonzero([window.tobytes() not in calibrating for window in named.windows])
        if len(rows) == 0:
            raise UsageError(
                f"{evaluation}: --eval: expected windows that do not calibrate, got {len(named.windows)} that all do; "
                "name others"
            )
        windows, labels = named.windows[rows], named.labels[rows]
        judging = GateWindows(windows=windows, labels=labels, answers=answer(windows), source=named.source)
    return ProofSet(
        modality=modality,
        task=task,
        real=real,
        answers=answers,
        clear=find_clear(real.windows),
        gaps=gaps,
        gap_answers=answer(gaps),
        judging=judging,
        rule=rule,
        calibration=real.windows[calibrate],
        calibration_labels=real.labels[calibrate],
        temperature=temperature,
        novelty_scores=novelty_scores,
    )


def golden_from(real: RealWindows, answers: NetworkAnswers, *, tolerance: float) -> Golden:
    """Return windows and answers as bundles store them."""
    return Golden(
        windows=real.windows,
        labels=real.labels,
        logits=answers.logits,
        probabilities=answers.probabilities,
        judge=real.judge,
        tolerance=tolerance,
        novelty=answers.novelty,
    )


def check_calibration(windows: NDArray[Any], model: onnx.ModelProto, modality: ModalitySpec) -> None:
    """Raise GateError if a channel of (N, T, C) is unlike the graph's training statistics."""
    text = next(entry.value for entry in model.metadata_props if entry.key == STATISTICS_KEY)
    statistics = msgspec.json.decode(text, type=dict[str, list[float]])
    unit = f" {modality.unit}" if modality.unit else ""
    for number, channel in enumerate(modality.channels):
        mean, std = statistics["mean"][number], statistics["std"][number]
        values = windows[..., number]
        values = values.compressed() if isinstance(values, np.ma.MaskedArray) else values
        values = values[np.isfinite(values)].astype(np.float64)
        if len(values) == 0 or std == 0:
            continue
        ratio, shift = values.std() / std, abs(values.mean() - mean) / std
        if not 1 / _LARGEST_SCALE_RATIO <= ratio <= _LARGEST_SCALE_RATIO or shift > _LARGEST_SHIFT:
            raise GateError(
                f"calibration windows: channel {channel!r} of {modality.name!r}: expected values like in training, "
                f"mean {mean:.3g} and standard deviation {std:.3g}{unit}, got mean {values.mean():.3g} and standard "
                f"deviation {values.std():.3g}: a factor of {ratio:.3g}, where {1 / _LARGEST_SCALE_RATIO:g} to "
                f"{_LARGEST_SCALE_RATIO:g} is allowed, and a shift of {shift:.3g} standard deviations, where "
                f"{_LARGEST_SHIFT:g} is; check the unit and the sensor's range"
            )
