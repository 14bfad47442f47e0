"""The script that proves on a machine that the runtime holds, on a small student and for a moment."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import EdgePredictor, ModalitySpec
from mmkd_edge.testing import FakeBackend, fake_entry
from proofs import runtime_proof
from proofs.runtime_proof import Footprint

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=10.0, samples=20)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
def test_threads_get_the_answers_that_one_gets(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime_proof.prove_threads(bundle, seconds=0.3) == 0
    printed = capsys.readouterr()
    rows = [_cells(line) for line in printed.out.splitlines()[2:]]
    assert ["ort", "fp32"] in [row[:2] for row in rows]
    for row in rows:
        answers, different, refused, errors = (int(cell.replace(",", "")) for cell in row[3:])
        assert answers > 50
        assert (different, errors) == (0, 0)
        assert refused >= 8  # each thread begins with invalid calls
    assert "has no artifact of precision 'int8' for backend 'ort'" in printed.err


def test_an_engine_that_mixes_answers_up_is_found() -> None:
    turns = iter(range(10**9))

    def answer(feeds: object) -> list[float]:
        return [1.0, 0.0] if next(turns) % 97 else [0.0, 1.0]

    entry = fake_entry(modality=ACC, labels=("a", "b"))
    windows = [np.ones(ACC.shape, dtype=np.float32)] * 2
    with EdgePredictor(entry=entry, backend=FakeBackend(answer)) as predictor:
        right = [{("ok", np.array([1.0, 0.0], dtype=np.float32).tobytes())}] * 2
        tally = runtime_proof.under_threads(predictor, windows, right, lambda: time.sleep(0.2))
    assert tally.different > 0
    assert tally.failed == []


def test_swaps_under_threads_are_counted(bundle: Path, other_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime_proof.prove_swaps(bundle, other_bundle, seconds=0.5, backend="ort") == 0
    backend, swaps, answers, wrong, dropped, told_apart = _cells(capsys.readouterr().out.splitlines()[2])
    assert (backend, wrong, dropped) == ("ort", "0", "0")
    assert int(swaps) >= 1
    assert int(answers.replace(",", "")) > 10
    assert int(told_apart.split()[0]) > 0


def test_what_grew_is_told_from_what_ended() -> None:
    before = Footprint(rss_kb=1000, threads=4, descriptors=9)
    assert not before.grew_to(Footprint(rss_kb=1099, threads=3, descriptors=8), by_kb=100)
    assert before.grew_to(Footprint(rss_kb=1100, threads=4, descriptors=9), by_kb=100)
    assert before.grew_to(Footprint(rss_kb=1000, threads=5, descriptors=9), by_kb=100)
    assert before.grew_to(Footprint(rss_kb=1000, threads=4, descriptors=10), by_kb=100)


def _rows_of_a_process(*arguments: str) -> list[list[str]]:
    """The table that the script prints: in its own process, since what other tests leave behind counts in this one."""
    done = subprocess.run([sys.executable, runtime_proof.__file__, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [_cells(line) for line in done.stdout.splitlines()[2:]]


def test_many_calls_are_answered_or_refused_and_what_grows_is_said(bundle: Path) -> None:
    (cells,) = _rows_of_a_process("calls", str(bundle), "--count", "400")
    assert cells[:4] == ["ort", "400", "0", "100"]


def test_a_long_stream_says_what_grows(bundle: Path) -> None:
    found = dict(_rows_of_a_process("soak", str(bundle), "--seconds", "1"))
    assert found["samples, pushed 10 at a time at 1000 Hz"] == "1,000"
    assert found["predictions"] == "100"
    before, after = found["threads"].split(", ")
    assert before == after


@pytest.mark.slow
def test_starting_is_measured_in_fresh_processes(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime_proof.prove_start(bundle, repeats=1)  # whether it is within the limits is this machine's mood
    rows = [_cells(line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[-1] for row in rows] == ["60", "10", "150"]
    assert all(float(row[1]) > 0 for row in rows)
