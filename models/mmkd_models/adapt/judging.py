"""Whether an adapted student is better: an estimate on the new domain, the loss on the old one, and the gate.

Without labels nobody knows accuracy. Where a teacher answered, the estimate is how often the student agrees with it on
windows that did not teach; else it is the accuracy on old windows, those that look like new ones counting more
(importance-weighted validation: M. Sugiyama, M. Krauledat, K. Mueller, "Covariate Shift Adaptation by Importance
Weighted Cross Validation", JMLR 8, 2007). Confidence is no estimate: what learns from its own answers grows surer
whether it is right or not (watch_exercises, a rocket student: 79.3 to 97.0 % sure, 84.0 to 74.0 % right).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mmkd_models.data.windows import Groups, Windows
from mmkd_models.metrics.jackknife import jackknife_error
from mmkd_models.metrics.scores import AnyMetric, scores_from_logits
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.predict import embeddings_of, logits_of
from mmkd_report.documents.adaptation import EstimateKind, WayJudgement

Floats = NDArray[np.float64]

_FEWEST_GROUPS = 5
_CHANCE = 0.05  # that any of the ways passes where none gains anything
_MOST_WEIGHT = 10.0  # of one old window, so that no single one decides
_SHARE_THAT_COUNTS = 0.05  # of the answers, from which a class must not vanish
_VANISHED = 0.1  # of its share before, below which a class has


@dataclass(frozen=True, kw_only=True)
class Court:
    """What judges.

    Attributes:
        new: windows of the new domain that did not teach.
        truth: (N,) what is taken for right there: labels, or a teacher's answers; None where nobody says.
        weights: (M,) of the old windows, mean 1: how much more likely each is among new ones; used where nobody says.
        estimated_by: what `truth` is.
        old: labelled windows of the old domain that did not teach.
        most_forgotten: points that the old domain may lose.
        ways: how many are tried, the best of which wins: each is held to its share of the chance to pass by luck.
    """

    new: Windows
    truth: NDArray[np.int64] | None
    weights: Floats | None
    estimated_by: EstimateKind
    old: Windows
    metric: AnyMetric
    most_forgotten: float
    ways: int

    @property
    def sure(self) -> float:
        """Standard errors above 0 from which a gain counts (Bonferroni's correction for several ways)."""
        return NormalDist().inv_cdf(1 - _CHANCE / self.ways)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a student says.

    Attributes:
        hits: (N,) of each new window: 1 or 0 where `truth` is known; else (M,) of each old one, times its weight.
        answers: (N,) class of each new window.
        old_score: on the old domain.
    """

    hits: Floats
    answers: NDArray[np.int64]
    old_score: float


def heard(court: Court, student: StudentCheckpoint, *, new_logits: NDArray[np.float32] | None = None) -> Heard:
    """Asks a student.

    Args:
        new_logits: what is taken for its answers to the new windows, of students that each saw only some labels.
    """
    name, network = student.modality.name, student.network()
    old = logits_of(network, court.old, modality=name)
    new = logits_of(network, court.new, modality=name) if new_logits is None else new_logits
    answers = new.argmax(axis=1)
    if court.truth is None:
        assert court.weights is not None
        hits = court.weights * (old.argmax(axis=1) == court.old.labels)
    else:
        hits = (answers == court.truth).astype(np.float64)
    score = scores_from_logits(court.old.labels, old, student.task).metric(court.metric)
    return Heard(hits=hits, answers=answers, old_score=score)


def judged(court: Court, way: str, before: Heard, after: Heard, *, seconds: float) -> WayJudgement:
    """Gives the judgement on a way; its `refusals` say why it may not be written."""
    gains = 100 * (after.hits - before.hits)
    judges = court.old if court.truth is None else court.new
    error = _standard_error(gains, judges.groups if judges.has_groups else None)
    gain, forgotten = float(gains.mean()), 100 * (before.old_score - after.old_score) + 0.0
    vanished = _vanished(court, before, after)
    refusals = []
    if gain <= court.sure * error or gain <= 0:
        words = _WORDS[court.estimated_by]
        refusals.append(f"its {words} does not surely rise: {gain:+.1f} points, standard error {error:.1f}")
    if forgotten > court.most_forgotten:
        refusals.append(f"it forgets {forgotten:.1f} points of the old domain, more than {court.most_forgotten:g}")
    if vanished:
        refusals.append(f"it hardly answers {', '.join(vanished)} any more")
    return WayJudgement(
        way=way,
        estimate=float(after.hits.mean()),
        gain_points=gain,
        standard_error_points=error,
        old_score=after.old_score,
        forgotten_points=forgotten,
        vanished=vanished,
        refusals=tuple(refusals),
        shares=shares_of(after.answers, len(court.new.spec.task.labels)),
        seconds=seconds,
    )


_WORDS: dict[EstimateKind, str] = {
    "labels": "share of right answers",
    "agreement": "agreement with the teacher",
    "weighted": "accuracy on old windows that look like new ones",
}


def shares_of(answers: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Gives the share of each class among answers (N,)."""
    return tuple((np.bincount(answers, minlength=classes) / len(answers)).tolist())


def importance(student: StudentCheckpoint, new: Windows, old: Windows) -> Floats:
    """Gives how much more likely each old window (M,) is among new ones, mean 1.

    By a logistic regression that tells the two apart in what the student embeds them in; at most tenfold.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    seen = [embeddings_of(student.network(), windows, modality=student.modality.name) for windows in (new, old)]
    domain = np.repeat([1, 0], [len(one) for one in seen])
    told = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
    told.fit(np.concatenate(seen), domain)
    chance = told.predict_proba(seen[1])[:, 1]
    weights = np.minimum(chance / np.maximum(1 - chance, 1e-6), _MOST_WEIGHT)
    return np.asarray(weights / weights.mean())


def _standard_error(gains: Floats, groups: Groups | None) -> float:
    """Of the mean, by leaving out each group in turn; blocks where groups are few."""
    known = np.zeros(len(gains)) if groups is None else groups
    return jackknife_error(lambda rows: float(gains[rows].mean()), known, fewest_groups=_FEWEST_GROUPS)


def _vanished(court: Court, before: Heard, after: Heard) -> tuple[str, ...]:
    """Classes that had a share in what is taken for right, or in the answers before, and have hardly one now."""
    labels = court.new.spec.task.labels
    reference = before.answers if court.truth is None else court.truth
    was, now = (np.array(shares_of(found, len(labels))) for found in (reference, after.answers))
    gone = (was > _SHARE_THAT_COUNTS) & (now < _VANISHED * was)
    return tuple(name for name, is_gone in zip(labels, gone, strict=True) if is_gone)
