"""Does mmkd-bench measure what other benchmarks measure? The same model, in turn, through two of them.

    python benchmarks/proofs/agreement.py STUDENT.edge

1. A bare ONNX Runtime session through mmkd-bench's loop, and through a loop as in onnxruntime_perf_test: a fixed number
   of runs, one duration each, sorted. One session, stretches of a second in turn.
2. OpenVINO through mmkd-bench's loop, and through OpenVINO's own benchmark_app (synchronous, one thread, float32,
   inputs filled once), in turn. benchmark_app reports the engine's own clock, without the call from Python, so that
   clock is read in mmkd-bench's loop as well. Left out, and said so, where OpenVINO is not installed.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from mmkd_bench.measuring.session import open_session
from mmkd_bench.measuring.timing import closed_loop
from mmkd_edge.backends.openvino import shared_core
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.predict.preprocess import prepare_batch
from proofs.script import parser_of

STRETCHES = 10
RUNS = 3000
SECONDS = 1.0
OPENVINO_ROUNDS = 5
OPENVINO_S = 4

Feeds = list[dict[str, Any]]


def model_and_feeds(bundle: Path) -> tuple[bytes, Feeds]:
    """The fp32 graph and the feeds of every golden window."""
    with Bundle.open(bundle) as opened:
        entry = opened.manifest.models[0]
        artifact = next(artifact for artifact in entry.artifacts if artifact.precision == "fp32")
        names = [tensor.name for tensor in entry.inputs]
        windows = opened.golden(entry.name).windows
        feeds = [dict(zip(names, prepare_batch(window[None], entry.modality), strict=True)) for window in windows]
        return opened.read(artifact.file), feeds


def ours_us(run: Any, feeds: Feeds, seconds: float) -> float:
    """Median latency, as mmkd-bench's loop measures it."""
    return float(np.median(closed_loop(run, feeds, duration_s=seconds, stop=Event()).latency_ns)) / 1e3


def perf_test_us(run: Any, feeds: Feeds) -> float:
    """Median latency, as onnxruntime_perf_test takes it: sorted durations, the one in the middle."""
    durations = []
    for _, fed in zip(range(RUNS), cycle(feeds), strict=False):
        begin = time.perf_counter()
        run(fed)
        durations.append(time.perf_counter() - begin)
    return sorted(durations)[len(durations) // 2] * 1e6


def onnxruntime_ratios(model: bytes, feeds: Feeds) -> list[float]:
    """Our median over the other's, stretch by stretch."""
    session = open_session(model, threads=1)
    outputs = [node.name for node in session.get_outputs()]

    def run(fed: dict[str, Any]) -> object:
        """One bare call."""
        return session.run(outputs, fed)

    ours_us(run, feeds, SECONDS)
    ratios = []
    for number in range(STRETCHES):
        before = ours_us(run, feeds, SECONDS) if number % 2 == 0 else None
        theirs = perf_test_us(run, feeds)
        ratios.append((before or ours_us(run, feeds, SECONDS)) / theirs)
    return ratios


def benchmark_app_us(model: Path) -> float:
    """Median latency, as benchmark_app prints it."""
    options = f"-m {model} -d CPU -api sync -hint none -nthreads 1 -nstreams 1 -infer_precision f32 -t {OPENVINO_S}"
    code = (
        "import sys; sys.modules['openvino_telemetry'] = None; import openvino.tools.benchmark.main as app; app.main()"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, *options.split()], capture_output=True, text=True, check=True
    ).stdout
    value, unit = re.search(r"Median:\s*([\d.]+) (us|ms)", printed).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 1.0, "ms": 1e3}[unit]


def openvino_ratios(model: bytes, feeds: Feeds) -> tuple[list[float], list[float]]:
    """Our median over the other's, round by round: as Python sees it, and by the engine's own clock."""
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = shared_core()
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    for name, array in feeds[0].items():
        request.get_tensor(name).data[:] = array

    def run(_fed: dict[str, Any]) -> object:
        """One inference; its inputs are filled already."""
        return request.infer()

    def run_by_its_clock(_fed: dict[str, Any]) -> None:
        """The same, and the engine's own latency in ms is kept."""
        request.infer()
        by_its_clock.append(request.latency)

    ours_us(run, feeds, SECONDS)
    seen, clocked = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        path.write_bytes(model)
        for _ in range(OPENVINO_ROUNDS):
            by_its_clock: list[float] = []
            theirs_us = benchmark_app_us(path)
            seen.append(ours_us(run, feeds, OPENVINO_S) / theirs_us)
            ours_us(run_by_its_clock, feeds, OPENVINO_S)
            clocked.append(1e3 * float(np.median(by_its_clock)) / theirs_us)
    return seen, clocked


def line(name: str, ratios: list[float]) -> str:
    """One result in words."""
    return f"{name}: {np.median(ratios):.3f} at the median, {min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} pairs"


def main() -> None:
    """Run both comparisons."""
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    model, feeds = model_and_feeds(parser.parse_args().bundle)
    print(line("onnxruntime, p50 over that of a loop as in onnxruntime_perf_test", onnxruntime_ratios(model, feeds)))
    if importlib.util.find_spec("openvino") is None:
        print("openvino: not installed, not compared")
        return
    seen, clocked = openvino_ratios(model, feeds)
    print(line("openvino, p50 over that of benchmark_app", seen))
    print(line("openvino, p50 of the engine's own clock over that of benchmark_app", clocked))


if __name__ == "__main__":
    main()
