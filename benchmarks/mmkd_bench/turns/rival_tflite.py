"""A student as a LiteRT model for `mmkd-bench rivals`, made by litert-torch in a process of its own.

The conversion is slow, prints, and brings libraries that nothing else needs, so it never runs where something is timed.
One that fails leaves its reason in words beside where its file would be.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mmkd_edge.errors import MmkdError

TFLITE_FILE, REASON_FILE = "student.tflite", "litert.reason"
LIMIT_S = 900.0
MOST_REASON_CHARACTERS = 300


def make_tflite(checkpoint: Path, folder: Path, *, progress: Callable[[str], object]) -> None:
    """Convert a student, unless the folder has its model, or the reason why there is none."""
    if (folder / TFLITE_FILE).exists() or reason_in(folder):
        return
    progress("converting for litert")
    command = [sys.executable, "-m", "mmkd_bench.turns.rival_tflite", str(checkpoint.absolute()), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        _leave(folder, f"its converter did not end within {LIMIT_S:.0f} s")
        return
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        _leave(folder, f"its converter ended with {done.returncode}: {words[-1] if words else 'no message'}")


def reason_in(folder: Path) -> str:
    """Why there is no model; empty where there is one."""
    path = folder / REASON_FILE
    return path.read_text(encoding="utf-8") if path.exists() else ""


def convert(checkpoint: Path, folder: Path) -> None:
    """Make the model, or leave the reason why there is none."""
    try:
        import litert_torch  # noqa: F401 - its absence is a reason like the others

        from mmkd_export.targets.litert import tflite_from_checkpoint

        (folder / TFLITE_FILE).write_bytes(tflite_from_checkpoint(checkpoint))
    except ImportError as error:
        _leave(folder, f"not installed: {error}")
    except MmkdError as error:
        _leave(folder, str(error))
    except Exception as error:  # whatever a converter raises is its reason
        lines = str(error).strip().splitlines() or ["no message"]
        _leave(folder, f"its converter failed: {type(error).__name__}: {lines[0]}")


def _leave(folder: Path, reason: str) -> None:
    (folder / REASON_FILE).write_text(reason[:MOST_REASON_CHARACTERS], encoding="utf-8")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
