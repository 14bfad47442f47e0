"""Choices by validation: between candidates, and how far unequal class frequencies are corrected.

Few windows separate candidates by likelihood, not by score. Logits favour frequent classes; z' = z - tau log pi
corrects that (Menon et al., ICLR 2021, section 4.1, post-hoc).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskSpec
from mmkd_models.data.labels import Labels
from mmkd_models.data.windows import Groups, Windows
from mmkd_models.metrics.likelihood import fitted_temperature, jackknife_error, log_likelihood, significantly_likelier
from mmkd_models.metrics.scores import AnyMetric, scores_from_answers, scores_from_logits

_TAUS = (0.5, 1.0)

MIN_GROUPS = 3

NATS, _TO_EQUAL = 0.2, 0.8
"""What a nat of log-likelihood counts beside the score, and a squared distance of 1 from equal weights in one group
(decision 035)."""


@dataclass(frozen=True, kw_only=True)
class ValidationScore:
    """A candidate's result on labelled validation windows."""

    score: float
    standard_error: float  # of the score, if windows are independent
    likelihoods: NDArray[np.float64]  # (answers,) logarithms, of calibrated answers, in nats

    @property
    def log_likelihood(self) -> float:
        """Mean over the answers."""
        return float(self.likelihoods.mean())


def validation_score(
    logits: NDArray[np.floating[Any]], labels: Labels, task: TaskSpec, *, metric: str
) -> ValidationScore:
    """Score answers (N, K)."""
    scores = scores_from_logits(labels, logits, task)
    values = logits.astype(np.float64)
    temperature = fitted_temperature(values, labels, kind=task.kind)
    return ValidationScore(
        score=scores.metric(metric),
        standard_error=scores.standard_error(metric),
        likelihoods=log_likelihood(values / temperature, labels, kind=task.kind),
    )


def preferred(scores: Sequence[ValidationScore]) -> int:
    """Return the number of the likeliest candidate within a standard error of the best score."""
    best = max(scores, key=lambda score: score.score)
    near = [number for number, score in enumerate(scores) if score.score >= best.score - best.standard_error]
    return max(near, key=lambda number: scores[number].log_likelihood)


def best_validated(
    pools: Sequence[NDArray[np.floating[Any]]],
    unevenness: Sequence[float],
    labels: Labels,
    groups: Groups,
    task: TaskSpec,
    *,
    metric: AnyMetric,
) -> int:
    """Return the number of the first answers (N, K) with the best score and likelihood, on windows that none learnt.

    The fewer groups judge, the more weights are drawn to equal ones by their squared distance from these.
    """
    scores = [scores_from_logits(labels, pool, task).metric(metric) for pool in pools]
    likelihoods = [log_likelihood(pool, labels, kind=task.kind).mean() for pool in pools]
    pull = _TO_EQUAL / len(np.unique(groups)) * np.asarray(unevenness)
    return int(np.argmax(scores + NATS * np.asarray(likelihoods) - pull))


def labels_win(taught: ValidationScore, baseline: ValidationScore, groups: NDArray[Any]) -> bool:
    """Return whether the baseline is preferred, and significantly likelier over three groups (N,) or more."""
    is_judged = len(np.unique(groups)) >= MIN_GROUPS  # two have one degree of freedom
    is_likelier = is_judged and significantly_likelier(baseline.likelihoods, taught.likelihoods, groups)
    return is_likelier and preferred([taught, baseline]) == 1


def clear_gain(gain: Callable[[NDArray[np.bool_]], float], groups: Groups) -> float | None:
    """Return the gain on all rows (N,) if it exceeds its jackknife error over groups, else None.

    Efron and Stein, Annals of Statistics 9, 1981.
    """
    total = gain(np.ones(len(groups), dtype=np.bool_))
    is_clear = total > 0 and total > jackknife_error(gain, groups, fewest_groups=MIN_GROUPS)
    return total if is_clear else None


def is_ahead(
    answers: NDArray[np.floating[Any]],
    references: NDArray[np.floating[Any]],
    labels: Labels,
    groups: Groups,
    task: TaskSpec,
    *,
    metric: str,
) -> bool:
    """Return whether answers (N, K) score more than a standard error over groups better than the references."""

    def gain(rows: NDArray[np.bool_]) -> float:
        after, before = (scores_from_logits(labels[rows], each[rows], task) for each in (answers, references))
        return after.metric(metric) - before.metric(metric)

    return clear_gain(gain, groups) is not None


def prior_bias(
    logits: NDArray[np.floating], labels: Labels, known: Windows, *, metric: AnyMetric
) -> NDArray[np.float64] | None:
    """Return the correction (K,) of uncalibrated validation answers (N, K); None if none helps."""
    task = known.spec.task
    if task.kind != "classification":
        return None
    temperature = fitted_temperature(logits, known.labels, kind=task.kind)
    prior = log_prior(labels, len(task.labels))
    tau = choose_tau(logits / temperature, known.labels, known.groups, prior=prior, metric=metric)
    return -tau * temperature * prior if tau else None


def log_prior(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Return log pi (K,) of labels >= 0; a class without any counts as half a window."""
    counts = np.bincount(labels[labels >= 0], minlength=classes).astype(np.float64)
    counts = np.maximum(counts, 0.5)
    return np.asarray(np.log(counts / counts.sum()))


def choose_tau(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: Groups,
    *,
    prior: NDArray[np.float64],
    metric: AnyMetric,
) -> float:
    """Return the tau that validates best, or 0 if none improves by more than a standard error over groups.

    Validation logits are (N, K); the prior is log pi (K,).
    """
    if metric == "accuracy":
        return 0.0
    classes = logits.shape[1]
    plain = logits.argmax(1)
    best, best_gain = 0.0, 0.0
    for tau in _TAUS:
        adjusted_answers = (logits - tau * prior).argmax(1)

        def gain(rows: NDArray[np.bool_], answers: NDArray[np.int64] = adjusted_answers) -> float:
            scores = (scores_from_answers(labels[rows], each[rows], classes) for each in (answers, plain))
            after, before = (score.metric(metric) for score in scores)
            return after - before

        total = clear_gain(gain, groups)
        if total is not None and total > best_gain:
            best, best_gain = tau, total
    return best
