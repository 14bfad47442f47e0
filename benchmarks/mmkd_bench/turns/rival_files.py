"""A student in the file formats of other engines, each made by that engine's own converter in a process of its own.

Owns the conversions to LiteRT, ExecuTorch and ncnn for `mmkd-bench rivals`. They are slow, print, and bring libraries
that nothing else needs, so none of them runs where something is timed. A conversion that fails leaves its reason in
words beside where its file would be.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd_edge.errors import MmkdError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint

LITERT_FILE = "student.tflite"
EXECUTORCH_FILE = "student.pte"
NCNN_FILES = ("student.ncnn.param", "student.ncnn.bin")
KINDS = ("litert", "executorch", "ncnn")
_FILES = {"litert": (LITERT_FILE,), "executorch": (EXECUTORCH_FILE,), "ncnn": NCNN_FILES}
LIMIT_S = 900.0
MOST_REASON_CHARACTERS = 300

_SUFFIX = ".reason"
_UNKNOWN_LAYER = re.compile(r"^layer (\S+) not exists or registered", re.MULTILINE)


def make_rival_files(
    checkpoint: Path, folder: Path, *, progress: Callable[[str], object], kinds: Sequence[str] = KINDS
) -> None:
    """Convert a student with every converter that is installed, one process each; what is there stays.

    Args:
        checkpoint: the student.
        folder: gets the files, and a reason in words for each that there is not.
        progress: gets one line when a conversion begins.
        kinds: which to make.
    """
    for kind in kinds:
        if any((folder / name).exists() for name in _FILES[kind]) or reason_for(folder, kind):
            continue
        progress(f"converting for {kind}")
        command = [sys.executable, "-m", "mmkd_bench.turns.rival_files", kind, str(checkpoint.absolute()), str(folder)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            _leave(folder, kind, f"its converter did not end within {LIMIT_S:.0f} s")
            continue
        if done.returncode != 0:
            words = done.stderr.strip().splitlines()
            _leave(folder, kind, f"its converter ended with {done.returncode}: {words[-1] if words else 'no message'}")
        elif unknown := _UNKNOWN_LAYER.search(done.stderr):  # ncnn's own words, which it gives to the terminal alone
            _leave(folder, kind, f"it has no layer for {unknown[1]}, which this network needs")


def reason_for(folder: Path, kind: str) -> str:
    """Why there is no file of that kind; empty where there is one."""
    path = folder / f"{kind}{_SUFFIX}"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _leave(folder: Path, kind: str, reason: str) -> None:
    (folder / f"{kind}{_SUFFIX}").write_text(reason[:MOST_REASON_CHARACTERS], encoding="utf-8")


def convert(kind: str, checkpoint: Path, folder: Path) -> None:
    """Make the file of one kind, or leave the reason why there is none."""
    try:
        _convert(kind, checkpoint, folder)
    except ImportError as error:
        _leave(folder, kind, f"not installed: {error}")
    except MmkdError as error:
        _leave(folder, kind, str(error))
    except Exception as error:  # whatever a converter raises is its reason
        lines = str(error).strip().splitlines() or ["no message"]
        _leave(folder, kind, f"its converter failed: {type(error).__name__}: {lines[0]}")


def _convert(kind: str, checkpoint: Path, folder: Path) -> None:
    from mmkd_models.training.checkpoint import read_student

    if kind == "litert":
        import litert_torch  # noqa: F401 - its absence is a reason like that of the others

        from mmkd_export.targets.litert import tflite_from_checkpoint

        (folder / LITERT_FILE).write_bytes(tflite_from_checkpoint(checkpoint))
        return
    student = read_student(checkpoint)
    network, examples = _traced(student)
    if kind == "executorch":
        (folder / EXECUTORCH_FILE).write_bytes(_executorch_program(network, examples))
    else:
        _write_ncnn(network, examples, folder)
    # An engine that crashes does it here, not where others are timed.
    prove_file(kind, folder, [tensor.numpy() for tensor in examples])


def prove_file(kind: str, folder: Path, feeds: Sequence[NDArray[np.float32]]) -> None:
    """Open what was converted and let it answer once; whatever it raises is the reason why it is not timed."""
    from mmkd_bench.turns.rivals import open_executorch, open_ncnn

    if kind == "executorch":
        opened = open_executorch(folder / EXECUTORCH_FILE, threads=1)
    else:
        opened = open_ncnn([folder / name for name in NCNN_FILES], threads=1)
    opened.run(feeds[0], feeds[1])


def _traced(student: StudentCheckpoint) -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    import torch

    from mmkd_models.networks.student import ExportStudent

    torch.set_num_threads(1)
    shape = (1, *student.modality.shape)
    return ExportStudent(student.network()).eval(), (torch.zeros(shape), torch.ones(shape))


def _executorch_program(network: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> bytes:
    """The network as an ExecuTorch program, with XNNPACK where it can."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(network, examples)
    program: bytes = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
    return program


def _write_ncnn(network: torch.nn.Module, examples: tuple[torch.Tensor, ...], folder: Path) -> None:
    """The network for ncnn, through pnnx: float32, and comparisons as arithmetic, for which ncnn has no layer."""
    import pnnx

    with comparisons_as_arithmetic():
        pnnx.export(network, str(folder / "student.pt"), examples, fp16=False)
    missing = [name for name in NCNN_FILES if not (folder / name).exists()]
    if missing:
        raise MmkdError(f"pnnx left no {' and no '.join(missing)}")


def comparisons_as_arithmetic() -> Any:
    """While it is entered, `x <= 0` of a share x is traced as 1 - min(1, 1e9 x), which is the same for shares."""
    from torch.overrides import TorchFunctionMode

    class _Mode(TorchFunctionMode):
        """Replaces one operator."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            """Everything else stays as it is."""
            if getattr(func, "__name__", "") in ("le", "__le__") and args[1] == 0:
                return 1 - (args[0] * 1e9).clamp(0, 1)
            return func(*args, **(kwargs or {}))

    return _Mode()


if __name__ == "__main__":
    convert(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
