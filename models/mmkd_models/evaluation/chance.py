"""Whether a model is better than chance.

Chance is the best constant answer of a fold (most frequent class or label set, median or mean) or a uniform guess of
classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_models.evaluation.gains import DRAWS, MIN_GROUPS, ROUNDING, figure_draws, groups_tested, interval_of
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_by_group
from mmkd_models.metrics.scores import measure_named, metric_of_confusions
from mmkd_report.schema.figures import Chance

_MAX_PARTS = 200  # resampled blocks if groups are few
_SURE = 9.0  # the logit of a label that a guess turns on


def compare_with_chance(tests: Sequence[TestedNetwork], metric: str, *, seed: int = 0) -> Chance:
    """Return chance's test score on each seed, and whether the model is better.

    Below `MIN_GROUPS` groups the interval also covers resampled windows.
    """
    figure = float(np.mean([guessed_figure(outcome, metric) for outcome in tests]))
    ends = [interval_of(figure_draws(tests, metric, seed=seed))]
    if len(groups_tested(tests)) < MIN_GROUPS:
        drawn = [_drawn_by_windows(outcome, metric, seed) for outcome in tests]
        ends.append(interval_of(np.nanmean(drawn, axis=0)))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    more = figure - high if measure_named(metric).lower_is_better else low - figure
    is_better = more > ROUNDING * abs(figure)
    return Chance(figure=figure, low=low, high=high, is_better=is_better)


def guessed_figure(outcome: TestedNetwork, metric: str) -> float:
    """Return the best figure of a constant or random answer."""
    if outcome.class_scores is not msgspec.UNSET:
        return float(metric_of_confusions(_guessed_confusions(outcome.class_scores.confusion), metric).max())
    if metric == "pearson":
        return 0.0  # constants have no correlation
    truth, _, group = outcome.windows
    constant = [np.broadcast_to(answer, truth.shape) for answer in _guesses(outcome)]
    tests = [outcome_by_group(outcome.known_task, truth, answers, group) for answers in constant]
    figures = [test.scores.metric(metric) for test in tests]
    return min(figures) if measure_named(metric).lower_is_better else max(figures)


def _guessed_confusions(confusion: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    truth: NDArray[np.float64] = np.array(confusion, dtype=np.float64).sum(axis=1)
    classes = len(truth)
    constant = np.eye(classes)[:, None, :] * truth[:, None]
    return np.concatenate([constant, np.broadcast_to(truth[:, None] / classes, (1, classes, classes))])


def _guesses(outcome: TestedNetwork) -> Iterator[NDArray[np.float64]]:
    truth, _, _ = outcome.windows
    if outcome.known_task.kind == "regression":
        yield from (np.median(truth, axis=0), truth.mean(axis=0))
        return
    sets, counts = np.unique(truth, axis=0, return_counts=True)
    yield np.full(truth.shape[1], _SURE)
    yield np.where(sets[counts.argmax()] > 0, _SURE, -_SURE)


def _drawn_by_windows(outcome: TestedNetwork, metric: str, seed: int) -> NDArray[np.float64]:
    if outcome.confusions is not msgspec.UNSET:
        counts = np.sum([part.confusion for part in outcome.confusions], axis=0)
        windows = int(counts.sum())
        drawn = np.random.default_rng(seed).multinomial(windows, counts.ravel() / windows, size=DRAWS)
        return metric_of_confusions(drawn.reshape(DRAWS, *counts.shape).astype(np.float64), metric)
    truth, answers, _ = outcome.windows
    blocks = np.arange(len(truth)) * min(len(truth), _MAX_PARTS) // len(truth)
    return figure_draws([outcome_by_group(outcome.known_task, truth, answers, blocks)], metric, seed=seed)
