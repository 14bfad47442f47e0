"""Reliability of probabilities and coverage of label sets, on windows that did not calibrate them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_documents.judging import ConfidenceFacts, LabelSetCoverage, Reliability
from mmkd_edge.bundle.manifest import Confidence
from mmkd_edge.predict.novelty import least_probability
from mmkd_models.metrics.likelihood import probabilities_of

ERROR_LEVELS = (0.01, 0.05, 0.1, 0.2)
"""Those that reports show; an application may choose any other."""

BINS = 15  # as in Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4
_Z_95 = 1.959963984540054

HEADINGS = (
    "error level",
    "sets with the true label",
    "95 % interval",
    "labels per set",
    "sets with one label",
    "of these, right",
)

SAME_GROUPS = (
    "calibration and judging windows are of the same people, machines or sessions, and the intervals take windows as "
    "independent: new ones may be covered less; mmkd-evaluate BUNDLE DATA measures it on the test split"
)


def confidence_facts(
    confidence: Confidence,
    logits: NDArray[Any],
    probabilities: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    error_levels: Sequence[float] = ERROR_LEVELS,
) -> ConfidenceFacts | None:
    """Measure logits and probabilities (N, K) with labels (N,), -1 = unknown; None without a label."""
    known = np.flatnonzero(labels >= 0)
    if len(known) == 0:
        return None
    logits, probabilities, labels = logits[known], probabilities[known], labels[known]
    thresholds = {level: least_probability(confidence, level) for level in sorted(error_levels)}
    return ConfidenceFacts(
        temperature=confidence.temperature,
        calibrated_by=len(confidence.true_probabilities),
        windows=len(labels),
        before=reliability(probabilities_of(logits, kind="classification"), labels),
        after=reliability(probabilities, labels),
        coverages=tuple(
            _coverage(level, least, probabilities, labels) for level, least in thresholds.items() if least is not None
        ),
    )


def reliability(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> Reliability:
    """Measure probabilities (N, K) with labels (N,)."""
    rows = np.arange(len(labels))
    top = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(top * BINS).astype(np.int64) - 1, 0, BINS - 1)  # (i / 15, (i + 1) / 15]
    gaps = np.bincount(bins, weights=right - top, minlength=BINS)
    true = np.maximum(probabilities[rows, labels].astype(np.float64), np.finfo(np.float32).tiny)
    return Reliability(calibration_error=float(np.abs(gaps).sum() / len(labels)), log_loss=float(-np.log(true).mean()))


def fraction_interval(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a fraction of independent trials (E. B. Wilson, JASA 22, 1927)."""
    share, square = count / of, _Z_95 * _Z_95
    middle = (share + square / (2 * of)) / (1 + square / of)
    reach = _Z_95 * np.sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def _coverage(
    error_level: float, least: float, probabilities: NDArray[Any], labels: NDArray[np.int64]
) -> LabelSetCoverage:
    rows = np.arange(len(labels))
    sets = probabilities.astype(np.float64) >= least  # as `mmkd_edge.predict.novelty.label_set` does
    sets[rows, probabilities.argmax(axis=1)] = True  # never empty
    covered, sizes = sets[rows, labels], sets.sum(axis=1)
    single = sizes == 1
    low, high = fraction_interval(int(covered.sum()), len(labels))
    return LabelSetCoverage(
        error_level=error_level,
        least_probability=least,
        covered=int(covered.sum()),
        coverage=float(covered.mean()),
        low=low,
        high=high,
        mean_set_size=float(sizes.mean()),
        single_fraction=float(single.mean()),
        single_accuracy=float(covered[single].mean()) if single.any() else None,
    )


def coverage_cells(coverage: LabelSetCoverage) -> tuple[str, ...]:
    """Return a row under `HEADINGS`."""
    single = coverage.single_accuracy
    return (
        f"{coverage.error_level:g}",
        f"{coverage.coverage:.1%}",
        f"{coverage.low:.1%} to {coverage.high:.1%}",
        f"{coverage.mean_set_size:.2f}",
        f"{coverage.single_fraction:.1%}",
        "-" if single is None else f"{single:.1%}",
    )


def reliability_text(facts: ConfidenceFacts) -> str:
    """Describe the effect of the temperature."""
    before, after = facts.before, facts.after
    if facts.temperature == 1.0:
        return (
            f"probabilities are not corrected (softmax temperature 1); on {facts.windows} windows "
            f"the calibration error is {after.calibration_error:.3f}, the log loss {after.log_loss:.3f}"
        )
    return (
        f"temperature {facts.temperature:.2f} from {facts.calibrated_by} windows; on {facts.windows} others the "
        f"calibration error is {before.calibration_error:.3f} before and {after.calibration_error:.3f} after, the log "
        f"loss {before.log_loss:.3f} and {after.log_loss:.3f}"
    )
