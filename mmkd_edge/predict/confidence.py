"""Label sets: the classes that remain possible for a window at the application's error level.

Split conformal prediction with the probability of the true label as score (Sadinle, Lei and Wasserman, "Least Ambiguous
Set-Valued Classifiers with Bounded Error Levels", JASA 114, 2019). The threshold is the j-th smallest of n calibration
scores, j = floor((n + 1) * error_level); a set has every label that reaches it (Angelopoulos and Bates,
arXiv:2107.07511, section 1). It holds for windows exchangeable with those, so not for another person, machine or place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmkd_edge.bundle.manifest import Artifact, Confidence, ModelEntry
from mmkd_edge.errors import UsageError

# (n + 1) * error_level is a whole number in decimal that float64 may miss by its last bits.
_ROUNDING = 1e-9


def describe_subject(entry: ModelEntry, artifact: Artifact | None, *, where: str) -> str:
    """Return an error's subject: the artifact, or without a bundle the student."""
    what = f"model {entry.name!r}" if artifact is None else repr(artifact.file)
    return f"{where}: {what}" if where else what


def check_level(level: Any, *, name: str) -> float | None:
    """Return a level above 0 and below 1, or None, else raise UsageError."""
    if level is None:
        return None
    is_number = isinstance(level, int | float) and not isinstance(level, bool)
    if not (is_number and 0 < level < 1):
        raise UsageError(f"{name}: expected a fraction above 0 and below 1, or None; got {level!r}")
    return float(level)


def smallest_level(windows: int) -> float:
    """Return the smallest level that this many windows support, rounded up to four digits."""
    return math.ceil(10_000 / (windows + 1)) / 10_000


def least_probability(confidence: Confidence, error_level: float) -> float | None:
    """Return the probability that a label in the set needs; None with too few calibration windows.

    >>> confidence = Confidence(temperature=1.0, true_probabilities=(0.2, 0.5, 0.7, 0.9))
    >>> least_probability(confidence, 0.4), least_probability(confidence, 0.1)
    (0.5, None)
    """
    windows = len(confidence.true_probabilities)
    rank = math.floor((windows + 1) * error_level + _ROUNDING)
    return confidence.true_probabilities[rank - 1] if rank >= 1 else None


def label_set(probabilities: Sequence[float], labels: Sequence[str], *, least: float) -> tuple[str, ...]:
    """Return the labels of at least probability `least`, most probable first, at least one."""
    reached = [index for index, probability in enumerate(probabilities) if probability >= least]
    if len(reached) < 2:
        return (labels[probabilities.index(max(probabilities))],)
    reached.sort(key=lambda index: -probabilities[index])
    return tuple(labels[index] for index in reached)


def find_threshold(
    entry: ModelEntry, artifact: Artifact | None, error_level: float | None, *, where: str = ""
) -> float | None:
    """Return an artifact's label set threshold; UsageError without calibration for this level."""
    if error_level is None:
        return None
    if entry.task.kind != "classification":
        raise UsageError(f"error_level={error_level:g}: expected a classifier, got {entry.task.kind}; open without it")
    what = describe_subject(entry, artifact, where=where)
    confidence = None if artifact is None else artifact.confidence
    if confidence is None:
        raise UsageError(
            f"{what}: error_level={error_level:g}: expected an artifact that was calibrated, got one that was "
            "exported without labelled windows; export the checkpoint again (with --calib DATA if it carries no "
            "windows), or open without error_level"
        )
    least = least_probability(confidence, error_level)
    if least is None:
        windows = len(confidence.true_probabilities)
        raise UsageError(
            f"{what}: error_level={error_level:g}: expected {smallest_level(windows):g} or more, because "
            f"{windows} windows calibrated it; choose a higher level, or export with more windows (--calib DATA)"
        )
    return least
