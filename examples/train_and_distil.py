"""From recordings to a bundle in Python: train a teacher of both sensors, distil a student of one, export it.

    python examples/train_and_distil.py 300

The number is that of training steps; without it they are far too few to be good. Writes teacher.ckpt, student.ckpt and
student.edge into the folder it runs in. Needs `mmkd-edge[export]`.
"""

import sys
from pathlib import Path

from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan
from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.defaults import AUGMENT
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import constant
from mmkd_models.networks.config import student_config, teacher_config
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import file_sha256, write_student, write_teacher
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.trainings import distil, train_baseline, train_teacher


def main(steps: int) -> None:
    """Train for this many steps, each network."""
    dataset = open_dataset(shipped_dataset("watch_exercises"))
    data = TrainingData(train=dataset.split("train"), valid=dataset.split("valid"), sha256=dataset.sha256)
    run = TrainingRun(train=TrainConfig(steps=steps, batch=16, eval_every=steps), augment=AUGMENT)

    teacher = train_teacher(data, teacher_config("tiny"), run)
    write_teacher(Path("teacher.ckpt"), teacher)

    labels_only = train_baseline(data, "gyro", student_config("tiny"), run)
    recipe = Recipe(terms=(TaskTerm(weight=constant(1.0)), LogitTerm(weight=constant(1.0), temperature=2.0)))
    sha256 = file_sha256(Path("teacher.ckpt"))
    student = distil(data, "gyro", student_config("tiny"), run, teacher=teacher, teacher_sha256=sha256, recipe=recipe)
    write_student(Path("student.ckpt"), student)
    print(f"on validation: labels only {labels_only.facts.score:.2f}, taught {student.facts.score:.2f}")

    result = export(export_plan(Path("student.ckpt")))
    print(f"wrote {result.path}, {result.size_bytes / 1000:.0f} kB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
