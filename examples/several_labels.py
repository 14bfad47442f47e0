"""Several labels at once, from the shipped recordings: what the arm does in an exercise, told by its gyroscope alone.

    python examples/several_labels.py 400

Writes the dataset `arm` into a new temporary folder, and with that many steps (four, without a number) `teacher.ckpt`
of both sensors and, of the gyroscope, `baseline.ckpt` and `student.ckpt`; a tenth of the windows is labelled. Needs
`mmkd-edge[train]`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import mmkd_app.verbs as mm
from mmkd_edge.spec import TaskSpec
from mmkd_models.data import open_dataset, shipped_dataset, write_dataset

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
folder = Path(tempfile.mkdtemp(prefix="several-labels-"))
arm = write_dataset(folder / "arm", name="arm", labels=task, modalities=exercises.spec.modalities, splits=splits)

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 4
teacher = mm.Teacher(steps=steps, label_fraction=0.1).fit(arm)
teacher.save(folder / "teacher.ckpt")
for name, teachers in (("baseline", None), ("student", teacher)):
    mm.distill(teachers, arm, sensor="gyro", steps=steps, label_fraction=0.1).save(folder / f"{name}.ckpt")
print(f"cd {folder}; next: mmkd-evaluate student.ckpt arm --against baseline.ckpt, mmkd-evaluate teacher.ckpt arm")
