"""What a student of long windows weighs and takes, from 200 to 100,000 samples: one table.

    python benchmarks/proofs/high_rate.py FOLDER
    python benchmarks/proofs/high_rate.py FOLDER --samples 10000 --samples 100000

Exports students with random weights, three channels each: weights do not change size or time. Every artifact is opened
in a process of its own by each backend that is installed, one thread; the median of its calls and the time to open it
are printed as Markdown. It wants a quiet machine. Needs `mmkd-edge[export]`; `.tflite` files need litert-torch as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np

from mmkd_edge.backends.base import BackendName, is_installed, open_backend
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.networks.config import Preset, student_config
from proofs.script import head, parser_of, row

CHANNELS = ("x", "y", "z")
BACKENDS: tuple[BackendName, ...] = ("ort", "openvino", "litert")


def main() -> None:
    """Export what is missing, time it, and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="keeps the artifacts")
    parser.add_argument("--samples", type=int, action="append", help="of a window; repeatable")
    parser.add_argument("--preset", choices=get_args(Preset), default="tiny")
    parser.add_argument("--duration-s", type=float, default=5.0, help="measured time of each artifact and backend")
    parser.add_argument("--time", nargs=2, metavar=("BACKEND", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.time is not None:
        print(*timed(options.time[0], Path(options.time[1]), options.samples[0], options.duration_s))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    backends = list(filter(is_installed, BACKENDS))
    print(head("samples", "ONNX, MB", *(f"{name}: open, p50 in ms" for name in backends), texts=0))
    for samples in options.samples or (200, 1_000, 10_000, 100_000):
        onnx, tflite = exported(options.folder, options.preset, samples)
        cells = [cell(name, tflite if name == "litert" else onnx, samples, options) for name in backends]
        print(row(f"{samples:,}", f"{onnx.stat().st_size / 1e6:.2f}", *cells), flush=True)


def exported(folder: Path, preset: Preset, samples: int) -> tuple[Path, Path]:
    """The student's graph, and its `.tflite`, which is only there where it can be converted."""
    # Here, so that the processes that time start without torch.
    from mmkd_export.graph.onnx_from_student import onnx_from_student
    from mmkd_export.targets.litert import missing_libraries, tflite_from_checkpoint
    from mmkd_models.training.checkpoint import write_student
    from proofs.students import untrained

    stem = folder / f"{preset}-{samples}"
    onnx, tflite = stem.with_suffix(".onnx"), stem.with_suffix(".tflite")
    if not onnx.exists():
        student = untrained(vibration(samples), TaskSpec(labels=("sound", "worn")), student_config(preset))
        write_student(stem.with_suffix(".ckpt"), student)
        onnx.write_bytes(onnx_from_student(student))
    if not tflite.exists() and not missing_libraries():
        tflite.write_bytes(tflite_from_checkpoint(stem.with_suffix(".ckpt")))
    return onnx, tflite


def vibration(samples: int) -> ModalitySpec:
    """A sensor that gives 10,000 samples in a second."""
    return ModalitySpec(name="vibration", channels=CHANNELS, unit="g", rate_hz=10_000.0, samples=samples)


def cell(backend: str, file: Path, samples: int, options: argparse.Namespace) -> str:
    """Times one artifact in a fresh process; a dash where it is not there."""
    if not file.exists():
        return "-"
    command = [sys.executable, __file__, str(options.folder), "--samples", str(samples)]
    command += ["--duration-s", str(options.duration_s), "--time", backend, str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    open_ms, p50_ms = map(float, done.stdout.split()[-2:])
    return f"{open_ms:.0f}, {p50_ms:.3f}"


def timed(backend: BackendName, file: Path, samples: int, duration_s: float) -> tuple[float, float]:
    """Milliseconds to open the artifact, and of the median call."""
    values = np.random.default_rng(0).standard_normal((1, samples, len(CHANNELS))).astype(np.float32)
    feeds = {"vibration": values, "vibration_present": np.ones_like(values)}
    model, start = file.read_bytes(), time.perf_counter()
    with closing(open_backend(backend, model, threads=1)) as opened:
        open_ms = 1e3 * (time.perf_counter() - start)
        calls: list[float] = []
        end = time.perf_counter() + duration_s
        while time.perf_counter() < end:
            begin = time.perf_counter()
            opened.run(feeds)
            calls.append(1e3 * (time.perf_counter() - begin))
    return open_ms, median(calls[len(calls) // 10 :])


if __name__ == "__main__":
    main()
