"""The first page, followed as a new user does: command by command, in an empty folder, with the seconds of each.

The installation stands in the environment that runs this; `tests/test_packages.py` installs the wheel elsewhere.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "start.md"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
MOST_MINUTES = 30  # a gate against a page that grew, and no figure of speed: machines that test are busy


def steps() -> list[list[str]]:
    """What the reader runs after the installation, in order."""
    found: list[list[str]] = []
    for language, block in BLOCK.findall(PAGE.read_text(encoding="utf-8").partition("\n## Ask ")[2]):
        if language == "python":
            found.append([sys.executable, "-c", block])
        else:
            found += [line.split() for line in block.splitlines()]
    return found


def test_the_page_leads_from_data_to_a_benchmark_of_a_bundle() -> None:
    programs = [step[0] for step in steps()]
    assert programs[0] == sys.executable
    assert set(programs[1:]) == {
        *("mmkd-data", "mmkd-train", "mmkd-distill", "mmkd-evaluate", "mmkd-export", "mmkd-inspect", "mmkd-run"),
        "mmkd-bench",
    }


@pytest.mark.slow
def test_the_first_page_can_be_followed_to_its_end(tmp_path: Path) -> None:
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    begun_s = time.monotonic()
    for step in steps():
        step_s = time.monotonic()
        done = subprocess.run(step, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{step}: {done.stderr}"
        print(f"{time.monotonic() - step_s:5.0f} s  {' '.join(step)[:100].splitlines()[0]}")
    minutes = (time.monotonic() - begun_s) / 60
    print(f"{minutes:.1f} minutes")
    assert minutes < MOST_MINUTES
    assert {"teacher.ckpt", "labels.ckpt", "student.ckpt", "student.edge", "results.jsonl"} <= {
        path.name for path in tmp_path.iterdir()
    }
