import json

import numpy as np
import pytest

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import Recording, write_dataset, write_recordings

VIB = ModalitySpec(name="vib", channels=("x", "y", "z"), unit="m/s^2", rate_hz=100.0, samples=20)
TEMP = ModalitySpec(name="temp", channels=("t",), unit="degC", rate_hz=25.0, samples=5)
LABELS = ("idle", "ok", "worn")
GROUPS = {"train": range(4), "valid": range(4, 6), "test": range(6, 8)}


def _split(groups):
    """Two windows of each class for each group; every value differs, so a wrong row or sample shows."""
    groups_of = np.repeat(np.array(groups), 2 * len(LABELS))
    count = len(groups_of)
    rng = np.random.default_rng(groups.start)
    return {
        "vib": rng.normal(size=(count, *VIB.shape)).astype(np.float32),
        "temp": (20 + rng.normal(size=(count, *TEMP.shape))).astype(np.float32),
        "labels": np.tile(np.arange(len(LABELS)), count // len(LABELS)),
        "groups": groups_of,
    }


@pytest.fixture
def splits():
    """Arrays of a sound dataset: two modalities, three classes, 4 + 2 + 2 groups, 24 + 12 + 12 windows."""
    return {split: _split(groups) for split, groups in GROUPS.items()}


@pytest.fixture
def write(tmp_path):
    """Writes splits into `tmp_path / "rig"`; keywords replace arguments of `write_dataset`."""

    def _write(splits, **changed):
        arguments = {"name": "rig", "labels": LABELS, "modalities": (VIB, TEMP), **changed}
        return write_dataset(tmp_path / "rig", splits=splits, **arguments)

    return _write


@pytest.fixture
def rig(splits, write):
    return write(splits)


@pytest.fixture
def edit(tmp_path):
    """Changes `dataset.json` of the dataset in `tmp_path / "rig"`: the function gets the decoded document."""

    def _edit(change):
        file = tmp_path / "rig" / "dataset.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))

    return _edit


@pytest.fixture
def recordings():
    """24 recordings of 1.0, 1.1 and 1.2 s, four folds: ramps, so that a sample's value is its place in time."""
    found = []
    for group in range(8):
        split = next(name for name, groups in GROUPS.items() if group in groups)
        for label in range(len(LABELS)):
            seconds = np.arange(100 + 10 * label) / VIB.rate_hz
            base = 100.0 * (1 + group * len(LABELS) + label)
            samples = {
                "vib": base + np.stack([seconds, seconds + 10, seconds + 20], axis=1),
                "temp": base + np.arange((25, 27, 30)[label])[:, None] / TEMP.rate_hz,
            }
            found.append(Recording(samples=samples, label=label, group=group, split=split, fold=group % 4))
    return found


@pytest.fixture
def write_line(tmp_path):
    """Writes recordings into `tmp_path / "line"`; keywords replace arguments of `write_recordings`."""

    def _write(recordings, **changed):
        arguments = {"name": "line", "labels": LABELS, "modalities": (VIB, TEMP), "hop_s": 0.1, **changed}
        return write_recordings(tmp_path / "line", recordings=recordings, **arguments)

    return _write


@pytest.fixture
def line(recordings, write_line):
    return write_line(recordings)


@pytest.fixture
def arrays():
    """Arrays of an interchange file: 12 windows of two modalities, two classes, 6 groups of two windows."""
    rng = np.random.default_rng(0)
    return {
        "x_vib": rng.normal(size=(12, 8, 2)).astype(np.float16),
        "rate_vib": np.float32(0.1),
        "channels_vib": np.array(["a", "b"]),
        "x_temp": rng.normal(size=(12, 4, 1)),
        "rate_temp": np.float32(50),
        "channels_temp": np.array(["t"]),
        "y": np.array([0, 1] * 6),
        "classes": np.array(["ok", "worn"]),
        "group": np.repeat(np.arange(6, dtype=np.int32), 2),
        "split": np.repeat(np.array([2, 0, 1], dtype=np.int8), 4),
        "fold": np.repeat(np.arange(3, dtype=np.int8), 4),
    }
