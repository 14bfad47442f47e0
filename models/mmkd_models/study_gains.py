"""Figures of a study: paired gains over seeds with their interval, and the effect of each factor.

Computes; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_models.evaluate.metrics import Metric
from mmkd_models.study_folder import Judged

DRAWS = 2000


class PairedGain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A difference in percentage points: mean and sample standard deviation over seeds, 95 % interval, every seed."""

    mean: float
    std: float | None
    low: float
    high: float
    per_seed: tuple[float, ...]


class Effect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one value of a factor does to the validation score, all other factors the same.

    Attributes:
        factor: method, level, teacher, student or learning_rate.
        value: as text.
        points: percentage points above the mean of the factor's values, weighted by their trials.
        trials: how many finished trials have this value.
        per_seed: the same from the trials of each seed alone; None where that seed does not tell.
    """

    factor: str
    value: str
    points: float
    trials: int
    per_seed: tuple[float | None, ...]


def paired_gain(ours: Sequence[Judged], theirs: Sequence[Judged], metric: Metric, *, seed: int = 0) -> PairedGain:
    """Gives how much better one network is than another on the test windows of the same seeds.

    The mean is over seeds of (ours - theirs). The interval resamples whole groups (people, machines, sessions) with
    replacement, the same draw for all seeds and both networks: a percentile bootstrap over clusters (Efron and
    Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13). A draw without any group of a seed's test
    leaves that seed out.

    Args:
        ours: one result per seed.
        theirs: of the same seeds, in the same order.
        metric: what is compared.
        seed: of the draws.
    """
    per_seed = tuple(
        100 * (our.scores.metric(metric) - their.scores.metric(metric)) for our, their in zip(ours, theirs, strict=True)
    )
    drawn = gain_draws(ours, theirs, metric, seed=seed)
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
    return PairedGain(
        mean=float(np.mean(per_seed)),
        std=float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None,
        low=float(low),
        high=float(high),
        per_seed=per_seed,
    )


def gain_draws(
    ours: Sequence[Judged], theirs: Sequence[Judged], metric: Metric, *, seed: int = 0
) -> NDArray[np.float64]:
    """Gives the gain under each draw of groups in points, (draws,); NaN where a draw has no window of any seed.

    Arguments as `paired_gain`. With as many groups the same seed draws the same groups.
    """
    groups = sorted({one.group for result in ours for one in result.by_group})
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=DRAWS)  # (draws, groups)
    drawn = np.stack(
        [
            _drawn(our, groups, weights, metric) - _drawn(their, groups, weights, metric)
            for our, their in zip(ours, theirs, strict=True)
        ]
    )  # (seeds, draws)
    known = ~np.isnan(drawn)
    with np.errstate(invalid="ignore"):
        return np.asarray(100 * np.where(known, drawn, 0.0).sum(axis=0) / known.sum(axis=0))


def _drawn(result: Judged, groups: Sequence[int], weights: NDArray[np.int64], metric: Metric) -> NDArray[np.float64]:
    """The metric of a network under each draw of groups, (draws,); NaN where a draw has none of its windows."""
    classes = len(result.scores.confusion)
    confusion = np.zeros((len(groups), classes, classes))
    for one in result.by_group:
        confusion[groups.index(one.group)] = one.confusion
    return metric_of_confusions(np.tensordot(weights, confusion, axes=1), metric)


def metric_of_confusions(confusions: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Gives the metric of each confusion matrix, as `scores_from_answers` does for one.

    Args:
        confusions: (N, K, K), rows are the truth.
        metric: which.

    Returns:
        (N,); NaN where a matrix is empty.
    """
    right = np.diagonal(confusions, axis1=1, axis2=2)  # (N, K)
    truth, answers = confusions.sum(2), confusions.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        match metric:
            case "accuracy":
                return np.asarray(right.sum(1) / truth.sum(1))
            case "balanced_accuracy":
                return _mean_where(right / truth, truth > 0)
            case "macro_f1":
                return _mean_where(2 * right / (truth + answers), truth + answers > 0)


def _mean_where(values: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(np.where(there, values, 0.0).sum(1) / there.sum(1))


Factors = Mapping[str, str]


def effects(trials: Sequence[tuple[Factors, int, float]]) -> tuple[Effect, ...]:
    """Gives the effect of each value of each factor that has more than one, by least squares on their sum.

    The model is score = seed + sum over factors of the value's effect, without interactions: where a search tried some
    combinations more often than others, plain means would mix the factors up.

    Args:
        trials: finished ones: value by factor, seed, validation score as a fraction.
    """
    seeds = sorted({seed for _, seed, _ in trials})
    everything = _effects(trials)
    alone = {seed: _effects([trial for trial in trials if trial[1] == seed]) for seed in seeds}
    return tuple(
        Effect(
            factor=factor,
            value=value,
            points=points,
            trials=sum(values.get(factor) == value for values, _, _ in trials),
            per_seed=tuple(alone[seed].get((factor, value)) for seed in seeds),
        )
        for (factor, value), points in everything.items()
    )


def _effects(trials: Sequence[tuple[Factors, int, float]]) -> dict[tuple[str, str], float]:
    """Points of each value of each factor with two values or more in these trials."""
    values: dict[str, list[str]] = {}
    for factors, _, _ in trials:
        for factor, value in factors.items():
            if value not in values.setdefault(factor, []):
                values[factor].append(value)
    columns = [(factor, value) for factor, found in values.items() if len(found) > 1 for value in sorted(found)]
    if not columns:
        return {}
    seeds = sorted({seed for _, seed, _ in trials})
    is_seed = np.array([[float(seed == other) for other in seeds] for _, seed, _ in trials])  # (trials, seeds)
    has = np.array([[float(factor in factors) for factor, _ in columns] for factors, _, _ in trials])
    is_value = np.array(
        [[float(factors.get(factor) == value) for factor, value in columns] for factors, _, _ in trials]
    )
    # Each value against the mean of its factor's values, 0 where a trial lacks the factor: labels alone have no teacher
    # and no level, and that they have none is the method's effect.
    shares = is_value.sum(0) / has.sum(0)
    design = np.concatenate([is_seed, is_value - has * shares], axis=1)
    target = np.array([score for _, _, score in trials])
    solution = np.linalg.lstsq(design, target, rcond=None)[0][len(seeds) :]
    middle = {
        factor: sum(shares[row] * solution[row] for row, (other, _) in enumerate(columns) if other == factor)
        for factor, _ in columns
    }
    return {column: 100 * float(solution[row] - middle[column[0]]) for row, column in enumerate(columns)}
