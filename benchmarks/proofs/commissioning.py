"""Commissioning: new people or machines are recorded with all sensors and without labels, and the student adapts.

    python benchmarks/proofs/commissioning.py mydata:acc other:gyro --folds 5 --results build/commissioning

A fold's training and validation groups are the old domain, all labelled; each test group is a new one by itself, or
with `--together` all of them are one: of every class the first half of its windows adapts (a third of it judges), the
second half is the truth that nobody sees, without its first window, which may share samples with the half before.
`--amounts 0.25,0.5` also adapts to the first quarter and half of that half, judged by the same truth. With `--grown`
the committee has no transformer, so that a fold takes seconds where it takes six minutes.

Prints, of each sensor, balanced accuracy over all new windows before, and after every way whether the gate lets it
pass or not; after what the gate lets pass; and beside it an oracle that is taught the true labels. Then what a group
gains by the teacher over each of these, and what each amount of recording is worth, with the middle 95 % over draws of
groups. What is finished is kept in the results folder under the name of its options, and not repeated.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.bundle.files import write_file
from mmkd_models.adapt.domains import FEWEST, Domain
from mmkd_models.adapt.run import AdaptationRequest, run_adaptation, task_of
from mmkd_models.adapt.ways import ADAPT_TRAIN, AdaptationWay, Task, adapted
from mmkd_models.compare.one_fold import FoldData, fold_data
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.labelled import ALL
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import TEACHER_PRESET
from mmkd_models.networks.config import StudentKind
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.predict import logits_of
from mmkd_models.training.teacher_set import TaughtBy
from proofs.gains import balanced_accuracy, gained
from proofs.remembered import features_remembered
from proofs.script import head, parser_of, row
from proofs.taught import taught

JUDGES = 1 / 3  # of what adapts, the share that judges
WAYS: tuple[AdaptationWay, ...] = ("statistics", "own answers", "teacher")


class NewGroup(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one new group: class of every answer to its unseen half, by way, and the truth.

    Attributes:
        amount: how much of the half that may adapt did.
        windows: of that; 0 in files of earlier versions.
    """

    group: str
    truth: list[int]
    answers: dict[str, list[int]]
    passed: str | None
    amount: float = 1.0
    windows: int = 0


class FoldFound(msgspec.Struct, frozen=True, kw_only=True):
    """All new groups of a fold."""

    dataset: str
    sensor: str
    kind: StudentKind
    seed: int
    groups: list[NewGroup]


def main() -> None:
    """Adapt to every new group, and print what it was worth."""
    parser = parser_of(__doc__)
    parser.add_argument("sets", nargs="+", metavar="DIR:SENSOR")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--kind", choices=["rocket", "transformer"], default="rocket")
    parser.add_argument("--together", action="store_true", help="all test groups of a fold are one new group")
    parser.add_argument("--grown", action="store_true", help="rocket and trees teach, and no transformer")
    parser.add_argument("--amounts", default="", help="also adapt to these shares of what may adapt, by commas")
    parser.add_argument("--keep", type=Path, default=None, help="folder of the trained teachers and students")
    parser.add_argument("--table", action="store_true", help="only the tables of what there is")
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    if options.grown and options.kind != "rocket":
        parser.error("--grown: expected --kind rocket, got transformer, which looks into its teacher's transformer")
    torch.set_num_threads(1)
    found = {}
    for text in options.sets:
        path, _, sensor = text.rpartition(":")
        found[f"{Path(path).name} {sensor}"] = list(_folds(Path(path), sensor, options))
    print("\n\n".join("\n".join(lines) for lines in _tables(found)))


def _folds(path: Path, sensor: str, options: Namespace) -> Iterator[FoldFound]:
    for seed in range(options.folds):
        kept = options.results / f"{_kept_name(path, sensor, options)}-{seed}.json"
        if not kept.exists() and not options.table:
            found = _fold(path, sensor, options, seed)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_file(kept, msgspec.json.encode(found))
        if kept.exists():
            yield msgspec.json.decode(kept.read_bytes(), type=FoldFound)


def _kept_name(path: Path, sensor: str, options: Namespace) -> str:
    """How the names of the files begin that these options make, of whatever fold."""
    parts = [path.name, sensor, options.kind]
    parts += [name for name in ("together", "grown") if getattr(options, name)]
    parts += [f"{share:g}" for share in sorted(_shares(options)) if share != 1.0]
    return "-".join(parts)


def _shares(options: Namespace) -> list[float]:
    return sorted({1.0, *map(float, filter(None, options.amounts.split(",")))}, reverse=True)


def _fold(path: Path, sensor: str, options: Namespace, seed: int) -> FoldFound:
    dataset = open_dataset(path)
    fold = fold_data(dataset, seed=seed, labelled=ALL)
    data = fold.training
    kept = options.keep and options.keep / f"{path.name}-fold{seed}{'-grown' if options.grown else ''}"
    teacher, student = taught(
        data, sensor, options.kind, preset=TEACHER_PRESET, seed=seed, kept=kept, grown=options.grown
    )
    groups = []
    for name, rows in _new_groups(fold.test, options.together):
        found = [_group(fold, student, teacher, (name, rows), seed=seed, share=share) for share in _shares(options)]
        groups += [one for one in found if one is not None]
    return FoldFound(dataset=dataset.spec.name, sensor=sensor, kind=options.kind, seed=seed, groups=groups)


def _new_groups(windows: Windows, together: bool) -> Iterator[tuple[str, NDArray[np.int64]]]:
    if together:
        yield "all", np.arange(len(windows))
        return
    for name in np.unique(windows.groups):
        yield str(name), np.flatnonzero(windows.groups == name)


def _group(
    fold: FoldData,
    student: StudentCheckpoint,
    teacher: TaughtBy,
    group: tuple[str, NDArray[np.int64]],
    *,
    seed: int,
    share: float,
) -> NewGroup | None:
    sensor, (name, rows) = student.modality.name, group
    parts = parts_of(fold.test.subset(rows), share=share)
    if parts is None:
        return None
    learn, judge, unseen = parts
    one = (sensor,)
    old = Domain(
        learn=fold.training.train.with_modalities(one),
        judge=fold.training.valid.with_modalities(one),
        name="old",
        sha256="old",
    )
    asked = AdaptationRequest(
        student=student,
        student_sha256="student",
        new=Domain(learn=learn, judge=judge, name=name, sha256=name),
        old=old,
        teacher=teacher,
        labels=0,
        train=msgspec.structs.replace(ADAPT_TRAIN, seed=seed),
        most_forgotten=1.0,
    )
    base = task_of(asked)
    unseen = unseen.with_modalities(one)
    adaptation = run_adaptation(asked, base)
    students: dict[str, StudentCheckpoint] = {"before": student, "oracle": oracle_of(base, learn)}
    students.update(adaptation.tried)
    return NewGroup(
        group=name,
        amount=share,
        windows=len(learn) + len(judge),
        truth=unseen.labels.tolist(),
        answers={name: answers_of(found, unseen) for name, found in students.items()},
        passed=adaptation.document.chosen,
    )


def oracle_of(base: Task, learn: Windows) -> StudentCheckpoint:
    """Gives the student that is taught the true labels of what adapts."""
    return adapted(base, "labels", labelled=np.arange(len(learn)))


def parts_of(windows: Windows, *, share: float = 1.0) -> tuple[Windows, Windows, Windows] | None:
    """Gives what adapts, what judges that, and what nobody sees before the end; None where one of them is too small.

    Args:
        share: of what may adapt, its beginning; of less than all half as many windows are enough, which `mmkd-adapt`
            refuses.
    """
    first, second = halves_of(windows)
    first = first[: round(share * len(first))]
    count = int(len(first) * (1 - JUDGES))
    learn, judge, unseen = (windows.subset(np.sort(rows)) for rows in (first[:count], first[count:], second))
    fewest = FEWEST if share == 1.0 else FEWEST // 2
    return None if min(len(learn), len(judge), len(unseen)) < fewest else (learn, judge, unseen)


def halves_of(windows: Windows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Gives each class's first half of windows, and its second without the first window, which may overlap the half.

    The first is in an order of which any beginning has the same share of each class.
    """
    first, second, place = [], [], []
    for number in np.unique(windows.labels):
        rows = np.flatnonzero(windows.labels == number)
        half = len(rows) // 2
        first.append(rows[:half])
        second.append(rows[half + 1 :])
        place.append((np.arange(half) + 0.5) / max(half, 1))
    order = np.argsort(np.concatenate(place), kind="stable")
    return np.concatenate(first)[order], np.concatenate(second)


def answers_of(student: StudentCheckpoint, windows: Windows) -> list[int]:
    """Gives the class that a student says of each window."""
    found: list[int] = logits_of(student.network(), windows, modality=student.modality.name).argmax(axis=1).tolist()
    return found


def _tables(found: Mapping[str, Sequence[FoldFound]]) -> Iterator[list[str]]:
    names = ["sensor", "folds", "new groups", "before", *WAYS, "gate", "passed", "harmed by 1 point", "oracle"]
    whole = {name: [_of_amount(fold, 1.0) for fold in folds] for name, folds in found.items()}
    yield [head(*names), *(_row(name, folds) for name, folds in whole.items())]
    over = ["before", "own answers", "oracle"]
    lines = [head("sensor", *(f"teacher over {one}" for one in over), "better, worse by 1 point", "gate over before")]
    for name, folds in whole.items():
        groups = [group for fold in folds for group in fold.groups]
        gains = {one: _gains(groups, "teacher", one) for one in over}
        moved = [int((sign * gains["before"] > 0.01).sum()) for sign in (1, -1)]
        gate = gained(_gains(groups, "gate", "before"))
        lines.append(row(name, *map(gained, gains.values()), f"{moved[0]}, {moved[1]}", gate))
    yield lines
    if any(group.amount != 1.0 for folds in found.values() for fold in folds for group in fold.groups):
        yield list(_amounts(found))


def _of_amount(fold: FoldFound, amount: float) -> FoldFound:
    return msgspec.structs.replace(fold, groups=[one for one in fold.groups if one.amount == amount])


def _amounts(found: Mapping[str, Sequence[FoldFound]]) -> Iterator[str]:
    """What each amount of recording is worth to the groups that have all of them."""
    yield head(
        *("sensor", "of the half", "windows", "groups", "teacher", "gate", "passed", "harmed by 1 point", "oracle")
    )
    for name, folds in found.items():
        groups = [(fold.seed, one) for fold in folds for one in fold.groups]
        amounts = sorted({one.amount for _, one in groups})
        have = {amount: {(seed, one.group): one for seed, one in groups if one.amount == amount} for amount in amounts}
        common = set.intersection(*map(set, have.values()))
        for amount in amounts:
            mine = [have[amount][key] for key in sorted(common)]
            gate = _gains(mine, "gate", "before")
            yield row(
                name,
                f"{amount:g}",
                f"{np.mean([one.windows for one in mine]):.0f}",
                len(mine),
                gained(_gains(mine, "teacher", "before")),
                gained(gate),
                sum(one.passed is not None for one in mine),
                int((gate < -0.01).sum()),
                gained(_gains(mine, "oracle", "before")),
            )


def _row(name: str, folds: Sequence[FoldFound]) -> str:
    def score(way: str) -> str:
        return f"{100 * float(np.mean([_balanced(one.groups, way) for one in folds if one.groups])):.1f}"

    groups = [group for one in folds for group in one.groups]
    return row(
        name,
        len(folds),
        len(groups),
        score("before"),
        *(score(way) if all(way in group.answers for group in groups) else "" for way in WAYS),
        score("gate"),
        sum(group.passed is not None for group in groups),
        int((_gains(groups, "gate", "before") < -0.01).sum()),
        score("oracle"),
    )


def _gains(groups: Sequence[NewGroup], way: str, over: str) -> NDArray[np.float64]:
    """What balanced accuracy each group (N,) has more by one way than by another."""
    return np.array([_balanced([one], way) - _balanced([one], over) for one in groups])


def _balanced(groups: Sequence[NewGroup], way: str) -> float:
    said = [group.answers[(group.passed or "before") if way == "gate" else way] for group in groups]
    return balanced_accuracy([*chain(*(group.truth for group in groups))], [*chain(*said)])


if __name__ == "__main__":
    with features_remembered():
        main()
