"""Checks of what callers pass to a predictor: windows, and the options of `open`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import RUN_PRECISIONS, RunPrecision
from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import InputError, UsageError
from mmkd_edge.predict.config import TRUSTS, Trust
from mmkd_edge.predict.preprocess import as_float32, check_window, columns_of, select
from mmkd_edge.predict.profile import MAX_THREADS
from mmkd_edge.predict.video import check_frame_batch
from mmkd_edge.spec import ModalitySpec

AnyReference = Reference | str | os.PathLike[str]


def check_mapping(window: object, modalities: Sequence[ModalitySpec]) -> Mapping[str, object]:
    """Return the window if it is a mapping from the students' modalities, else raise InputError."""
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
    """Return the windows of `predict_batch` one by one, each as `predict` takes it.

    Args:
        modalities: of the students, the first one first.

    Raises:
        InputError: a window does not fit; the message has its number.
    """
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
    if columns_of(values) is not None:
        raise InputError(
            f"predict_batch: expected windows, got one {type(values).__name__}, whose rows are no windows; pass a list "
            "with a frame for each window, or push the rows to a stream"
        )
    if not isinstance(values, Iterable):
        raise InputError(f"expected windows, got {type(values).__name__}; pass an array (N, T, C) or a list of windows")
    return [_check_numbered(index, window, modality) for index, window in enumerate(values)]


def several(reference: AnyReference | Sequence[AnyReference] | None) -> tuple[AnyReference, ...]:
    """Return the `reference` of `open` as a tuple."""
    if reference is None:
        return ()
    if isinstance(reference, Reference | str | os.PathLike):
        return (reference,)
    return tuple(reference)


def check_precision(precision: RunPrecision | Literal["auto"]) -> RunPrecision | Literal["auto"]:
    """The same precision, where there is one.

    Raises:
        UsageError: there is none.
    """
    if precision not in ("auto", *RUN_PRECISIONS):
        *others, last = map(repr, ("auto", *RUN_PRECISIONS))
        raise UsageError(f"precision {precision!r} is unknown; expected {', '.join(others)} or {last}")
    return precision


def check_trust(trust: Any) -> Trust:
    """The same trust, where there is one.

    Raises:
        UsageError: there is none.
    """
    for known in TRUSTS:
        if trust == known:
            return known
    raise UsageError(f"trust: expected {' or '.join(map(repr, TRUSTS))}, got {trust!r}")


def check_threads(threads: Any) -> int | None:
    """Return the number of threads, else raise UsageError."""
    if threads is None:
        return None
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads: expected a whole number from 1 to {MAX_THREADS}, or None; got {threads!r}")
    return threads


def check_stale(stale_s: float | None) -> float | None:
    """Return the age if it is above 0, else raise UsageError."""
    if stale_s is not None and not stale_s > 0:
        raise UsageError(f"stale_s: expected seconds above 0, got {stale_s!r}")
    return stale_s


def check_moment(name: str, value: Any) -> None:
    """Raise UsageError for an age or a moment that is no number, which would count as fresh and in time."""
    if value is None or (type(value) is float and value == value):  # to ask an abstract class takes a microsecond
        return
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        what = "a moment of time.monotonic()" if name == "deadline_s" else "seconds"
        raise UsageError(f"{name}: expected {what}, or None; got {value!r}")


def check_every(observe_every: Any) -> int:
    """Return the number of windows if it is a whole number from 0, else raise UsageError."""
    if isinstance(observe_every, bool) or not isinstance(observe_every, int) or observe_every < 0:
        raise UsageError(f"observe_every: expected a whole number from 0 on, got {observe_every!r}")
    return observe_every


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
