"""What the golden windows of a bundle are: recordings, windows drawn from channel statistics, or next to nothing.

A bundle goes to every device, and golden windows are recordings of somebody's machine or body. Those that stay at home
still judge the export; a device then tests itself with windows that nobody recorded. Of sound and video, whose windows
are large, most stay at home in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from mmkd_edge.backends.base import backend_for, is_installed, open_backend
from mmkd_edge.bundle.golden import Golden, novelty_errors
from mmkd_edge.errors import GateError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.verify.artifacts import ProvenArtifact
from mmkd_export.verify.parity import NetworkAnswers, answers_from_backend
from mmkd_export.verify.windows import as_windows, judging_half, windows_from_statistics
from mmkd_models.data.kinds import window_bytes
from mmkd_models.data.labels import strata_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAID = {
    "synthetic": (
        "the bundle carries no recording: its golden windows were drawn from the channel statistics of the training "
        "data; a device's self-test shows that it computes the same, on windows unlike those of its sensor"
    ),
    "none": (
        "the bundle carries no recording: its one golden window is constant near each channel's mean, in which a "
        "device's self-test and the contest of backends see little; statistics of the channels are there, for the "
        "drift verdict"
    ),
}

MOST_GOLDEN_BYTES = 1 << 22
"""Of the sound or video in a bundle: 28 windows of 16 frames of 96 x 96 gray pixels, 65 of a second at 16 kHz."""

LEAST_GOLDEN = 8
"""However large they are: as many as a device compares the answers of its backends on."""

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
    """Golden windows that nobody recorded, with the checkpoint's answers.

    Args:
        choice: drawn windows, or constant ones, of which one is carried.
        modality: what the student takes.
        task: what it answers.
        mean: of each channel in the training data.
        std: of each channel in the training data.
        answer: of the checkpoint.
        tolerance: of the proof set.
    """
    drawn = windows_from_statistics(modality, task, mean=mean, std=std)
    windows, labels = drawn.windows, drawn.labels
    if choice == "none":
        levels = np.asarray(mean) + np.asarray(std) * np.array(_LEVELS)[:, None]  # (N, C)
        levels = levels.reshape(len(levels), *[1] * (len(modality.shape) - 1), -1)
        windows = as_windows(np.broadcast_to(levels, (len(_LEVELS), *modality.shape)), modality)
        labels = labels[: len(_LEVELS)]
    answers = answer(windows)
    return Golden(
        windows=windows,
        labels=labels,
        logits=answers.logits,
        probabilities=answers.probabilities,
        judge=judging_half(labels),
        tolerance=tolerance,
        novelty=answers.novelty,
    )


def most_golden(modality: ModalitySpec) -> int | None:
    """How many windows a bundle carries at most; None for all that judged it, as of every series."""
    if modality.kind == "series":
        return None
    return max(LEAST_GOLDEN, MOST_GOLDEN_BYTES // window_bytes(modality))


def of_each_kind(golden: Golden, most: int | None) -> Golden:
    """At most so many of the windows, of both halves and of every class as many as their share is."""
    count = len(golden.windows)
    if most is None or count <= most:
        return golden
    order = np.lexsort((strata_of(golden.labels), golden.judge))
    return _rows(golden, np.sort(order[np.linspace(0, count - 1, most).round().astype(np.intp)]))


def _rows(golden: Golden, rows: NDArray[np.intp]) -> Golden:
    names = ("windows", "labels", "logits", "probabilities", "judge")
    novelty = None if golden.novelty is None else golden.novelty[rows]
    return msgspec.structs.replace(golden, **{name: getattr(golden, name)[rows] for name in names}, novelty=novelty)


def steady(
    golden: Golden, artifacts: Sequence[ProvenArtifact], modality: ModalitySpec, *, most: int | None = None
) -> Golden:
    """Those of the windows that every artifact answers within its own tolerance: drawn ones may be odd for INT8.

    Args:
        golden: the windows.
        artifacts: that must answer them.
        modality: what they take.
        most: how many are kept; None keeps all.

    Raises:
        GateError: there is none.
    """
    kept = np.ones(len(golden.windows), dtype=bool)
    for proven in artifacts:
        name = backend_for(proven.artifact.format)
        if not is_installed(name):
            continue
        backend = open_backend(name, proven.model, threads=1)
        try:
            answers = answers_from_backend(backend, golden.windows, modality)
        finally:
            backend.close()
        lower = proven.artifact.precision != "fp32"
        tolerance = max(golden.tolerance, proven.artifact.parity.tolerance if lower else 0.0)
        # Half of it: engines of other machines differ in their last digits, INT8 by a step here and there.
        kept &= np.abs(answers.logits - golden.logits).max(axis=1) <= tolerance / 2
        calibration = proven.artifact.novelty
        if calibration and golden.novelty is not None and answers.novelty is not None:
            kept &= novelty_errors(golden.novelty, answers.novelty) <= calibration.tolerance / 2
    if not kept.any():
        raise GateError(
            "--golden: expected windows that every artifact answers as the checkpoint does, got none among "
            f"{len(kept)} that were drawn; leave the lower precision out, or take --golden real"
        )
    found = _rows(golden, np.flatnonzero(kept)[:most])
    return msgspec.structs.replace(found, judge=judging_half(found.labels))
