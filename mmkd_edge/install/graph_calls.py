"""A graph node with its inputs, for the rules of `graph_shapes`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import msgspec
from numpy.typing import NDArray

Shape = tuple[int, ...]
Attribute = int | str | tuple[int, ...] | NDArray[Any]

FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9
"""Type numbers of onnx.proto."""
MAX_FOLDING = 1 << 22
"""Constant values computed per graph: one or two seconds."""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor; `values` per step number or once, None if they depend on the input."""

    shape: Shape
    kind: int
    values: tuple[NDArray[Any], ...] | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One operation; an omitted input has an empty name."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


def require(condition: bool, got: str, expected: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(f"the graph has {got}; expected {expected}")


class Folding(msgspec.Struct):
    """The remaining budget of values to compute."""

    left: int = MAX_FOLDING


class Call:
    """A node with its inputs; `operations` excludes one per output value."""

    def __init__(self, node: Node, tensors: Mapping[str, Tensor], folding: Folding) -> None:
        self.operator = node.operator
        self.attributes = node.attributes
        self.outputs = len(node.outputs)
        self.folding = folding
        self.operations = 0
        for name in node.inputs:
            fault = f"an input {name!r} of {node.operator!r} that nothing gives"
            require(not name or name in tensors, fault, "a tensor")
        self.inputs = [tensors[name] if name else None for name in node.inputs]

    def require(self, condition: bool, fault: str) -> None:
        """Raise ValueError, with the input shapes, unless the condition holds."""
        if not condition:
            shapes = ", ".join("-" if tensor is None else str(tensor.shape) for tensor in self.inputs)
            raise ValueError(f"the graph's operator {self.operator!r} with inputs of the shapes {shapes} {fault}")

    def has(self, place: int) -> bool:
        """Return whether an input is present."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def tensor(self, place: int) -> Tensor:
        """Return a required input."""
        tensor = self.inputs[place] if place < len(self.inputs) else None
        if tensor is None:
            raise ValueError(f"the graph's operator {self.operator!r} lacks input {place}")
        return tensor

    def tensors(self, count: int = 0) -> list[Tensor]:
        """Return all inputs, each required; exactly `count` unless 0."""
        self.require(count in (0, len(self.inputs)), f"has {len(self.inputs)} inputs")
        return [self.tensor(place) for place in range(len(self.inputs))]

    @property
    def first(self) -> Tensor:
        """The first input."""
        return self.tensor(0)

    def result(self, shape: Sequence[int], *, kind: int = 0, operations: int = 0) -> list[Tensor]:
        """Return one output, by default of the first input's type."""
        self.operations += operations
        return [Tensor(shape=tuple(shape), kind=kind or self.first.kind)]

    def number(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        number = self.attributes.get(name, default)
        self.require(isinstance(number, int), f"has the attribute {name!r} of another type")
        return number  # type: ignore[return-value]  # the line above

    def numbers(self, name: str, default: Sequence[int]) -> list[int]:
        """Return a list attribute of integers."""
        numbers = self.attributes.get(name, tuple(default))
        self.require(isinstance(numbers, tuple), f"has the attribute {name!r} of another type")
        return list(numbers)  # type: ignore[arg-type]  # the line above

    def text(self, name: str, default: str) -> str:
        """Return a text attribute."""
        return str(self.attributes.get(name, default))

    def values(self, place: int) -> tuple[NDArray[Any], ...]:
        """Return an input's constant integers, once or per step number."""
        tensor = self.tensor(place)
        values = tensor.values if tensor.kind in (INT32, INT64) else None
        fault = f"has an input {place} that is computed from a window; only a constant is in range for sure"
        self.require(values is not None, fault)
        return values or ()

    def constants(self, place: int, name: str = "", default: Sequence[int] = ()) -> list[int]:
        """Return an input's constant integers; if omitted, an attribute or the default."""
        if not self.has(place):
            return self.numbers(name, default)
        values = self.values(place)
        self.require(len(values) == 1 and values[0].ndim <= 1, f"has an input {place} that is no list of constants")
        return [int(value) for value in values[0].ravel()]

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front."""
        self.require(-rank <= axis < rank, f"has the axis {axis} of {rank}")
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int) -> list[int]:
        """Return distinct axes, counted from the front."""
        counted = [self.axis(axis, rank) for axis in axes]
        self.require(len(set(counted)) == len(counted), f"has the axes {list(axes)}")
        return counted

    def broadcast(self, *shapes: Shape) -> Shape:
        """Return the common shape of several."""
        sizes = [set(column) - {1} for column in zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)]
        self.require(all(len(axis) <= 1 for axis in sizes), "has shapes that do not fit together")
        return tuple(next(iter(axis), 1) for axis in reversed(sizes))

    def require_within(self, shape: Shape, whole: Shape) -> None:
        """Refuse a parameter that would enlarge its tensor."""
        self.require(self.broadcast(shape, whole) == whole, "has a parameter that does not fit")
