"""One side of `against_before.py`: times the public calls of the checkout on the path, and prints them as JSON.

The checkout may be an earlier one, so this uses only what both have, and no other file of this folder.
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
"""Samples of a push; a causal student takes as many in a step."""
Call = Callable[[int], object]


def measure() -> None:
    """Time everything once and print the medians, each by its name and unit."""
    backend, bundle, causal, windows_file, seconds = *sys.argv[1:5], float(sys.argv[5])
    importlib.import_module({"ort": "onnxruntime"}.get(backend, backend))  # no cost of the package that is timed
    windows = np.load(windows_file)  # (N, T, C)
    begun_s = time.perf_counter()
    from mmkd_edge import EdgePredictor, SensorChecks

    def opened(path: str, checks: SensorChecks | None = None) -> EdgePredictor:
        return EdgePredictor.open(path, backend=backend, precision="fp32", threads=1, checks=checks)  # type: ignore[arg-type]

    imported_s = time.perf_counter()
    with opened(bundle) as predictor:
        predictor.predict(windows[0])
        answered_s = time.perf_counter()
        found = {"import, ms": 1e3 * (imported_s - begun_s), "open to answer, ms": 1e3 * (answered_s - imported_s)}
        found |= of_windows(predictor, windows, seconds, name="predict")
        found |= of_samples(predictor, windows, seconds)
        duration_s = predictor.modality.duration_s
    with opened(bundle, SensorChecks(flat=True, stuck_s=duration_s / 4)) as predictor:
        found |= of_windows(predictor, windows, seconds, name="predict, every check")
    with opened(causal) as predictor:
        found |= of_steps(predictor, seconds)
    print(json.dumps(found))


def of_windows(predictor: EdgePredictor, windows: NDArray[Any], seconds: float, *, name: str) -> dict[str, float]:
    """`predict`, `run` of its backend, and of ONNX Runtime the session's own."""
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
    times = in_turn(calls, len(windows), seconds)
    *_, bare = calls
    found = {f"{name} over {bare}, µs": float(np.median(times[name] - times[bare]))}
    return found | ({} if "," in name else medians(times))


def of_samples(predictor: EdgePredictor, windows: NDArray[Any], seconds: float) -> dict[str, float]:
    """A push of samples after which a window is answered, and one after which none is."""
    answered, silent = predictor.stream(hop=HOP), predictor.stream(hop=100 * windows.shape[1])
    for stream in (answered, silent):
        stream.push(windows[0])
    pushes = [window[:HOP] for window in windows]
    calls: dict[str, Call] = {
        "push with an answer": lambda number: answered.push(pushes[number]),
        "push without one": lambda number: silent.push(pushes[number]),
    }
    return medians(in_turn(calls, len(windows), seconds))


def of_steps(predictor: EdgePredictor, seconds: float) -> dict[str, float]:
    """A push that a causal student answers by a step."""
    shape = (64, HOP, len(predictor.modality.channels))
    pushes = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    stream = predictor.stream(hop=HOP)
    for push in pushes:
        stream.push(push)
    return medians(in_turn({"step": lambda number: stream.push(pushes[number])}, len(pushes), seconds))


def in_turn(calls: Mapping[str, Call], count: int, seconds: float) -> dict[str, NDArray[np.float64]]:
    """Microseconds of each, (rounds,): every one is called twice in its turn, and its second call counts."""
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
    """The median of each."""
    return {f"{name}, µs": float(np.median(took)) for name, took in times.items()}


if __name__ == "__main__":
    measure()
