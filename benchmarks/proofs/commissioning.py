"""Commissioning: new people or machines are recorded with all sensors and without labels, and the student adapts.

    python benchmarks/proofs/commissioning.py mydata:acc other:gyro --folds 5 --results build/commissioning

A fold's training and validation groups are the old domain, all labelled; each test group is a new one by itself: of
every class the first half of its windows adapts (a third of it judges), the second half is the truth that nobody sees.
Prints, of each sensor, balanced accuracy over all new windows before, and after every way whether the gate lets it
pass or not; after what the gate lets pass; and beside it an oracle that is taught the true labels. What is finished is
kept in the results folder and not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from mmkd_models.defaults import AUGMENT, STUDENT_PRESET, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.distil.methods import default_recipe
from mmkd_models.networks.config import StudentKind, student_config, teacher_config
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form.students import taught_student
from mmkd_models.training.committee import default_members, train_committee
from mmkd_models.training.predict import logits_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_models.training.trainings import TrainingRun
from proofs.script import head, parser_of, row

JUDGES = 1 / 3  # of what adapts, the share that judges
WAYS: tuple[AdaptationWay, ...] = ("statistics", "own answers", "teacher")


class NewGroup(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one new group: class of every answer to its unseen half, by way, and the truth."""

    group: str
    truth: list[int]
    answers: dict[str, list[int]]
    passed: str | None


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
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for text in options.sets:
        path, _, sensor = text.rpartition(":")
        found = list(_folds(Path(path), sensor, options.kind, options.folds, options.results))
        rows.append(_row(f"{Path(path).name} {sensor}", found))
    names = ["sensor", "new groups", "before", *WAYS, "what the gate passes", "passed", "harmed by 1 point", "oracle"]
    print("\n".join([head(*names, texts=1), *rows]))


def _folds(path: Path, sensor: str, kind: StudentKind, count: int, results: Path) -> Iterator[FoldFound]:
    for seed in range(count):
        kept = results / f"{path.name}-{sensor}-{kind}-{seed}.json"
        if not kept.exists():
            found = _fold(path, sensor, kind, seed)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_file(kept, msgspec.json.encode(found))
        yield msgspec.json.decode(kept.read_bytes(), type=FoldFound)


def _fold(path: Path, sensor: str, kind: StudentKind, seed: int) -> FoldFound:
    dataset = open_dataset(path)
    fold = fold_data(dataset, seed=seed, labelled=ALL)
    data = fold.training
    specs = data.train.spec.modalities
    run = TrainingRun(train=msgspec.structs.replace(TEACHER_TRAIN, seed=seed), augment=AUGMENT)
    members = default_members(specs)
    trained = train_committee(data, teacher_config(TEACHER_PRESET), run, members=members, self_training=False)
    teacher = TaughtBy(checkpoint=trained.checkpoint, sha256="teacher")
    student = taught_student(
        data,
        sensor,
        student_config(STUDENT_PRESET, kind=kind),
        replace(run, train=msgspec.structs.replace(STUDENT_TRAIN, seed=seed)),
        teachers=[teacher],
        recipe=default_recipe(data.train.spec.task),
    )
    groups = [_group(fold, student, teacher, group, seed=seed) for group in np.unique(fold.test.groups)]
    found = [one for one in groups if one is not None]
    return FoldFound(dataset=dataset.spec.name, sensor=sensor, kind=kind, seed=seed, groups=found)


def _group(
    fold: FoldData, student: StudentCheckpoint, teacher: TaughtBy, group: object, *, seed: int
) -> NewGroup | None:
    sensor = student.modality.name
    mine = fold.test.subset(np.flatnonzero(fold.test.groups == group))
    parts = parts_of(mine)
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
        new=Domain(learn=learn, judge=judge, name=str(group), sha256=str(group)),
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
        group=str(group),
        truth=unseen.labels.tolist(),
        answers={name: answers_of(found, unseen) for name, found in students.items()},
        passed=adaptation.document.chosen,
    )


def oracle_of(base: Task, learn: Windows) -> StudentCheckpoint:
    """Gives the student that is taught the true labels of what adapts."""
    return adapted(base, "labels", labelled=np.arange(len(learn)))


def parts_of(windows: Windows) -> tuple[Windows, Windows, Windows] | None:
    """Gives what adapts, what judges that, and what nobody sees before the end; None where one of them is too small."""
    first, second = halves_of(windows)
    count = int(len(first) * (1 - JUDGES))
    learn, judge, unseen = (windows.subset(np.sort(rows)) for rows in (first[:count], first[count:], second))
    return None if min(len(learn), len(judge), len(unseen)) < FEWEST else (learn, judge, unseen)


def halves_of(windows: Windows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Gives each class's first half of windows and its second; the first turn about, so that any part has all."""
    first: list[list[int]] = []
    second: list[int] = []
    for number in np.unique(windows.labels):
        rows = np.flatnonzero(windows.labels == number).tolist()
        first.append(rows[: len(rows) // 2])
        second += rows[len(rows) // 2 :]
    longest = max(map(len, first))
    in_turn = [rows[turn] for turn in range(longest) for rows in first if turn < len(rows)]
    return np.array(in_turn, dtype=np.int64), np.array(second, dtype=np.int64)


def answers_of(student: StudentCheckpoint, windows: Windows) -> list[int]:
    """Gives the class that a student says of each window."""
    found: list[int] = logits_of(student.network(), windows, modality=student.modality.name).argmax(axis=1).tolist()
    return found


def _row(name: str, folds: Sequence[FoldFound]) -> str:
    def score(way: str) -> str:
        return f"{100 * float(np.mean([_balanced(one, way) for one in folds if one.groups])):.1f}"

    groups = [group for one in folds for group in one.groups]
    passed = [group for group in groups if group.passed is not None]
    harmed = [one for one in passed if _hits(one, one.passed or "") < _hits(one, "before") - 0.01]
    return row(
        name,
        len(groups),
        score("before"),
        *(score(way) if all(way in group.answers for group in groups) else "" for way in WAYS),
        score("gate"),
        len(passed),
        len(harmed),
        score("oracle"),
    )


def _hits(group: NewGroup, way: str) -> float:
    return float(np.mean(np.array(group.truth) == np.array(group.answers[way])))


def _balanced(fold: FoldFound, way: str) -> float:
    truth = np.concatenate([np.array(group.truth) for group in fold.groups])
    said = np.concatenate(
        [np.array(group.answers[(group.passed or "before") if way == "gate" else way]) for group in fold.groups]
    )
    recalls = [np.mean(said[truth == number] == number) for number in np.unique(truth)]
    return float(np.mean(recalls))


if __name__ == "__main__":
    main()
