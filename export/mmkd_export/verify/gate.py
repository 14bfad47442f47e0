"""The gate for lower precision: how far the metric may drop and labels may differ; one window may always differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_documents.export import GateResult
from mmkd_edge.bundle.golden import same_answers
from mmkd_edge.errors import CheckpointError, GateError
from mmkd_export.verify.answers import NetworkAnswers
from mmkd_models.data.labels import Labels, is_labelled
from mmkd_models.metrics.scores import METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_edge.spec import TaskSpec
    from mmkd_models.metrics.scores import AnyMetric, AnyScores

MIN_AGREEMENT = 0.99
# Spearman's correlation of novelty scores with the reference's; artifacts have their own p-values
_MIN_NOVELTY_AGREEMENT = 0.9

NOTHING_WRITTEN = "; no bundle was written"  # ends a failed gate's message, not a left out artifact's

# Fewest judging windows: one is the 1 % that may differ
MIN_JUDGING = round(1 / (1 - MIN_AGREEMENT))

_FEW_WINDOWS = 200  # with fewer judging windows, reports carry a caution


@dataclass(frozen=True, kw_only=True)
class GateWindows:
    """Judging windows (N, T, C), with the checkpoint's answers."""

    windows: NDArray[Any]
    labels: Labels
    answers: NetworkAnswers
    source: str


@dataclass(frozen=True, kw_only=True)
class GateRule:
    """Limits; `accept_unjudged` allows fewer than `MIN_JUDGING` windows, which is marked."""

    metric: AnyMetric
    max_drop_points: float
    accept_unjudged: bool = False


def checkpoint_metric(name: str, task: TaskSpec) -> AnyMetric:
    """Return the name; raise CheckpointError if the task lacks the metric."""
    known = METRICS[task.kind]
    if name not in known:
        raise CheckpointError(f"checkpoint: metric: expected one of {', '.join(known)}, got {name!r}; train again")
    return name


def gate_summary(result: GateResult) -> str:
    """Return a gate's figures in one line."""
    if not result.finite:
        return "some answers are not numbers"
    what = "answers" if result.metric in ("r2", "pearson") else "labels"
    agreement = (
        f"{what} agree on {result.label_agreement:.1%} of {result.windows} (at least {result.least_agreement:.1%})"
    )
    if result.unjudged is True:
        agreement += f", unjudged: fewer than {MIN_JUDGING} windows"
    if not result.ranks_alike:
        agreement += (
            f", novelty agrees with a rank correlation of {result.novelty_agreement:.2f} "
            f"(at least {result.least_novelty_agreement:.2f})"
        )
    if result.drop_points is None:
        return f"{agreement}, no labels to score"
    metric, allowed = result.metric.replace("_", " "), result.allowed_drop_points
    return f"{metric} drops by {result.drop_points:.2f} points (at most {allowed:.2f}), {agreement}"


def gate_result(got: NetworkAnswers, judging: GateWindows, rule: GateRule, task: TaskSpec) -> GateResult:
    """Compare an artifact's answers with the checkpoint's."""
    windows = len(judging.labels)
    labelled = np.flatnonzero(is_labelled(judging.labels))
    if task.kind == "normal" and not (judging.labels > 0).any():
        labelled = labelled[:0]
    drop, one_window = None, 0.0
    if len(labelled):
        labels = judging.labels[labelled]
        before, after = (
            answer_scores(answers, labels, labelled, task).metric(rule.metric) for answers in (judging.answers, got)
        )
        # Rounded, so that a drop of exactly one window stays within.
        drop = round(100 * (before - after), 9)
        one_window = round(100 * _one_window(labels, metric=rule.metric, task=task), 9)
    expected, scores = judging.answers.novelty, got.novelty
    novelty = {}
    if expected is not None and scores is not None and windows >= MIN_JUDGING:  # fewer windows have no order
        ranks = [values[:, 0].argsort(kind="stable").argsort(kind="stable") for values in (expected, scores)]
        novelty = {
            "novelty_agreement": float(np.corrcoef(ranks)[0, 1]),
            "least_novelty_agreement": _MIN_NOVELTY_AGREEMENT,
        }
    return GateResult(
        windows=windows,
        labelled=len(labelled),
        metric=rule.metric,
        drop_points=drop,
        allowed_drop_points=max(rule.max_drop_points, one_window),
        label_agreement=float(same_answers(task, judging.answers.logits, got.logits).mean()),
        least_agreement=min(MIN_AGREEMENT, 1 - 1 / windows),
        finite=all(
            values is None or bool(np.isfinite(values).all()) for values in (got.logits, got.probabilities, scores)
        ),
        unjudged=True if windows < MIN_JUDGING else None,
        **novelty,
    )


def answer_scores(answers: NetworkAnswers, labels: Labels, rows: NDArray[np.intp], task: TaskSpec) -> AnyScores:
    """Score the answers of these rows."""
    from mmkd_models.metrics.scores import scores_from_logits

    decisive = answers.probabilities if task.is_number else answers.logits
    return scores_from_logits(labels, decisive[rows], task)


def _one_window(labels: Labels, *, metric: AnyMetric, task: TaskSpec) -> float:
    if task.is_number:
        return 0.0
    if metric in ("accuracy", "subset_accuracy"):
        return 1 / len(labels)
    counts = labels.sum(axis=0, dtype=np.int64) if task.kind == "multi_label" else np.bincount(labels)
    present = counts[counts > 0]
    # A class mean moves most if the rarest class loses a window.
    return 1 / (len(present) * int(present.min())) if len(present) else 0.0


def require_windows(windows: int, *, what: str, rule: GateRule) -> None:
    """Raise GateError if there are too few windows."""
    if windows < MIN_JUDGING and not rule.accept_unjudged:
        raise GateError(
            f"{what}: expected {MIN_JUDGING} or more windows to judge by, so that the one that may always differ is "
            f"at most {1 / MIN_JUDGING:.0%} of them, got {windows}, of which it is {1 / windows:.0%}"
            f"{NOTHING_WRITTEN}. Name more with --eval DATA, or take it unjudged with --accept-unjudged"
        )


def caution(windows: int) -> str | None:
    """Return how little few windows prove (Hanley and Lippman-Hand, JAMA 249, 1983), or None."""
    if windows >= _FEW_WINDOWS:
        return None
    return (
        f"{windows} judging windows prove little: even without one disagreement, up to {3 / windows:.1%} remain "
        "possible; name more with --eval DATA"
    )
