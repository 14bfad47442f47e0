"""What the tests of the training side share: one thread, and a small dataset with two modalities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import Dataset, write_dataset


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Results are bit-equal for one thread count only, and small tensors are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _split(count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Two classes: `acc` swings at another rate, `gyro` is a constant with noise; a tenth of each is missing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    time = np.arange(40) / 20.0
    acc = np.sin(2 * np.pi * (1 + 3 * labels)[:, None, None] * time[None, :, None] + rng.uniform(0, 6, (count, 1, 2)))
    gyro = np.where(labels, 1.0, -1.0)[:, None, None] + rng.normal(0, 0.5, (count, 20, 1))
    acc[rng.uniform(size=acc.shape) < 0.1] = np.nan
    gyro[rng.uniform(size=gyro.shape) < 0.1] = np.nan
    return {"acc": acc, "gyro": gyro, "labels": labels}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """32 windows to train on, 16 to validate, 8 to test; acc (40, 2) at 20 Hz, gyro (20, 1) at 10 Hz."""
    path: Path = tmp_path_factory.mktemp("data") / "two"
    return write_dataset(
        path,
        name="two",
        labels=["slow", "fast"],
        modalities=[
            ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40),
            ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=20),
        ],
        splits={"train": _split(32, 0), "valid": _split(16, 1), "test": _split(8, 2)},
    )
