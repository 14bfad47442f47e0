"""Bundles and graphs that the benchmark's tests share."""

from __future__ import annotations

from threading import Event
from typing import NamedTuple

import pytest

from mmkd_app.commands.bench import main
from mmkd_bench.measuring import process, worker
from tests.bench.made import make_bundle, onnx_model


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle that takes microseconds."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "small.edge")


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory):
    """The same with a graph of many more products."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "slow.edge", repeats=60)


@pytest.fixture(scope="session")
def per_group_bundle(tmp_path_factory):
    """The same with a modality that needs a reference."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "per_group.edge", normalise="per_group")


@pytest.fixture(scope="session")
def several_bundle(tmp_path_factory):
    """The same with a second student, of the gyroscope."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "several.edge", second="gyro")


@pytest.fixture(scope="session")
def graph_file(tmp_path_factory):
    """The slow bundle's graph as a bare ONNX file."""
    path = tmp_path_factory.mktemp("graphs") / "slow.onnx"
    path.write_bytes(onnx_model(60))
    return path


class Ended(NamedTuple):
    returncode: object
    stdout: str
    stderr: str


@pytest.fixture
def launched_here(monkeypatch):
    """Does the jobs of launches in this process: one of its own needs a second of the processor to start."""

    def run(line, folder, limit_s, worker_name, *, is_partial):
        worker._do_job(line, folder=folder, given={"import_ms": 1.0, "stop": Event()})
        if (failure := folder / process.FAILURE_FILE).exists():
            raise process._error(failure.read_bytes())
        return False

    monkeypatch.setattr(process, "_run", run)


@pytest.fixture
def mmkd_bench(ran, monkeypatch, launched_here):
    """The command in this process: the same code from its arguments on, without the start of an interpreter."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *arguments: Ended(*ran(main, "mmkd-bench", *arguments))
