"""Whether an adapted student is better: an estimate on the new domain, the loss on the old one, and the gate.

The estimate is closeness to the teacher's probabilities on held-out windows or, without one, to labels of old windows
weighted by similarity to new ones (importance-weighted validation: M. Sugiyama, M. Krauledat, K. Mueller, JMLR 8,
2007). Closeness is a proper score (G. Brier, 1950); confidence rises with own answers, right or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.adaptation import EstimateKind, MethodResult
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.likelihood import Floats, jackknife_error, probabilities_of
from mmkd_models.metrics.scores import AnyMetric, scores_from_logits
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form import label_answers
from mmkd_models.training.predict import embeddings_of, logits_of

_MIN_GROUPS = 5
_CHANCE = 0.05  # that a method passes if none gains
_MAX_WEIGHT = 10.0  # of one old window, so that none decides alone
_COUNTS_FROM = 0.05  # of the answers: larger classes must not vanish
_VANISHED = 0.1  # of that fraction
_ESTIMATES: dict[EstimateKind, str] = {
    "labels": "closeness to the labels",
    "agreement": "closeness to the teacher",
    "weighted": "closeness to the labels of old windows like the new ones",
}


@dataclass(frozen=True, kw_only=True)
class AdaptationJudge:
    """Windows and limits that judge adapted students."""

    new: Windows  # held out
    reference: Floats | None  # (N, K) probabilities that count as right: labels' or a teacher's; None without both
    weights: Floats | None  # (M,) how much likelier old windows are among new ones, mean 1; without a reference
    estimated_by: EstimateKind
    old: Windows  # held out, labelled
    metric: AnyMetric
    max_forget: float  # points on the old domain
    methods: int  # tried

    @property
    def bonferroni_z(self) -> float:
        """Standard errors above 0 from which a gain is significant (Bonferroni over the methods)."""
        return NormalDist().inv_cdf(1 - _CHANCE / self.methods)

    @property
    def right(self) -> NDArray[np.int64] | None:
        """(N,) reference class of each new window."""
        return None if self.reference is None else self.reference.argmax(axis=1)


@dataclass(frozen=True, kw_only=True)
class StudentScores:
    """A student's answers on the judging windows."""

    closeness: Floats  # (N,) to the reference, at most 1; without one (M,), of old windows to labels, times weights
    answers: NDArray[np.int64]  # (N,) class of each new window
    old_logits: NDArray[np.float32]  # (M, K)
    old_score: float


def score_student(
    judge: AdaptationJudge, student: StudentCheckpoint, *, new_logits: NDArray[np.float32] | None = None
) -> StudentScores:
    """Score a student; `new_logits` replace its answers."""
    name, network = student.modality.name, student.network()
    old = logits_of(network, judge.old, modality=name)
    new = logits_of(network, judge.new, modality=name) if new_logits is None else new_logits
    if judge.reference is None:
        assert judge.weights is not None
        closeness = judge.weights * measure_closeness(old, label_answers(student.task, judge.old.labels))
    else:
        closeness = measure_closeness(new, judge.reference)
    return StudentScores(
        closeness=closeness, answers=new.argmax(axis=1), old_logits=old, old_score=_old_score(judge, old)
    )


def measure_closeness(logits: NDArray[np.float32], reference: Floats) -> Floats:
    """Return (N,) 1 minus half the squared distance of probabilities."""
    return np.asarray(1 - np.square(probabilities_of(logits, kind="classification") - reference).sum(axis=1) / 2)


def _old_score(judge: AdaptationJudge, logits: NDArray[np.float32], rows: NDArray[np.bool_] | None = None) -> float:
    labels = judge.old.labels if rows is None else judge.old.labels[rows]
    return scores_from_logits(labels, logits if rows is None else logits[rows], judge.old.spec.task).metric(
        judge.metric
    )


def judge_method(
    judge: AdaptationJudge, method: str, before: StudentScores, after: StudentScores, *, seconds: float
) -> MethodResult:
    """Return a method's result; its `refusals` are reasons against writing it."""
    gains = 100 * (after.closeness - before.closeness)
    judges = judge.old if judge.reference is None else judge.new

    def lost(rows: NDArray[np.bool_]) -> float:
        return 100 * (_old_score(judge, before.old_logits, rows) - _old_score(judge, after.old_logits, rows))

    result = MethodResult(
        method=method,
        estimate=float(after.closeness.mean()),
        gain_points=float(gains.mean()),
        standard_error_points=standard_error(lambda rows: float(gains[rows].mean()), judges, len(gains)),
        old_score=after.old_score,
        forgotten_points=100 * (before.old_score - after.old_score) + 0.0,
        forgotten_error_points=standard_error(lost, judge.old, len(judge.old)),
        vanished=vanished_classes(judge, before, after),
        class_fractions=class_fractions(after.answers, len(judge.new.spec.task.labels)),
        seconds=seconds,
    )
    refusals = []
    gain, error = result.gain_points, result.standard_error_points
    figures = f"{gain:+.1f} points, standard error {error:.1f}"
    if gain <= 0:
        refusals.append(f"no gain in {_ESTIMATES[judge.estimated_by]}: {figures}")
    elif method != "labels" and gain <= judge.bonferroni_z * error:
        # Each label is judged by a student that did not see it, so that any gain of `labels` counts.
        refusals.append(f"the gain in {_ESTIMATES[judge.estimated_by]} is not significant: {figures}")
    if result.forgotten_points - result.forgotten_error_points > judge.max_forget:
        refusals.append(
            f"the old domain loses {result.forgotten_points:.1f} points, standard error "
            f"{result.forgotten_error_points:.1f}, more than {judge.max_forget:g}"
        )
    if result.vanished:
        refusals.append(f"it hardly answers {', '.join(result.vanished)} any more")
    return msgspec.structs.replace(result, refusals=tuple(refusals))


def class_fractions(answers: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Return each class's fraction of answers (N,)."""
    return tuple((np.bincount(answers, minlength=classes) / len(answers)).tolist())


def importance(student: StudentCheckpoint, new: Windows, old: Windows) -> Floats:
    """Return how much likelier old windows (M,) are among new ones, mean 1, at most 10."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    embeddings = [embeddings_of(student.network(), windows, modality=student.modality.name) for windows in (new, old)]
    domain = np.repeat([1, 0], [len(part) for part in embeddings])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
    classifier.fit(np.concatenate(embeddings), domain)
    chance = classifier.predict_proba(embeddings[1])[:, 1]
    weights = np.minimum(chance / np.maximum(1 - chance, 1e-6), _MAX_WEIGHT)
    return np.asarray(weights / weights.mean())


def standard_error(figure: Callable[[NDArray[np.bool_]], float], judges: Windows, count: int) -> float:
    """Return the jackknife error of a figure over groups, or blocks if groups are few."""
    groups = judges.groups if judges.has_groups else np.zeros(count)
    return jackknife_error(figure, groups, fewest_groups=_MIN_GROUPS)


def vanished_classes(judge: AdaptationJudge, before: StudentScores, after: StudentScores) -> tuple[str, ...]:
    """Return classes that are frequent in the reference (before, without one) but hardly answered now."""
    labels = judge.new.spec.task.labels
    was, now = (np.array(class_fractions(scores.answers, len(labels))) for scores in (before, after))
    right = was if judge.right is None else np.array(class_fractions(judge.right, len(labels)))
    gone = (right > _COUNTS_FROM) & (now < _VANISHED * right) & (now < was)
    return tuple(name for name, is_gone in zip(labels, gone, strict=True) if is_gone)
