"""Figures of a study: paired gains over seeds with their interval, and the effect of each factor.

Computes; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from mmkd_models.evaluate.by_group import Judged
from mmkd_models.evaluate.intervals import gain_draws, gain_per_seed, interval_of
from mmkd_models.metrics.measures import measure_named


class PairedGain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one is better by: mean and sample standard deviation over seeds, 95 % interval, every seed.

    Of a share in percentage points; of other measures in their own unit.
    """

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
        points: above the mean of the factor's values, weighted by their trials: percentage points of a share, of
            another metric its own unit.
        trials: how many finished trials have this value.
        per_seed: the same from the trials of each seed alone; None where that seed does not tell.
    """

    factor: str
    value: str
    points: float
    trials: int
    per_seed: tuple[float | None, ...]


def paired_gain(ours: Sequence[Judged], theirs: Sequence[Judged], metric: str, *, seed: int = 0) -> PairedGain:
    """Gives how much better one network is than another on the test windows of the same seeds.

    The mean is over seeds of what ours are better by; the interval is of `gain_draws`, whose arguments these are.
    """
    per_seed = gain_per_seed(ours, theirs, metric)
    low, high = interval_of(gain_draws(ours, theirs, metric, seed=seed))
    return PairedGain(
        mean=float(np.mean(per_seed)),
        std=float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None,
        low=low,
        high=high,
        per_seed=per_seed,
    )


Factors = Mapping[str, str]


def effects(trials: Sequence[tuple[Factors, int, float]], metric: str = "accuracy") -> tuple[Effect, ...]:
    """Gives the effect of each value of each factor that has more than one, by least squares on their sum.

    The model is score = seed + sum over factors of the value's effect, without interactions: where a search tried some
    combinations more often than others, plain means would mix the factors up.

    Args:
        trials: finished ones: value by factor, seed, validation score.
        metric: what that score is.
    """
    seeds, scale = sorted({seed for _, seed, _ in trials}), measure_named(metric).gain_scale
    everything = _effects(trials, scale)
    alone = {seed: _effects([trial for trial in trials if trial[1] == seed], scale) for seed in seeds}
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


def _effects(trials: Sequence[tuple[Factors, int, float]], scale: float) -> dict[tuple[str, str], float]:
    """The effect, times the scale, of each value of each factor with two values or more in these trials."""
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
    return {column: scale * float(solution[row] - middle[column[0]]) for row, column in enumerate(columns)}
