"""Figures over seeds, and gains with bootstrap intervals over groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_models.evaluation.outcome import TestedNetwork, drawn_figures
from mmkd_models.metrics.scores import measure_named
from mmkd_report.schema.demo import Gain
from mmkd_report.schema.evaluation import WindowGain
from mmkd_report.schema.figures import Split, SplitBy, Spread
from mmkd_report.schema.study import SeedGain

DRAWS = 2000
_DRAWS_OF_FOLDS = 4000
MIN_GROUPS = 5
"""Below it a bootstrap over groups has so few different draws that its interval is too narrow to mean anything."""
_NOUNS: dict[SplitBy, str] = {"groups": "groups", "own folds": "blocks", "own split": "blocks"}
ROUNDING = 1e-9
"""A smaller fraction of a figure is a rounding error: sums in another order differ by less."""


def gain_per_seed(
    models: Sequence[TestedNetwork], references: Sequence[TestedNetwork], metric: str
) -> tuple[float, ...]:
    """Return the gain on each seed, in the metric's `gain_unit`."""
    scale = measure_named(metric).gain_scale
    return tuple(
        scale * (model.scores.metric(metric) - reference.scores.metric(metric))
        for model, reference in zip(models, references, strict=True)
    )


def figure_draws(
    tests: Sequence[TestedNetwork], metric: str, *, seed: int = 0, draws: int = DRAWS
) -> NDArray[np.float64]:
    """Return a figure's mean over seeds under draws of groups, (draws,); NaN for a draw without windows.

    Percentile bootstrap (Efron and Tibshirani, 1993, chapters 8 and 13). Without groups it draws recordings, or blocks
    of windows (`block_length`).
    """
    return _mean_over_seeds(_drawn(tests, metric, seed=seed, draws=draws))


def gain_draws(
    models: Sequence[TestedNetwork],
    references: Sequence[TestedNetwork],
    metric: str,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> NDArray[np.float64]:
    """Return the gain under `figure_draws`, in the metric's `gain_unit`."""
    more = _drawn(models, metric, seed=seed, draws=draws) - _drawn(references, metric, seed=seed, draws=draws)
    return measure_named(metric).gain_scale * _mean_over_seeds(more)


def _drawn(tests: Sequence[TestedNetwork], metric: str, *, seed: int, draws: int) -> NDArray[np.float64]:
    groups = groups_tested(tests)
    weights = draw_groups(len(groups), np.random.default_rng(seed), draws)
    return np.stack([drawn_figures(outcome, groups, weights, metric) for outcome in tests])


def draw_groups(count: int, rng: np.random.Generator, draws: int) -> NDArray[np.int64]:
    """Return group counts in draws with replacement, (draws, count)."""
    return np.asarray(rng.multinomial(count, np.full(count, 1 / count), size=draws))


def _mean_over_seeds(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(drawn)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, drawn, 0.0).sum(axis=0) / known.sum(axis=0))


def interval_of(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile interval of draws (D,)."""
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def gain_of_pairs(
    pairs: Sequence[tuple[Sequence[TestedNetwork], Sequence[TestedNetwork]]], metric: str, *, seed: int = 0
) -> Gain:
    """Return the mean gain over pairs and seeds; no interval below `MIN_GROUPS` groups."""
    gains = [gain_per_seed(models, references, metric) for models, references in pairs]
    if len(groups_tested(outcome for models, _ in pairs for outcome in models)) < MIN_GROUPS:
        return Gain(mean=float(np.mean(gains)))
    drawn = [gain_draws(models, references, metric, seed=seed, draws=_DRAWS_OF_FOLDS) for models, references in pairs]
    low, high = interval_of(np.mean(drawn, axis=0))
    return Gain(mean=float(np.mean(gains)), low=low, high=high)


def gain_over_seeds(
    models: Sequence[TestedNetwork], references: Sequence[TestedNetwork], metric: str, *, seed: int = 0
) -> SeedGain:
    """Return the gain over the same seeds; no interval below `MIN_GROUPS` groups."""
    low, high = _interval(models, references, metric, seed=seed)
    return SeedGain(**msgspec.structs.asdict(spread(gain_per_seed(models, references, metric))), low=low, high=high)


def gain_on_windows(models: TestedNetwork, references: TestedNetwork, metric: str, *, seed: int) -> WindowGain:
    """Return the gain on the same windows."""
    (points,) = gain_per_seed([models], [references], metric)
    low, high = _interval([models], [references], metric, seed=seed)
    return WindowGain(points=points, low=low, high=high)


def _interval(
    models: Sequence[TestedNetwork], references: Sequence[TestedNetwork], metric: str, *, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    if len(groups_tested(models)) < MIN_GROUPS:
        return None, None
    return interval_of(gain_draws(models, references, metric, seed=seed))


def groups_tested(tests: Iterable[TestedNetwork]) -> list[int | str]:
    """Return the test groups of all seeds."""
    return sorted({part.group for outcome in tests for part in outcome.by_group})


def interval_needs(split: Split) -> str:
    """Return why there is no interval."""
    return f"an interval needs {MIN_GROUPS} {_NOUNS[split.by]} or more"


def gap_recovered(
    students: Sequence[TestedNetwork],
    baselines: Sequence[TestedNetwork],
    teachers: Sequence[TestedNetwork],
    metric: str,
) -> float | None:
    """Return the student's fraction of the teacher's gain; None if the latter is not significant."""
    low, _ = _interval(teachers, baselines, metric)
    scale = abs(measure_named(metric).gain_scale * np.mean([outcome.scores.metric(metric) for outcome in baselines]))
    if low is None or low <= ROUNDING * scale:
        return None
    gain, whole = (np.mean(gain_per_seed(models, baselines, metric)) for models in (students, teachers))
    return float(gain / whole)


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation over seeds."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(mean=float(np.mean(values)), std=std, per_seed=tuple(values))
