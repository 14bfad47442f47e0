"""Calibration of a classifier's probabilities and label sets, on windows that did not calibrate them."""

from __future__ import annotations

import msgspec


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """How well probabilities agree with the labels.

    Attributes:
        calibration_error: expected calibration error (ECE): the mean distance between the probability of the answer
            and the fraction of right answers, over 15 bins of equal width, weighted by their windows; 0 to 1. Few
            windows make it larger than it is.
        log_loss: mean of -ln of the probability of the true label, in nats.
    """

    calibration_error: float
    log_loss: float


class LabelSetCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """Label sets at one error level.

    Attributes:
        least_probability: a label with at least this probability is in the set.
        covered: windows whose set has the true label; `coverage` is their fraction.
        low: lower end of the 95 % interval of the coverage, for independent windows; `high` is the upper end.
        mean_set_size: labels in a set, on average.
        single_share: fraction of windows whose set has one label: on the others the predictor abstains.
        single_accuracy: fraction of these whose label is right; None if there are none.
        by_group: coverage of each group of the windows.
    """

    error_level: float
    least_probability: float
    covered: int
    coverage: float
    low: float
    high: float
    mean_set_size: float
    single_share: float
    single_accuracy: float | None
    by_group: dict[str, float] = {}


class ConfidenceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Calibration of an artifact's confidence.

    Attributes:
        temperature: divides the logits in the graph.
        calibrated_by: how many windows calibrated it.
        windows: how many labelled windows measured it.
        before: of the softmax of the logits as they are.
        after: of the artifact's probabilities.
        coverages: at the error levels that the calibration windows support, rising.
    """

    temperature: float
    calibrated_by: int
    windows: int
    before: Reliability
    after: Reliability
    coverages: tuple[LabelSetCoverage, ...]
