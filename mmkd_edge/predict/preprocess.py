"""From a window to graph inputs: `check_window`, then `prepare`, also in training and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import InputError
from mmkd_edge.frames import all_present, check_frames, prepare_frame_batch
from mmkd_edge.spec import ModalitySpec

_FLOAT32 = np.dtype(np.float32)
_FINITE = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))
# Kinds of dtype that hold plain numbers: boolean, signed, unsigned, floating point.
_NUMBER_KINDS = "biuf"


def check_window(window: object, modality: ModalitySpec) -> NDArray[Any]:
    """Check one window and return its array; InputError for another modality, type or shape.

    Args:
        window: an array of numbers, or a mapping from the modality's name to one. Masked values become NaN. Video: see
            `check_frames`. A derived modality is computed if the mapping names the recorded one, or an array has its
            shape. A joined one takes a mapping from its parts, whose absent or None ones are missing.

    Returns:
        float32 (T, C), NaN = missing; video uint8 (T, H, W, C), masked where missing. Not copied if already that.
    """
    array = window.get(modality.name) if isinstance(window, dict) and len(window) == 1 else window
    shape = (modality.samples, len(modality.channels))
    if (
        type(array) is np.ndarray
        and (array.dtype is _FLOAT32 or array.dtype == _FLOAT32)  # the first is cheap and nearly always true
        and array.shape == shape
        and modality.kind != "video"
        and (array is not window or not modality.derived)
        and not modality.parts
    ):
        return array
    return _check_any(window, modality)


def is_absent(window: object, modality: ModalitySpec) -> bool:
    """Return whether a mapping has None for the modality, or for the one that it is derived from."""
    return type(window) is dict and any(
        window.get(name, window) is None for name in (modality.name, modality.recorded.name)
    )


def prepare(
    array: NDArray[Any], modality: ModalitySpec, reference: Reference | None = None
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Turn a checked window into the graph's two inputs: values and presence.

    A value is missing if it is NaN, infinite or, raw, outside the modality's range. So for a per-group modality the
    range applies only with `reference`, before the z-score.

    Args:
        array: from `check_window`: raw values; z-scores for a per-group modality without `reference`.
        reference: group statistics to z-score raw values with.

    Returns:
        Values and presence, float32 (1, T, C), both 0 where missing; video uint8 (1, T, H, W, C) and float32 (1, T, 1).
        Values may share memory with `array`; complete presence is `all_present(modality.presence_shape)`.
    """
    if modality.kind == "video":
        is_masked = isinstance(array, np.ma.MaskedArray)
        return prepare_frame_batch(array[None]) if is_masked else (array[None], all_present((len(array), 1)))
    if reference is not None:
        array = standardise(array, modality, mean=reference.mean, std=reference.std)
    low, high = modality.range if modality.range is not None and modality.normalise == "none" else _FINITE
    # The first NaN counts as the smallest and as the largest value, and fails both comparisons.
    if array.item(array.argmin()) >= low and array.item(array.argmax()) <= high:
        return array[None], all_present(array.shape)
    return prepare_batch(array[None], modality)


def prepare_batch(array: NDArray[Any], modality: ModalitySpec) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Prepare windows (B, T, C), video (B, T, H, W, C): new arrays of values and presence."""
    if modality.kind == "video":
        return prepare_frame_batch(array)
    present = _valid(array, modality) if modality.normalise == "none" else np.isfinite(array)
    return np.where(present, array, np.float32(0)), present.astype(np.float32)


def channel_rows(values: NDArray[Any], present: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return values and presence (B, T, C) of prepared windows; for video the mean brightness per frame."""
    if values.ndim != 5:
        return values, present
    means = values.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)
    return means, np.broadcast_to(present, means.shape)


def standardise(array: NDArray[np.float32], modality: ModalitySpec, *, mean: Any, std: Any) -> NDArray[np.float32]:
    """Z-score raw values (..., C) with their group's statistics (C,); invalid ones become NaN."""
    # float64: a float32 mean would shift large, slowly moving values (a pressure in Pa) by a part of their spread.
    with np.errstate(over="ignore", invalid="ignore"):  # overflow becomes Inf, which counts as missing
        scores = (array - np.asarray(mean, dtype=np.float64)) / np.asarray(std, dtype=np.float64)
        return np.where(_valid(array, modality), scores, np.nan).astype(np.float32)


def only_valid(array: NDArray[np.float32], modality: ModalitySpec) -> NDArray[np.float32]:
    """Return raw values (..., C) with NaN for invalid ones; `array` itself if there are none."""
    valid = _valid(array, modality)
    return array if valid.all() else np.where(valid, array, np.float32(np.nan))


def within_float32(low: float, high: float) -> tuple[float, float]:
    """Clip a range to float32's, since numpy warns beyond."""
    least, most = _FINITE
    return min(max(low, least), most), max(min(high, most), least)


def join_parts(arrays: Sequence[NDArray[np.float32]], modality: ModalitySpec) -> NDArray[np.float32]:
    """Put windows (..., C) of a joined modality's parts side by side; values outside a part's own range are missing."""
    valid = [only_valid(array, part) for array, part in zip(arrays, modality.parts or (), strict=True)]
    return np.concatenate(valid, axis=-1)


def missing_samples(modality: ModalitySpec, count: int) -> NDArray[Any]:
    """Return missing samples: NaN (n, C), or masked frames (n, H, W, C)."""
    shape = (count, *modality.shape[1:])
    if modality.kind == "video":
        return np.ma.masked_all(shape, dtype=np.uint8)  # type: ignore[no-any-return, no-untyped-call]
    return np.full(shape, np.nan, dtype=np.float32)


def _valid(array: NDArray[np.float32], modality: ModalitySpec) -> NDArray[np.bool_]:
    valid: NDArray[np.bool_] = np.isfinite(array)
    if modality.range is not None:
        low, high = within_float32(*modality.range)
        valid &= (array >= low) & (array <= high)  # NaN compares false without a warning.
    return valid


def _derive_any(window: object, modality: ModalitySpec, recorded: ModalitySpec) -> NDArray[Any] | None:
    """Derive a window that names or has the shape of the recorded modality; None for another."""
    names = list(window) if isinstance(window, Mapping) else [recorded.name]
    array = window[recorded.name] if isinstance(window, Mapping) and names == [recorded.name] else window
    if names != [recorded.name] or not hasattr(array, "__len__"):
        return None
    assert modality.derived  # else there is no recorded modality
    if len(array) == modality.derived.source.samples:
        recorded = modality.derived.source
    if not isinstance(window, Mapping) and getattr(window, "shape", None) != recorded.shape:
        return None
    checked = check_window(array, recorded)
    from mmkd_edge.derive import derive  # few students need it

    return derive(checked if modality.kind == "video" else only_valid(checked, recorded), modality)


def _check_parts(window: object, modality: ModalitySpec, parts: Sequence[ModalitySpec]) -> NDArray[np.float32]:
    names = [part.name for part in parts]
    if not isinstance(window, Mapping) or not window or list(window) == [modality.name]:
        whole = check_window(window, msgspec.structs.replace(modality, parts=None))
        return join_parts([whole[:, channels] for channels in modality.part_channels], modality)
    if unknown := [name for name in window if name not in names]:
        raise InputError(
            f"unknown modality {', '.join(map(repr, unknown))}: this model takes {' and '.join(map(repr, names))}; "
            "pass a mapping from these to arrays, None where one is missing"
        )
    given = [window.get(part.name) for part in parts]
    pairs = zip(given, parts, strict=True)
    return join_parts([check_window(missing_samples(p, p.samples) if a is None else a, p) for a, p in pairs], modality)


def _check_any(window: object, modality: ModalitySpec) -> NDArray[Any]:
    if modality.parts:
        return _check_parts(window, modality, modality.parts)
    if modality.derived and (derived := _derive_any(window, modality, modality.recorded)) is not None:
        return derived
    if modality.kind == "video":
        return check_frames(select(window, modality), modality)
    array = as_float32(select(window, modality), modality)
    shape = modality.shape
    if array.shape != shape:
        raise InputError(
            f"modality {modality.name!r}: expected shape (T, C)={shape}, got {array.shape}; {_advice(array, modality)}"
        )
    return array


def select(window: object, modality: ModalitySpec) -> object:
    """Return the modality's entry of a mapping, else `window`; InputError for other modalities."""
    if not isinstance(window, Mapping):
        return window
    unknown = [name for name in window if name != modality.name]
    if unknown:
        names = ", ".join(repr(name) for name in unknown)
        raise InputError(
            f"unknown modality {names}: this model takes {modality.name!r}; "
            f"pass {{{modality.name!r}: array}} or the bare array"
        )
    if modality.name not in window:
        raise InputError(
            f"modality {modality.name!r}: expected it in the window, got an empty mapping; "
            "pass an array of NaN where the sensor gave nothing"
        )
    selected: object = window[modality.name]
    return selected


def as_float32(values: object, modality: ModalitySpec) -> NDArray[np.float32]:
    """Return numbers as float32 of any shape, masked values as NaN; InputError if not numeric."""
    where = f"modality {modality.name!r}: expected an array of numbers, got"
    try:
        array = np.asanyarray(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors on another device
        raise InputError(f"{where} {type(values).__name__}: {error}") from error
    if array.dtype.kind not in _NUMBER_KINDS:
        raise InputError(
            f"{where} {type(values).__name__} of dtype {array.dtype}; "
            "convert it to float32, with NaN where a value is missing"
        )
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    if isinstance(converted, np.ma.MaskedArray):
        return np.asarray(converted.filled(np.float32(np.nan)))
    return converted


def _advice(array: NDArray[np.float32], modality: ModalitySpec) -> str:
    samples, channels = modality.shape
    if array.shape == (channels, samples):
        return "transpose it"
    if array.shape[1:] == modality.shape:
        return "pass one window, or all of them to predict_batch"
    if array.shape == (samples * channels,):
        return f"reshape it to {modality.shape}"
    if array.ndim == 2 and array.shape[1] == channels:
        return f"a window is {samples} samples, {modality.duration_s:g} s at {modality.rate_hz:g} Hz"
    return f"one row per sample, one column per channel ({', '.join(modality.channels)})"
