"""The script that proves on a machine that the runtime holds, on a small student and for a moment."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.testing import FakeBackend, fake_entry

HALF = np.array([[0.5, 0.0, -0.5], [0.0, 1.0, 0.25], [0.25, -0.5, 0.5]], dtype=np.float32)


@pytest.fixture(scope="module")
def proof() -> Iterator[ModuleType]:
    path = Path(__file__).parents[2] / "examples" / "runtime_proof.py"
    spec = importlib.util.spec_from_file_location("runtime_proof", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["runtime_proof"] = module  # where dataclasses looks their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["runtime_proof"]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_threads_get_the_answers_that_one_gets(
    proof: ModuleType, bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proof.prove_threads(bundle_path, seconds=0.3) == 0
    printed = capsys.readouterr()
    rows = [_cells(line) for line in printed.out.splitlines()[2:]]
    assert ["ort", "fp32"] in [row[:2] for row in rows]
    for row in rows:
        answers, different, refused, errors = (int(cell.replace(",", "")) for cell in row[3:])
        assert answers > 50
        assert (different, errors) == (0, 0)
        assert refused >= 8  # each thread begins with invalid calls
    assert "has no artifact of precision 'int8' for backend 'ort'" in printed.err


def test_an_engine_that_mixes_answers_up_is_found(proof: ModuleType, kit: Any) -> None:
    turns = iter(range(10**9))

    def answer(feeds: object) -> list[float]:
        return [1.0, 0.0] if next(turns) % 97 else [0.0, 1.0]

    entry = fake_entry(modality=kit.modality, labels=("a", "b"))
    windows = [np.ones(kit.modality.shape, dtype=np.float32)] * 2
    with EdgePredictor(entry=entry, backend=FakeBackend(answer)) as predictor:
        right = [{("ok", np.array([1.0, 0.0], dtype=np.float32).tobytes())}] * 2
        tally = proof.under_threads(predictor, windows, right, lambda: proof.time.sleep(0.2))
    assert tally.different > 0
    assert tally.failed == []


def test_swaps_under_threads_are_counted(
    proof: ModuleType, kit: Any, bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = kit.golden(kit.modality)
    means = np.where(np.isfinite(golden.windows), golden.windows, 0).mean(axis=1)
    logits = (means @ HALF + np.array([0.1, 0.0, -0.1], dtype=np.float32)).astype(np.float32)
    shares = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    changed = type(golden)(
        windows=golden.windows,
        labels=golden.labels,
        logits=logits,
        probabilities=shares,
        judge=golden.judge,
        tolerance=golden.tolerance,
    )
    parts = kit.parts(kit.modality, model=kit.model(kit.modality, weights=HALF), golden=changed)
    other = parts.write(tmp_path / "other.edge")
    assert proof.prove_swaps(bundle_path, other, seconds=0.5, backend="ort") == 0
    backend, swaps, answers, wrong, dropped, told_apart = _cells(capsys.readouterr().out.splitlines()[2])
    assert (backend, wrong, dropped) == ("ort", "0", "0")
    assert int(swaps) >= 1
    assert int(answers.replace(",", "")) > 10
    assert int(told_apart.split()[0]) > 0


def test_a_long_stream_says_what_grows(
    proof: ModuleType, bundle_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "WARM_UP_S", 0.2)
    assert proof.prove_soak(bundle_path, seconds=1.0, backend="ort") == 0
    found = dict(_cells(line) for line in capsys.readouterr().out.splitlines()[2:])
    assert found["samples, pushed 10 at a time at 1000 Hz"] == "1,000"
    assert found["predictions"] == "100"
    before, after = found["threads"].split(", ")
    assert before == after


def test_starting_is_measured_in_fresh_processes(
    proof: ModuleType, bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof.prove_start(bundle_path, repeats=1)  # whether it is within the limits is this machine's mood
    rows = [_cells(line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[-1] for row in rows] == ["60", "10", "150"]
    assert all(float(row[1]) > 0 for row in rows)
