"""Calls in turn in one process, so ratios hold; the order alternates, because each call finds the other's caches."""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mmkd_bench.measuring.jobs import InTurnOutcome, OverheadJob, PairJob, Timed
from mmkd_bench.measuring.opening import Choice, open_predictor, open_session, predict_argument, raw_windows
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.predict.preprocess import check_window, prepare, prepare_batch

WARM_UP_S = 0.5
MIN_ROUNDS = 20
FIRST, SECOND = "first", "second"
_ZIP_START = b"PK\x03\x04"
SEED = 0


def time_in_turn(
    calls: Mapping[str, Callable[[], object]], *, repeats: int, duration_s: float, twice: bool = False
) -> InTurnOutcome:
    """Call all in turn; return percentiles per repeat of at least 20 rounds."""
    in_order = tuple(calls.values())
    take_turns(in_order, duration_s=min(WARM_UP_S, duration_s))
    percentiles: list[NDArray[np.float64]] = []
    differences_us, count = [], 0
    for _ in range(repeats):
        lengths = take_turns(in_order, duration_s=duration_s / repeats, twice=twice)
        percentiles.append(np.quantile(lengths, (0.5, 0.9, 0.99), axis=1) / 1e3)  # (3, calls)
        differences_us.append(float(np.median(lengths[0] - lengths[-1])) / 1e3)
        count += len(lengths[0])
    p50_us, p90_us, p99_us = np.stack(percentiles).transpose(1, 2, 0)  # each (calls, repeats)
    return InTurnOutcome(
        times=tuple(
            Timed(name=name, p50_us=tuple(p50.tolist()), p90_us=tuple(p90.tolist()), p99_us=tuple(p99.tolist()))
            for name, p50, p90, p99 in zip(calls, p50_us, p90_us, p99_us, strict=True)
        ),
        difference_us=tuple(differences_us),
        count=count,
    )


def take_turns(
    calls: Sequence[Callable[[], object]],
    *,
    duration_s: float,
    twice: bool = False,
    burst: int = 1,
    min_rounds: int = MIN_ROUNDS,
) -> tuple[NDArray[np.int64], ...]:
    """Call all in both orders; return call lengths in ns, (N,). `twice` fills the caches by an extra call first."""
    clock = time.perf_counter_ns
    lengths = tuple(array("q") for _ in calls)
    end = clock() + round(duration_s * 1e9)
    order = tuple(zip(calls, lengths, strict=True))
    rounds = 0
    while rounds < min_rounds or clock() < end:
        for call, times in order:
            if twice:
                call()
            for _ in range(burst):
                before = clock()
                call()
                times.append(clock() - before)
        order = order[::-1]
        rounds += 1
    return tuple(np.array(length, dtype=np.int64) for length in lengths)


def turning(call: Callable[[Any], object], arguments: Sequence[Any]) -> Callable[[], object]:
    """Return `call` without an argument: it cycles through `arguments`."""
    following = itertools.cycle(arguments)
    return lambda: call(next(following))


def time_models(job: PairJob) -> InTurnOutcome:
    """Time two models in ONNX Runtime; see `time_in_turn`."""
    calls = {FIRST: _session_call(Path(job.first), job.threads), SECOND: _session_call(Path(job.second), job.threads)}
    return time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s)


def time_predict(job: OverheadJob) -> InTurnOutcome:
    """Time `predict`, then the bare engine; see `time_in_turn`."""
    choice = Choice(
        bundle=job.bundle,
        options=OpenOptions(
            backend=job.backend or "ort",  # type: ignore[arg-type] # checked there
            precision="fp32",
            threads=job.threads,
            reference=job.reference,
        ),
    )
    with open_predictor(choice) as predictor:
        modality, windows = predictor.modality, raw_windows(predictor)
        names = tuple(tensor.name for tensor in predictor.entry.inputs)
        feeds = [
            dict(zip(names, prepare(check_window(window, modality), modality, predictor.reference), strict=True))
            for window in windows
        ]
        # The engine of predict: two sessions of one model differ by more than predict adds.
        backend = predictor.backend
        run: Callable[[Any], object] = backend.run
        if job.backend is None:
            run = partial(cast(OrtBackend, backend).session.run, [tensor.name for tensor in predictor.entry.outputs])
        arguments = [predict_argument(predictor, window) for window in windows]
        calls = {FIRST: turning(predictor.predict, arguments), SECOND: turning(run, feeds)}
        return time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s)


def _session_call(path: Path, threads: int) -> Callable[[], object]:
    try:
        model = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected an ONNX model or a bundle, cannot open it: {reason}") from error
    feeds: dict[str, NDArray[Any]] = {}
    if model.startswith(_ZIP_START):
        with Bundle.open(path) as bundle:
            entry = bundle.manifest.models[0]
            model = bundle.read(choose_artifact(entry, "fp32", "ort").file)
            tensors = prepare_batch(bundle.golden(entry.name).windows[:1], entry.modality)
        feeds = {tensor.name: values for tensor, values in zip(entry.inputs, tensors, strict=True)}
    try:
        session = open_session(model, threads=threads)
    except BackendError as error:
        raise BackendError(f"{path}: {error}") from error
    feeds = feeds or {node.name: _random_values(node, path) for node in session.get_inputs()}
    return lambda: session.run(None, feeds)


def _random_values(node: Any, path: Path) -> NDArray[Any]:
    """Presence is ones, other inputs are standard normal."""
    element = node.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(element, element)
    if dtype not in np.sctypeDict:
        raise UsageError(f"{path}: input {node.name!r} has the type {node.type}; expected numbers")
    if not all(isinstance(size, int) and size > 0 for size in node.shape):
        raise UsageError(
            f"{path}: input {node.name!r} has the shape {list(node.shape)}; expected fixed sizes: export a static shape"
        )
    if node.name.endswith("_present"):
        return np.ones(node.shape, dtype=dtype)
    values: NDArray[Any] = np.random.default_rng(SEED).standard_normal(node.shape).astype(dtype)
    return values
