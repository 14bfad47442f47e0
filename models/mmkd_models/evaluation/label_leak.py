"""Labels interpolated in time, a rival without a sensor: if it predicts hidden labels, scores on them are too good."""

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
from mmkd_models.metrics.scores import measure_named
from mmkd_report.schema.figures import LabelLeak

FAR = 0.2
"""Labels that are interpolated in time leak if they remove this fraction of the error of chance."""

_LEAST_SHARE = 1e-6  # of a label that is never on, so that its logit is finite


def labels_spread_in_time(train: Windows, truth: Labels) -> TestedNetwork | None:
    """Judge interpolated labels on the training windows whose labels are hidden; None without any.

    Interpolates in each recording, else in each group; one without a label gets the mean of all.
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
    return outcome_on(train.with_labels(truth).subset(hidden), _logits(train, answers[hidden]))


def label_leak(judged: Sequence[TestedNetwork], metric: str) -> LabelLeak:
    """Return the score of interpolated labels on each seed, and whether that is a leak."""
    beside = compare_with_chance(judged, metric)
    figure = spread([outcome.scores.metric(metric) for outcome in judged])
    best = 0.0 if measure_named(metric).lower_is_better else 1.0
    is_far = abs(best - figure.mean) <= (1 - FAR) * abs(best - beside.figure)
    return LabelLeak(figure=figure, chance=beside, leaks=beside.is_better and is_far)


def _columns(train: Windows) -> NDArray[np.float64]:
    """(N, K): 1 for the class or labels of a window, else 0; (N, 1) the number of a regression."""
    if train.spec.task.kind == "classification":
        return np.asarray(train.labels[:, None] == np.arange(len(train.spec.task.labels)), dtype=np.float64)
    return train.labels.reshape(len(train), -1).astype(np.float64)


def _places(train: Windows) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Owner of each window (N,), and its position (N,): seconds in its recording, or its row."""
    source = train.source
    if isinstance(source, CutWindows):
        return source.recording[train.rows], source.start_s[train.rows]
    owner = train.groups if train.has_groups else np.zeros(len(train), dtype=np.int64)
    return owner, train.rows.astype(np.float64)


def _logits(train: Windows, answers: NDArray[np.float64]) -> NDArray[np.float64]:
    if train.spec.task.kind != "multi_label":
        return answers  # shares of classes, of which the largest counts, or numbers
    shares = np.clip(answers, _LEAST_SHARE, 1 - _LEAST_SHARE)
    logits: NDArray[np.float64] = np.log(shares / (1 - shares))
    return logits


def leak_of(judged: Sequence[TestedNetwork | None], metric: str) -> LabelLeak | None:
    """Return the leak over all seeds; None if one is unknown."""
    known = [one for one in judged if one is not None]
    return label_leak(known, metric) if known and len(known) == len(judged) else None
