"""Open the measured bundle as an application does; of several students the first is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.bench import Subject
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import BackendError, UnavailableError, first_line
from mmkd_edge.opening.choice import find_profile
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.predictor import EdgePredictor


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What to open, and how."""

    bundle: str
    options: OpenOptions = OpenOptions()


class OpenedBundle(msgspec.Struct, frozen=True, kw_only=True):
    """An opened bundle, and what executes it."""

    subject: Subject
    backend: str
    precision: str
    threads: int


def open_predictor(choice: Choice) -> EdgePredictor:
    """Open a bundle; a missing reference of a per-group modality gets a stand-in."""
    predictor = EdgePredictor.open_with(choice.bundle, choice.options)
    modality = predictor.modality
    if modality.normalise == "none" or predictor.reference is not None:
        return predictor
    predictor.close()
    (low, high), count = modality.range or (-1e3, 1e3), len(modality.channels)
    mean, std = (0.5 * (low + high),) * count, ((high - low) / 1e3,) * count
    stand_in = Reference(modality=modality.name, mean=mean, std=std)
    return EdgePredictor.open_with(choice.bundle, msgspec.structs.replace(choice.options, reference=stand_in))


def settle_backend(bundle: Bundle, choice: Choice) -> None:
    """Open the bundle once: no launch includes its sandbox check."""
    if choice.options.backend == "auto" and find_profile(bundle.sha256).profile is None:
        open_predictor(choice).close()


def raw_windows(predictor: EdgePredictor) -> tuple[NDArray[Any], ...]:
    """Return golden windows in raw units, float32 (T, C); video uint8 (T, H, W, C), masked if missing."""
    assert predictor.bundle is not None
    golden = predictor.bundle.golden(predictor.entry.name).windows
    reference = predictor.reference
    if predictor.modality.kind == "video":
        return tuple(golden)
    if reference is not None:  # golden windows of per-group modalities are z-scores
        golden = golden * np.asarray(reference.std) + np.asarray(reference.mean)
    return tuple(np.ascontiguousarray(window, dtype=np.float32) for window in golden)


def predict_argument(predictor: EdgePredictor, window: NDArray[Any]) -> object:
    """Return a window for `predict`, by modality for several students."""
    return window if len(predictor.entries) == 1 else {predictor.modality.name: window}


def describe(predictor: EdgePredictor, bundle: str) -> OpenedBundle:
    """Describe an opened bundle for a report."""
    info, entry, modality = predictor.info(), predictor.entry, predictor.modality
    artifact = next(artifact for artifact in entry.artifacts if artifact.file == info.artifact)
    subject = Subject(
        bundle=bundle,
        sha256=info.bundle_sha256,
        size_bytes=Path(bundle).stat().st_size,
        model=entry.name,
        modality=modality.name,
        rate_hz=modality.rate_hz,
        window_s=modality.duration_s,
        artifact=artifact.file,
        artifact_size_bytes=artifact.size_bytes,
        parameters=entry.parameters,
    )
    return OpenedBundle(
        subject=subject, backend=info.backend, precision=info.precision, threads=predictor.backend.threads
    )


def open_session(model: bytes, *, threads: int) -> Any:
    """Open a plain ONNX Runtime session with the runtime's threading; raise BackendError if that fails."""
    from mmkd_edge.backends.ort import import_onnxruntime

    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        raise UnavailableError(
            "comparing models needs onnxruntime, which is not installed; run: pip install 'mmkd-edge[ort]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime also raises foreign types
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} cannot open the model: {first_line(error)}"
        ) from error
