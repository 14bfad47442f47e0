"""The gate for lower precision: is the artifact as good at its task as the fp32 graph?

Owns the rule. An artifact passes where, on windows that only judge, its metric drops by no more than was allowed and it
gives the same label on 99 %; on few windows one window may always differ. Where that one is more than 1 % the gate
says too little, and lower precision is refused unless whoever exports accepts it unjudged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from mmkd_edge.bundle.golden import same_answers
from mmkd_edge.errors import CheckpointError, GateError, MmkdError
from mmkd_export.verify.parity import NetworkAnswers
from mmkd_models.data.labels import Labels, is_labelled
from mmkd_models.metrics.scores import metrics_of
from mmkd_report.schema.export import GateResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_edge.spec import TaskSpec
    from mmkd_models.metrics.scores import AnyMetric, AnyScores

LEAST_AGREEMENT = 0.99
LEAST_NOVELTY_AGREEMENT = 0.9
"""Rank correlation (Spearman's) of novelty scores with the reference's: each artifact has p-values from scores of its
own, so that only the order of windows matters."""

NOTHING_WRITTEN = "; no bundle was written"
"""What ends the figures of a failed gate; where something is only left out of a bundle, it is not so."""

LEAST_JUDGING = round(1 / (1 - LEAST_AGREEMENT))
"""Fewest windows that can judge lower precision: one of them is the 1 % that may differ. Of two it would be half."""

FEW_WINDOWS = 200
"""Below this many judging windows a report says how little they prove."""


@dataclass(frozen=True, kw_only=True)
class JudgingWindows:
    """Windows that only judge.

    Attributes:
        windows: (N, T, C) float32 as `prepare` takes them. N > 0.
        labels: (N,) int64, -1 where unknown; of other tasks as in a dataset.
        answers: of the reference for them.
    """

    windows: NDArray[Any]
    labels: Labels
    answers: NetworkAnswers
    source: str


@dataclass(frozen=True, kw_only=True)
class GateRule:
    """What the gate for lower precision asks.

    Attributes:
        max_drop_points: percentage points of it that may be lost; one window may always be.
        accept_unjudged: whether an artifact is taken, and marked, though fewer than `LEAST_JUDGING` windows judge it.
    """

    metric: AnyMetric
    max_drop_points: float
    accept_unjudged: bool = False


def check_metric(name: str, task: TaskSpec) -> AnyMetric:
    """The same name, where it is a metric of the task.

    Raises:
        CheckpointError: it is none.
    """
    known = metrics_of(task.kind)
    if name not in known:
        raise CheckpointError(f"checkpoint: metric: expected one of {', '.join(known)}, got {name!r}; train again")
    return cast("AnyMetric", name)


def gate_summary(result: GateResult) -> str:
    """The figures of a gate in a line."""
    if not result.finite:
        return "some answers are not numbers"
    what = "answers" if result.metric in ("r2", "pearson") else "labels"
    agreement = (
        f"{what} agree on {result.label_agreement:.1%} of {result.windows} (at least {result.least_agreement:.1%})"
    )
    if result.unjudged is True:
        agreement += f", unjudged: fewer than {LEAST_JUDGING} windows"
    if not result.ranks_alike:
        agreement += (
            f", novelty agrees with a rank correlation of {result.novelty_agreement:.2f} "
            f"(at least {result.least_novelty_agreement:.2f})"
        )
    if result.drop_points is None:
        return f"{agreement}, no labels to score"
    metric, allowed = result.metric.replace("_", " "), result.allowed_drop_points
    return f"{metric} drops by {result.drop_points:.2f} points (at most {allowed:.2f}), {agreement}"


def gate_result(got: NetworkAnswers, judging: JudgingWindows, rule: GateRule, task: TaskSpec) -> GateResult:
    """Holds an artifact's answers for the judging windows against the reference's."""
    windows = len(judging.labels)
    same = same_answers(task, judging.answers.logits, got.logits)
    known = np.flatnonzero(is_labelled(judging.labels))
    drop, one_window = _drop_points(got, judging, known, metric=rule.metric, task=task)
    return GateResult(
        windows=windows,
        labelled=len(known),
        metric=rule.metric,
        drop_points=drop,
        allowed_drop_points=max(rule.max_drop_points, one_window),
        label_agreement=float(same.mean()),
        least_agreement=min(LEAST_AGREEMENT, 1 - 1 / windows),
        finite=all(bool(np.isfinite(one).all()) for one in (got.logits, got.probabilities, _scores(got))),
        unjudged=True if windows < LEAST_JUDGING else msgspec.UNSET,
        **_novelty_agreement(got, judging),
    )


def _scores(answers: NetworkAnswers) -> NDArray[np.float32]:
    return np.zeros(0, dtype=np.float32) if answers.novelty is None else answers.novelty[:, 0]


def _novelty_agreement(got: NetworkAnswers, judging: JudgingWindows) -> dict[str, float]:
    """What a gate says of novelty; nothing where either has none, or windows too few to have an order."""
    expected, scores = _scores(judging.answers), _scores(got)
    if len(expected) != len(scores) or len(scores) < LEAST_JUDGING:
        return {}
    ranks = [one.argsort(kind="stable").argsort(kind="stable") for one in (expected, scores)]
    agreement = float(np.corrcoef(ranks)[0, 1])
    return {"novelty_agreement": agreement, "least_novelty_agreement": LEAST_NOVELTY_AGREEMENT}


def _drop_points(
    got: NetworkAnswers, judging: JudgingWindows, known: NDArray[np.intp], *, metric: AnyMetric, task: TaskSpec
) -> tuple[float | None, float]:
    """The drop, and how much of the metric one window is worth, both in percentage points."""
    if len(known) == 0:
        return None, 0.0
    labels = judging.labels[known]
    before = answer_scores(judging.answers, labels, known, task).metric(metric)
    after = answer_scores(got, labels, known, task).metric(metric)
    one_window = _one_window(labels, metric=metric, task=task)
    # Rounded, so that a drop of exactly one window is not above it by a float64's last bit.
    return round(100 * (before - after), 9), round(100 * one_window, 9)


def answer_scores(answers: NetworkAnswers, labels: Labels, rows: NDArray[np.intp], task: TaskSpec) -> AnyScores:
    """Scores the answers for these rows against their labels, of a regression in its unit."""
    from mmkd_models.metrics.scores import scores_from_logits

    decisive = answers.probabilities if task.kind == "regression" else answers.logits
    return scores_from_logits(labels, decisive[rows], task)


def _one_window(labels: Labels, *, metric: AnyMetric, task: TaskSpec) -> float:
    """How much of the metric one window can be worth: a number is off by more or less, it has no such step."""
    if task.kind == "regression":
        return 0.0
    if metric in ("accuracy", "subset_accuracy"):
        return 1 / len(labels)
    counts = labels.sum(axis=0, dtype=np.int64) if task.kind == "multi_label" else np.bincount(labels)
    present = counts[counts > 0]
    # A mean over classes moves most where the rarest class loses a window.
    return 1 / (len(present) * int(present.min())) if len(present) else 0.0


def require_windows(windows: int, *, what: str, rule: GateRule) -> None:
    """Checks that there are enough windows for a gate that can fail, or that the rule takes fewer.

    Raises:
        GateError: there are too few.
    """
    if windows < LEAST_JUDGING and not rule.accept_unjudged:
        raise GateError(
            f"{what}: expected {LEAST_JUDGING} or more windows to judge by, so that the one that may always differ is "
            f"at most {1 / LEAST_JUDGING:.0%} of them, got {windows}, of which it is {1 / windows:.0%}"
            f"{NOTHING_WRITTEN}. Name more with --eval DATA, or take it unjudged with --accept-unjudged"
        )


def require_gate(result: GateResult, *, what: str, advice: str) -> None:
    """Checks that an artifact passed.

    Raises:
        GateError: it did not; the message has the figures.
    """
    if not result.passed:
        raise GateError(f"{what}: {gate_summary(result)}{NOTHING_WRITTEN}. {advice}")


def left_out_reason(error: MmkdError) -> str:
    """Gives the words of a failed gate for an artifact that is only left out of the bundle."""
    return str(error).replace(NOTHING_WRITTEN, "")


def caution(windows: int) -> str | None:
    """How little few windows prove, in a sentence; None where there are enough.

    The rule of three: with no error among n, up to 3 / n remain possible at 95 % confidence (Hanley and
    Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 249, 1983).
    """
    if windows >= FEW_WINDOWS:
        return None
    return (
        f"{windows} judging windows prove little: even without one disagreement, up to {3 / windows:.1%} remain "
        "possible; name more with --eval DATA"
    )
