"""Reliability of probabilities and label sets, measured on windows that did not calibrate them.

Calibration error and log loss before and after the temperature, and coverage of label sets at several error levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import Confidence
from mmkd_edge.predict.confidence import least_probability
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_report.schema.confidence import ConfidenceFacts, LabelSetCoverage, Reliability

ERROR_LEVELS = (0.01, 0.05, 0.1, 0.2)
"""Those that reports show; an application may choose any other."""

BINS = 15  # as in Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4
_Z_95 = 1.959963984540054


def confidence_facts(
    confidence: Confidence,
    logits: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    groups: NDArray[Any] | None = None,
    error_levels: tuple[float, ...] = ERROR_LEVELS,
) -> ConfidenceFacts | None:
    """Measure an artifact's probabilities and label sets; None without a labelled window.

    Args:
        logits: (N, K), as are the probabilities.
        labels: (N,), -1 if unknown.
        groups: (N,) owner of each window; None if unknown.
    """
    known = np.flatnonzero(labels >= 0)
    if len(known) == 0:
        return None
    logits, probabilities, labels = logits[known], probabilities[known], labels[known]
    groups = None if groups is None else groups[known]
    thresholds = {level: least_probability(confidence, level) for level in sorted(error_levels)}
    return ConfidenceFacts(
        temperature=confidence.temperature,
        calibrated_by=len(confidence.true_probabilities),
        windows=len(labels),
        before=reliability(probabilities_of(logits, kind="classification"), labels),
        after=reliability(probabilities, labels),
        coverages=tuple(
            _coverage(level, least, probabilities, labels, groups)
            for level, least in thresholds.items()
            if least is not None
        ),
    )


def probability_bins(top: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bin of each probability, (i / 15, (i + 1) / 15]."""
    return np.asarray(np.clip(np.ceil(top * BINS).astype(np.int64) - 1, 0, BINS - 1))


def reliability(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> Reliability:
    """Measure probabilities (N, K) with labels (N,), N > 0."""
    rows = np.arange(len(labels))
    top = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    gaps = np.bincount(probability_bins(top), weights=right - top, minlength=BINS)
    true = np.maximum(probabilities[rows, labels].astype(np.float64), np.finfo(np.float32).tiny)
    return Reliability(calibration_error=float(np.abs(gaps).sum() / len(labels)), log_loss=float(-np.log(true).mean()))


def label_sets(probabilities: NDArray[Any], least: float) -> NDArray[np.bool_]:
    """Return (N, K) the labels in the set of each window, as `mmkd_edge.predict.confidence.label_set` does."""
    sets = probabilities.astype(np.float64) >= least
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True  # never empty
    return sets


def share_interval(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a fraction of independent trials (E. B. Wilson, JASA 22, 1927).

    Example:
        >>> low, high = share_interval(95, 100)
        >>> round(low, 3), round(high, 3)
        (0.888, 0.978)
    """
    share, square = count / of, _Z_95 * _Z_95
    middle = (share + square / (2 * of)) / (1 + square / of)
    reach = _Z_95 * np.sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def _coverage(
    error_level: float,
    least: float,
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: NDArray[Any] | None,
) -> LabelSetCoverage:
    sets = label_sets(probabilities, least)
    covered, sizes = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
    single = sizes == 1
    low, high = share_interval(int(covered.sum()), len(labels))
    return LabelSetCoverage(
        error_level=error_level,
        least_probability=least,
        covered=int(covered.sum()),
        coverage=float(covered.mean()),
        low=low,
        high=high,
        mean_set_size=float(sizes.mean()),
        single_share=float(single.mean()),
        single_accuracy=float(covered[single].mean()) if single.any() else None,
        by_group={}
        if groups is None
        else {str(one): float(covered[groups == one].mean()) for one in np.unique(groups)},
    )
