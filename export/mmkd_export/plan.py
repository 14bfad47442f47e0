"""The plan of an export, and everything about it that can be checked before minutes are spent.

Owns `ExportPlan` and `check_plan`, which reports all problems together. Reads no checkpoint.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmkd_edge.archive import LOCAL_SIGNATURE
from mmkd_edge.errors import MmkdError, UnavailableError, UsageError
from mmkd_edge.files import open_file, read_exactly
from mmkd_edge.manifest import MANIFEST_FILE

BUNDLE_SUFFIX = ".edge"

_LIBRARIES = ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What to export, and where to.

    Attributes:
        source: the student's checkpoint.
        output: the bundle that is written; an earlier one is replaced.
        calibration: windows to use in place of those the checkpoint carries: a dataset directory or an .npz file.
    """

    source: Path
    output: Path
    calibration: Path | None = None


def export_plan(source: Path, *, output: Path | None = None, calibration: Path | None = None) -> ExportPlan:
    """Gives a plan; without `output` the bundle goes beside the checkpoint.

    Example:
        >>> str(export_plan(Path("runs/student.ckpt")).output)
        'runs/student.edge'
    """
    return ExportPlan(source=source, output=output or source.with_suffix(BUNDLE_SUFFIX), calibration=calibration)


def check_plan(plan: ExportPlan) -> None:
    """Checks what can be checked in a moment.

    Raises:
        UnavailableError: a library is missing, and nothing else is wrong.
        UsageError: a path does not fit; the message lists every problem.
    """
    problems = list(_problems(plan))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise UsageError(f"{len(problems)} problems; nothing was exported:\n{lines}")


def _problems(plan: ExportPlan) -> Iterator[MmkdError]:
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        yield UnavailableError(
            f"an export from a checkpoint needs {' and '.join(missing)}, which this Python lacks; "
            "run: pip install 'mmkd-edge[export]'"
        )
    try:
        os.close(open_file(plan.source, expected="a student checkpoint of mmkd-edge"))
    except UsageError as error:
        yield error
    if plan.calibration is not None and not plan.calibration.exists():
        yield UsageError(
            f"{plan.calibration}: expected a dataset directory or an .npz file of windows, found nothing there; "
            "check the path"
        )
    yield from _output_problems(plan.output)


def _output_problems(output: Path) -> Iterator[UsageError]:
    if not output.parent.is_dir():
        yield UsageError(f"{output}: cannot be written: there is no directory {output.parent}; make it first")
    elif not os.access(output.parent, os.W_OK):
        yield UsageError(f"{output}: cannot be written: the directory {output.parent} is read-only; choose another -o")
    elif output.is_dir():
        yield UsageError(f"{output}: expected the name of a bundle, got a directory; name a file in it with -o")
    elif output.exists() and not _is_bundle(output):
        yield UsageError(f"{output}: exists and is not a bundle, so it is not overwritten; choose another -o")


def _is_bundle(path: Path) -> bool:
    """Whether it may be replaced: it begins as every bundle does, even where it is damaged further on."""
    try:
        descriptor = open_file(path, expected="a bundle")
    except UsageError:
        return False
    try:
        start = read_exactly(descriptor, 64, offset=0)
    finally:
        os.close(descriptor)
    return start.startswith(LOCAL_SIGNATURE) and MANIFEST_FILE.encode() in start
