"""Time the public calls of one checkout for `against_before.py` and print the medians as JSON.

The checkout may be the earlier one, so this script uses only what both have, and imports no other file of this folder.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_edge import EdgePredictor

HOP = 8
"""Samples per push, and per step of the causal student."""
Call = Callable[[int], object]


def measure() -> None:
    """Time all calls and print the medians by name and unit."""
    backend, bundle, causal, windows_file, seconds = *sys.argv[1:5], float(sys.argv[5])
    importlib.import_module({"ort": "onnxruntime"}.get(backend, backend))  # the engine's own import is not timed
    windows = np.load(windows_file)  # (N, T, C)
    begun_s = time.perf_counter()
    from mmkd_edge import EdgePredictor, SensorChecks

    def open_predictor(path: str, checks: SensorChecks | None = None) -> EdgePredictor:
        return EdgePredictor.open(path, backend=backend, precision="fp32", threads=1, checks=checks)  # type: ignore[arg-type]

    imported_s = time.perf_counter()
    with open_predictor(bundle) as predictor:
        predictor.predict(windows[0])
        answered_s = time.perf_counter()
        figures = {"import, ms": 1e3 * (imported_s - begun_s), "open to answer, ms": 1e3 * (answered_s - imported_s)}
        figures |= time_windows(predictor, windows, seconds, name="predict")
        figures |= time_pushes(predictor, windows, seconds)
        duration_s = predictor.modality.duration_s
    with open_predictor(bundle, SensorChecks(flat=True, stuck_s=duration_s / 4)) as predictor:
        figures |= time_windows(predictor, windows, seconds, name="predict, every check")
    with open_predictor(causal) as predictor:
        figures |= time_steps(predictor, seconds)
    print(json.dumps(figures))


def time_windows(predictor: EdgePredictor, windows: NDArray[Any], seconds: float, *, name: str) -> dict[str, float]:
    """Time `predict`, its backend's `run` and, with ONNX Runtime, the session's `run`."""
    backend: Any = predictor.backend
    values, present = (tensor.name for tensor in predictor.entry.inputs)
    outputs = [tensor.name for tensor in predictor.entry.outputs]
    feeds = [{values: window[None], present: np.ones_like(window[None])} for window in windows]
    calls: dict[str, Call] = {
        name: lambda number: predictor.predict(windows[number]),
        "backend.run": lambda number: backend.run(feeds[number]),
    }
    if backend.name == "ort":
        calls["session.run"] = lambda number: backend.session.run(outputs, feeds[number])
    times = time_in_turn(calls, len(windows), seconds)
    *_, bare = calls
    figures = {f"{name} over {bare}, µs": float(np.median(times[name] - times[bare]))}
    return figures | ({} if "," in name else medians(times))


def time_pushes(predictor: EdgePredictor, windows: NDArray[Any], seconds: float) -> dict[str, float]:
    """Time a push that completes a window, and one that does not."""
    answered, silent = predictor.stream(hop=HOP), predictor.stream(hop=100 * windows.shape[1])
    for stream in (answered, silent):
        stream.push(windows[0])
    pushes = [window[:HOP] for window in windows]
    calls: dict[str, Call] = {
        "push with an answer": lambda number: answered.push(pushes[number]),
        "push without one": lambda number: silent.push(pushes[number]),
    }
    return medians(time_in_turn(calls, len(windows), seconds))


def time_steps(predictor: EdgePredictor, seconds: float) -> dict[str, float]:
    """Time a push that a causal student answers with one step."""
    shape = (64, HOP, len(predictor.modality.channels))
    pushes = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    stream = predictor.stream(hop=HOP)
    for push in pushes:
        stream.push(push)
    return medians(time_in_turn({"step": lambda number: stream.push(pushes[number])}, len(pushes), seconds))


def time_in_turn(calls: Mapping[str, Call], count: int, seconds: float) -> dict[str, NDArray[np.float64]]:
    """Return microseconds (rounds,) of each call; it runs twice in its turn and the second run counts."""
    times: dict[str, list[int]] = {name: [] for name in calls}
    end_s, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end_s or number < count:
        for name, call in calls.items():
            call(number % count)
            begun_ns = time.perf_counter_ns()
            call(number % count)
            times[name].append(time.perf_counter_ns() - begun_ns)
        number += 1
    return {name: np.array(took) / 1e3 for name, took in times.items()}


def medians(times: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return the median of each call, named with its unit."""
    return {f"{name}, µs": float(np.median(took)) for name, took in times.items()}


if __name__ == "__main__":
    measure()
