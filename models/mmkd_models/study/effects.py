"""What each value of each factor of a study does to the validation score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmkd_models.metrics.measures import measure_named
from mmkd_report.schema.study import Effect


@dataclass(frozen=True, kw_only=True)
class FactorScore:
    """A finished trial: the value of each of its factors, its seed and its score on validation."""

    factors: Mapping[str, str]
    seed: int
    score: float


def effects(trials: Sequence[FactorScore], metric: str = "accuracy") -> tuple[Effect, ...]:
    """Gives the effect of each value of each factor that has more than one, by least squares on their sum.

    The model is score = seed + sum over factors of the value's effect, without interactions: where a search tried some
    combinations more often than others, plain means would mix the factors up.
    """
    seeds, scale = sorted({trial.seed for trial in trials}), measure_named(metric).gain_scale
    everything = _effects(trials, scale)
    alone = {seed: _effects([trial for trial in trials if trial.seed == seed], scale) for seed in seeds}
    return tuple(
        Effect(
            factor=factor,
            value=value,
            points=points,
            trials=sum(trial.factors.get(factor) == value for trial in trials),
            per_seed=tuple(alone[seed].get((factor, value)) for seed in seeds),
        )
        for (factor, value), points in everything.items()
    )


def _effects(trials: Sequence[FactorScore], scale: float) -> dict[tuple[str, str], float]:
    """The effect, times the scale, of each value of each factor with two values or more in these trials."""
    values: dict[str, list[str]] = {}
    for trial in trials:
        for factor, value in trial.factors.items():
            if value not in values.setdefault(factor, []):
                values[factor].append(value)
    columns = [(factor, value) for factor, found in values.items() if len(found) > 1 for value in sorted(found)]
    if not columns:
        return {}
    seeds = sorted({trial.seed for trial in trials})
    is_seed = np.array([[float(trial.seed == seed) for seed in seeds] for trial in trials])  # (trials, seeds)
    has = np.array([[float(factor in trial.factors) for factor, _ in columns] for trial in trials])
    is_value = np.array([[float(trial.factors.get(factor) == value) for factor, value in columns] for trial in trials])
    # Each value against the mean of its factor's values, 0 where a trial lacks the factor: labels alone have no teacher
    # and no level, and that they have none is the method's effect.
    shares = is_value.sum(0) / has.sum(0)
    design = np.concatenate([is_seed, is_value - has * shares], axis=1)
    target = np.array([trial.score for trial in trials])
    solution = np.linalg.lstsq(design, target, rcond=None)[0][len(seeds) :]
    middle = {
        factor: sum(shares[row] * solution[row] for row, (other, _) in enumerate(columns) if other == factor)
        for factor, _ in columns
    }
    return {column: scale * float(solution[row] - middle[column[0]]) for row, column in enumerate(columns)}
