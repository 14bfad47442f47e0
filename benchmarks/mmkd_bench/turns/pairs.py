"""Two models, or `predict` and the bare engine, called in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mmkd_bench.measuring.jobs import InTurnOutcome, OverheadJob, PairJob
from mmkd_bench.measuring.opening import Choice, open_predictor, open_session, predict_argument, raw_windows
from mmkd_bench.turns.rounds import time_in_turn, turning
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.predict.preprocess import check_window, prepare, prepare_batch

FIRST, SECOND = "first", "second"
ZIP_START = b"PK\x03\x04"
SEED = 0


def time_models(job: PairJob, *, stop: Event) -> InTurnOutcome | None:
    """Time two models through ONNX Runtime; see `time_in_turn`."""
    calls = {FIRST: _session_call(Path(job.first), job.threads), SECOND: _session_call(Path(job.second), job.threads)}
    return time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s, stop=stop)


def time_predict(job: OverheadJob, *, stop: Event) -> InTurnOutcome | None:
    """Time `predict` (first) and the bare engine on the same feeds (second); see `time_in_turn`."""
    choice = Choice(
        bundle=job.bundle,
        backend=job.backend or "ort",
        precision="fp32",
        threads=job.threads,
        reference=job.reference,
        checked=job.checks,
    )
    with open_predictor(choice) as predictor:
        modality, windows = predictor.modality, raw_windows(predictor)
        names = tuple(tensor.name for tensor in predictor.entry.inputs)
        feeds = [
            dict(zip(names, prepare(check_window(window, modality), modality, predictor.reference), strict=True))
            for window in windows
        ]
        # The very engine that predict uses: two sessions of one model differ by more than predict adds.
        backend = predictor.backend
        run: Callable[[Any], object] = backend.run
        if job.backend is None:
            run = partial(cast(OrtBackend, backend).session.run, [tensor.name for tensor in predictor.entry.outputs])
        predict = partial(predictor.predict, input_age_s=0.0) if job.checks else predictor.predict
        arguments = [predict_argument(predictor, window) for window in windows]
        calls = {FIRST: turning(predict, arguments), SECOND: turning(run, feeds)}
        return time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s, stop=stop)


def _session_call(path: Path, threads: int) -> Callable[[], object]:
    try:
        model = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected an ONNX model or a bundle, cannot open it: {reason}") from error
    feeds: dict[str, NDArray[Any]] = {}
    if model.startswith(ZIP_START):
        # The fp32 model of a bundle's first student, fed with its first golden window.
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
    """Return values for one input of a bare model: ones for presence, standard normal otherwise."""
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
