"""The gate for lower precision: is the artifact as good at its task as the fp32 graph?

Owns the rule. An artifact passes where, on windows that only judge, its metric drops by no more than was allowed and it
gives the same label on 99 %; on few windows one window may always differ. Where that one is more than 1 % the gate
says too little, and lower precision is refused unless whoever exports accepts it unjudged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_edge.bundle.golden import same_answers
from mmkd_edge.errors import GateError, MmkdError
from mmkd_export.judge.parity import Answers
from mmkd_models.data.labels import Labels, is_labelled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_edge.spec import TaskSpec
    from mmkd_models.metrics.scores import AnyMetric, AnyScores

LEAST_AGREEMENT = 0.99
NOTHING_WRITTEN = "; no bundle was written"
"""What ends the figures of a failed gate; where something is only left out of a bundle, it is not so."""

LEAST_JUDGING = round(1 / (1 - LEAST_AGREEMENT))
"""Fewest windows that can judge lower precision: one of them is the 1 % that may differ. Of two it would be half."""

FEW_WINDOWS = 200
"""Below this many judging windows a report says how little they prove."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Windows that only judge.

    Attributes:
        windows: (N, T, C) float32 as `prepare` takes them. N > 0.
        labels: (N,) int64, -1 where unknown; of other tasks as in a dataset.
        answers: of the reference for them.
        source: where they come from, for people.
    """

    windows: NDArray[np.float32]
    labels: Labels
    answers: Answers
    source: str


class GateFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an artifact did, and what it had to do.

    Attributes:
        windows: how many judged.
        labelled: how many of them have a label.
        metric: what `drop_points` is a drop of.
        drop_points: percentage points of the metric lost against the reference on the same windows; negative where the
            artifact is better; None without labels.
        allowed_drop_points: the largest drop that passes.
        label_agreement: share of windows with the reference's label, 0 to 1; see `same_answers` for other tasks.
        least_agreement: the smallest agreement that passes.
        finite: whether every answer was a number.
        unjudged: true where fewer than `LEAST_JUDGING` windows judged, and that was accepted; else absent.
    """

    windows: int
    labelled: int
    metric: str
    drop_points: float | None
    allowed_drop_points: float
    label_agreement: float
    least_agreement: float
    finite: bool
    unjudged: bool | msgspec.UnsetType = msgspec.UNSET

    @property
    def passed(self) -> bool:
        """Whether the artifact may enter a bundle."""
        drops_little = self.drop_points is None or self.drop_points <= self.allowed_drop_points
        return self.finite and drops_little and self.label_agreement >= self.least_agreement

    @property
    def summary(self) -> str:
        """The figures in a line."""
        if not self.finite:
            return "some answers are not numbers"
        what = "answers" if self.metric in ("r2", "pearson") else "labels"
        agreement = (
            f"{what} agree on {self.label_agreement:.1%} of {self.windows} (at least {self.least_agreement:.1%})"
        )
        if self.unjudged is True:
            agreement += f", unjudged: fewer than {LEAST_JUDGING} windows"
        if self.drop_points is None:
            return f"{agreement}, no labels to score"
        metric = self.metric.replace("_", " ")
        return f"{metric} drops by {self.drop_points:.2f} points (at most {self.allowed_drop_points:.2f}), {agreement}"


def gate_facts(
    got: Answers, judging: Judging, *, metric: AnyMetric, task: TaskSpec, max_drop_points: float
) -> GateFacts:
    """Holds an artifact's answers against the reference's.

    Args:
        got: the artifact's answers for the judging windows.
        judging: these windows, and the reference's answers.
        metric: the task's.
        task: what is answered.
        max_drop_points: percentage points of the metric that may be lost; one window may always be.
    """
    windows = len(judging.labels)
    same = same_answers(task, judging.answers.logits, got.logits)
    known = np.flatnonzero(is_labelled(judging.labels))
    drop, one_window = _drop_points(got, judging, known, metric=metric, task=task)
    return GateFacts(
        windows=windows,
        labelled=len(known),
        metric=metric,
        drop_points=drop,
        allowed_drop_points=max(max_drop_points, one_window),
        label_agreement=float(same.mean()),
        least_agreement=min(LEAST_AGREEMENT, 1 - 1 / windows),
        finite=bool(np.isfinite(got.logits).all() and np.isfinite(got.probabilities).all()),
        unjudged=True if windows < LEAST_JUDGING else msgspec.UNSET,
    )


def _drop_points(
    got: Answers, judging: Judging, known: NDArray[np.intp], *, metric: AnyMetric, task: TaskSpec
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


def answer_scores(answers: Answers, labels: Labels, rows: NDArray[np.intp], task: TaskSpec) -> AnyScores:
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


def require_judging(windows: int, *, what: str, accept_unjudged: bool) -> None:
    """Checks that there are enough windows for a gate that can fail.

    Args:
        windows: how many judge.
        what: would be judged.
        accept_unjudged: whether fewer are taken; the artifact is marked then.

    Raises:
        GateError: there are too few.
    """
    if windows < LEAST_JUDGING and not accept_unjudged:
        raise GateError(
            f"{what}: expected {LEAST_JUDGING} or more windows to judge by, so that the one that may always differ is "
            f"at most {1 / LEAST_JUDGING:.0%} of them, got {windows}, of which it is {1 / windows:.0%}"
            f"{NOTHING_WRITTEN}. Name more with --eval DATA, or take it unjudged with --accept-unjudged"
        )


def require_gate(facts: GateFacts, *, what: str, advice: str) -> None:
    """Checks that an artifact passed.

    Raises:
        GateError: it did not; the message has the figures.
    """
    if not facts.passed:
        raise GateError(f"{what}: {facts.summary}{NOTHING_WRITTEN}. {advice}")


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
