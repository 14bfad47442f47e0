"""Processes that make parts: their errors come through, and none is left."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd_edge.errors import CheckpointError, MmkdError, UnavailableError
from mmkd_models.compare.comparison import Part, parts_of, teacher_path
from mmkd_models.compare.fold_result import ComparisonConfig
from mmkd_models.compare.pool import WorkerPool, fold_pool
from mmkd_models.data import Dataset, open_dataset, shipped_dataset


@pytest.fixture(scope="module")
def shipped() -> Dataset:
    return open_dataset(shipped_dataset())


def student_of(dataset: Dataset, config: ComparisonConfig, out: Path) -> Part:
    return parts_of(dataset, seed=1, config=config, out=out)[2][0]


def make(pool: WorkerPool[Part], part: Part) -> None:
    pool.make([part], on_step=lambda number, step: None, on_end=lambda number: None)


def make_and_start(pool: WorkerPool[Part], part: Part, timer: threading.Timer) -> None:
    timer.start()
    make(pool, part)


def test_the_error_of_a_part_in_another_process_is_raised_here_and_ends_the_processes(
    shipped: Dataset, comparison: Callable[..., ComparisonConfig], tmp_path: Path
) -> None:
    part = student_of(shipped, comparison(), tmp_path)
    path = teacher_path(tmp_path, comparison().teacher)
    path.write_bytes(b"no teacher")
    with pytest.raises(CheckpointError) as here, fold_pool(shipped, 1) as pool:
        make(pool, part)
    with pytest.raises(CheckpointError) as there, fold_pool(shipped, 2) as pool:
        make(pool, part)
    assert str(there.value) == str(here.value)
    assert str(path) in str(there.value)
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_told(
    shipped: Dataset, comparison: Callable[..., ComparisonConfig], tmp_path: Path
) -> None:
    part = student_of(shipped, comparison(), tmp_path)

    def kill() -> None:
        for process in multiprocessing.active_children():
            process.kill()

    killer = threading.Timer(0.3, kill)  # while they still import
    with pytest.raises(MmkdError) as caught, fold_pool(shipped, 2) as pool:
        make_and_start(pool, part, killer)
    killer.join()
    assert str(caught.value) == (
        "workers: expected processes that end their work, one died (exit code -9); the same command continues; where "
        "memory is short give --workers 1"
    )
    assert multiprocessing.active_children() == []


def test_without_ray_the_extra_is_named(
    shipped: Dataset, comparison: Callable[..., ComparisonConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError) as caught, fold_pool(shipped, 2, executor="ray") as pool:
        make(pool, student_of(shipped, comparison(), tmp_path))
    assert str(caught.value) == "--executor ray needs ray, which this Python lacks; run: pip install 'mmkd-edge[ray]'"
