"""Labels interpolated in time, a rival without a sensor that shows leaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_models.data.labels import Labels, is_labelled
from mmkd_models.data.windows import CutWindows, Windows
from mmkd_models.evaluation.chance import compare_with_chance
from mmkd_models.evaluation.gains import spread
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.metrics.likelihood import logits_of_probabilities
from mmkd_models.metrics.scores import measure_named
from mmkd_report.schema.figures import LabelLeak

FAR = 0.2
"""Labels that are interpolated in time leak if they remove this fraction of the error of chance."""


def labels_spread_in_time(train: Windows, truth: Labels) -> TestedNetwork | None:
    """Judge interpolated labels on training windows with hidden labels; None without any.

    Interpolates in recordings, else groups; without labels it takes the overall mean.
    """
    visible, hidden = train.labelled, is_labelled(truth) & ~train.labelled
    if not (visible.any() and hidden.any()):
        return None
    columns = _columns(train)  # (N, K)
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


def _columns(train: Windows) -> NDArray[np.float64]:
    if train.spec.task.kind == "classification":
        return np.asarray(train.labels[:, None] == np.arange(len(train.spec.task.labels)), dtype=np.float64)
    return train.labels.reshape(len(train), -1).astype(np.float64)


def _places(train: Windows) -> tuple[NDArray[Any], NDArray[np.float64]]:
    source = train.source
    if isinstance(source, CutWindows):
        return source.recording[train.rows], source.start_s[train.rows]
    owner = train.groups if train.has_groups else np.zeros(len(train), dtype=np.int64)
    return owner, train.rows.astype(np.float64)
