"""What a prediction of a stream costs: a causal student that steps, beside windowed ones that look at it all again.

    python benchmarks/proofs/streaming_cost.py small base --folder FOLDER --prepare
    python benchmarks/proofs/streaming_cost.py small base --folder FOLDER

Untrained students of these sizes, windows of 128 time tokens (1024 samples of 3 channels at 100 Hz), one thread. The
rivals compute every window as a whole: the windowed student of the same size in each engine that is installed, the bare
call of the engine. The causal student steps, in each engine that can, and once behind `predictor.stream` with every
check of a push and the `Prediction`. All in turns; medians. Then one stream is followed for an hour of samples. The
first command only makes what the second measures, which wants a quiet machine.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge import EdgePredictor
from mmkd_edge.backends.base import BACKENDS, BackendName, is_installed, open_backend, open_steps
from mmkd_edge.backends.steps import start_steps, step_artifact
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.plan import export_plan
from mmkd_export.run import export
from mmkd_export.targets.litert import missing_libraries, tflite_from_checkpoint
from mmkd_models.networks.config import preset_named, student_config
from mmkd_models.training.checkpoint import StudentCheckpoint, read_student, write_student
from proofs.script import head, parser_of, row
from proofs.students import untrained

TOKENS, STRIDE, RATE_HZ = 128, 8, 100.0
VIB = ModalitySpec(name="vib", channels=("x", "y", "z"), rate_hz=RATE_HZ, samples=TOKENS * STRIDE)
TASK = TaskSpec(labels=("a", "b", "c", "d", "e"))

Call = Callable[[], object]


def main() -> None:
    """Print a table for every size, as Markdown."""
    parser = parser_of(__doc__)
    parser.add_argument("sizes", nargs="+", metavar="SIZE", help="tiny, small, medium or base")
    parser.add_argument("--rounds", type=int, default=300, help="how often each is timed")
    parser.add_argument("--seconds", type=float, default=3600.0, help="length of the stream that is followed")
    parser.add_argument("--folder", type=Path, help="keeps students and conversions; what is there is taken as it is")
    parser.add_argument("--prepare", action="store_true", help="end before the measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = {size: (options.folder or Path(temporary)) / size for size in options.sizes}
        for size, folder in folders.items():
            prepare(size, folder)
        if options.prepare:
            return
        print(head("size", "what", "us per prediction", "four blocks, us", "against the best window", texts=2))
        for size, folder in folders.items():
            measure(size, folder, rounds=options.rounds, seconds=options.seconds)


def prepare(size: str, folder: Path) -> None:
    """Both students of one size: their checkpoints, the causal one's bundle, what the windowed one's rivals read."""
    folder.mkdir(parents=True, exist_ok=True)
    litert = not missing_libraries()
    for name in ("windowed", "causal"):
        if not (folder / f"{name}.ckpt").exists():
            write_student(folder / f"{name}.ckpt", student_of(size, causal=name == "causal"))
    if not (folder / "causal.edge").exists():
        export(replace(export_plan(folder / "causal.ckpt"), targets=("litert",) if litert else ()))
    if not (folder / "windowed.onnx").exists():
        (folder / "windowed.onnx").write_bytes(onnx_from_student(read_student(folder / "windowed.ckpt")))
    if litert and not (folder / "windowed.tflite").exists():
        (folder / "windowed.tflite").write_bytes(tflite_from_checkpoint(folder / "windowed.ckpt"))


def measure(size: str, folder: Path, *, rounds: int, seconds: float) -> None:
    """Prints what both students of one size cost."""
    bundle = folder / "causal.edge"
    rng = np.random.default_rng(0)
    window = rng.normal(size=(1, VIB.samples, 3)).astype(np.float32)
    rivals = windows_in_engines(folder, window)
    block = np.ascontiguousarray(window[:, :STRIDE])
    ours = steps_in_engines(bundle, block)
    with contextlib.ExitStack() as opened:
        streaming: tuple[BackendName, ...] = ("ort", "litert") if is_installed("litert") else ("ort",)
        for backend in streaming:
            predictor = opened.enter_context(EdgePredictor.open(bundle, backend=backend, threads=1))
            ours[f"predictor.stream, {backend}"] = pushing(predictor, window[0])
        medians = in_turns({**rivals, **ours}, rounds=rounds)
        best = min(medians[name] for name in rivals)
        parameters = predictor.entry.parameters
        for name, median in medians.items():
            four = median if name in rivals else 4 * median
            figures = (f"{median:.0f}", f"{four:.0f}", f"{best / median:.1f}")
            print(row(f"{size} ({parameters:,})", name, *figures), flush=True)
        follow(predictor, size, seconds=seconds)


def pushing(predictor: EdgePredictor, window: np.ndarray) -> Call:
    """A push of one block into a stream whose window is full."""
    stream = predictor.stream(hop=STRIDE)
    stream.push(window)
    return lambda: stream.push(window[:STRIDE])


def student_of(size: str, *, causal: bool) -> StudentCheckpoint:
    """An untrained student with windows of 128 tokens."""
    config = student_config(preset_named(size, option="SIZE"), causal=causal)
    config = msgspec.structs.replace(config, encoder=msgspec.structs.replace(config.encoder, most_tokens=TOKENS))
    return untrained(VIB, TASK, config, carried=8)


def windows_in_engines(folder: Path, window: np.ndarray) -> dict[str, Call]:
    """The windowed student in every engine that is installed: the engine's call for one whole window."""
    feeds = {"vib": window, "vib_present": np.ones_like(window)}
    names: tuple[BackendName, ...] = ("ort", "openvino", "litert")
    found: dict[str, Call] = {}
    for name in names:
        file = folder / ("windowed.tflite" if name == "litert" else "windowed.onnx")
        if not is_installed(name) or not file.exists():
            print(f"{name} is left out: it is not installed, or its converter is not", file=sys.stderr)
            continue
        backend = open_backend(name, file.read_bytes(), threads=1)
        found[f"whole window, {backend.version}"] = lambda backend=backend: backend.run(feeds)  # type: ignore[misc]
    return found


def steps_in_engines(path: Path, block: np.ndarray) -> dict[str, Call]:
    """The causal student in every engine that steps: one step."""
    present, found = np.ones_like(block), dict[str, Call]()
    with Bundle.open(path) as bundle:
        (entry,) = bundle.manifest.models
        for name in BACKENDS:
            artifact = step_artifact(entry, name)
            if artifact is None or entry.streaming is None or not is_installed(name):
                continue
            backend = open_steps(name, bundle.read(artifact.file), threads=1)
            steps = start_steps(backend, entry.streaming)
            found[f"step, {backend.version}"] = lambda steps=steps: steps.push(block, present)  # type: ignore[misc]
    return found


def in_turns(calls: dict[str, Call], *, rounds: int) -> dict[str, float]:
    """Median microseconds of each call, all in turns, so that whatever slows the machine slows all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 20):
        for name, call in calls.items():
            call()  # an engine that was away for the others' turns has its memory to fetch again
            start = time.perf_counter()
            call()
            if number >= 20:
                times[name].append((time.perf_counter() - start) * 1e6)
    return {name: float(np.median(found)) for name, found in times.items()}


def follow(predictor: EdgePredictor, size: str, *, seconds: float) -> None:
    """Follows one stream, and prints what a push costs in each tenth of it."""
    rows = np.random.default_rng(2).normal(size=(round(seconds * RATE_HZ) // STRIDE, STRIDE, 3)).astype(np.float32)
    stream, costs = predictor.stream(hop=STRIDE), np.empty(len(rows))
    for number, block in enumerate(rows):
        start = time.perf_counter()
        stream.push(block)
        costs[number] = (time.perf_counter() - start) * 1e6
    tenths = [f"{np.median(part):.0f}" for part in np.array_split(costs[TOKENS:], 10)]
    print(f"{size}: {seconds:g} s of stream, {len(rows)} pushes; us per push in each tenth: {', '.join(tenths)}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
