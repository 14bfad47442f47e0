"""What a committee is worth as a teacher: its members alone, together, and the student that each way teaches.

python benchmarks/proofs/committee_accuracy.py --folds 0 1 --modality gyro -o out
python benchmarks/proofs/committee_accuracy.py mydata --folds 0 1 --modality temperature -o out

Two teachers of each fold: a committee whose transformer learnt from labels alone, and a transformer with its second
generation, which learns from unlabelled windows too. Balanced accuracy on test windows, in per cent; what is finished
is not trained again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn

from mmkd_models.compare.one_fold import FoldData, fold_data
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.defaults import AUGMENT, STUDENT_PRESET, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.distil.methods import default_recipe
from mmkd_models.metrics.scores import scores_from_logits
from mmkd_models.networks.committee.network import Committee
from mmkd_models.networks.config import MemberKind, student_config, teacher_config
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherCheckpoint,
    file_sha256,
    read_student,
    read_teacher,
    write_student,
    write_teacher,
)
from mmkd_models.training.committee import default_members, train_committee
from mmkd_models.training.inputs import TrainingRun
from mmkd_models.training.predict import answers_to, logits_of
from mmkd_models.training.trainings import distil
from proofs.script import parser_of

WAYS = ("committee", "two generations")


def main() -> None:
    """Print a row for every fold and way."""
    parser = parser_of(__doc__)
    parser.add_argument("data", nargs="?", help="dataset directory; default the shipped one")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--modality", required=True, help="the student's sensor")
    parser.add_argument("--label-share", type=float, default=0.1)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the checkpoints")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(arguments.data or shipped_dataset())
    print("| fold | teacher | members alone, weight | teacher | student |")
    print("|---" * 5 + "|")
    for fold in arguments.folds:
        data = fold_data(dataset, seed=fold, labelled=Labelled(share=arguments.label_share))
        for way in WAYS:
            path = arguments.out / f"{way.replace(' ', '-')}-{fold}.ckpt"
            teacher = teacher_of(path, way, data)
            student = student_of(path, teacher, data, arguments.modality)
            answered = logits_of(student.network(), data.test, modality=arguments.modality)
            together = logits_of(teacher.network(), data.test, modality=None)
            members = ", ".join(members_alone(teacher, data))
            print(f"| {fold} | {way} | {members} | {score(data, together)} | {score(data, answered)} |", flush=True)


def score(data: FoldData, logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
    """Balanced accuracy on the test windows."""
    found = scores_from_logits(data.test.labels, logits, data.test.spec.task)
    return f"{100 * found.metric('balanced_accuracy'):.1f}"


def members_alone(teacher: TeacherCheckpoint, data: FoldData) -> Iterator[str]:
    """What each member of a committee is worth on the test windows."""
    network = teacher.network()
    members: list[nn.Module] = list(network.members) if isinstance(network, Committee) else []
    for member, facts in zip(members, teacher.committee.members if teacher.committee else (), strict=True):
        yield f"{facts.named} {score(data, answers_to(member, data.test).numpy())} ({facts.weight:.2f})"


def teacher_of(path: Path, way: str, data: FoldData) -> TeacherCheckpoint:
    """Reads the teacher, or trains it."""
    if not path.exists():
        together = way == "committee"
        members: tuple[MemberKind, ...] = (
            default_members(data.training.train.spec.modalities) if together else ("transformer",)
        )
        run = run_of(TEACHER_TRAIN, data)
        config = teacher_config(TEACHER_PRESET)
        trained = train_committee(data.training, config, run, members=members, self_training=not together)
        write_teacher(path, trained.checkpoint)
    return read_teacher(path)


def student_of(path: Path, teacher: TeacherCheckpoint, data: FoldData, modality: str) -> StudentCheckpoint:
    """Reads the teacher's student, or distils it by the default recipe."""
    file = path.with_name(f"{path.stem}-{modality}.ckpt")
    if not file.exists():
        student = distil(
            data.training,
            modality,
            student_config(STUDENT_PRESET),
            run_of(STUDENT_TRAIN, data),
            teacher=teacher,
            teacher_sha256=file_sha256(path),
            recipe=default_recipe(data.test.spec.task),
        )
        write_student(file, student)
    return read_student(file)


def run_of(train: TrainConfig, data: FoldData) -> TrainingRun:
    """The fold's number is the seed, as in `mmkd-demo`."""
    assert isinstance(data.training.fold, int)
    return TrainingRun(train=msgspec.structs.replace(train, seed=data.training.fold), augment=AUGMENT)


if __name__ == "__main__":
    main()
