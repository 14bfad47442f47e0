"""Two models, or `predict` and the bare engine, called in turn inside the measuring process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mmkd_bench.measuring.jobs import InTurnOutcome, OverheadJob, PairJob
from mmkd_bench.measuring.opening import Choice, asked, open_predictor, raw_windows
from mmkd_bench.measuring.session import open_session
from mmkd_bench.turns.rounds import time_in_turn, turning
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.predict.preprocess import check_window, prepare, prepare_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Feeds = Mapping[str, NDArray[Any]]

FIRST, SECOND = "first", "second"
ZIP_START = b"PK\x03\x04"
SEED = 0

_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def time_models(job: PairJob, *, stop: Event) -> InTurnOutcome | None:
    """Two models through ONNX Runtime; see `time_in_turn`.

    Raises:
        UsageError: a path is no ONNX model of static shape and no bundle.
        UnavailableError: onnxruntime is not installed.
        BackendError: ONNX Runtime refuses a model.
        ArtifactError: a bundle is damaged.
    """
    first, second = (_session_call(Path(path), threads=job.threads) for path in (job.first, job.second))
    calls = {FIRST: first, SECOND: second}
    return time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s, stop=stop)


def time_predict(job: OverheadJob, *, stop: Event) -> InTurnOutcome | None:
    """`predict` (first) and the bare engine on the same feeds (second); see `time_in_turn`.

    Raises:
        MmkdError: the bundle cannot be opened or run.
    """
    choice = Choice(
        bundle=job.bundle,
        backend=job.backend or "ort",
        precision="fp32",
        threads=job.threads,
        reference=job.reference,
        checked=job.checks,
    )
    with open_predictor(choice) as predictor:
        modality = predictor.modality
        windows = raw_windows(predictor)
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
        calls = {
            FIRST: turning(predict, [asked(predictor, window) for window in windows]),
            SECOND: turning(run, feeds),
        }
        return time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s, stop=stop)


def is_zip(path: Path, *, expected: str = "an ONNX model or a bundle") -> bool:
    """Whether a file begins as a bundle does; its name does not matter.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP_START)) == ZIP_START
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected {expected}, cannot open it: {reason}") from error


def _session_call(path: Path, *, threads: int) -> Callable[[], object]:
    model, feeds = _bundle_model(path) if is_zip(path) else (path.read_bytes(), None)
    try:
        session = open_session(model, threads=threads)
    except BackendError as error:
        raise BackendError(f"{path}: {error}") from error
    fed = feeds or {node.name: _made_up(node, path) for node in session.get_inputs()}
    names = [node.name for node in session.get_outputs()]
    return lambda: session.run(names, fed)


def _bundle_model(path: Path) -> tuple[bytes, Feeds]:
    """The fp32 model of a bundle's first student, and the feeds of its first golden window."""
    with Bundle.open(path) as bundle:
        entry = bundle.manifest.models[0]
        artifact = choose_artifact(entry, "fp32", "ort")
        values, present = prepare_batch(bundle.golden(entry.name).windows[:1], entry.modality)
        return bundle.read(artifact.file), {entry.inputs[0].name: values, entry.inputs[1].name: present}


def _made_up(node: Any, path: Path) -> NDArray[Any]:
    """Numbers for one input of a bare model: ones for presence, standard normal values otherwise."""
    dtype = _NUMPY_TYPES.get(node.type)
    if dtype is None:
        raise UsageError(f"{path}: input {node.name!r} has the type {node.type}; expected numbers")
    if not all(isinstance(size, int) and size > 0 for size in node.shape):
        raise UsageError(
            f"{path}: input {node.name!r} has the shape {list(node.shape)}; expected fixed sizes: export a static shape"
        )
    if node.name.endswith("_present"):
        return np.ones(node.shape, dtype=dtype)
    values: NDArray[Any] = np.random.default_rng(SEED).standard_normal(node.shape).astype(dtype)
    return values
