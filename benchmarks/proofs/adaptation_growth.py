"""A class that comes and a sensor that comes: what student and teacher say of old and new windows before and after.

    python benchmarks/proofs/adaptation_growth.py class mydata:acc --results build/adaptation_growth
    python benchmarks/proofs/adaptation_growth.py sensor mydata:acc:gyro --results build/adaptation_growth

Three groups are the old domain and the next three the new one, each cut as `adaptation_labels.py` does: what teaches,
what judges, and what nobody sees, by which everything is measured.

- class: the old domain lacks one class, each in turn. A student of convolutional features that knows the others learns
  it from ten labels of each class of the new domain, as `mmkd-adapt --labels 10` does: all of the way ("labels"), as
  far as it does not forget too much ("part of the way"), and what a gate writes.
- sensor: the old domain lacks the sensor behind the second colon. A tiny transformer learns the old domain, another one
  the new one with all sensors, once with the old one's weights (`mmkd-train teacher --start`) and once afresh. The
  student of the first sensor is taught by the old teacher, and taught again by the one that started with it. Of old
  windows the teachers see what there is.

Prints balanced accuracy in percent, changes in points with their range over cases: these share their people, so that
no interval can be told from them. "Of those passed" is what the old domain changes in students that a gate writes.
Each case is one file in the results folder, and is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.bundle.files import write_file
from mmkd_models.adapt.classes import in_classes, with_classes
from mmkd_models.adapt.domains import Domain
from mmkd_models.adapt.run import AdaptationRequest, run_adaptation, task_of
from mmkd_models.adapt.ways import ADAPT_TRAIN
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import AUGMENT, STUDENT_PRESET, STUDENT_TRAIN, TEACHER_TRAIN
from mmkd_models.distil.methods import default_recipe
from mmkd_models.networks.config import student_config, teacher_config
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherCheckpoint
from mmkd_models.training.closed_form.students import labelled_student, taught_student
from mmkd_models.training.inputs import TeacherStart, TrainingData, TrainingRun
from mmkd_models.training.predict import logits_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_models.training.trainings import train_teacher
from mmkd_report.documents.adaptation import WayJudgement
from proofs.adaptation_labels import GROUPS, PART, SURE, WHOLE, balanced, may_be_written, old_rows, written_by
from proofs.commissioning import answers_of
from proofs.gains import mean_where, ranged
from proofs.remembered import features_remembered
from proofs.script import head, parser_of, row

Parts = dict[str, Windows]

LABELS = 10
CLASS_ARMS, SENSOR_ARMS = (
    ("before", "labels", PART, "gate", SURE, WHOLE),
    ("old", "started", "fresh", "student before", "student after"),
)


class GrowthFound(msgspec.Struct, frozen=True, kw_only=True):
    """One case: by arm, the class of every answer to the unseen new windows and to the unseen old ones.

    Attributes:
        added: the class or the sensor that comes.
        ways: what the gate said of each way to learn a class; answers of a way are those of the arm of its name, but
            of the labels of the arm `part of the way`.
        whole: what is to be said of the labels gone to the end of the way, whatever it forgets.
    """

    dataset: str
    sensor: str
    added: str
    old_groups: list[str]
    truth: list[int]
    old_truth: list[int]
    new: dict[str, list[int]]
    old: dict[str, list[int]]
    ways: list[WayJudgement] = []
    whole: WayJudgement | None = None
    added_number: int | None = None


def main() -> None:
    """Let a class or a sensor come, and print what was said before and after."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=["class", "sensor"])
    parser.add_argument("sets", nargs="+", metavar="DIR:SENSOR[:ADDED]")
    parser.add_argument("--sources", type=int, default=3, help="old domains of each set")
    parser.add_argument("--table", action="store_true", help="only the tables of what there is")
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for text in options.sets:
        path, sensor, *added = text.split(":")
        start = options.results / f"{options.what}-{Path(path).name}-{sensor}"
        if not options.table and options.what == "class":
            _classes(Path(path), sensor, options.sources, start)
        elif not options.table:
            _sensors(Path(path), sensor, added[0], options.sources, start)
        files = sorted(start.parent.glob(f"{start.name}-*.json"))
        found = [msgspec.json.decode(file.read_bytes(), type=GrowthFound) for file in files]
        arms = CLASS_ARMS if options.what == "class" else SENSOR_ARMS
        print(f"\n{Path(path).name} {sensor}, {', '.join(dict.fromkeys(one.added for one in found))}\n")
        print("\n".join(_table(found, arms)), flush=True)


def _classes(path: Path, sensor: str, sources: int, start: Path) -> None:
    windows = open_dataset(path).everything().with_modalities((sensor,))
    for number in range(sources):
        names, old, new = domains_of(windows, number)
        for place, added in enumerate(windows.spec.task.labels):
            _keep(start, f"{number}-{added}", lambda: _new_class(old, new, place, names))  # noqa: B023


def _sensors(path: Path, sensor: str, added: str, sources: int, start: Path) -> None:
    windows = open_dataset(path).everything()
    for number in range(sources):
        names, old, new = domains_of(windows, number)
        _keep(start, f"{number}-{added}", lambda: _new_sensor(old, new, sensor, added, names))  # noqa: B023


def _keep(start: Path, name: str, find: Callable[[], GrowthFound]) -> None:
    kept = start.with_name(f"{start.name}-{name}.json")
    if not kept.exists():
        found = find()
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_file(kept, msgspec.json.encode(found))


def domains_of(windows: Windows, number: int) -> tuple[list[str], Parts, Parts]:
    """The names of the old groups, and the windows of each part of both domains."""
    turned = np.roll(np.unique(windows.groups), -number)
    both = [old_rows(windows, turned[first : first + GROUPS]) for first in (0, GROUPS)]
    old, new = ({name: windows.subset(rows) for name, rows in one.items()} for one in both)
    return [str(one) for one in turned[:GROUPS]], old, new


def _new_class(old: Parts, new: Parts, place: int, names: list[str]) -> GrowthFound:
    task = new["learn"].spec.task
    known = without_class(old, place)
    data = TrainingData(train=known["learn"], valid=known["judge"], sha256="old")
    sensor = data.train.spec.modalities[0].name
    run = TrainingRun(train=STUDENT_TRAIN, augment=AUGMENT)
    student = with_classes(labelled_student(data, sensor, student_config(STUDENT_PRESET, kind="rocket"), run), task)
    back = {name: in_classes(one, task, where="old") for name, one in known.items()}
    asked = AdaptationRequest(
        student=student,
        student_sha256="student",
        new=Domain(learn=new["learn"], judge=new["judge"], name="new", sha256="new"),
        old=Domain(learn=back["learn"], judge=back["judge"], name="old", sha256="old"),
        teacher=None,
        labels=LABELS,
        train=ADAPT_TRAIN,
        most_forgotten=1.0,
    )
    base = task_of(asked)
    adaptation, free = (run_adaptation(replace(asked, most_forgotten=most), base) for most in (1.0, float("inf")))
    part = adaptation.tried["labels"]
    students = {"before": student, **adaptation.tried, PART: part, "labels": free.tried["labels"]}
    said = [{arm: answers_of(one, part["unseen"]) for arm, one in students.items()} for part in (new, back)]
    return GrowthFound(
        dataset=data.train.spec.name,
        sensor=sensor,
        added=task.labels[place],
        old_groups=names,
        ways=list(adaptation.document.ways),
        whole=free.document.ways[-1],
        truth=new["unseen"].labels.tolist(),
        old_truth=back["unseen"].labels.tolist(),
        new=said[0],
        old=said[1],
        added_number=place,
    )


def without_class(parts: Parts, place: int) -> Parts:
    """Gives the windows of all classes but one, of a task that does not know it."""
    task = parts["learn"].spec.task
    less = msgspec.structs.replace(task, labels=tuple(name for name in task.labels if name != task.labels[place]))
    found = {name: in_classes(one, less, where="old") for name, one in parts.items()}
    return {name: one.subset(np.flatnonzero(one.labelled)) for name, one in found.items()}


def _new_sensor(old: Parts, new: Parts, sensor: str, added: str, names: list[str]) -> GrowthFound:
    known = tuple(one.name for one in old["learn"].spec.modalities if one.name != added)
    before = training_of({name: one.with_modalities(known) for name, one in old.items()})
    after = training_of(new)
    config, run = teacher_config("tiny"), TrainingRun(train=TEACHER_TRAIN, augment=AUGMENT)
    first = train_teacher(before, config, run)
    teachers = {
        "old": first,
        "started": train_teacher(after, config, run, start=TeacherStart(checkpoint=first, sha256="first")),
        "fresh": train_teacher(after, config, run),
    }
    students = {
        "student before": _taught(before, sensor, teachers["old"]),
        "student after": _taught(after, sensor, teachers["started"]),
    }
    said = []
    for windows, lacks in ((new["unseen"], ""), (old["unseen"], added)):
        answers = {arm: teacher_says(one, windows, lacks) for arm, one in teachers.items()}
        said.append(answers | {arm: answers_of(one, windows) for arm, one in students.items()})
    return GrowthFound(
        dataset=after.train.spec.name,
        sensor=sensor,
        added=added,
        old_groups=names,
        truth=new["unseen"].labels.tolist(),
        old_truth=old["unseen"].labels.tolist(),
        new=said[0],
        old=said[1],
    )


def training_of(parts: Parts) -> TrainingData:
    """Gives what a domain trains on, and what validates it."""
    return TrainingData(train=parts["learn"], valid=parts["judge"], sha256="windows")


def _taught(data: TrainingData, sensor: str, teacher: TeacherCheckpoint) -> StudentCheckpoint:
    return taught_student(
        data,
        sensor,
        student_config(STUDENT_PRESET, kind="rocket"),
        TrainingRun(train=STUDENT_TRAIN, augment=AUGMENT),
        teachers=[TaughtBy(checkpoint=teacher, sha256="teacher")],
        recipe=default_recipe(data.train.spec.task),
    )


def teacher_says(teacher: TeacherCheckpoint, windows: Windows, lacks: str) -> list[int]:
    """Gives the class that a teacher answers to each window; a sensor that it lacks is missing."""

    def change(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full_like(values, np.nan) if name == lacks else values

    seen = windows.with_modalities([spec.name for spec in teacher.modalities])
    found: list[int] = logits_of(teacher.network(), seen, modality=None, change=change).argmax(axis=1).tolist()
    return found


def _table(found: Sequence[GrowthFound], arms: Sequence[str]) -> Iterator[str]:
    is_class = arms == CLASS_ARMS
    last = ["the new class", "passed", "of those passed"] if is_class else []
    yield head("arm", "cases", "new", "change", "old", "change", *last)
    written = {arm: [_answered_by(arm, one) for one in found] for arm in arms}
    new = {arm: balanced([(g.truth, g.new[one]) for g, one in zip(found, written[arm], strict=True)]) for arm in arms}
    old = {
        arm: balanced([(g.old_truth, g.old[one]) for g, one in zip(found, written[arm], strict=True)]) for arm in arms
    }
    for arm in arms:
        first = "student before" if arm.startswith("student") else arms[0]
        further: list[object] = []
        if is_class:
            further = [f"{100 * np.mean([_recall(g, one) for g, one in zip(found, written[arm], strict=True)]):.1f}"]
        if arm.startswith("gate"):
            passed = [one != "before" for one in written[arm]]
            further += [sum(passed), mean_where(old[arm] - old["before"], passed)]
        further += [""] * (len(last) - len(further))
        changes = [ranged(one[arm] - one[first]) if arm != first else "" for one in (new, old)]
        means = [f"{100 * one[arm].mean():.1f}" for one in (new, old)]
        yield row(arm, len(found), means[0], changes[0], means[1], changes[1], *further)


def _answered_by(arm: str, found: GrowthFound) -> str:
    """The arm whose answers are those of what an arm writes; `before` where it writes nothing."""
    if arm == WHOLE:
        return "labels" if found.whole is not None and may_be_written(found.whole) else "before"
    way = written_by(arm, found.ways)
    return PART if arm.startswith("gate") and way == "labels" else way


def _recall(one: GrowthFound, arm: str) -> float:
    """Of the class that came."""
    said, is_new = np.array(one.new[arm]), np.array(one.truth) == one.added_number
    return float(np.mean(said[is_new] == one.added_number))


if __name__ == "__main__":
    with features_remembered():
        main()
