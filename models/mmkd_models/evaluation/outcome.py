"""Answers on test windows: scores, and what redrawing groups needs.

Classes are stored as counts, other tasks as answers, since average precision needs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import MmkdError
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.scores import AnyScores, Scores, scores_from_answers, scores_from_logits
from mmkd_models.metrics.weighted import weighted_f1, weighted_fraction, weighted_precision, weighted_values
from mmkd_report.schema.figures import ClassScores

FORMAT_VERSION = 1


class GroupConfusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Confusion of one group: K rows (truth) of K counts (answers)."""

    group: int | str
    confusion: tuple[tuple[int, ...], ...]


class GroupAnswers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Truth and answers of one group, a row of K per window: labels and logits, or numbers (K = 1)."""

    group: int | str
    truth: tuple[tuple[float, ...], ...]
    answers: tuple[tuple[float, ...], ...]


class TestedNetwork(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"class_scores": "scores", "confusions": "by_group"},
):
    """A model on test windows: `class_scores` and `confusions` for classification, `task` and `answers` otherwise."""

    format_version: int = FORMAT_VERSION
    class_scores: Scores | msgspec.UnsetType = msgspec.UNSET
    confusions: tuple[GroupConfusion, ...] | msgspec.UnsetType = msgspec.UNSET
    task: TaskSpec | msgspec.UnsetType = msgspec.UNSET
    answers: tuple[GroupAnswers, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def scores(self) -> AnyScores:
        """Scores on all windows."""
        if self.class_scores is not msgspec.UNSET:
            return self.class_scores
        truth, answers, _ = self.windows
        labels = truth[:, 0] if self._task.kind == "regression" else truth.astype(np.uint8)
        return scores_from_logits(labels, answers, self._task)

    @property
    def by_group(self) -> tuple[GroupConfusion, ...] | tuple[GroupAnswers, ...]:
        """Counts or answers of each group."""
        return self.confusions or self.answers or ()

    @property
    def windows(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
        """Truth (N, K), answers (N, K) and group (N,) of tasks other than classification."""
        parts = self.answers or ()
        return (
            np.concatenate([np.array(part.truth, dtype=np.float64) for part in parts]),
            np.concatenate([np.array(part.answers, dtype=np.float64) for part in parts]),
            np.repeat([part.group for part in parts], [len(part.truth) for part in parts]),
        )

    @property
    def _task(self) -> TaskSpec:
        assert self.task is not msgspec.UNSET  # there are answers where there are no counts
        return self.task


def outcome_on(test: Windows, logits: NDArray[np.floating[Any]]) -> TestedNetwork:
    """Score logits or probabilities (N, K) of labelled windows. Raise MmkdError if one is not finite."""
    task, names = test.spec.task, np.unique(test.groups)
    if not np.isfinite(logits).all():
        raise MmkdError("test windows: expected finite answers, got others; train again with a smaller learning rate")
    if task.kind != "classification":
        return TestedNetwork(task=task, answers=tuple(_group_answers(test, logits, group) for group in names.tolist()))
    answers, classes = logits.argmax(1), len(task.labels)
    return TestedNetwork(
        class_scores=scores_from_answers(test.labels, answers, classes),
        confusions=tuple(
            GroupConfusion(
                group=group, confusion=scores_from_answers(test.labels[rows], answers[rows], classes).confusion
            )
            for group in names.tolist()
            for rows in [test.groups == group]
        ),
    )


def _group_answers(test: Windows, logits: NDArray[np.floating[Any]], group: int | str) -> GroupAnswers:
    rows = test.groups == group
    truth = test.labels[rows].reshape(int(rows.sum()), -1)
    return GroupAnswers(group=group, truth=_rows(truth), answers=_rows(logits[rows]))


def _rows(array: NDArray[np.generic]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, array.tolist()))


def class_scores(outcome: TestedNetwork) -> ClassScores:
    """Return the scores that a document contains."""
    return ClassScores(**{name: outcome.scores.metric(name) for name in ClassScores.__struct_fields__})


def drawn_figures(
    outcome: TestedNetwork, groups: Sequence[int | str], weights: NDArray[np.int64], metric: str
) -> NDArray[np.float64]:
    """Return a metric (D,) with groups (G,) weighted by `weights` (D, G); NaN if a draw has no window."""
    if outcome.confusions is not msgspec.UNSET:
        classes = len(outcome.confusions[0].confusion)
        counts = np.zeros((len(groups), classes, classes))
        for one in outcome.confusions:
            counts[groups.index(one.group)] = one.confusion
        return metric_of_confusions(np.tensordot(weights, counts, axes=1), metric)
    truth, answers, group = outcome.windows
    place = {name: number for number, name in enumerate(groups)}
    owner = np.array([place[one] for one in group.tolist()])
    drawn = weights.astype(np.float64)
    task = outcome.task
    assert task is not msgspec.UNSET  # there are answers
    if task.kind == "regression":
        return weighted_values(truth[:, 0], answers[:, 0], owner, drawn)[metric]
    on, is_on = truth == 1, answers >= math.log(task.on_from / (1 - task.on_from))
    match metric:
        case "macro_f1":
            return weighted_f1(on, is_on, owner, drawn)
        case "subset_accuracy":
            return weighted_fraction((on == is_on).all(1), owner, drawn)
        case _:
            return weighted_precision(on, answers, owner, drawn)


def metric_of_confusions(confusions: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """Return the metric (N,) of confusion matrices (N, K, K), rows the truth; NaN if a matrix is empty."""
    right = np.diagonal(confusions, axis1=1, axis2=2)  # (N, K)
    truth, answers = confusions.sum(2), confusions.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        match metric:
            case "accuracy":
                return np.asarray(right.sum(1) / truth.sum(1))
            case "balanced_accuracy":
                return _mean_where(right / truth, truth > 0)
            case _:
                return _mean_where(2 * right / (truth + answers), truth + answers > 0)


def _mean_where(values: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(np.where(there, values, 0.0).sum(1) / there.sum(1))
