"""Checks of what callers pass to a predictor: windows, and the options of `open`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import InputError, UsageError
from mmkd_edge.predict.preprocess import as_float32, check_window, column_names, select
from mmkd_edge.predict.video import check_frame_batch
from mmkd_edge.spec import ModalitySpec

AnyReference = Reference | str | os.PathLike[str]
T = TypeVar("T")


def check_mapping(window: object, modalities: Sequence[ModalitySpec]) -> Mapping[str, object]:
    """Return the window, or raise InputError unless it is a mapping from the students' modalities."""
    names = [modality.name for modality in modalities]
    listed = ", ".join(map(repr, names))
    if not isinstance(window, Mapping):
        raise InputError(
            f"this bundle has students for {listed}: expected a mapping from modality to array, "
            f"got {type(window).__name__}"
        )
    for name in window:
        if name not in names:
            raise InputError(f"unknown modality {name!r}: this bundle has students for {listed}")
    return window


def check_batch(windows: Iterable[object] | Mapping[str, object], modalities: Sequence[ModalitySpec]) -> list[Any]:
    """Return the windows of `predict_batch`, each as `predict` takes it; InputError with the window's number."""
    if len(modalities) > 1:
        if isinstance(windows, Mapping) or not isinstance(windows, Iterable):
            raise InputError("predict_batch: of a bundle with several students expected an iterable of mappings")
        return [_check_numbered_mapping(index, window, modalities) for index, window in enumerate(windows)]
    modality = modalities[0]
    values = select(windows, modality)
    if isinstance(values, np.ndarray) and modality.kind == "video":
        return list(check_frame_batch(values, modality))
    if isinstance(values, np.ndarray):
        array = as_float32(values, modality)
        shape = modality.shape
        if array.ndim != 3 or array.shape[1:] != shape:
            raise InputError(
                f"modality {modality.name!r}: expected shape (N, T, C)=(N, {shape[0]}, {shape[1]}), "
                f"got {array.shape}; predict takes a single window"
            )
        return list(array)
    if column_names(values) is not None:
        raise InputError(
            f"predict_batch: expected windows, got one {type(values).__name__}, whose rows are no windows; pass a list "
            "with a frame for each window, or push the rows to a stream"
        )
    if not isinstance(values, Iterable):
        raise InputError(f"expected windows, got {type(values).__name__}; pass an array (N, T, C) or a list of windows")
    return [_check_numbered(index, window, modality) for index, window in enumerate(values)]


def _check_numbered(index: int, window: object, modality: ModalitySpec) -> NDArray[Any]:
    try:
        return check_window(window, modality)
    except InputError as error:
        raise InputError(f"window {index}: {error}") from error


def _check_numbered_mapping(index: int, window: object, modalities: Sequence[ModalitySpec]) -> dict[str, object]:
    windows = check_mapping(window, modalities)
    by_name = {modality.name: modality for modality in modalities}
    return {
        name: None if value is None else _check_numbered(index, value, by_name[name]) for name, value in windows.items()
    }


def check_choice(name: str, value: T, choices: object) -> T:
    """Return a value of a `Literal`, or raise UsageError."""
    known = get_args(choices)
    if value not in known:
        *others, last = map(repr, known)
        raise UsageError(f"{name}: expected {', '.join(others)} or {last}, got {value!r}")
    return value


def check_whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number of this range, or raise UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name}: expected a whole number from {least} to {most}, got {value!r}")
    return value


def check_seconds(name: str, value: Any) -> float | None:
    """Return seconds above 0 or None, or raise UsageError."""
    if value is None:
        return None
    if not (isinstance(value, Real) and 0 < float(value) < math.inf):
        raise UsageError(f"{name}: expected seconds above 0, got {value!r}")
    return float(value)


def check_moment(name: str, value: Any) -> None:
    """Raise UsageError unless an age or a moment is a number: NaN would count as fresh and in time."""
    if value is None or (type(value) is float and value == value):  # an abstract class takes a microsecond
        return
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        what = "a moment of time.monotonic()" if name == "deadline_s" else "seconds"
        raise UsageError(f"{name}: expected {what}, or None; got {value!r}")
