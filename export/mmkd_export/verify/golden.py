"""The golden windows of a bundle: recordings, windows drawn from channel statistics, or one constant window.

A bundle goes to every device, and golden windows are recordings of somebody's machine or body. With `--golden` they
stay at home and still judge the export. Of audio and video, whose windows are large, most stay at home in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from mmkd_edge.backends.base import backend_for, is_installed
from mmkd_edge.bundle.golden import Golden, novelty_errors
from mmkd_edge.errors import GateError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.verify.answers import NetworkAnswers, answers_from_model
from mmkd_export.verify.artifacts import ProvenArtifact
from mmkd_export.verify.windows import as_windows, judging_half, windows_from_statistics
from mmkd_models.data.kinds import window_bytes
from mmkd_models.data.labels import strata_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_RECORDING = {
    "synthetic": (
        "the bundle carries no recording: its golden windows were drawn from the channel statistics of the training "
        "data; a device's self-test shows that it computes the same, on windows unlike those of its sensor"
    ),
    "none": (
        "the bundle carries no recording: its one golden window is constant near each channel's mean, so a device's "
        "self-test sees little; statistics of the channels are there, for the drift verdict"
    ),
}

MOST_GOLDEN_BYTES = 1 << 22
"""Of audio or video in a bundle: 28 windows of 16 frames of 96 x 96 gray pixels, 65 of a second at 16 kHz."""

LEAST_GOLDEN = 8
"""However large they are: a device compares the answers of its backends on as many."""

_LEVELS = (0.0, 0.25, -0.25, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0)  # standard deviations from the mean


def golden_without_recordings(
    choice: Literal["synthetic", "none"],
    modality: ModalitySpec,
    task: TaskSpec,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    answer: Callable[[NDArray[np.float32]], NetworkAnswers],
    tolerance: float,
) -> Golden:
    """Make golden windows that nobody recorded, with the checkpoint's answers.

    Args:
        choice: drawn windows, or constant ones, of which one is carried.
        modality: the student's input.
        task: its task.
        mean: of each channel in the training data.
        std: of each channel in the training data.
        answer: returns the checkpoint's answers.
        tolerance: of the proof set.
    """
    drawn = windows_from_statistics(modality, task, mean=mean, std=std)
    windows, labels = drawn.windows, drawn.labels
    if choice == "none":
        levels = np.asarray(mean) + np.asarray(std) * np.array(_LEVELS)[:, None]  # (N, C)
        levels = levels.reshape(len(levels), *[1] * (len(modality.shape) - 1), -1)
        windows = as_windows(np.broadcast_to(levels, (len(_LEVELS), *modality.shape)), modality)
        labels = labels[: len(_LEVELS)]
    answers, judge = answer(windows), judging_half(labels)
    return golden_from(windows, labels, answers, judge=judge, tolerance=tolerance)


def golden_from(
    windows: NDArray[np.float32],
    labels: NDArray[np.generic],
    answers: NetworkAnswers,
    *,
    judge: NDArray[np.bool_],
    tolerance: float,
) -> Golden:
    """Join windows (N, T, C) and the checkpoint's answers for them."""
    return Golden(
        windows=windows,
        labels=labels,
        logits=answers.logits,
        probabilities=answers.probabilities,
        judge=judge,
        tolerance=tolerance,
        novelty=answers.novelty,
    )


def most_golden(modality: ModalitySpec) -> int | None:
    """How many windows a bundle carries at most; None for all that judged it, as of every series."""
    if modality.kind == "series":
        return None
    return max(LEAST_GOLDEN, MOST_GOLDEN_BYTES // window_bytes(modality))


def sample_golden(golden: Golden, most: int | None) -> Golden:
    """Select at most so many of the windows, evenly from both halves and every class."""
    count = len(golden.windows)
    if most is None or count <= most:
        return golden
    order = np.lexsort((strata_of(golden.labels), golden.judge))
    return _rows(golden, np.sort(order[np.linspace(0, count - 1, most).round().astype(np.intp)]))


def _rows(golden: Golden, rows: NDArray[np.intp]) -> Golden:
    names = ("windows", "labels", "logits", "probabilities", "judge")
    novelty = None if golden.novelty is None else golden.novelty[rows]
    return msgspec.structs.replace(golden, **{name: getattr(golden, name)[rows] for name in names}, novelty=novelty)


def select_stable(
    golden: Golden, artifacts: Sequence[ProvenArtifact], modality: ModalitySpec, *, most: int | None = None
) -> Golden:
    """Select at most `most` windows that every artifact answers within its tolerance: drawn ones may be odd for INT8.

    Raises:
        GateError: there is none.
    """
    stable = np.ones(len(golden.windows), dtype=bool)
    for proven in artifacts:
        artifact = proven.artifact
        if not is_installed(backend_for(artifact.format)):
            continue
        answers = answers_from_model(proven.model, golden.windows, modality, file_format=artifact.format)
        tolerance = max(golden.tolerance, 0.0 if artifact.precision == "fp32" else artifact.parity.tolerance)
        # Half of it: engines of other machines differ in their last digits, INT8 by a step here and there.
        stable &= np.abs(answers.logits - golden.logits).max(axis=1) <= tolerance / 2
        if artifact.novelty and golden.novelty is not None and answers.novelty is not None:
            stable &= novelty_errors(golden.novelty, answers.novelty) <= artifact.novelty.tolerance / 2
    if not stable.any():
        raise GateError(
            "--golden: expected windows that every artifact answers as the checkpoint does, got none among "
            f"{len(stable)} that were drawn; leave the lower precision out, or take --golden real"
        )
    selected = _rows(golden, np.flatnonzero(stable)[:most])
    return msgspec.structs.replace(selected, judge=judging_half(selected.labels))
