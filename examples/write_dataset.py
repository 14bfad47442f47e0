"""Make a dataset from arrays: two sensors, two classes, no machine in two splits. Then `mmkd-data describe press`."""

import numpy as np

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset

rng = np.random.default_rng(0)
vibration = ModalitySpec(name="vibration", channels=("x", "y", "z"), unit="m/s^2", rate_hz=100.0, samples=200)
current = ModalitySpec(name="current", channels=("i",), unit="A", rate_hz=25.0, samples=50)
splits = {}
for split, machines in {"train": [1, 2, 3], "valid": [4], "test": [5]}.items():
    groups, labels = np.repeat(machines, 30), np.tile([0, 1], 15 * len(machines))
    shaking = rng.normal(scale=1 + labels[:, None, None], size=(len(labels), 200, 3))  # a worn press shakes more
    drawn = rng.normal(loc=10 + labels[:, None, None], size=(len(labels), 50, 1))  # and draws more current
    splits[split] = {"vibration": shaking, "current": drawn, "labels": labels, "groups": groups}
dataset = write_dataset("press", name="press", labels=["ok", "worn"], modalities=[vibration, current], splits=splits)
print(f"wrote {dataset.path}: {dataset.spec.splits}")
