"""What a classifier's probabilities and label sets are worth on windows that did not calibrate them."""

from __future__ import annotations

import msgspec


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """How well probabilities agree with what happens.

    Attributes:
        calibration_error: expected calibration error (ECE): the mean distance between the probability of the answer
            and the share of right answers, over 15 bins of equal width, weighted by their windows; 0 to 1. Few windows
            make it larger than it is.
        log_loss: mean of -ln of the probability of the true label, in nats.
    """

    calibration_error: float
    log_loss: float


class LabelSetCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """What label sets do at one error level.

    Attributes:
        error_level: that was asked for.
        least_probability: from which on a label is in the set.
        covered: windows whose set has the true label.
        coverage: their share.
        low: of the 95 % interval of this share, were the windows independent of each other.
        high: of the same interval.
        mean_set_size: labels in a set, on average.
        single_share: share of windows whose set has one label: on the others the predictor abstains.
        single_accuracy: share of these whose label is right; None where there are none.
        by_group: coverage of each group of the windows; empty where groups are not known.
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
    """What an artifact's confidence is worth.

    Attributes:
        temperature: what the graph divides its logits by.
        calibrated_by: how many windows calibrated it.
        windows: how many labelled ones measured it.
        before: of the softmax of the logits as they are.
        after: of the probabilities that the artifact gives.
        coverages: at the error levels that so many calibration windows support, rising.
    """

    temperature: float
    calibrated_by: int
    windows: int
    before: Reliability
    after: Reliability
    coverages: tuple[LabelSetCoverage, ...]
