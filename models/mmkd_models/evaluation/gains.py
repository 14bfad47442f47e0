"""Figures over seeds, gains with bootstrap intervals over groups, chance, and labels that leak through time.

Chance is the best constant answer of a fold (most frequent class or label set, median or mean) or a uniform guess of
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.demo import Gain
from mmkd_documents.figures import Chance, Interval, LabelLeak, Split, SplitBy, Spread
from mmkd_documents.study import SeedGain
from mmkd_models.data.labels import Labels, is_labelled
from mmkd_models.data.windows import CutWindows, Windows
from mmkd_models.evaluation.outcome import TestedNetwork, drawn_figures, outcome_by_group, outcome_on
from mmkd_models.metrics.likelihood import logits_of_probabilities
from mmkd_models.metrics.scores import NO_ORDER, measure_named, metric_of_confusions

DRAWS = 2000
_DRAWS_OF_FOLDS = 4000
MIN_GROUPS = 5
"""With fewer a bootstrap over groups has too few different draws."""
_NOUNS: dict[SplitBy, str] = {"groups": "groups", "own folds": "blocks", "own split": "blocks"}
ROUNDING = 1e-9
"""A smaller fraction of a figure is a rounding error."""
_MAX_PARTS = 200  # resampled blocks if groups are few
_SURE = 9.0  # the logit of a label that a guess turns on
FAR = 0.2
"""Labels that are interpolated in time leak if they remove this fraction of the error of chance."""


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
    return _mean_over_seeds(_draw(tests, metric, seed=seed, draws=draws))


def gain_draws(
    models: Sequence[TestedNetwork],
    references: Sequence[TestedNetwork],
    metric: str,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> NDArray[np.float64]:
    """Return the gain under `figure_draws`, in the metric's `gain_unit`."""
    more = _draw(models, metric, seed=seed, draws=draws) - _draw(references, metric, seed=seed, draws=draws)
    return measure_named(metric).gain_scale * _mean_over_seeds(more)


def _draw(tests: Sequence[TestedNetwork], metric: str, *, seed: int, draws: int) -> NDArray[np.float64]:
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


def interval_over_groups(
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]], count: int, *, seed: int, draws: int
) -> Interval:
    """Return a figure (D,) of weights (D, G) of `count` groups, with its interval; none below `MIN_GROUPS` groups."""
    mean = float(figure(np.ones((1, count)))[0])
    if count < MIN_GROUPS:
        return Interval(mean=mean)
    weights = draw_groups(count, np.random.default_rng(seed), draws).astype(np.float64)
    low, high = interval_of(figure(weights))
    return Interval(mean=mean, low=low, high=high)


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


def gain_on_windows(models: TestedNetwork, references: TestedNetwork, metric: str, *, seed: int) -> Interval:
    """Return the gain on the same windows."""
    (points,) = gain_per_seed([models], [references], metric)
    low, high = _interval([models], [references], metric, seed=seed)
    return Interval(mean=points, low=low, high=high)


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


def compare_with_chance(tests: Sequence[TestedNetwork], metric: str, *, seed: int = 0) -> Chance:
    """Return chance's score by seed, and whether the model beats it; few groups are resampled with their windows."""
    figure = float(np.mean([guessed_figure(outcome, metric) for outcome in tests]))
    ends = [interval_of(figure_draws(tests, metric, seed=seed))]
    if len(groups_tested(tests)) < MIN_GROUPS:
        drawn = [_draw_by_windows(outcome, metric, seed) for outcome in tests]
        ends.append(interval_of(np.nanmean(drawn, axis=0)))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    more = figure - high if measure_named(metric).lower_is_better else low - figure
    is_better = more > ROUNDING * abs(figure)
    return Chance(figure=figure, low=low, high=high, is_better=is_better)


def guessed_figure(outcome: TestedNetwork, metric: str) -> float:
    """Return the best figure of a constant or random answer."""
    if outcome.class_scores is not None:
        windows = np.array(outcome.class_scores.confusion, dtype=np.float64).sum(axis=1)[:, None]  # (K, 1)
        classes = len(windows)
        uniform = np.broadcast_to(windows / classes, (1, classes, classes))
        guesses = np.concatenate([np.eye(classes)[:, None, :] * windows, uniform])
        return float(metric_of_confusions(guesses, metric).max())
    if metric in ("pearson", "auroc"):
        return 0.0 if metric == "pearson" else NO_ORDER  # constants have no correlation, and no order
    truth, _, group = outcome.windows
    if outcome.known_task.kind == "regression":
        guesses = np.median(truth, axis=0), truth.mean(axis=0)
    else:
        sets, counts = np.unique(truth, axis=0, return_counts=True)
        guesses = np.full(truth.shape[1], _SURE), np.where(sets[counts.argmax()] > 0, _SURE, -_SURE)
    constant = [np.broadcast_to(answer, truth.shape) for answer in guesses]
    tests = [outcome_by_group(outcome.known_task, truth, answers, group) for answers in constant]
    figures = [test.scores.metric(metric) for test in tests]
    return min(figures) if measure_named(metric).lower_is_better else max(figures)


def _draw_by_windows(outcome: TestedNetwork, metric: str, seed: int) -> NDArray[np.float64]:
    if outcome.confusions is not None:
        counts = np.sum([part.confusion for part in outcome.confusions], axis=0)
        windows = int(counts.sum())
        drawn = np.random.default_rng(seed).multinomial(windows, counts.ravel() / windows, size=DRAWS)
        return metric_of_confusions(drawn.reshape(DRAWS, *counts.shape).astype(np.float64), metric)
    truth, answers, _ = outcome.windows
    blocks = np.arange(len(truth)) * min(len(truth), _MAX_PARTS) // len(truth)
    return figure_draws([outcome_by_group(outcome.known_task, truth, answers, blocks)], metric, seed=seed)


def labels_spread_in_time(train: Windows, truth: Labels) -> TestedNetwork | None:
    """Judge labels interpolated in recordings or groups, on windows with hidden labels; None without any."""
    visible, hidden = train.labelled, is_labelled(truth) & ~train.labelled
    if not (visible.any() and hidden.any()):
        return None
    labels, task = train.labels.reshape(len(train), -1), train.spec.task
    columns = np.asarray(labels == np.arange(len(task.labels)) if task.kind == "classification" else labels, np.float64)
    answers = np.tile(columns[visible].mean(axis=0), (len(train), 1))
    owner, position = _places(train)
    for name in np.unique(owner[hidden]).tolist():
        sources, targets = visible & (owner == name), hidden & (owner == name)
        if sources.any():
            order = np.argsort(position[sources], kind="stable")
            at, values = position[sources][order], columns[sources][order]
            answers[targets] = np.stack([np.interp(position[targets], at, value) for value in values.T], axis=1)
    if train.spec.task.kind == "multi_label":
        answers = logits_of_probabilities(answers, kind="multi_label")
    return outcome_on(train.with_labels(truth).subset(hidden), answers[hidden])


def leak_of(judged: Sequence[TestedNetwork | None], metric: str) -> LabelLeak | None:
    """Return interpolated labels' scores, and whether they show a leak; None if one is unknown."""
    known = [outcome for outcome in judged if outcome is not None]
    if not known or len(known) < len(judged):
        return None
    chance = compare_with_chance(known, metric)
    figure = spread([outcome.scores.metric(metric) for outcome in known])
    best = 0.0 if measure_named(metric).lower_is_better else 1.0
    is_far = abs(best - figure.mean) <= (1 - FAR) * abs(best - chance.figure)
    return LabelLeak(figure=figure, chance=chance, leaks=chance.is_better and is_far)


def _places(train: Windows) -> tuple[NDArray[Any], NDArray[np.float64]]:
    source = train.source
    if isinstance(source, CutWindows):
        return source.recording[train.rows], source.start_s[train.rows]
    owner = train.groups if train.has_groups else np.zeros(len(train), dtype=np.int64)
    return owner, train.rows.astype(np.float64)
