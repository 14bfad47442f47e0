"""What a graph computes: the shape of every tensor, and what one run costs, known before an engine sees it.

Owns the rules of shape of every operator that a student may use. All shapes are static; indices, axes, sizes and
paddings are constants whose values are in range, or computed from constants and from the number of a step. So a run
costs the same for every input, and what a sandboxed process has seen is what a caller gets. The rules are those of
github.com/onnx/onnx/blob/main/docs/Operators.md, opsets 17 to 21.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Attribute = int | str | tuple[int, ...] | NDArray[Any]

MOST_RANK = 16
_MOST_SLOTS = 512
_MOST_FOLDED = 4096  # values of a tensor that is computed here
_MOST_FOLDING = 1 << 22  # values that are computed here, all together: a second or two
_FOLDING_COST = 16  # of a computation of a few values, in values
_FLOAT, _INT64, _BOOL = 1, 7, 9
ITEM_BYTES: Mapping[int, int] = {
    1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2, 21: 1, 22: 1,
}  # fmt: skip
"""Bytes of one value, by onnx.proto's number of a type: numbers and bool."""
DTYPES: Mapping[int, str] = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
"""The types whose values are read here."""
_FLOATS = frozenset((1, 10, 11, 16))


class GraphCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one run takes at most.

    Attributes:
        operations: multiplications and additions, or values written; of functions like Exp ten for each value.
        memory_bytes: of all tensors that are computed, as if none made room for another.
    """

    operations: int
    memory_bytes: int


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of a graph.

    Attributes:
        values: what it contains, for each number of a step or once for all of them; None where only a run tells.
    """

    shape: Shape
    kind: int
    values: tuple[NDArray[Any], ...] | None = None

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One operation; the name of an input that is left out is empty."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


def require(condition: bool, got: str, expected: str) -> None:
    """Refuse a graph.

    Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(f"the graph has {got}; expected {expected}")


def measure_graph(
    nodes: Sequence[Node], tensors: Mapping[str, Tensor], outputs: Mapping[str, Tensor], *, slots: int = 0
) -> GraphCost:
    """Compute every shape of a graph, and its cost.

    Args:
        nodes: in the order in which they run.
        tensors: inputs and constants.
        outputs: what the graph says of its outputs.
        slots: of a step graph: its input `slot` is a whole number from 0 to one less.

    Raises:
        ValueError: a shape hangs on what is computed, an index may leave its range, or shapes do not fit.
    """
    known, folding = dict(tensors), Folding()
    if "slot" in known and 0 < slots <= _MOST_SLOTS:
        shape = known["slot"].shape
        numbers = tuple(np.full(shape, slot, np.float32) for slot in range(slots))
        known["slot"] = Tensor(shape=shape, kind=_FLOAT, values=numbers)
    operations = memory = 0
    for node in nodes:
        call = Call(node, known, folding)
        made = _RULES[node.operator](call)
        require(len(made) == len(node.outputs), f"{len(node.outputs)} outputs of {node.operator!r}", f"{len(made)}")
        for name, tensor in zip(node.outputs, made, strict=True):
            require(name not in known, f"two tensors with the name {name!r}", "one")
            call.require(0 not in tensor.shape and len(tensor.shape) <= MOST_RANK, f"gives the shape {tensor.shape}")
            known[name] = tensor
            if node.operator != "Constant":
                memory += tensor.size * ITEM_BYTES[tensor.kind]
                operations += tensor.size
        operations += call.operations
    for name, stated in outputs.items():
        require(name in known, f"an output {name!r} that nothing computes", "one that an operator gives")
        found = known[name]
        fits = (found.shape, found.kind) == (stated.shape, stated.kind)
        require(fits, f"an output {name!r} of the shape {stated.shape}", f"{found.shape}, which is computed")
    return GraphCost(operations=operations, memory_bytes=memory)


class Folding(msgspec.Struct):
    """How many values may still be computed here."""

    left: int = _MOST_FOLDING


class Call:
    """One node and what it is given.

    Attributes:
        operations: that it takes beyond one for each value that it gives.
    """

    def __init__(self, node: Node, known: Mapping[str, Tensor], folding: Folding) -> None:
        self.operator = node.operator
        self.attributes = node.attributes
        self.outputs = len(node.outputs)
        self.folding = folding
        self.operations = 0
        for name in node.inputs:
            require(not name or name in known, f"an input {name!r} of {node.operator!r} that nothing gives", "a tensor")
        self.inputs = [known[name] if name else None for name in node.inputs]

    def require(self, condition: bool, fault: str) -> None:
        """Refuse the graph, naming the shapes of this call."""
        if not condition:
            shapes = ", ".join("-" if one is None else str(one.shape) for one in self.inputs)
            raise ValueError(f"the graph's operator {self.operator!r} with inputs of the shapes {shapes} {fault}")

    def has(self, place: int) -> bool:
        """Whether an input is given."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def tensor(self, place: int) -> Tensor:
        """An input that must be given."""
        found = self.inputs[place] if place < len(self.inputs) else None
        if found is None:
            raise ValueError(f"the graph's operator {self.operator!r} lacks input {place}")
        return found

    def tensors(self, count: int = 0) -> list[Tensor]:
        """All inputs: so many, or any number of them."""
        self.require(len(self.inputs) == count or not count, f"has {len(self.inputs)} inputs")
        return [self.tensor(place) for place in range(len(self.inputs))]

    def number(self, name: str, default: int) -> int:
        """A whole number among the attributes."""
        found = self.attributes.get(name, default)
        self.require(isinstance(found, int), f"has the attribute {name!r} of another type")
        return found  # type: ignore[return-value]  # the line above

    def numbers(self, name: str, default: Sequence[int]) -> list[int]:
        """Whole numbers among the attributes."""
        found = self.attributes.get(name, tuple(default))
        self.require(isinstance(found, tuple), f"has the attribute {name!r} of another type")
        return list(found)  # type: ignore[arg-type]  # the line above

    def text(self, name: str, default: str) -> str:
        """A word among the attributes."""
        return str(self.attributes.get(name, default))

    def values(self, place: int) -> tuple[NDArray[Any], ...]:
        """The constant whole numbers of an input, once or for each number of a step."""
        found = self.tensor(place)
        whole = found.values is not None and found.kind in (6, _INT64)
        self.require(
            whole, f"has an input {place} that is computed from a window; only a constant is in range for sure"
        )
        assert found.values is not None
        return found.values

    def constants(self, place: int, name: str = "", default: Sequence[int] = ()) -> list[int]:
        """The constant whole numbers of an input; of an attribute, or the default, where it is left out."""
        if not self.has(place):
            return self.numbers(name, default)
        found = self.values(place)
        self.require(len(found) == 1 and found[0].ndim <= 1, f"has an input {place} that is no list of constants")
        return [int(one) for one in found[0].ravel()]

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front."""
        self.require(-rank <= axis < rank, f"has the axis {axis} of {rank}")
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int) -> list[int]:
        """Axes counted from the front, each once."""
        found = [self.axis(axis, rank) for axis in axes]
        self.require(len(set(found)) == len(found), f"has the axes {list(axes)}")
        return found

    def broadcast(self, *shapes: Shape) -> Shape:
        """The shape that several have together."""
        try:
            return np.broadcast_shapes(*shapes)
        except ValueError:
            self.require(False, "has shapes that do not fit together")
            raise

    def require_within(self, shape: Shape, whole: Shape) -> None:
        """Refuse what would make a tensor larger where it is applied to one."""
        self.require(self.broadcast(shape, whole) == whole, "has a parameter that does not fit")


Rule = Callable[[Call], Sequence[Tensor]]


def _folded(call: Call, shape: Shape, kind: int, compute: Callable[..., Any]) -> Sequence[Tensor]:
    """A tensor, with its values where all inputs are known and few."""
    size, given = math.prod(shape), [one for one in call.inputs if one is not None]
    known = [one.values for one in given if one.values is not None and one.size <= _MOST_FOLDED]
    if size > _MOST_FOLDED or len(known) < len(given) or kind not in DTYPES:
        return [Tensor(shape=shape, kind=kind)]
    count = max(len(values) for values in known)
    call.folding.left -= count * (size + _FOLDING_COST)
    if call.folding.left < 0:
        return [Tensor(shape=shape, kind=kind)]
    with np.errstate(all="ignore"):
        values = tuple(
            np.asarray(compute(*(one[number % len(one)] for one in known)), DTYPES[kind]).reshape(shape)
            for number in range(count)
        )
    return [Tensor(shape=shape, kind=kind, values=values)]


def _broadcast(compute: Callable[..., Any] | None = None, *, gives: int = 0, count: int = 2) -> Rule:
    def rule(call: Call) -> Sequence[Tensor]:
        given = call.tensors(count)
        first = call.tensor(0)
        shape = call.broadcast(*(one.shape for one in given))
        kind = gives or first.kind
        return [Tensor(shape=shape, kind=kind)] if compute is None else _folded(call, shape, kind, compute)

    return rule


def _same(*, weight: int = 0, gives: int = 0) -> Rule:
    """One value for each of the first input; whatever else is given fits into it."""

    def rule(call: Call) -> Sequence[Tensor]:
        first = call.tensor(0)
        for other in call.inputs[1:]:
            if other is not None:
                call.require_within(other.shape, first.shape)
        call.operations += weight * first.size
        return [Tensor(shape=first.shape, kind=gives or first.kind)]

    return rule


def _divide(call: Call) -> Sequence[Tensor]:
    call.require(call.tensor(0).kind in _FLOATS, "divides whole numbers, which crashes where it is by 0")
    return _broadcast()(call)


def _power(call: Call) -> Sequence[Tensor]:
    call.operations += 10 * call.tensor(0).size
    return _broadcast()(call)


def _where(call: Call) -> Sequence[Tensor]:
    shape = call.broadcast(*(one.shape for one in call.tensors(3)))
    return [Tensor(shape=shape, kind=call.tensor(1).kind)]


def _cast(call: Call) -> Sequence[Tensor]:
    kind = call.number("to", 0)
    call.require(kind in ITEM_BYTES, f"gives the type {kind}")
    (first,) = call.tensors(1)
    return _folded(call, first.shape, kind, lambda values: values.astype(DTYPES[kind]))


def _identity(call: Call) -> Sequence[Tensor]:
    return [call.tensor(0)]


def _along_axis(call: Call) -> Sequence[Tensor]:
    """Softmax and its like."""
    first = call.tensor(0)
    call.axis(call.number("axis", -1), len(first.shape))
    call.operations += 10 * first.size
    return [Tensor(shape=first.shape, kind=first.kind)]


def _constant(call: Call) -> Sequence[Tensor]:
    attributes = call.attributes
    call.require(len(attributes) == 1, "has other attributes than one value")
    ((name, value),) = attributes.items()
    if name == "value" and isinstance(value, Tensor):
        return [value]
    if name in ("value_int", "value_ints"):
        values = np.array(value, np.int64)
        return [Tensor(shape=values.shape, kind=_INT64, values=(values,))]
    call.require(
        name in ("value_float", "value_floats") and isinstance(value, np.ndarray), "has no number as its value"
    )
    assert isinstance(value, np.ndarray)
    return [Tensor(shape=value.shape, kind=_FLOAT, values=(value,))]


def _shape(call: Call) -> Sequence[Tensor]:
    sizes = call.tensor(0).shape
    sizes = sizes[call.number("start", 0) : call.number("end", len(sizes))]
    values = np.array(sizes, np.int64)
    return [Tensor(shape=values.shape, kind=_INT64, values=(values,))]


def _reduce(call: Call) -> Sequence[Tensor]:
    first = call.tensor(0)
    call.operations += first.size
    rank = len(first.shape)
    axes = call.axes(call.constants(1, "axes"), rank)
    if not axes and not call.number("noop_with_empty_axes", 0):
        axes = list(range(rank))
    return [Tensor(shape=_reduced(first.shape, axes, keeps=call.number("keepdims", 1)), kind=first.kind)]


def _arg_reduce(call: Call) -> Sequence[Tensor]:
    first = call.tensor(0)
    call.operations += first.size
    axis = call.axis(call.number("axis", 0), len(first.shape))
    return [Tensor(shape=_reduced(first.shape, [axis], keeps=call.number("keepdims", 1)), kind=_INT64)]


def _reduced(shape: Shape, axes: Sequence[int], *, keeps: int) -> Shape:
    sizes = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return tuple(size for axis, size in enumerate(sizes) if keeps or axis not in axes)


def _concat(call: Call) -> Sequence[Tensor]:
    parts, first = call.tensors(), call.tensor(0)
    axis = call.axis(call.number("axis", 0), len(first.shape))
    fits = all(_without(one.shape, axis) == _without(first.shape, axis) for one in parts)
    fits = fits and len({len(one.shape) for one in parts}) == 1
    call.require(fits and len({one.kind for one in parts}) == 1, "joins what does not fit together")
    shape = list(first.shape)
    shape[axis] = sum(one.shape[axis] for one in parts)
    return _folded(call, tuple(shape), first.kind, lambda *values: np.concatenate(values, axis))


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], -1, *shape[axis + 1 :])


def _transpose(call: Call) -> Sequence[Tensor]:
    first = call.tensor(0)
    rank = len(first.shape)
    order = call.numbers("perm", range(rank - 1, -1, -1))
    call.require(sorted(order) == list(range(rank)), f"has the order {order}")
    return [Tensor(shape=tuple(first.shape[axis] for axis in order), kind=first.kind)]


def _reshape(call: Call) -> Sequence[Tensor]:
    first = call.tensor(0)
    wanted = call.constants(1)
    if not call.number("allowzero", 0):
        call.require(all(wanted[len(first.shape) :]), f"asks for the shape {wanted}")
        wanted = [size or first.shape[axis] for axis, size in enumerate(wanted)]
    call.require(wanted.count(-1) <= 1 and min(wanted, default=1) >= -1, f"asks for the shape {wanted}")
    rest = math.prod(size for size in wanted if size != -1)
    call.require(rest > 0 and first.size % rest == 0, f"asks for the shape {wanted}")
    shape = tuple(first.size // rest if size == -1 else size for size in wanted)
    return _viewed(call, shape)


def _viewed(call: Call, shape: Shape) -> Sequence[Tensor]:
    """The same values in another shape."""
    first = call.tensor(0)
    call.require(math.prod(shape) == first.size, f"gives the shape {shape}")
    values = None if first.values is None else tuple(one.reshape(shape) for one in first.values)
    return [Tensor(shape=shape, kind=first.kind, values=values)]


def _flatten(call: Call) -> Sequence[Tensor]:
    shape = call.tensor(0).shape
    axis = call.number("axis", 1)
    call.require(-len(shape) <= axis <= len(shape), f"has the axis {axis}")
    axis = axis + len(shape) if axis < 0 else axis
    return _viewed(call, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _squeeze(call: Call) -> Sequence[Tensor]:
    shape = call.tensor(0).shape
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    axes = call.axes(call.constants(1, "axes", ones), len(shape))
    return _viewed(call, tuple(size for axis, size in enumerate(shape) if axis not in axes))


def _unsqueeze(call: Call) -> Sequence[Tensor]:
    axes, sizes = call.constants(1), iter(call.tensor(0).shape)
    rank = len(call.tensor(0).shape) + len(axes)
    axes = call.axes(axes, rank)
    return _viewed(call, tuple(1 if axis in axes else next(sizes) for axis in range(rank)))


def _slice(call: Call) -> Sequence[Tensor]:
    first = call.tensor(0)
    starts, ends = call.constants(1), call.constants(2)
    axes = call.axes(call.constants(3, "", range(len(starts))), len(first.shape))
    steps = call.constants(4, "", [1] * len(starts))
    call.require(len(starts) == len(ends) == len(axes) == len(steps) and 0 not in steps, "has bounds that do not fit")
    cuts = [slice(None)] * len(first.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        low, high, by = slice(start, end, step).indices(first.shape[axis])
        cuts[axis] = slice(low, None if high < 0 else high, by)
    shape = tuple(len(range(*cut.indices(size))) for cut, size in zip(cuts, first.shape, strict=True))
    return _folded(call, shape, first.kind, lambda values, *_: values[tuple(cuts)])


def _split(call: Call) -> Sequence[Tensor]:
    first = call.tensor(0)
    axis = call.axis(call.number("axis", 0), len(first.shape))
    total, count = first.shape[axis], call.outputs
    each = -(-total // count)
    sizes = call.constants(1, "", [*[each] * (count - 1), total - each * (count - 1)])
    call.require(call.number("num_outputs", count) == count, f"gives {count} parts")
    call.require(sum(sizes) == total and min(sizes) > 0, f"has parts of the sizes {sizes}")
    shapes = [(*first.shape[:axis], size, *first.shape[axis + 1 :]) for size in sizes]
    return [Tensor(shape=shape, kind=first.kind) for shape in shapes]


def _gather(call: Call) -> Sequence[Tensor]:
    first, indices = call.tensors(2)
    axis = call.axis(call.number("axis", 0), len(first.shape))
    _check_indices(call, call.values(1), first.shape[axis])
    shape = (*first.shape[:axis], *indices.shape, *first.shape[axis + 1 :])
    return _folded(call, shape, first.kind, lambda values, places: np.take(values, places, axis))


def _gather_nd(call: Call) -> Sequence[Tensor]:
    first, indices, batch = call.tensor(0), call.tensor(1), call.number("batch_dims", 0)
    call.require(0 <= batch < min(len(first.shape), len(indices.shape)), f"has {batch} batch dimensions")
    depth = indices.shape[-1]
    call.require(first.shape[:batch] == indices.shape[:batch], f"has {batch} batch dimensions")
    call.require(1 <= depth <= len(first.shape) - batch, f"has indices for {depth} axes")
    for column in range(depth):
        _check_indices(call, [one[..., column] for one in call.values(1)], first.shape[batch + column])
    return [Tensor(shape=(*indices.shape[:-1], *first.shape[batch + depth :]), kind=first.kind)]


def _check_indices(call: Call, indices: Sequence[NDArray[Any]], size: int) -> None:
    for one in indices:
        low, high = (int(one.min()), int(one.max())) if one.size else (0, 0)
        call.require(-size <= low and high < size, f"has indices from {low} to {high} of {size} places")


def _pad(call: Call) -> Sequence[Tensor]:
    first, pads = call.tensor(0), call.constants(1)
    axes = call.axes(call.constants(3, "", range(len(first.shape))), len(first.shape))
    call.require(len(pads) == 2 * len(axes) and min(pads, default=0) >= 0, f"has the paddings {pads}")
    mode = call.text("mode", "constant")
    call.require(mode in ("constant", "reflect", "edge"), f"has the mode {mode!r}")
    shape = list(first.shape)
    for number, axis in enumerate(axes):
        before, after = pads[number], pads[number + len(axes)]
        call.require(mode != "reflect" or max(before, after) < shape[axis], f"reflects {before} and {after} values")
        shape[axis] += before + after
    return [Tensor(shape=tuple(shape), kind=first.kind)]


def _mat_mul(call: Call) -> Sequence[Tensor]:
    first, second = call.tensor(0), call.tensor(1)
    call.require(bool(first.shape) and bool(second.shape), "multiplies single numbers")
    left = first.shape if len(first.shape) > 1 else (1, *first.shape)
    right = second.shape if len(second.shape) > 1 else (*second.shape, 1)
    call.require(left[-1] == right[-2], "multiplies what does not fit together")
    rows = left[-2:-1] if len(first.shape) > 1 else ()
    columns = right[-1:] if len(second.shape) > 1 else ()
    shape = (*call.broadcast(left[:-2], right[:-2]), *rows, *columns)
    call.operations += math.prod(shape) * left[-1]
    return [Tensor(shape=shape, kind=first.kind)]


def _gemm(call: Call) -> Sequence[Tensor]:
    first, second = call.tensor(0), call.tensor(1)
    call.require(len(first.shape) == len(second.shape) == 2, "multiplies others than matrices")
    rows, inner = first.shape[::-1] if call.number("transA", 0) else first.shape
    other, columns = second.shape[::-1] if call.number("transB", 0) else second.shape
    call.require(inner == other, "multiplies what does not fit together")
    if call.has(2):
        call.require_within(call.tensor(2).shape, (rows, columns))
    call.operations += rows * columns * inner
    return [Tensor(shape=(rows, columns), kind=first.kind)]


def _conv(call: Call) -> Sequence[Tensor]:
    first, weights, groups = call.tensor(0), call.tensor(1), call.number("group", 1)
    call.require(len(first.shape) == len(weights.shape) > 2 and groups >= 1, "has no place to move along")
    made, deep, *kernel = weights.shape
    fits = first.shape[1] == deep * groups and made % groups == 0
    call.require(fits and call.numbers("kernel_shape", kernel) == kernel, "has a kernel that does not fit")
    call.require(not call.has(2) or call.tensor(2).shape == (made,), "has a bias that does not fit")
    shape = (first.shape[0], made, *_moved(call, first.shape[2:], kernel))
    call.operations += math.prod(shape) * deep * math.prod(kernel)
    return [Tensor(shape=shape, kind=first.kind)]


def _pool(call: Call) -> Sequence[Tensor]:
    first, kernel = call.tensor(0), call.numbers("kernel_shape", ())
    call.require(len(first.shape) == len(kernel) + 2 > 2, "has a kernel that does not fit")
    pads = call.numbers("pads", [0] * 2 * len(kernel))
    call.require(all(pad < size for pad, size in zip(pads, kernel * 2, strict=False)), f"has the paddings {pads}")
    shape = (*first.shape[:2], *_moved(call, first.shape[2:], kernel))
    call.operations += math.prod(shape) * math.prod(kernel)
    return [Tensor(shape=shape, kind=first.kind)]


def _moved(call: Call, sizes: Shape, kernel: Sequence[int]) -> list[int]:
    """How many places a kernel has along each axis."""
    rank = len(kernel)
    strides, dilations = call.numbers("strides", [1] * rank), call.numbers("dilations", [1] * rank)
    pads = call.numbers("pads", [0] * 2 * rank)
    fits = len(strides) == len(dilations) == rank and len(pads) == 2 * rank
    call.require(fits and min(*strides, *dilations, *kernel) >= 1 and min(pads) >= 0, "has steps that do not fit")
    call.require(call.text("auto_pad", "NOTSET") in ("NOTSET", "VALID"), "chooses its own paddings")
    places = []
    for axis, size in enumerate(sizes):
        free = size + pads[axis] + pads[axis + rank] - dilations[axis] * (kernel[axis] - 1) - 1
        call.require(free >= 0, f"has a kernel that is longer than axis {axis + 2}")
        extra = strides[axis] - 1 if call.number("ceil_mode", 0) else 0
        places.append((free + extra) // strides[axis] + 1)
    return places


def _global_pool(call: Call) -> Sequence[Tensor]:
    first = call.tensor(0)
    call.require(len(first.shape) > 2, "has nothing to pool")
    call.operations += first.size
    return [Tensor(shape=(*first.shape[:2], *[1] * (len(first.shape) - 2)), kind=first.kind)]


def _layer_norm(call: Call) -> Sequence[Tensor]:
    first = call.tensor(0)
    axis = call.axis(call.number("axis", -1), len(first.shape))
    for place in range(1, len(call.inputs)):
        call.require_within(call.tensor(place).shape, first.shape[axis:])
    call.operations += 10 * first.size
    return [Tensor(shape=first.shape, kind=first.kind)]


def _channel_norm(call: Call) -> Sequence[Tensor]:
    """Batch, instance and group normalisation: parameters of each channel, or of each group."""
    first, groups = call.tensor(0), call.number("num_groups", 0)
    call.require(len(first.shape) > 1 and not call.number("training_mode", 0), "has nothing to normalise")
    call.require(groups >= 0 and (not groups or first.shape[1] % groups == 0), f"has {groups} groups")
    for place in range(1, len(call.inputs)):
        call.require(call.tensor(place).shape in ((first.shape[1],), (groups,)), "has a parameter that does not fit")
    call.operations += 10 * first.size
    return [Tensor(shape=first.shape, kind=first.kind)]


def _quantise(call: Call) -> Sequence[Tensor]:
    first, scale = call.tensor(0), call.tensor(1)
    call.require(not call.number("block_size", 0), "quantises in blocks")
    if scale.shape not in ((), (1,)):
        axis = call.axis(call.number("axis", 1), len(first.shape))
        call.require(scale.shape == (first.shape[axis],), "has a scale that does not fit")
    call.require(not call.has(2) or call.tensor(2).shape == scale.shape, "has a zero point that does not fit")
    if call.operator == "DequantizeLinear":
        return [Tensor(shape=first.shape, kind=scale.kind)]
    kind = call.tensor(2).kind if call.has(2) else call.number("output_dtype", 0) or 2
    call.require(kind in ITEM_BYTES, f"gives the type {kind}")
    return [Tensor(shape=first.shape, kind=kind)]


_COMPARED = _broadcast(gives=_BOOL)
_CHEAP, _COSTLY = _same(), _same(weight=10)
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("And", "Equal", "Greater", "GreaterOrEqual", "LessOrEqual", "Or"), _COMPARED),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), _broadcast(count=0)),
    **dict.fromkeys(("Abs", "Clip", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Neg", "PRelu"), _CHEAP),
    **dict.fromkeys(("Not", "Reciprocal", "Relu", "Round", "Sign"), _CHEAP),
    **dict.fromkeys(("Cos", "Erf", "Exp", "Gelu", "Log", "Sigmoid", "Sin", "Softplus", "Sqrt", "Tanh"), _COSTLY),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"), _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg_reduce),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _along_axis),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("BatchNormalization", "GroupNormalization", "InstanceNormalization"), _channel_norm),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _quantise),
    "Add": _broadcast(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "Div": _divide,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Identity": _identity,
    "LayerNormalization": _layer_norm,
    "Less": _broadcast(np.less, gives=_BOOL),
    "MatMul": _mat_mul,
    "Mul": _broadcast(np.multiply),
    "Pad": _pad,
    "Pow": _power,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _broadcast(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
OPERATORS = frozenset(_RULES)
"""Every operator that a student may use: each gives no more than its inputs tell, and runs once."""
