"""Calls of engines: errors and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal

from numpy.typing import NDArray

from mmkd_edge.errors import BackendError, first_line
from mmkd_edge.spec import TensorSpec

_NAN = float("nan")
_DTYPES: Mapping[str, Literal["float32", "float16", "int8", "uint8"]] = {
    **dict.fromkeys(("float32", "f32", "tensor(float)", "FLOAT"), "float32"),
    **dict.fromkeys(("float16", "f16", "tensor(float16)"), "float16"),
    **dict.fromkeys(("int8", "i8", "tensor(int8)"), "int8"),
    **dict.fromkeys(("uint8", "u8", "tensor(uint8)", "UINT8"), "uint8"),
}


class EngineCall:
    """A block that calls an engine: its errors become a BackendError of `title` and `failure`."""

    def __init__(self, title: str, failure: str, *, reason: Callable[[BaseException], str] = first_line) -> None:
        self._title, self._failure, self._reason = title, failure, reason

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            raise BackendError(f"{self._title} {self._failure}: {self._reason(error)}") from error


def describe_tensor(name: str, dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    """Return a tensor as in the manifest; BackendError for a type that no artifact has."""
    if dtype not in _DTYPES:
        raise BackendError(f"tensor {name!r} has the type {dtype}, expected float32")
    return TensorSpec(name=name, dtype=_DTYPES[dtype], shape=shape)


def fill(places: Mapping[str, NDArray[Any]], feeds: Mapping[str, NDArray[Any]]) -> None:
    """Copy feeds into an engine's memory; ValueError for wrong inputs, shapes or types."""
    if feeds.keys() != places.keys():
        expected, found = ", ".join(places), ", ".join(feeds)
        raise ValueError(f"expected the inputs {expected}, got {found or 'nothing'}")
    for name, place in places.items():
        values = feeds[name]
        if values.shape != place.shape or values.dtype != place.dtype:
            raise ValueError(f"input {name!r}: expected {place.dtype} {place.shape}, got {values.dtype} {values.shape}")
        place[:] = values


def erase(answers: Iterable[NDArray[Any]]) -> None:
    """Overwrite answers with NaN, so that unwritten ones are noticed."""
    for answer in answers:
        answer.fill(_NAN)
