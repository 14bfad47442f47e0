"""What a prediction of a stream costs: a causal student that steps, beside windowed ones that look at it all again.

    python examples/streaming_cost.py small base

Untrained students of these sizes, windows of 128 time tokens (1024 samples of 3 channels at 100 Hz), one thread. The
rivals compute every window as a whole: the windowed student of the same size in each engine that is installed, the bare
call of the engine. The causal student steps, in each engine that can, and once behind `predictor.stream` with every
check of a push and the `Prediction`. All in turns; medians. Then one stream is followed for an hour of samples.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch

from mmkd_edge import EdgePredictor
from mmkd_edge.backends import BackendName, open_backend
from mmkd_edge.backends.steps import STEP_BACKENDS, start_steps
from mmkd_edge.bundle import Bundle
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.litert import missing_libraries, tflite_from_checkpoint
from mmkd_export.onnx_from_student import onnx_from_student
from mmkd_export.plan import export_plan
from mmkd_export.run import export
from mmkd_models.augment import AugmentConfig
from mmkd_models.checkpoint import CarriedWindows, Facts, StudentCheckpoint, write_student
from mmkd_models.config import preset_named, student_config
from mmkd_models.networks.student import Student
from mmkd_models.train import TrainConfig

TOKENS, STRIDE, RATE_HZ = 128, 8, 100.0
VIB = ModalitySpec(name="vib", channels=("x", "y", "z"), rate_hz=RATE_HZ, samples=TOKENS * STRIDE)
TASK = TaskSpec(labels=("a", "b", "c", "d", "e"))
LIBRARIES = {"ort": "onnxruntime", "openvino": "openvino"}

Call = Callable[[], object]


def main() -> None:
    """Print a table for every size, as Markdown."""
    parser = argparse.ArgumentParser(description="Time streams of causal students beside whole windows.")
    parser.add_argument("sizes", nargs="+", metavar="SIZE", help="tiny, small, medium or base")
    parser.add_argument("--rounds", type=int, default=300, help="how often each is timed")
    parser.add_argument("--seconds", type=float, default=3600.0, help="length of the stream that is followed")
    options = parser.parse_args()
    print("| size | what | us per prediction | four blocks, us | against the best window |")
    print("|---|---|---|---|---|")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            measure(size, Path(folder), rounds=options.rounds, seconds=options.seconds)


def measure(size: str, folder: Path, *, rounds: int, seconds: float) -> None:
    """Exports both students of one size and prints what they cost."""
    windowed, causal = (checkpoint_of(size, causal=causal, path=folder / f"{causal}.ckpt") for causal in (False, True))
    bundle = export(export_plan(folder / "True.ckpt")).path
    rng = np.random.default_rng(0)
    window = rng.normal(size=(1, VIB.samples, 3)).astype(np.float32)
    rivals = windows_in_engines(windowed, folder / "False.ckpt", window)
    block = np.ascontiguousarray(window[:, :STRIDE])
    ours = steps_in_engines(bundle, block)
    with EdgePredictor.open(bundle, backend="ort", threads=1) as predictor:
        stream = predictor.stream(hop=STRIDE)
        stream.push(window[0])  # the window is full from here on
        ours["predictor.stream, ort"] = lambda: stream.push(block[0])
        medians = in_turns({**rivals, **ours}, rounds=rounds)
        best = min(medians[name] for name in rivals)
        parameters = sum(tensor.numel() for tensor in causal.network().parameters())
        for name, median in medians.items():
            four = median if name in rivals else 4 * median
            print(f"| {size} ({parameters:,}) | {name} | {median:.0f} | {four:.0f} | {best / median:.1f} |", flush=True)
        follow(predictor, size, seconds=seconds)


def checkpoint_of(size: str, *, causal: bool, path: Path) -> StudentCheckpoint:
    """An untrained student with windows of 128 tokens."""
    config = student_config(preset_named(size, option="SIZE"), causal=causal)
    config = msgspec.structs.replace(config, encoder=msgspec.structs.replace(config.encoder, most_tokens=TOKENS))
    torch.manual_seed(0)
    facts = Facts(
        dataset="none",
        dataset_sha256="0" * 64,
        licence="none",
        metric="accuracy",
        score=0.0,
        best_step=0,
        training=TrainConfig(),
        augment=AugmentConfig(),
    )
    windows = np.random.default_rng(1).normal(size=(8, *VIB.shape)).astype(np.float32)
    checkpoint = StudentCheckpoint(
        modality=VIB,
        task=TASK,
        config=config,
        facts=facts,
        state=Student(VIB, len(TASK.labels), config).state_dict(),
        carried=CarriedWindows(windows=windows, labels=np.arange(8) % len(TASK.labels)),
    )
    write_student(path, checkpoint)
    return checkpoint


def windows_in_engines(checkpoint: StudentCheckpoint, path: Path, window: np.ndarray) -> dict[str, Call]:
    """The windowed student in every engine that is installed: the engine's call for one whole window."""
    models: list[tuple[BackendName, bytes]] = [
        (name, onnx_from_student(checkpoint)) for name in ("ort", "openvino") if installed(LIBRARIES[name])
    ]
    if missing_libraries():
        print(f"LiteRT is left out: {', '.join(missing_libraries())} not installed", file=sys.stderr)
    else:
        models.append(("litert", tflite_from_checkpoint(path)))
    feeds = {"vib": window, "vib_present": np.ones_like(window)}
    found: dict[str, Call] = {}
    for name, model in models:
        backend = open_backend(name, model, threads=1)
        found[f"whole window, {backend.version}"] = lambda backend=backend: backend.run(feeds)  # type: ignore[misc]
    return found


def steps_in_engines(path: Path, block: np.ndarray) -> dict[str, Call]:
    """The causal student in every engine that steps: one step."""
    present, found = np.ones_like(block), dict[str, Call]()
    with Bundle.open(path) as bundle:
        streaming = bundle.manifest.models[0].streaming
        assert streaming is not None
        model = bundle.read(streaming.artifacts[0].file)
    for name in STEP_BACKENDS:
        if installed(LIBRARIES[name]):
            backend = open_backend(name, model, threads=1)
            steps = start_steps(backend, streaming)
            found[f"step, {backend.version}"] = lambda steps=steps: steps.push(block, present)  # type: ignore[misc]
    return found


def installed(library: str) -> bool:
    """Whether Python finds it."""
    return importlib.util.find_spec(library) is not None


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
