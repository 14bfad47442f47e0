"""Calls of engines: errors, tensors and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import Streaming
from mmkd_edge.errors import BackendError, first_line
from mmkd_edge.spec import TensorSpec

_ALIGNED = 16  # values: 64 bytes, a processor's longest read
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


class StepMemory:
    """The arrays of one stream's steps by name; `fresh` are the inputs besides the states, `step` counts from 0."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], streaming: Streaming) -> None:
        self.inputs: dict[str, NDArray[Any]] = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in inputs}
        sizes = [-(-math.prod(spec.shape) // _ALIGNED) * _ALIGNED for spec in outputs]
        self._written = np.zeros(sum(sizes), np.float32)
        parts = np.split(self._written, np.cumsum(sizes)[:-1])
        self.outputs = {
            spec.name: part[: math.prod(spec.shape)].reshape(spec.shape)
            for spec, part in zip(outputs, parts, strict=True)
        }
        self._gaps = len(self._written) - sum(array.size for array in self.outputs.values())
        self.states = tuple(state.name for state in streaming.states)
        self.fresh = tuple(name for name in self.inputs if name not in self.states)
        self.step = 0
        self._slots = streaming.slots
        self._news = []
        for state in streaming.states:
            self.inputs[state.name][...] = state.initial
            new = self.outputs[f"next_{state.name}"]
            self._news.append((state.name, state.axis, new if state.axis is None else new.squeeze(state.axis)))

    @property
    def slot(self) -> int:
        """The slot that the next step fills."""
        return self.step % self._slots

    def erase(self) -> None:
        """Overwrite the last step's outputs with NaN."""
        self._written.fill(_NAN)

    def check_written(self) -> None:
        """Raise ValueError if a step left an output without a number."""
        if np.count_nonzero(np.isnan(self._written)) != self._gaps:
            raise ValueError("it gave NaN, or no answer")

    def keep(self) -> None:
        """Copy the new states into the inputs; count the step."""
        for name, axis, new in self._news:
            if axis is None:
                self.inputs[name][...] = new
            else:
                self.inputs[name][(slice(None),) * axis + (self.slot,)] = new
        self.step += 1


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
