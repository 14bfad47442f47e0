"""Checks of windows and options passed to a predictor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeVar, get_args

from mmkd_edge.errors import InputError, UsageError
from mmkd_edge.predict.preprocess import check_window, select
from mmkd_edge.spec import ModalitySpec

T = TypeVar("T")


def check_mapping(window: object, modalities: Sequence[ModalitySpec]) -> Mapping[str, object]:
    """Return the window; InputError unless it maps the students' modalities."""
    names = [modality.name for modality in modalities]
    listed = ", ".join(map(repr, names))
    if not isinstance(window, Mapping):
        raise InputError(
            f"this bundle has students for {listed}: expected a mapping from modality to array, "
            f"got {type(window).__name__}"
        )
    for name in window:
        if name not in names and name not in [source.name for modality in modalities for source in modality.sources]:
            raise InputError(f"unknown modality {name!r}: this bundle has students for {listed}")
    return window


def pick_window(windows: Mapping[str, object], modality: ModalitySpec) -> dict[str, object]:
    """Return the modality's entry of a checked mapping, or those of the recorded ones; None if absent."""
    given = {source.name: windows.get(source.name) for source in modality.sources}
    is_whole = modality.name in windows or all(array is None for array in given.values())
    return {modality.name: windows.get(modality.name)} if is_whole else given


def check_batch(windows: Iterable[object] | Mapping[str, object], modalities: Sequence[ModalitySpec]) -> list[Any]:
    """Return the windows of `predict_batch` as `predict` takes them; InputError with the window's number."""
    several = len(modalities) > 1
    batch = windows if several else select(windows, modalities[0])
    one_window = getattr(batch, "shape", None) in ((), modalities[0].shape)
    if one_window or isinstance(batch, Mapping) or not isinstance(batch, Iterable):
        expected = "an iterable of mappings" if several else "an array (N, T, C) or a list of windows"
        raise InputError(
            f"predict_batch: expected {expected}, got {type(batch).__name__}; predict takes a single window"
        )
    checked: list[Any] = []
    for number, window in enumerate(batch):
        try:
            checked.append(_check_mapped(window, modalities) if several else check_window(window, modalities[0]))
        except InputError as error:
            raise InputError(f"window {number}: {error}") from error
    return checked


def _check_mapped(window: object, modalities: Sequence[ModalitySpec]) -> dict[str, object]:
    windows = check_mapping(window, modalities)
    picked = {modality.name: (pick_window(windows, modality), modality) for modality in modalities}
    return {
        name: None if all(array is None for array in window.values()) else check_window(window, modality)
        for name, (window, modality) in picked.items()
    }


def check_choice(name: str, value: T, choices: object) -> T:
    """Return a value of a `Literal`, or raise UsageError."""
    known = get_args(choices)
    if value not in known:
        *others, last = map(repr, known)
        raise UsageError(f"{name}: expected {', '.join(others)} or {last}, got {value!r}; choose one of them")
    return value


def check_whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number in the range, or raise UsageError."""
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
    """Raise UsageError unless a moment is a number: NaN would count as fresh and in time."""
    if value is None or (type(value) is float and value == value):  # an abstract class takes a microsecond
        return
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        what = "a moment of time.monotonic()" if name == "deadline_s" else "seconds"
        raise UsageError(f"{name}: expected {what}, or None; got {value!r}")
