"""From logs to a student on a device by the commands of docs/your-own-data.md, and no code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_models.data import open_dataset, shipped_dataset

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "your-own-data.md"
QUICK = {
    "mmkd-train": ["--preset", "tiny", "--steps", "2", "--batch", "8"],
    "mmkd-distill": ["--preset", "tiny", "--steps", "2", "--batch", "8"],
    "mmkd-export": ["--precision", "fp32"],
}


def command(words: list[str], folder: Path) -> str:
    program = [sys.executable] if words[0] == "python" else [str(Path(sys.executable).with_name(words[0]))]
    done = subprocess.run(
        [*program, *words[1:], *QUICK.get(words[0], [])],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _lines() -> list[list[str]]:
    block = re.search(r"^```sh\n(python .*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    assert [words[0] for words in lines] == ["python", "mmkd-data", "mmkd-train", "mmkd-distill", "mmkd-export"]
    return [[lines[0][0], str(ROOT / lines[0][1]), *lines[0][2:], "--people", "4"], *lines[1:]]


def test_logs_of_two_clocks_become_the_windows_that_they_were_made_of(tmp_path):
    for words in _lines()[:2]:
        command(words, tmp_path)
    _compare_with_the_shipped_recordings(tmp_path / "shoulder")


@pytest.mark.slow
def test_four_commands_lead_from_a_folder_of_logs_to_an_exported_student(tmp_path):
    for words in _lines():
        command(words, tmp_path)
    with EdgePredictor.open(tmp_path / "student.edge") as predictor:
        window = open_dataset(tmp_path / "shoulder").split("test").take([0])["acc"][0]
        assert predictor.predict(window).label in open_dataset(tmp_path / "shoulder").spec.task.labels


def _compare_with_the_shipped_recordings(path: Path) -> None:
    """The first window of a person is the beginning of their first set, but for jitter, rounding and lost samples."""
    windows = open_dataset(path).everything()
    row = np.flatnonzero(windows.groups == "1")[np.argmin(windows.times[windows.groups == "1"])]
    found = windows.take([row])
    shipped = open_dataset(shipped_dataset("watch_exercises")).everything()
    wanted = shipped.take([int(np.flatnonzero(shipped.groups == 1)[0])])
    known = open_dataset(shipped_dataset("watch_exercises")).spec.task.labels
    assert open_dataset(path).spec.task.labels == tuple(sorted(known))
    assert found["acc"].shape == (1, 200, 3)
    assert found["gyro"].shape == (1, 160, 3)
    difference = found["acc"][0] - wanted["acc"][0]
    # The wrist turns slowly: two milliseconds early or late are a few thousandths of a g, a second would be tenths.
    assert np.nanmedian(np.abs(difference)) < 0.01
    slow = np.stack([np.interp(np.arange(160) / 40, np.arange(200) / 50, one) for one in wanted["gyro"][0].T], axis=1)
    assert np.nanmedian(np.abs(found["gyro"][0] - slow)) < 0.05
