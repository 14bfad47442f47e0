"""Golden windows, `<model>/golden.npz`: recorded windows with the checkpoint's outputs.

Devices test themselves with them; half judge artifacts of lower precision, the others calibrate those.
"""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.archive import archive_body, end_record
from mmkd_edge.bundle.manifest import MAX_TOLERANCE, ModelEntry
from mmkd_edge.errors import BundleError
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import TaskSpec, label_dtype

_SAME_NUMBER = 0.1
_FRAMES = "frames"  # video: presence
_NOVELTY = "novelty"
_DTYPES: dict[str, Any] = {
    _FRAMES: np.bool_,
    "windows": np.float32,
    "logits": np.float32,
    "probabilities": np.float32,
    _NOVELTY: np.float32,
    "judge": np.bool_,
    "tolerance": np.float64,
}


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """Windows with the checkpoint's outputs.

    Attributes:
        windows: (N, T, C) float32, NaN = missing, as `prepare` takes them without a reference (a per-group modality as
            z-scores); video uint8 (N, T, H, W, C), masked where missing.
        labels: int64 (N,), -1 = unknown; multi-label uint8 (N, K), 255 = unknown; regression float32 (N,), NaN =
            unknown.
        logits: (N, K) float32.
        probabilities: (N, K) float32; the value of a regression, the score of `normal`.
        judge: (N,) bool: True windows only judge.
        tolerance: largest difference of a logit or probability.
        novelty: (N, 1) float32, or None.
    """

    windows: NDArray[Any]
    labels: NDArray[Any]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    judge: NDArray[np.bool_]
    tolerance: float
    novelty: NDArray[np.float32] | None = None


def answer_scale(task: TaskSpec, answers: NDArray[np.float32]) -> float:
    """Return the unit of the second output's differences: the largest value (N, 1) of numbers, else 1."""
    largest = float(np.abs(answers).max()) if task.is_number else 1.0
    return largest or 1.0


def novelty_errors(expected: NDArray[np.float32], got: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (N,) differences of novelty scores (N, 1), relative to 1 + the expected score."""
    return np.asarray(np.abs(expected.astype(np.float64) - got)[:, 0] / (1.0 + expected[:, 0]))


def same_answers(task: TaskSpec, answers: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return (N,) whether logits (N, K) agree: class, active labels, or numbers within 0.1.

    A regression's are in standard deviations of its targets, those of `normal` logarithms.
    """
    match task.kind:
        case "classification":
            return np.asarray(answers.argmax(axis=1) == reference.argmax(axis=1))
        case "multi_label":
            limit = task.on_from_logit
            return np.asarray(((answers >= limit) == (reference >= limit)).all(axis=1))
        case _:
            return np.asarray((np.abs(answers - reference) <= _SAME_NUMBER).all(axis=1))


def golden_bytes(golden: Golden) -> bytes:
    """Return the golden windows as a deterministic, uncompressed .npz."""
    files: dict[str, bytes] = {}
    arrays = {name: array for name, array in msgspec.structs.asdict(golden).items() if array is not None}
    if golden.windows.dtype == np.uint8:
        arrays |= {"windows": frame_bytes(golden.windows), _FRAMES: ~missing_frames(golden.windows)}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        # C order, because numpy records the memory order.
        dtype = array.dtype if name in ("labels", "windows") else _DTYPES[name]
        np.save(buffer, np.asarray(array, dtype=dtype, order="C"), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    body, members = archive_body(files)
    return body + end_record(members, comment=b"")


def golden_from_bytes(data: bytes, entry: ModelEntry) -> Golden:
    """Read a student's golden windows; BundleError if they do not fit it."""
    arrays = _arrays(data, entry.golden.file)
    if fault := _fault(arrays, entry):
        raise BundleError(f"{entry.golden.file}: {fault}; export the bundle again")
    fields: dict[str, Any] = arrays | {"tolerance": float(arrays["tolerance"])}
    if _FRAMES in fields:
        fields["windows"] = mask_missing(arrays["windows"], ~fields.pop(_FRAMES))
    return Golden(**fields)


def _arrays(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    import zipfile  # 10 ms

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            stored = all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            # A compressed archive may unpack to more than the device has.
            arrays = {name: np.asarray(loaded[name]) for name in loaded.files} if stored else {}
    # A damaged archive or header gives a dozen types of errors.
    except Exception as error:
        reason = "they take more memory than there is" if isinstance(error, MemoryError) else error
        raise BundleError(f"{where}: not readable as arrays: {reason}; export the bundle again") from error
    if not stored:
        raise BundleError(f"{where}: expected stored arrays, got compressed ones; export the bundle again")
    return arrays


def _fault(arrays: dict[str, NDArray[Any]], entry: ModelEntry) -> str:
    several, classes = entry.task.kind == "multi_label", entry.task.outputs
    labels = arrays.get("labels", np.zeros(()))
    count = labels.shape[0] if labels.ndim == 1 + several else -1
    dtypes = {**_DTYPES, "labels": label_dtype(entry.task.kind), "windows": entry.modality.dtype}
    shapes = {
        "windows": (count, *entry.modality.shape),
        "labels": (count, classes) if several else (count,),
        "logits": (count, classes),
        "probabilities": (count, classes),
        "judge": (count,),
        "tolerance": (),
    }
    if entry.modality.kind == "video":
        shapes[_FRAMES] = (count, entry.modality.samples)
    if entry.has_novelty:
        shapes[_NOVELTY] = (count, 1)
    if set(arrays) != set(shapes):
        return f"expected the arrays {', '.join(sorted(shapes))}, got {', '.join(sorted(arrays))}"
    for name, shape in shapes.items():
        array, dtype = arrays[name], np.dtype(dtypes[name])
        if array.dtype != dtype or array.shape != shape:
            return f"{name}: expected {dtype} {shape}, got {array.dtype} {array.shape}"
        if not array.flags.c_contiguous:
            return f"{name}: expected rows of C, got columns of Fortran"
    if count < 1:
        return "expected at least one window, got none"
    outputs = [name for name in ("logits", "probabilities", _NOVELTY) if name in shapes]
    if not all(np.isfinite(arrays[name]).all() for name in outputs):
        return f"expected finite {' and '.join(outputs)}, got others"
    if _NOVELTY in shapes and arrays[_NOVELTY].min() < 0:
        return "novelty: expected numbers of at least 0, got others"
    tolerance, most = float(arrays["tolerance"]), MAX_TOLERANCE["fp32"]
    if not 0 < tolerance <= most:
        return f"tolerance: expected a number above 0 and at most {most:g}, got {tolerance:g}"
    return ""
