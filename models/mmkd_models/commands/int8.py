"""The start of `mmkd-distill --qat`: a trained student, and what the export says of its layers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_edge.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import StudentCheckpoint


@dataclass(frozen=True, kw_only=True)
class Start:
    """The student that practises INT8, and the layers that compute in it."""

    checkpoint: StudentCheckpoint
    sha256: str
    groups: tuple[tuple[str, ...], ...]


def start_of(path: Path, modality: str, *, preset: str | None, causal: bool, output: Path) -> Start:
    """Reads the student of `--qat`, and asks the export which of its layers compute in INT8.

    Args:
        path: the student's checkpoint.
        modality: that the command was asked for.
        preset: a size that was asked for, which does not go with `--qat`; None where none was.
        causal: whether a causal student was asked for, which practises none.
        output: the checkpoint that will be written.

    Raises:
        UsageError: the options do not fit the student, or there is no such file.
        CheckpointError: the file is no student's checkpoint.
        UnavailableError: the export's libraries are missing.
    """
    from mmkd_models.training.checkpoint import file_sha256, read_student

    if preset is not None:
        raise UsageError(f"--preset {preset}: expected no size beside --qat, which takes the student's; leave it out")
    checkpoint = read_student(path)
    if causal or checkpoint.config.causal:
        raise UsageError(
            f"--qat {path}: expected a windowed student, got a causal one, which does not practise INT8; "
            "export it as it is"
        )
    if checkpoint.modality.name != modality:
        raise UsageError(
            f"--qat {path}: expected a student of {modality!r}, got one of {checkpoint.modality.name!r}; "
            f"use --modality {checkpoint.modality.name}"
        )
    if output.exists() and output.samefile(path):
        raise UsageError(f"--out {output}: expected another file than the student's, got the same; choose another")
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise UnavailableError(
            f"--qat asks the export which layers compute in INT8, and needs {' and '.join(missing)}, which this "
            "Python lacks; run: pip install 'mmkd-edge[export]'"
        )
    from mmkd_export.graph.onnx_from_student import practised_layers

    return Start(checkpoint=checkpoint, sha256=file_sha256(path), groups=practised_layers(checkpoint))
