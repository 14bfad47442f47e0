"""When a taught student should give way to labels alone: what three rules ship, over several sets and folds.

    python benchmarks/proofs/when_labels_win.py DIR:MODALITY [DIR:MODALITY ...] [--label-share 0.1] -o out

Two students of one sensor compete, pruned convolutional features as `mmkd-distill --kind rocket` computes them, but at
up to 1,024 positions: one of labels alone, one taught by the closed committee of `teaching_alone.py`. Validation evens
the classes of both. The rules: the taught one always; the likelier of those whose score is within a standard error of
the best; and the same, but labels alone only where they are likelier by more than a standard error over the groups of
validation, which is what ships. Points of balanced accuracy on test windows above labels alone, means over the folds; a
fold is harmed where what ships is more than half a point below labels alone. What is finished in the folder is not made
again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_models.compare.one_fold import FoldData, fold_data
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.networks.config import rocket_features_of
from mmkd_models.training.closed_form.ridge import Ridge
from mmkd_models.training.closed_form.rocket import chosen_features, drawn_features, features_of_rows
from mmkd_models.training.closed_form.targets import class_weights, rows_to_learn_from, targets_of
from mmkd_models.training.judging.rule import Standing, labels_win, preferred, standing_of
from proofs.script import head, row
from proofs.teaching_alone import METRIC, Floats, balanced, evening, labelled_as, parser_of_sets, teacher_answers

MOST_FEATURES = rocket_features_of("tiny")
HARMED = 0.5
"""Points below labels alone."""


class Contestant(msgspec.Struct, frozen=True, kw_only=True):
    """One student of a fold: what validation says of it, and its balanced accuracy on test windows in per cent."""

    score: float
    standard_error: float
    likelihoods: tuple[float, ...]
    test: float

    @property
    def standing(self) -> Standing:
        """Gives what validation says."""
        return Standing(score=self.score, standard_error=self.standard_error, likelihoods=np.array(self.likelihoods))


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """Both students of a fold, and whose each validation window is."""

    fold: int
    taught: Contestant
    alone: Contestant
    groups: tuple[int, ...]


def main() -> None:
    """Make what is missing, and print the table."""
    arguments = parser_of_sets(__doc__).parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[Contest]] = {}
    for text in arguments.sets:
        path, _, modality = text.rpartition(":")
        dataset = open_dataset(path)
        labelled = labelled_as(dataset, arguments.label_share)
        name = f"{dataset.spec.name} {modality}"
        found[name] = [kept(dataset, modality, labelled, arguments.out, fold) for fold in arguments.folds]
    print(table(found))


def ships_always(contest: Contest) -> Contestant:
    """Gives the taught student."""
    return contest.taught


def ships_the_better(contest: Contest) -> Contestant:
    """Gives what validation prefers."""
    both = (contest.taught, contest.alone)
    return both[preferred([one.standing for one in both])]


def ships_the_surely_better(contest: Contest) -> Contestant:
    """Gives labels alone only where validation is sure of them."""
    taught, alone = contest.taught, contest.alone
    return alone if labels_win(taught.standing, alone.standing, np.array(contest.groups)) else taught


RULES: dict[str, Callable[[Contest], Contestant]] = {
    "taught, always": ships_always,
    "what validation prefers": ships_the_better,
    "labels alone only where surely": ships_the_surely_better,
}


def table(found: dict[str, list[Contest]]) -> str:
    """Gives a row a rule, and a column a set."""
    rows = [head("rule", *found, "mean over sets", "folds harmed", "labels alone shipped on", texts=1)]
    for rule, ships in RULES.items():
        means = [np.mean([ships(one).test - one.alone.test for one in folds]) for folds in found.values()]
        every = [(name, one) for name, folds in found.items() for one in folds]
        harmed = sum(ships(one).test < one.alone.test - HARMED for _, one in every)
        alone = [
            f"{name}, fold {one.fold} ({one.alone.test - one.taught.test:+.1f})"
            for name, one in every
            if ships(one) is one.alone
        ]
        cells = [f"{mean:+.1f}" for mean in (*means, np.mean(means))]
        rows.append(row(rule, *cells, f"{harmed} of {len(every)}", ", ".join(alone) or "none"))
    return "\n".join(rows)


def kept(dataset: Dataset, modality: str, labelled: Labelled, out: Path, fold: int) -> Contest:
    """Gives both students of a fold, from the folder where they are there."""
    path = out / f"{dataset.spec.name}-{modality}-{labelled.file_part}-{fold}.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        data = fold_data(dataset, seed=fold, labelled=labelled)
        path.write_bytes(msgspec.json.encode(held(data, modality, seed=fold)))
    return msgspec.json.decode(path.read_bytes(), type=Contest)


def held(data: FoldData, modality: str, *, seed: int) -> Contest:
    """Trains both students of a fold."""
    train, valid, test = data.training.train, data.training.valid, data.test
    _, _, _, committee, _ = teacher_answers((train, valid, test), valid, seed=seed)
    rows = rows_to_learn_from(train, taught=True, seed=seed)
    drawn = drawn_features(train, modality, seed=seed)
    parts = ((train, rows), (valid, np.arange(len(valid))), (test, np.arange(len(test))))
    features = [features_of_rows(drawn, windows, modality, chosen) for windows, chosen in parts]
    known = np.flatnonzero(train.labelled[rows])
    return Contest(
        fold=seed,
        taught=student(data, features, rows, np.arange(len(rows)), committee[0]),
        alone=student(data, features, rows, known, None),
        groups=tuple(np.unique(valid.groups, return_inverse=True)[1].reshape(-1).tolist()),
    )


def student(
    data: FoldData,
    features: Sequence[NDArray[np.float32]],
    rows: NDArray[np.int64],
    learnt: NDArray[np.int64],
    answers: Floats | None,
    *,
    most: int = MOST_FEATURES,
) -> Contestant:
    """Gives a student of those of the rows that it learns from, taught where there are answers (N, K).

    At most so many features stay.
    """
    train, valid, test = data.training.train, data.training.valid, data.test
    ours, seen, theirs = features
    targets = targets_of(train, rows[learnt], None if answers is None else answers[rows[learnt]])

    def judge(columns: NDArray[np.int64], ridge: Ridge) -> float:
        return balanced(valid, valid.labels, ridge.scores(seen[:, columns]))

    columns, ridge = chosen_features(
        ours[learnt],
        targets,
        weights=class_weights("classification", targets),
        most=most,
        judge=judge,
    )
    on_valid = ridge.scores(seen[:, columns])
    bias = evening(on_valid, train, valid)
    standing = standing_of(on_valid + bias, valid.labels, valid.spec.task, metric=METRIC)
    return Contestant(
        score=standing.score,
        standard_error=standing.standard_error,
        likelihoods=tuple(standing.likelihoods.tolist()),
        test=balanced(test, test.labels, ridge.scores(theirs[:, columns]) + bias),
    )


if __name__ == "__main__":
    main()
