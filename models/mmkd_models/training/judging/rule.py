"""The rule by which validation chooses: scores of few windows cannot tell near ones apart, likelihoods can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskSpec
from mmkd_models.data.labels import Labels
from mmkd_models.metrics.likelihood import fitted_temperature, log_likelihood, surely_likelier
from mmkd_models.metrics.scores import scores_from_logits


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What validation says of one way to answer.

    Attributes:
        score: of the metric.
        standard_error: of the score, windows taken as independent.
        likelihoods: (answers,) logarithms, of calibrated answers, in nats.
    """

    score: float
    standard_error: float
    likelihoods: NDArray[np.float64]

    @property
    def log_likelihood(self) -> float:
        """Gives the mean."""
        return float(self.likelihoods.mean())


def standing_of(logits: NDArray[np.floating[Any]], labels: Labels, task: TaskSpec, *, metric: str) -> Standing:
    """Judges answers (N, K) to the labelled windows of validation."""
    scores = scores_from_logits(labels, logits, task)
    values = logits.astype(np.float64)
    heat = fitted_temperature(values, labels, kind=task.kind)
    return Standing(
        score=scores.metric(metric),
        standard_error=scores.standard_error(metric),
        likelihoods=log_likelihood(values / heat, labels, kind=task.kind),
    )


def preferred(standings: Sequence[Standing]) -> int:
    """Gives the number of the likeliest of those whose score is within a standard error of the best one's."""
    best = max(standings, key=lambda one: one.score)
    near = [number for number, one in enumerate(standings) if one.score >= best.score - best.standard_error]
    return max(near, key=lambda number: standings[number].log_likelihood)


def labels_win(taught: Standing, alone: Standing, groups: NDArray[Any]) -> bool:
    """Whether a student of labels alone is preferred to a taught one, and surely likelier over the groups (N,).

    Few groups easily favour what is worse on new ones, and teaching rarely hurts.
    """
    return preferred([taught, alone]) == 1 and surely_likelier(alone.likelihoods, taught.likelihoods, groups)
