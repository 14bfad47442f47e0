"""Scores and answers on test windows, to redraw groups from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import MmkdError
from mmkd_edge.spec import TaskSpec, stored
from mmkd_models.data.labels import Labels
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.scores import (
    AnyScores,
    Scores,
    metric_of_confusions,
    scores_from_answers,
    scores_from_logits,
    weighted_auroc,
    weighted_f1,
    weighted_mean,
    weighted_precision,
    weighted_values,
)

FORMAT_VERSION = 1


class GroupConfusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Confusion (K, K) of a group: rows truth, columns answers."""

    group: int | str
    confusion: tuple[tuple[int, ...], ...]


class GroupAnswers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Truth and answers of a group, K per window: labels and logits, or numbers (K = 1)."""

    group: int | str
    truth: tuple[tuple[float, ...], ...]
    answers: tuple[tuple[float, ...], ...]


class TestedNetwork(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename={"class_scores": "scores", "confusions": "by_group"},
):
    """A model on test windows: `confusions` for classification, otherwise `task` and `answers`."""

    format_version: int = stored(FORMAT_VERSION)
    class_scores: Scores | None = None
    confusions: tuple[GroupConfusion, ...] | None = None
    task: TaskSpec | None = None
    answers: tuple[GroupAnswers, ...] | None = None

    @property
    def scores(self) -> AnyScores:
        """Scores on all windows."""
        if self.class_scores is not None:
            return self.class_scores
        truth, answers, _ = self.windows
        labels = truth.astype(np.uint8) if self.known_task.kind == "multi_label" else truth[:, 0]
        return scores_from_logits(labels, answers, self.known_task)

    @property
    def by_group(self) -> tuple[GroupConfusion, ...] | tuple[GroupAnswers, ...]:
        """Counts or answers of each group."""
        return self.confusions or self.answers or ()

    @property
    def windows(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
        """Truth (N, K), answers (N, K) and group (N,), not for classification."""
        parts = self.answers or ()
        return (
            np.concatenate([np.array(part.truth, dtype=np.float64) for part in parts]),
            np.concatenate([np.array(part.answers, dtype=np.float64) for part in parts]),
            np.repeat([part.group for part in parts], [len(part.truth) for part in parts]),
        )

    @property
    def known_task(self) -> TaskSpec:
        """The task, other than classification."""
        assert self.task is not None
        return self.task


def outcome_on(test: Windows, logits: NDArray[np.floating[Any]]) -> TestedNetwork:
    """Score logits or probabilities (N, K). Raise MmkdError if one is not finite."""
    if not np.isfinite(logits).all():
        raise MmkdError("test windows: expected finite answers, got others; train again with a smaller learning rate")
    return outcome_of(test.spec.task, test.labels, logits, test.groups)


def outcome_of(
    task: TaskSpec, labels: Labels, logits: NDArray[np.floating[Any]], groups: NDArray[Any]
) -> TestedNetwork:
    """Score finite logits or probabilities (N, K)."""
    if task.kind != "classification":
        return outcome_by_group(task, labels.reshape(len(labels), -1), logits, groups)
    answers, classes = logits.argmax(1), len(task.labels)
    return TestedNetwork(
        class_scores=scores_from_answers(labels, answers, classes),
        confusions=tuple(
            GroupConfusion(group=group, confusion=scores_from_answers(labels[rows], answers[rows], classes).confusion)
            for group in np.unique(groups).tolist()
            for rows in [groups == group]
        ),
    )


def outcome_by_group(task: TaskSpec, truth: NDArray[Any], answers: NDArray[Any], groups: NDArray[Any]) -> TestedNetwork:
    """Return the outcome of truth and answers (N, K), and groups (N,)."""
    parts = [(group, groups == group) for group in np.unique(groups).tolist()]
    return TestedNetwork(
        task=task,
        answers=tuple(
            GroupAnswers(
                group=group,
                truth=tuple(map(tuple, truth[rows].tolist())),
                answers=tuple(map(tuple, answers[rows].tolist())),
            )
            for group, rows in parts
        ),
    )


def drawn_figures(
    outcome: TestedNetwork, groups: Sequence[int | str], weights: NDArray[np.int64], metric: str
) -> NDArray[np.float64]:
    """Return a metric (D,) with groups (G,) weighted by (D, G); NaN for a draw without windows."""
    if outcome.confusions is not None:
        classes = len(outcome.confusions[0].confusion)
        counts = np.zeros((len(groups), classes, classes))
        for part in outcome.confusions:
            counts[groups.index(part.group)] = part.confusion
        return metric_of_confusions(np.tensordot(weights, counts, axes=1), metric)
    truth, answers, group = outcome.windows
    owner = np.array([groups.index(name) for name in group.tolist()])
    drawn, task = weights.astype(np.float64), outcome.known_task
    if task.kind == "regression":
        return weighted_values(truth[:, 0], answers[:, 0], owner, drawn)[metric]
    if task.kind == "normal":
        return weighted_auroc(truth[:, 0] > 0, answers[:, 0], owner, drawn)
    on, is_on = truth == 1, answers >= task.on_from_logit
    match metric:
        case "macro_f1":
            return weighted_f1(on, is_on, owner, drawn)
        case "subset_accuracy":
            return weighted_mean((on == is_on).all(1), owner, drawn)
        case _:
            return weighted_precision(on, answers, owner, drawn)
