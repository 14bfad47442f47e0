"""Where labels of a new domain come from: windows that a device kept, and some of a recording, the others without."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd_edge import ModalitySpec, TaskSpec
from mmkd_edge.testing import fake_predictor
from mmkd_models.commands.adapt import run_adapt
from mmkd_models.data import Dataset, write_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.importing.interchange import import_interchange
from mmkd_models.networks.config import student_config
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import read_student, write_student
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.predict import scores_of
from mmkd_models.training.students import train_student
from mmkd_station.uncertain import UncertainRing

ACC = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=16)
TASK = TaskSpec(labels=("idle", "busy"))
MOVED = 1.3


def windows(count: int, seed: int, *, moved: float) -> tuple[np.ndarray, np.ndarray]:
    """Windows (N, 16, 1) whose level tells two classes, and their labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    level = np.where(labels, 1.0, -1.0)[:, None, None]
    return (level + moved + rng.normal(0, 0.4, (count, 16, 1))).astype(np.float32), labels


def written(path: Path, *, moved: float, known: int | None = None) -> Dataset:
    """A dataset whose first training windows have a label, or all."""
    splits = {}
    for number, (name, count) in enumerate({"train": 100, "valid": 60, "test": 60}.items()):
        values, labels = windows(count, number + round(10 * moved), moved=moved)
        if known is not None and name != "test":
            labels = np.where((np.arange(count) < known) & (name == "train"), labels, -1)
        splits[name] = {"acc": values, "labels": labels, "groups": 10 * number + np.arange(count) * 6 // count}
    return write_dataset(path, name=path.name, labels=list(TASK.labels), modalities=(ACC,), splits=splits)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """A folder with the old dataset and a student of it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("old")
    dataset = written(folder / "data", moved=0.0)
    data = TrainingData(train=dataset.split("train"), valid=dataset.split("valid"), sha256=dataset.sha256)
    config = student_config("tiny", kind="rocket")
    run = TrainingRun(train=TrainConfig(), augment=AugmentConfig())
    write_student(folder / "student.ckpt", train_student(data, "acc", config, run))
    return folder


def adapted_to(old: Path, site: Path, output: Path) -> tuple[float, float, int]:
    """Balanced accuracy on new windows before and after ten labels of each class, and how many labels were seen."""
    line = [old / "student.ckpt", site, "--labels", 10, "--old", old / "data", "-o", output]
    with suppress(SystemExit):
        run_adapt([str(word) for word in line])
    truth = written(output.parent / "truth", moved=MOVED).split("test")
    before, after = (read_student(path) for path in (old / "student.ckpt", output))
    scores = [scores_of(one.network(), truth, modality="acc").balanced_accuracy for one in (before, after)]
    (lineage,) = after.facts.adapted
    return scores[0], scores[1], lineage.labels


def test_windows_that_a_device_was_not_sure_of_teach_their_student_once_they_are_labelled(old, tmp_path):
    ring = UncertainRing(tmp_path / "uncertain", most_bytes=10**7, below=0.6, station="press1", modality=ACC, task=TASK)
    unsure = fake_predictor([0.5, 0.5], modality=ACC, labels=TASK)
    values, labels = windows(96, 70, moved=MOVED)
    for number, window in enumerate(values):
        ring.see(window, unsure.predict(window), time_s=5.0 * number)
    ring.close()
    files = [np.load(path) for path in sorted((tmp_path / "uncertain").iterdir())]
    assert len(files) == 3
    each = ("x_acc", "y", "time", "column_answer", "column_probability", "column_reason")
    kept = dict(files[0]) | {name: np.concatenate([one[name] for one in files]) for name in each}
    split = np.repeat([0, 1, 2], 32)
    np.savez(tmp_path / "kept.npz", **(kept | {"y": labels, "split": split, "group": split}))
    import_interchange(tmp_path / "kept.npz", tmp_path / "site")
    before, after, seen = adapted_to(old, tmp_path / "site", tmp_path / "adapted.ckpt")
    assert (before < 0.6, after > 0.8, seen) == (True, True, 20)


def test_of_a_recording_some_windows_have_labels_and_the_others_wait(old, tmp_path):
    site = written(tmp_path / "site", moved=MOVED, known=30)
    assert int(site.split("train").labelled.sum()) == 30
    before, after, seen = adapted_to(old, tmp_path / "site", tmp_path / "adapted.ckpt")
    assert (before < 0.6, after > 0.8, seen) == (True, True, 20)
