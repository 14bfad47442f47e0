"""Whether an adapted student is better: an estimate on the new domain, the loss on the old one, and the gate.

Without labels nobody knows accuracy. Where a teacher answered, the estimate is how close the student's probabilities
are to the teacher's on windows that did not teach; else how close they are to the labels of old windows, those that
look like new ones counting more (importance-weighted validation: M. Sugiyama, M. Krauledat, K. Mueller, "Covariate
Shift Adaptation by Importance Weighted Cross Validation", JMLR 8, 2007). Closeness is a proper score (G. Brier,
"Verification of forecasts expressed in terms of probability", 1950): a window says more by it than by whether the two
answers are the same, and to be surer without being righter gains nothing. Confidence is no estimate: what learns from
its own answers grows surer whether it is right or not (watch_exercises, a rocket student: 79.3 to 97.0 % sure, 84.0 to
74.0 % right).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_models.adaptation.learner import sure_of
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.jackknife import jackknife_error
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.metrics.scores import AnyMetric, scores_from_logits
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form.targets import label_answers
from mmkd_models.training.predict import embeddings_of, logits_of
from mmkd_report.schema.adaptation import EstimateKind, WayJudgement

Floats = NDArray[np.float64]

_FEWEST_GROUPS = 5
_CHANCE = 0.05  # that any of the ways passes where none gains anything
_MOST_WEIGHT = 10.0  # of one old window, so that no single one decides
_SHARE_THAT_COUNTS = 0.05  # of the answers, from which a class must not vanish
_VANISHED = 0.1  # of that share, below which a class has
_FEWEST_CLASSES = 2  # with such a share, in what is taken for right


def sure_errors(ways: int) -> float:
    """Gives the standard errors above 0 from which the gain of one of several ways counts (Bonferroni's correction)."""
    return NormalDist().inv_cdf(1 - _CHANCE / ways)


@dataclass(frozen=True, kw_only=True)
class Court:
    """What judges.

    Attributes:
        new: windows of the new domain that did not teach.
        wanted: (N, K) probabilities that are taken for right there: of labels, or a teacher's; None where nobody says.
        weights: (M,) of the old windows, mean 1: how much more likely each is among new ones; used where nobody says.
        estimated_by: what `wanted` is.
        old: labelled windows of the old domain that did not teach.
        most_forgotten: points that the old domain may lose.
        ways: how many are tried, the best of which wins: each but `labels` is held to its share of the chance to pass
            by luck.
    """

    new: Windows
    wanted: Floats | None
    weights: Floats | None
    estimated_by: EstimateKind
    old: Windows
    metric: AnyMetric
    most_forgotten: float
    ways: int

    @property
    def sure(self) -> float:
        """Standard errors above 0 from which a gain counts, but that of the way `labels`."""
        return sure_errors(self.ways)

    @property
    def right(self) -> NDArray[np.int64] | None:
        """(N,) the class of each new window that is taken for right."""
        return None if self.wanted is None else self.wanted.argmax(axis=1)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a student says.

    Attributes:
        closeness: (N,) of each new window to `wanted`, 1 at most; else (M,) of each old one to its label, times its
            weight.
        answers: (N,) class of each new window.
        sure: (N,) of which of them it is sure.
        old_logits: (M, K) of each old window.
        old_score: on the old domain.
    """

    closeness: Floats
    answers: NDArray[np.int64]
    sure: NDArray[np.bool_]
    old_logits: NDArray[np.float32]
    old_score: float


def heard(court: Court, student: StudentCheckpoint, *, new_logits: NDArray[np.float32] | None = None) -> Heard:
    """Asks a student.

    Args:
        new_logits: what is taken for its answers to the new windows, of students that each saw only some labels.
    """
    name, network = student.modality.name, student.network()
    old = logits_of(network, court.old, modality=name)
    new = logits_of(network, court.new, modality=name) if new_logits is None else new_logits
    answers, sure = new.argmax(axis=1), sure_of(probabilities_of(new, kind="classification"))
    if court.wanted is None:
        assert court.weights is not None
        found = court.weights * _closeness(old, label_answers(student.task, court.old.labels))
    else:
        found = _closeness(new, court.wanted)
    return Heard(closeness=found, answers=answers, sure=sure, old_logits=old, old_score=_old_score(court, old))


def _closeness(logits: NDArray[np.float32], wanted: Floats) -> Floats:
    """(N,) 1 less half the squared distance between the probabilities: 0 where both are sure of different classes."""
    said = probabilities_of(logits, kind="classification")
    return np.asarray(1 - np.square(said - wanted).sum(axis=1) / 2)


def _old_score(court: Court, logits: NDArray[np.float32], rows: NDArray[np.bool_] | None = None) -> float:
    labels = court.old.labels if rows is None else court.old.labels[rows]
    said = logits if rows is None else logits[rows]
    return scores_from_logits(labels, said, court.old.spec.task).metric(court.metric)


def judged(court: Court, way: str, before: Heard, after: Heard, *, seconds: float) -> WayJudgement:
    """Gives the judgement on a way; its `refusals` say why it may not be written."""
    gains = 100 * (after.closeness - before.closeness)
    judges = court.old if court.wanted is None else court.new
    error = _standard_error(lambda rows: float(gains[rows].mean()), judges, len(gains))
    found = WayJudgement(
        way=way,
        estimate=float(after.closeness.mean()),
        gain_points=float(gains.mean()),
        standard_error_points=error,
        old_score=after.old_score,
        forgotten_points=100 * (before.old_score - after.old_score) + 0.0,
        forgotten_error_points=_forgotten_error(court, before, after),
        vanished=vanished(court, before, after),
        shares=shares_of(after.answers, len(court.new.spec.task.labels)),
        seconds=seconds,
    )
    return msgspec.structs.replace(found, refusals=tuple(_refusals(court, found)))


def _refusals(court: Court, found: WayJudgement) -> Iterator[str]:
    gain, error = found.gain_points, found.standard_error_points
    told = f"{gain:+.1f} points, standard error {error:.1f}"
    if gain <= 0:
        yield f"its {_WORDS[court.estimated_by]} does not rise: {told}"
    elif found.way != "labels" and gain <= court.sure * error:  # each label is judged by a student that did not see it
        yield f"its {_WORDS[court.estimated_by]} does not surely rise: {told}"
    if forgets(found, court.most_forgotten):
        yield (
            f"it forgets {found.forgotten_points:.1f} points of the old domain, standard error"
            f" {found.forgotten_error_points or 0.0:.1f}, more than {court.most_forgotten:g}"
        )
    if found.vanished:
        yield f"it hardly answers {', '.join(found.vanished)} any more"


def forgets(found: WayJudgement, most: float) -> bool:
    """Tells whether the old domain loses more points than it may, beyond a standard error."""
    return found.forgotten_points - (found.forgotten_error_points or 0.0) > most


_WORDS: dict[EstimateKind, str] = {
    "labels": "closeness to the labels",
    "agreement": "closeness to the teacher",
    "weighted": "closeness to the labels of old windows that look like new ones",
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


def _standard_error(figure: Callable[[NDArray[np.bool_]], float], judges: Windows, count: int) -> float:
    """Of a figure of `count` judging windows, by leaving out each group in turn; blocks where groups are few."""
    groups = judges.groups if judges.has_groups else np.zeros(count)
    return jackknife_error(figure, groups, fewest_groups=_FEWEST_GROUPS)


def _forgotten_error(court: Court, before: Heard, after: Heard) -> float:
    def lost(rows: NDArray[np.bool_]) -> float:
        return 100 * (_old_score(court, before.old_logits, rows) - _old_score(court, after.old_logits, rows))

    return _standard_error(lost, court.old, len(court.old))


def vanished(court: Court, before: Heard, after: Heard) -> tuple[str, ...]:
    """Gives the classes with a share in what is taken for right that are hardly answered any more, and were before.

    Where it gives no second class a share that counts, it may be right, and all of another class false alarms; or it
    fails, and would hide what its student forgets to say. It is contradicted then by what the student was sure of
    before: a class that counts among these answers must not vanish.
    """
    labels = court.new.spec.task.labels
    was, now = (np.array(shares_of(found, len(labels))) for found in (before.answers, after.answers))
    right = was if court.right is None else np.array(shares_of(court.right, len(labels)))
    if court.right is not None and (right > _SHARE_THAT_COUNTS).sum() < _FEWEST_CLASSES:
        right = np.bincount(before.answers[before.sure], minlength=len(labels)) / len(before.answers)
    gone = (right > _SHARE_THAT_COUNTS) & (now < _VANISHED * right) & (now < was)
    return tuple(name for name, is_gone in zip(labels, gone, strict=True) if is_gone)
