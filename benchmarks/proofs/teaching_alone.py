"""What teaching alone is worth where whole groups are labelled, and whether answers joined along recordings teach more.

    python benchmarks/proofs/teaching_alone.py DIR:MODALITY [DIR:MODALITY ...] -o out

Everything is in closed form, so that five folds of a set take minutes: the teacher is a committee's rocket and trees,
evened, calibrated and weighed as a committee's members are, and sees all sensors, or those that `--teacher` names;
where validation wants them, rocket and trees of the best sensor join. The student is a ridge regression on MiniRocket
features of one sensor. It learns the labels of about a third of the groups, as a demo shows them, or of a share of the
windows; or from the teacher on all windows too. The student, its features and penalties are the same, and validation
evens the classes of both, so that the difference is teaching's. What is finished in the folder is not made again.

The first table is balanced accuracy on test windows in per cent, means over the folds; gains are points with a 95 %
interval that resamples whole groups, pooled over sets alike. The second is about joining: classes are the states of a
hidden Markov chain that stays where it is with one probability and goes to any other class alike; forward and backward
recursions give each window's class from all answers of its recording (L. Rabiner, "A tutorial on hidden Markov models",
Proceedings of the IEEE 77, 1989, section III.A). Windows that overlap do not tell it independently, so answers count
with a power below 1. It is the rocket and the trees of all sensors that are joined. Both numbers make the validation
labels likeliest, and nothing is joined unless they are likelier by more than a standard error over groups. Balanced
accuracy of the teacher on the training windows whose labels are hidden, before and after, and of students that learnt
from joined answers, and from the mean of both.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_models.compare.one_fold import FoldData, fold_data
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.folds import FOLDS, trainings_of
from mmkd_models.data.labelled import Labelled, usual_labelled
from mmkd_models.data.sources import CutWindows
from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.gains import gain_draws, gain_per_seed, interval_of
from mmkd_models.evaluate.outcome import TestedNetwork, outcome_on
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.metrics.scores import AnyMetric, scores_from_logits
from mmkd_models.networks.committee.pool import joining_sensor, pool_of
from mmkd_models.networks.config import MemberKind
from mmkd_models.networks.rocket import FEATURES
from mmkd_models.training.closed_form.ridge import fit_ridge
from mmkd_models.training.closed_form.rocket import drawn_features, features_of_rows
from mmkd_models.training.closed_form.targets import class_weights, targets_of
from mmkd_models.training.committee import grown_network
from mmkd_models.training.judging.prior import evening_bias
from mmkd_models.training.predict import answers_to
from proofs.script import head, parser_of, row

Floats = NDArray[np.float64]
Shares = tuple[Floats, ...]
"""Of training, validation and test windows, (N, K) each."""
Order = Sequence[NDArray[np.int64]]
"""Numbers of windows, recording by recording, each in the order of time."""

METRIC: AnyMetric = "balanced_accuracy"
GROWN: tuple[MemberKind, ...] = ("rocket", "trees")
TEACHERS = ("rocket", "trees", "both", "committee")
STUDENTS = ("labels alone", "taught by both", "taught", "joined", "mean of both")
STAYS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
POWERS = (0.1, 0.25, 0.5, 1.0)
LEAST = 1e-6
"""Share of a class that no single answer can rule out."""


class Joining(msgspec.Struct, frozen=True, kw_only=True):
    """How answers along a recording are joined.

    Attributes:
        stay: probability that the next window has the same class.
        power: of each answer.
    """

    stay: float
    power: float


class FoldFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one fold showed.

    Attributes:
        best: the sensor whose members join; None where none do.
        tests: by `TEACHERS` and `STUDENTS`.
        hidden: balanced accuracy of the teacher's answers and of the joined ones where labels are hidden, in per cent;
            None where none are.
        rule: None where nothing was joined.
    """

    labelled: str
    best: str | None
    tests: dict[str, TestedNetwork]
    hidden: tuple[float, float] | None
    rule: Joining | None


def main() -> None:
    """Make what is missing, and print both tables."""
    parser = parser_of_sets(__doc__)
    parser.add_argument("--teacher", nargs="+", default=[], metavar="NAME", help="sensors that it sees; default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[FoldFigures]] = {}
    for text in arguments.sets:
        path, _, modality = text.rpartition(":")
        dataset = open_dataset(path)
        name = f"{dataset.spec.name} {modality}" + (
            f" by {' and '.join(arguments.teacher)}" if arguments.teacher else ""
        )
        labelled = labelled_as(dataset, arguments.label_share)
        made = partial(kept, dataset, modality, labelled, arguments.teacher, arguments.out)
        found[name] = [made(fold) for fold in arguments.folds]
    print(teaching_table(found))
    if any(fold.hidden for folds in found.values() for fold in folds):
        print()
        print(joining_table(found))


def parser_of_sets(doc: str | None) -> argparse.ArgumentParser:
    """A parser of sets and a sensor of each, what is labelled, the folds, and the folder of what is finished."""
    parser = parser_of(doc)
    parser.add_argument("sets", nargs="+", metavar="DIR:MODALITY", help="dataset directory and the students' sensor")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of what is finished")
    parser.add_argument("--label-share", type=float, help="share of the windows that is labelled, not whole groups")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    return parser


def labelled_as(dataset: Dataset, share: float | None) -> Labelled:
    """Gives what is labelled: this share of the windows, or as many whole groups as a demo shows."""
    if share is None:
        return usual_labelled(trainings_of(dataset.everything(), FOLDS))
    return Labelled(share=share)


def teaching_table(found: dict[str, list[FoldFigures]]) -> str:
    """Gives what teaching alone is worth on each set, and over them."""
    names = (*TEACHERS, *STUDENTS[:3])
    rows = [head("set, sensor", "labelled", "best sensor's members", *names, "gain, points (95 %)", texts=3)]
    gains, drawn, shown = [], [], []
    for name, folds in found.items():
        ours, theirs = ([fold.tests[arm] for fold in folds] for arm in ("taught", "labels alone"))
        gains.append(float(np.mean(gain_per_seed(ours, theirs, METRIC))))
        drawn.append(gain_draws(ours, theirs, METRIC))
        shown.append([mean_of(folds, arm) for arm in names])
        joins = joining_sensors(folds)
        rows.append(row(name, folds[0].labelled, joins, *written(shown[-1]), gained(gains[-1], drawn[-1])))
    over = gained(float(np.mean(gains)), np.nanmean(drawn, axis=0))
    rows.append(row("mean over sets", "", "", *written(np.mean(shown, axis=0)), over))
    return "\n".join(rows)


def joining_sensors(folds: Sequence[FoldFigures]) -> str:
    """Gives the sensors whose members join, and on how many folds."""
    counts = Counter(fold.best for fold in folds if fold.best is not None)
    return ", ".join(f"{name} on {count} of {len(folds)}" for name, count in sorted(counts.items())) or "none"


def joining_table(found: dict[str, list[FoldFigures]]) -> str:
    """Gives what joined answers are worth on each set, and over them."""
    names = ("hidden labels", "joined", "student, taught", "by joined answers", "by the mean of both")
    rows, shown = [head("set, sensor", "folds joined", *names, texts=1)], []
    for name, folds in found.items():
        hidden = np.mean([fold.hidden or (np.nan, np.nan) for fold in folds], axis=0)
        shown.append([*hidden, *(mean_of(folds, arm) for arm in ("taught by both", *STUDENTS[3:]))])
        joined = sum(fold.rule is not None for fold in folds)
        rows.append(row(name, f"{joined} of {len(folds)}", *written(shown[-1])))
    rows.append(row("mean over sets", "", *written(np.mean(shown, axis=0))))
    return "\n".join(rows)


def mean_of(folds: Sequence[FoldFigures], arm: str) -> float:
    """Gives balanced accuracy over the folds, in per cent."""
    return 100 * float(np.mean([fold.tests[arm].scores.metric(METRIC) for fold in folds]))


def written(values: Sequence[float] | Floats) -> list[str]:
    """Gives figures with one digit; `none` where nothing was measured."""
    return ["none" if np.isnan(value) else f"{value:.1f}" for value in values]


def gained(mean: float, drawn: Floats) -> str:
    """Gives a gain with its interval."""
    low, high = interval_of(drawn)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def kept(
    dataset: Dataset, modality: str, labelled: Labelled, teacher: Sequence[str], out: Path, fold: int
) -> FoldFigures:
    """Gives the figures of a fold, from the folder where they are there."""
    pair = "-by-".join([modality, *(["+".join(teacher)] if teacher else [])])
    path = out / f"{dataset.spec.name}-{pair}-{labelled.file_part}-{fold}.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(measured(dataset, fold, modality, labelled, teacher)))
    return msgspec.json.decode(path.read_bytes(), type=FoldFigures)


def measured(
    dataset: Dataset, fold: int, modality: str, labelled: Labelled, teacher: Sequence[str] = ()
) -> FoldFigures:
    """Gives the figures of a fold; the teacher sees all sensors where none is named."""
    data = fold_data(dataset, seed=fold, labelled=labelled)
    parts = train, valid, test = (data.training.train, data.training.valid, data.test)
    seen = [part.with_modalities(tuple(teacher)) if teacher else part for part in parts]
    rocket, trees, both, committee, best = teacher_answers(seen, valid, seed=fold)
    alone, on_valid, _ = both
    rule = chosen(on_valid, valid)
    joined = alone if rule is None else smoothed(alone, order_of(train), rule)
    hidden = ~train.labelled & (data.truth >= 0)
    on_test = [one[2] for one in (rocket, trees, both, committee)]
    taught = students(data, modality, (None, alone, committee[0], joined, (alone + joined) / 2), seed=fold)
    answers = dict(zip((*TEACHERS, *STUDENTS), (*on_test, *taught), strict=True))
    of_hidden = [balanced(train, data.truth[hidden], one[hidden]) for one in (alone, joined) if hidden.any()]
    return FoldFigures(
        labelled=f"{labelled.groups} of {train.group_count} groups" if labelled.groups else f"{labelled.share:.0%}",
        best=best,
        tests={arm: outcome_on(test, one) for arm, one in answers.items()},
        hidden=(of_hidden[0], of_hidden[1]) if of_hidden else None,
        rule=rule,
    )


def teacher_answers(
    parts: Sequence[Windows], valid: Windows, *, seed: int
) -> tuple[Shares, Shares, Shares, Shares, str | None]:
    """Gives what rocket, trees, both and the committee say of each part, and the sensor whose members are in it.

    The first part trains them.
    """
    names = [modality.name for modality in parts[0].spec.modalities]
    members = member_logits(parts, valid, seed=seed)
    both = pooled(members, valid)
    shares = [pooled([one], valid) for one in members]
    if len(names) == 1:
        return shares[0], shares[1], both, both, None
    alone = {name: member_logits([one.with_modalities((name,)) for one in parts], valid, seed=seed) for name in names}
    of_each = {name: [one[1] for one in ours] for name, ours in alone.items()}
    on_valid = [one[1] for one in members]
    best = joining_sensor(on_valid, of_each, valid.labels, valid.groups, kind="classification")
    committee = both if best is None else pooled([*members, *alone[best]], valid)
    return shares[0], shares[1], both, committee, best


def member_logits(parts: Sequence[Windows], valid: Windows, *, seed: int) -> list[Shares]:
    """Gives evened logits (N, K) of each part by rocket and trees that the first part trains."""
    found = []
    for kind in GROWN:
        member = grown_network(parts[0], kind, seed=seed)
        answers = [answers_to(member, windows).numpy() for windows in parts]
        bias = evening(answers[1], parts[0], valid)
        found.append(tuple(one + bias for one in answers))
    return found


def pooled(members: Sequence[Shares], valid: Windows) -> Shares:
    """Gives probabilities (N, K) of each part by members together, as validation weighs them."""
    pool = pool_of([one[1] for one in members], valid.labels, valid.groups, kind="classification")
    shares = [
        tuple(probabilities_of(one / heat, kind="classification") for one in answers)
        for answers, heat in zip(members, pool.temperatures, strict=True)
    ]
    return tuple(np.average(each, axis=0, weights=pool.weights) for each in zip(*shares, strict=True))


def evening(on_valid: NDArray[Any], train: Windows, valid: Windows) -> Floats | float:
    """Gives what is added to logits or scores so that classes are answered as often as validation wants; 0 if as is."""
    bias = evening_bias(on_valid, train.labels, valid, metric=METRIC)
    return 0.0 if bias is None else bias


def chosen(shares: Floats, valid: Windows) -> Joining | None:
    """Gives how to join answers by what validation says of it; None where it is not surely likelier."""
    order = order_of(valid)
    rules = [Joining(stay=stay, power=power) for stay, power in product(STAYS, POWERS)]
    gains = [log_of_truth(smoothed(shares, order, rule), valid.labels) for rule in rules]
    best = int(np.argmax([one.mean() for one in gains]))
    gain = gains[best] - log_of_truth(shares, valid.labels)
    by_group = np.array([gain[valid.groups == one].sum() for one in np.unique(valid.groups)])
    error = float(by_group.std(ddof=1)) * len(by_group) ** 0.5 / len(gain)
    return rules[best] if gain.mean() > error else None


def order_of(windows: Windows) -> Order:
    """Gives the order of time: that of a recording, or the dataset's times; else of a group the order of its rows."""
    source, position = windows.source, windows.rows if windows.times is None else windows.times
    owner: NDArray[Any] = windows.groups if windows.episodes is None else windows.episodes
    if isinstance(source, CutWindows):
        owner, position = source.recording[windows.rows], source.start_s[windows.rows]
    number = np.unique(owner, return_inverse=True)[1].reshape(-1)
    rows = np.lexsort((position, number))
    return np.split(rows, np.flatnonzero(np.diff(number[rows])) + 1)


def smoothed(shares: Floats, order: Order, rule: Joining) -> Floats:
    """Gives (N, K) probabilities of all answers of a recording from those (N, K) of each window alone."""
    found, told, classes = np.empty_like(shares), np.maximum(shares, LEAST) ** rule.power, shares.shape[1]
    move = np.full((classes, classes), (1 - rule.stay) / (classes - 1))
    np.fill_diagonal(move, rule.stay)
    for rows in order:
        ahead, back = told[rows].copy(), np.ones((len(rows), classes))
        ahead[0] /= ahead[0].sum()
        for before, now in pairwise(range(len(rows))):
            ahead[now] *= ahead[before] @ move
            ahead[now] /= ahead[now].sum()
        for later, now in pairwise(range(len(rows) - 1, -1, -1)):
            back[now] = move @ (back[later] * told[rows[later]])
            back[now] /= back[now].sum()
        both = ahead * back
        found[rows] = both / both.sum(1, keepdims=True)
    return found


def log_of_truth(shares: Floats, labels: NDArray[Any]) -> Floats:
    """Gives (N,) logarithms of what answers say of the true class."""
    return np.asarray(np.log(np.maximum(shares[np.arange(len(labels)), labels], LEAST)))


def students(data: FoldData, modality: str, taught: Sequence[Floats | None], *, seed: int) -> list[Floats]:
    """Gives the scores of test windows by a ridge regression on one sensor, by each teaching; None is labels alone."""
    train, valid = data.training.train, data.training.valid
    drawn = drawn_features(train, modality, seed=seed, features=FEATURES)
    parts = (train, valid, data.test)
    ours, seen, theirs = (features_of_rows(drawn, one, modality, np.arange(len(one))) for one in parts)
    found = []
    for answers in taught:
        rows = np.flatnonzero(train.labelled) if answers is None else np.arange(len(train))
        targets = targets_of(train, rows, answers)
        ridge = fit_ridge(ours[rows], targets, class_weights("classification", targets))
        found.append(ridge.scores(theirs) + evening(ridge.scores(seen), train, valid))
    return found


def balanced(windows: Windows, labels: NDArray[Any], answers: NDArray[Any]) -> float:
    """Gives balanced accuracy in per cent."""
    return 100 * float(scores_from_logits(labels, answers, windows.spec.task).metric("balanced_accuracy"))


if __name__ == "__main__":
    main()
