"""Several labels at once, from the shipped recordings: what the arm does in an exercise, told by its gyroscope alone.

    python examples/several_labels.py 400

Writes the dataset `arm`, and with that many steps (four, without a number) `teacher.ckpt` of both sensors and, of the
gyroscope, `baseline.ckpt` and `student.ckpt`; a tenth of the windows is labelled. Needs `mmkd-edge[train]`.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge.spec import TaskSpec
from mmkd_models.data import open_dataset, shipped_dataset, write_dataset
from mmkd_models.defaults import AUGMENT, STUDENT_TRAIN
from mmkd_models.distillation.recipe import default_recipe
from mmkd_models.networks.config import student_config, teacher_config
from mmkd_models.training.checkpoint import file_sha256, write_student, write_teacher
from mmkd_models.training.inputs import TrainingData, TrainingRun, visible_labels
from mmkd_models.training.trainings import distil, train_baseline, train_teacher

MOVES = {  # internal and external rotation bend the elbow as well, an upright row lifts it
    "rotates": ("IR", "ER"),
    "bends the elbow": ("IR", "ER", "ROW"),
    "raises the arm": ("ABD", "FEL", "ROW"),
}
exercises = open_dataset(shipped_dataset("watch_exercises"))
rows = np.array([[name in who for who in MOVES.values()] for name in exercises.spec.task.labels], dtype=np.uint8)
splits = {}
for split in ("train", "valid", "test"):
    windows = exercises.split(split)
    values = windows.take(np.arange(len(windows)))
    splits[split] = {**values, "labels": rows[windows.labels], "groups": windows.groups}
task = TaskSpec(kind="multi_label", labels=tuple(MOVES))
arm = write_dataset("arm", name="arm", labels=task, modalities=exercises.spec.modalities, splits=splits)

train = arm.split("train")
train = train.with_labels(visible_labels(train, fraction=0.1, seed=0))
data = TrainingData(train=train, valid=arm.split("valid"), sha256=arm.sha256)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 4
run = TrainingRun(train=msgspec.structs.replace(STUDENT_TRAIN, steps=steps, metric="macro_f1"), augment=AUGMENT)
teacher, path, size = train_teacher(data, teacher_config("small"), run), Path("teacher.ckpt"), student_config("tiny")
write_teacher(path, teacher)
write_student(Path("baseline.ckpt"), train_baseline(data, "gyro", size, run))
recipe = default_recipe(task)
taught = distil(data, "gyro", size, run, teacher=teacher, teacher_sha256=file_sha256(path), recipe=recipe)
write_student(Path("student.ckpt"), taught)
print("next: mmkd-evaluate student.ckpt arm --against baseline.ckpt, mmkd-evaluate teacher.ckpt arm")
