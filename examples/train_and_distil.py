"""From recordings to a bundle in Python: train a teacher of both sensors, distil a student of one, export it.

    python examples/train_and_distil.py 300

The number is that of training steps; without it they are far too few to be good. Writes teacher.ckpt, student.ckpt and
student.edge into the folder it runs in. Needs `mmkd-edge[export]`.
"""

import sys

import mmkd_app.verbs as mm
from mmkd_models.data import open_dataset, shipped_dataset


def main(steps: int) -> None:
    """Train for this many steps, each network; `export` is `mmkd_export`'s."""
    data = open_dataset(shipped_dataset("watch_exercises"))
    teacher = mm.Teacher(size="tiny", steps=steps, labelled_groups=2).fit(data)
    teacher.save("teacher.ckpt")
    labels_only = mm.distill(None, data, sensor="gyro", steps=steps, labelled_groups=2)
    student = mm.distill(teacher, data, sensor="gyro", steps=steps, labelled_groups=2)
    student.save("student.ckpt")
    valid = {"labels only": labels_only, "taught": student}
    print("on validation:", ", ".join(f"{name} {one.score(data, split='valid'):.2f}" for name, one in valid.items()))
    print(f"wrote {student.export('student.edge')}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
