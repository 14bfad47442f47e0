"""Calibration of probabilities and label sets, on windows that did not calibrate them."""

from __future__ import annotations

import msgspec


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """Agreement of probabilities with labels.

    The expected calibration error (ECE) is the mean distance between probability and accuracy, over 15 bins of equal
    width, weighted by windows. Few windows inflate it.
    """

    calibration_error: float
    log_loss: float  # mean of -ln of the probability of the true label, in nats


class LabelSetCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """Label sets at one error level."""

    error_level: float
    least_probability: float  # smallest probability in the set
    covered: int  # windows whose set has the true label; `coverage` is their fraction
    coverage: float
    low: float  # lower end of the 95 % interval, for independent windows
    high: float
    mean_set_size: float  # labels in a set, on average
    single_fraction: float  # windows with one label; on others the predictor abstains
    single_accuracy: float | None  # fraction of these whose label is right; None without any
    by_group: dict[str, float] = {}  # coverage of each group of the windows


class ConfidenceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Calibration of an artifact."""

    temperature: float  # divides the logits in the graph
    calibrated_by: int  # how many windows calibrated it
    windows: int  # labelled windows that measured it
    before: Reliability  # plain softmax of the logits
    after: Reliability  # the artifact's probabilities
    coverages: tuple[LabelSetCoverage, ...]  # at supported error levels, rising
