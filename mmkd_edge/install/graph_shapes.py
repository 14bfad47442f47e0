"""Shapes of an ONNX graph's tensors, and the cost of a run, before an engine sees it.

Shapes are static; indices, axes, sizes and paddings follow from constants and the step number. So every run costs the
same, and the sandbox check covers later calls. Rules: github.com/onnx/onnx/blob/main/docs/Operators.md, opsets 17 to
21.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.install.graph_calls import BOOL, FLOAT, INT64, Call, Folding, Node, Shape, Tensor, require

MAX_RANK = 16
_MAX_SLOTS = 512
_MAX_FOLDED = 4096  # values per tensor
_FOLDING_COST = 16  # per computation, in values
ITEM_BYTES: Mapping[int, int] = {
    1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2, 21: 1, 22: 1,
}  # fmt: skip
"""Bytes per value, by type number."""
DTYPES: Mapping[int, str] = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
"""Types whose values are read here."""
_FLOATS = frozenset((1, 10, 11, 16))


class GraphCost(msgspec.Struct, frozen=True, kw_only=True):
    """The largest cost of one run.

    Attributes:
        operations: multiply-adds, or values written; 10 per value for functions such as Exp.
        memory_bytes: all computed tensors, as if none were freed.
    """

    operations: int
    memory_bytes: int


def measure_graph(
    nodes: Sequence[Node], inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], *, slots: int = 0
) -> GraphCost:
    """Compute every shape and the cost of a graph with nodes in the order of execution.

    `inputs` includes constants; `slots` is the range of the input `slot`. Raises ValueError if a shape depends on the
    input, an index may be out of range, or shapes do not fit.
    """
    tensors, folding = dict(inputs), Folding()
    if "slot" in tensors and 0 < slots <= _MAX_SLOTS:
        shape = tensors["slot"].shape
        numbers = tuple(np.full(shape, slot, np.float32) for slot in range(slots))
        tensors["slot"] = Tensor(shape=shape, kind=FLOAT, values=numbers)
    operations = memory = 0
    for node in nodes:
        call = Call(node, tensors, folding)
        results = _RULES[node.operator](call)
        require(len(results) == call.outputs, f"{call.outputs} outputs of {node.operator!r}", f"{len(results)}")
        for name, tensor in zip(node.outputs, results, strict=True):
            require(name not in tensors, f"two tensors with the name {name!r}", "one")
            call.require(0 not in tensor.shape and len(tensor.shape) <= MAX_RANK, f"gives the shape {tensor.shape}")
            tensors[name] = tensor
            if node.operator != "Constant":
                memory += tensor.size * ITEM_BYTES[tensor.kind]
                operations += tensor.size
        operations += call.operations
    for name, declared in outputs.items():
        require(name in tensors, f"an output {name!r} that nothing computes", "one that an operator gives")
        shape, kind = tensors[name].shape, tensors[name].kind
        fits = (shape, kind) == (declared.shape, declared.kind)
        require(fits, f"an output {name!r} of the shape {declared.shape}", f"{shape}, which is computed")
    return GraphCost(operations=operations, memory_bytes=memory)


Rule = Callable[[Call], Sequence[Tensor]]


def _fold(call: Call, shape: Shape, compute: Callable[..., Any], *, kind: int = 0) -> Sequence[Tensor]:
    result = call.result(shape, kind=kind)
    size, given, kind = math.prod(shape), [tensor for tensor in call.inputs if tensor is not None], result[0].kind
    known = [tensor.values for tensor in given if tensor.values is not None and tensor.size <= _MAX_FOLDED]
    if size > _MAX_FOLDED or len(known) < len(given) or kind not in DTYPES:
        return result
    count = max(len(values) for values in known)
    call.folding.left -= count * (size + _FOLDING_COST)
    if call.folding.left < 0:
        return result
    with np.errstate(all="ignore"):
        values = tuple(
            np.asarray(compute(*(steps[number % len(steps)] for steps in known)), DTYPES[kind]).reshape(shape)
            for number in range(count)
        )
    return [Tensor(shape=shape, kind=kind, values=values)]


def _broadcast(compute: Callable[..., Any] | None = None, *, kind: int = 0, count: int = 2) -> Rule:
    def rule(call: Call) -> Sequence[Tensor]:
        shape = call.broadcast(*(tensor.shape for tensor in call.tensors(count)))
        return call.result(shape, kind=kind) if compute is None else _fold(call, shape, compute, kind=kind)

    return rule


def _elementwise(weight: int) -> Rule:
    def rule(call: Call) -> Sequence[Tensor]:
        for other in call.inputs[1:]:
            if other is not None:
                call.require_within(other.shape, call.first.shape)
        return call.result(call.first.shape, operations=weight * call.first.size)

    return rule


def _divide(call: Call) -> Sequence[Tensor]:
    call.require(call.first.kind in _FLOATS, "divides whole numbers, which crashes where it is by 0")
    return _broadcast()(call)


def _power(call: Call) -> Sequence[Tensor]:
    call.operations += 10 * call.first.size
    return _broadcast()(call)


def _where(call: Call) -> Sequence[Tensor]:
    return call.result(call.broadcast(*(tensor.shape for tensor in call.tensors(3))), kind=call.tensor(1).kind)


def _cast(call: Call) -> Sequence[Tensor]:
    kind = call.number("to", 0)
    call.require(kind in ITEM_BYTES, f"gives the type {kind}")
    (first,) = call.tensors(1)
    return _fold(call, first.shape, lambda values: values.astype(DTYPES[kind]), kind=kind)


def _along_axis(call: Call) -> Sequence[Tensor]:
    call.axis(call.number("axis", -1), len(call.first.shape))
    return call.result(call.first.shape, operations=10 * call.first.size)


def _constant(call: Call) -> Sequence[Tensor]:
    call.require(len(call.attributes) == 1, "has other attributes than one value")
    ((name, value),) = call.attributes.items()
    if isinstance(value, Tensor):
        return [value]
    call.require(name.startswith("value_") and not isinstance(value, str), "has no number as its value")
    values = np.asarray(value, np.float32 if isinstance(value, np.ndarray) else np.int64)
    return [Tensor(shape=values.shape, kind=FLOAT if values.dtype == np.float32 else INT64, values=(values,))]


def _shape(call: Call) -> Sequence[Tensor]:
    sizes = call.first.shape
    values = np.array(sizes[call.number("start", 0) : call.number("end", len(sizes))], np.int64)
    return [Tensor(shape=values.shape, kind=INT64, values=(values,))]


def _reduce(call: Call) -> Sequence[Tensor]:
    rank, kind = len(call.first.shape), 0
    if call.operator in ("ArgMax", "ArgMin"):
        axes, kind = [call.axis(call.number("axis", 0), rank)], INT64
    else:
        axes = call.axes(call.constants(1, "axes"), rank)
        if not axes and not call.number("noop_with_empty_axes", 0):
            axes = list(range(rank))
    keeps = call.number("keepdims", 1)
    shape = [1 if axis in axes else size for axis, size in enumerate(call.first.shape) if keeps or axis not in axes]
    return call.result(shape, kind=kind, operations=call.first.size)


def _concat(call: Call) -> Sequence[Tensor]:
    parts, first = call.tensors(), call.first
    axis = call.axis(call.number("axis", 0), len(first.shape))
    others = {(len(part.shape), part.shape[:axis], part.shape[axis + 1 :], part.kind) for part in parts}
    call.require(len(others) == 1, "joins what does not fit together")
    shape = (*first.shape[:axis], sum(part.shape[axis] for part in parts), *first.shape[axis + 1 :])
    return _fold(call, shape, lambda *values: np.concatenate(values, axis))


def _transpose(call: Call) -> Sequence[Tensor]:
    shape = call.first.shape
    order = call.numbers("perm", range(len(shape) - 1, -1, -1))
    call.require(sorted(order) == list(range(len(shape))), f"has the order {order}")
    return call.result([shape[axis] for axis in order])


def _reshape(call: Call) -> Sequence[Tensor]:
    first, sizes = call.first, call.constants(1)
    if not call.number("allowzero", 0):
        call.require(all(sizes[len(first.shape) :]), f"asks for the shape {sizes}")
        sizes = [size or first.shape[axis] for axis, size in enumerate(sizes)]
    rest = math.prod(size for size in sizes if size != -1)
    fits = sizes.count(-1) <= 1 and min(sizes, default=1) >= -1 and rest > 0 and first.size % rest == 0
    call.require(fits, f"asks for the shape {sizes}")
    return _view(call, tuple(first.size // rest if size == -1 else size for size in sizes))


def _view(call: Call, shape: Shape) -> Sequence[Tensor]:
    first = call.first
    call.require(math.prod(shape) == first.size, f"gives the shape {shape}")
    values = None if first.values is None else tuple(value.reshape(shape) for value in first.values)
    return [Tensor(shape=shape, kind=first.kind, values=values)]


def _flatten(call: Call) -> Sequence[Tensor]:
    shape = call.first.shape
    axis = call.number("axis", 1)
    call.require(-len(shape) <= axis <= len(shape), f"has the axis {axis}")
    axis = axis + len(shape) if axis < 0 else axis
    return _view(call, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _squeeze(call: Call) -> Sequence[Tensor]:
    shape = call.first.shape
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    axes = call.axes(call.constants(1, "axes", ones), len(shape))
    return _view(call, tuple(size for axis, size in enumerate(shape) if axis not in axes))


def _unsqueeze(call: Call) -> Sequence[Tensor]:
    axes, sizes = call.constants(1), iter(call.first.shape)
    rank = len(call.first.shape) + len(axes)
    axes = call.axes(axes, rank)
    return _view(call, tuple(1 if axis in axes else next(sizes) for axis in range(rank)))


def _slice(call: Call) -> Sequence[Tensor]:
    shape, starts, ends = call.first.shape, call.constants(1), call.constants(2)
    axes = call.axes(call.constants(3, "", range(len(starts))), len(shape))
    steps = call.constants(4, "", [1] * len(starts))
    call.require(len(starts) == len(ends) == len(axes) == len(steps) and 0 not in steps, "has bounds that do not fit")
    cuts = [slice(None)] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        low, high, by = slice(start, end, step).indices(shape[axis])
        cuts[axis] = slice(low, None if high < 0 else high, by)
    shape = tuple(len(range(*cut.indices(size))) for cut, size in zip(cuts, shape, strict=True))
    return _fold(call, shape, lambda values, *_: values[tuple(cuts)])


def _split(call: Call) -> Sequence[Tensor]:
    shape = call.first.shape
    axis = call.axis(call.number("axis", 0), len(shape))
    total, count = shape[axis], call.outputs
    each = -(-total // count)
    sizes = call.constants(1, "", [*[each] * (count - 1), total - each * (count - 1)])
    call.require(call.number("num_outputs", count) == count, f"gives {count} parts")
    call.require(sum(sizes) == total and min(sizes) > 0, f"has parts of the sizes {sizes}")
    return [tensor for size in sizes for tensor in call.result((*shape[:axis], size, *shape[axis + 1 :]))]


def _gather(call: Call) -> Sequence[Tensor]:
    first, indices = call.tensors(2)
    axis = call.axis(call.number("axis", 0), len(first.shape))
    _check_indices(call, call.values(1), first.shape[axis])
    shape = (*first.shape[:axis], *indices.shape, *first.shape[axis + 1 :])
    return _fold(call, shape, lambda values, places: np.take(values, places, axis))


def _gather_nd(call: Call) -> Sequence[Tensor]:
    shape, indices, batch = call.first.shape, call.tensor(1).shape, call.number("batch_dims", 0)
    fits = 0 <= batch < min(len(shape), len(indices)) and shape[:batch] == indices[:batch]
    call.require(fits, f"has {batch} batch dimensions")
    depth = indices[-1]
    call.require(1 <= depth <= len(shape) - batch, f"has indices for {depth} axes")
    for column in range(depth):
        _check_indices(call, [places[..., column] for places in call.values(1)], shape[batch + column])
    return call.result((*indices[:-1], *shape[batch + depth :]))


def _check_indices(call: Call, indices: Sequence[NDArray[Any]], size: int) -> None:
    for places in indices:
        low, high = (int(places.min()), int(places.max())) if places.size else (0, 0)
        call.require(-size <= low and high < size, f"has indices from {low} to {high} of {size} places")


def _pad(call: Call) -> Sequence[Tensor]:
    shape, pads = list(call.first.shape), call.constants(1)
    axes = call.axes(call.constants(3, "", range(len(shape))), len(shape))
    call.require(len(pads) == 2 * len(axes) and min(pads, default=0) >= 0, f"has the paddings {pads}")
    mode = call.text("mode", "constant")
    call.require(mode in ("constant", "reflect", "edge"), f"has the mode {mode!r}")
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        call.require(mode != "reflect" or max(before, after) < shape[axis], f"reflects {before} and {after} values")
        shape[axis] += before + after
    return call.result(shape)


def _mat_mul(call: Call) -> Sequence[Tensor]:
    first, second = call.first.shape, call.tensor(1).shape
    call.require(bool(first) and bool(second), "multiplies single numbers")
    left = first if len(first) > 1 else (1, *first)
    right = second if len(second) > 1 else (*second, 1)
    call.require(left[-1] == right[-2], "multiplies what does not fit together")
    rows = left[-2:-1] if len(first) > 1 else ()
    columns = right[-1:] if len(second) > 1 else ()
    shape = (*call.broadcast(left[:-2], right[:-2]), *rows, *columns)
    return call.result(shape, operations=math.prod(shape) * left[-1])


def _gemm(call: Call) -> Sequence[Tensor]:
    first, second = call.first.shape, call.tensor(1).shape
    call.require(len(first) == len(second) == 2, "multiplies others than matrices")
    rows, inner = first[::-1] if call.number("transA", 0) else first
    other, columns = second[::-1] if call.number("transB", 0) else second
    call.require(inner == other, "multiplies what does not fit together")
    if call.has(2):
        call.require_within(call.tensor(2).shape, (rows, columns))
    return call.result((rows, columns), operations=rows * columns * inner)


def _conv(call: Call) -> Sequence[Tensor]:
    first, weights, groups = call.first.shape, call.tensor(1).shape, call.number("group", 1)
    call.require(len(first) == len(weights) > 2 and groups >= 1, "has no place to move along")
    filters, deep, *kernel = weights
    fits = first[1] == deep * groups and filters % groups == 0
    call.require(fits and call.numbers("kernel_shape", kernel) == kernel, "has a kernel that does not fit")
    call.require(not call.has(2) or call.tensor(2).shape == (filters,), "has a bias that does not fit")
    shape = (first[0], filters, *_kernel_places(call, first[2:], kernel))
    return call.result(shape, operations=math.prod(shape) * deep * math.prod(kernel))


def _pool(call: Call) -> Sequence[Tensor]:
    first, kernel = call.first.shape, call.numbers("kernel_shape", ())
    call.require(len(first) == len(kernel) + 2 > 2, "has a kernel that does not fit")
    pads = call.numbers("pads", [0] * 2 * len(kernel))
    call.require(all(pad < size for pad, size in zip(pads, kernel * 2, strict=False)), f"has the paddings {pads}")
    shape = (*first[:2], *_kernel_places(call, first[2:], kernel))
    return call.result(shape, operations=math.prod(shape) * math.prod(kernel))


def _kernel_places(call: Call, sizes: Shape, kernel: Sequence[int]) -> list[int]:
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
    shape = call.first.shape
    call.require(len(shape) > 2, "has nothing to pool")
    return call.result((*shape[:2], *[1] * (len(shape) - 2)), operations=call.first.size)


def _layer_norm(call: Call) -> Sequence[Tensor]:
    shape = call.first.shape
    axis = call.axis(call.number("axis", -1), len(shape))
    for parameter in call.tensors()[1:]:
        call.require_within(parameter.shape, shape[axis:])
    return call.result(shape, operations=10 * call.first.size)


def _channel_norm(call: Call) -> Sequence[Tensor]:
    shape, groups = call.first.shape, call.number("num_groups", 0)
    call.require(len(shape) > 1 and not call.number("training_mode", 0), "has nothing to normalise")
    call.require(groups >= 0 and (not groups or shape[1] % groups == 0), f"has {groups} groups")
    for parameter in call.tensors()[1:]:
        call.require(parameter.shape in ((shape[1],), (groups,)), "has a parameter that does not fit")
    return call.result(shape, operations=10 * call.first.size)


def _quantise(call: Call) -> Sequence[Tensor]:
    shape, scale = call.first.shape, call.tensor(1)
    call.require(not call.number("block_size", 0), "quantises in blocks")
    if scale.shape not in ((), (1,)):
        axis = call.axis(call.number("axis", 1), len(shape))
        call.require(scale.shape == (shape[axis],), "has a scale that does not fit")
    call.require(not call.has(2) or call.tensor(2).shape == scale.shape, "has a zero point that does not fit")
    kind = scale.kind
    if call.operator == "QuantizeLinear":
        kind = call.tensor(2).kind if call.has(2) else call.number("output_dtype", 0) or 2
    call.require(kind in ITEM_BYTES, f"gives the type {kind}")
    return call.result(shape, kind=kind)


_COMPARED = _broadcast(kind=BOOL)
_CHEAP, _COSTLY = _elementwise(0), _elementwise(10)
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("And", "Equal", "Greater", "GreaterOrEqual", "LessOrEqual", "Or"), _COMPARED),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), _broadcast(count=0)),
    **dict.fromkeys(("Abs", "Clip", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Neg", "PRelu"), _CHEAP),
    **dict.fromkeys(("Not", "Reciprocal", "Relu", "Round", "Sign"), _CHEAP),
    **dict.fromkeys(("Cos", "Erf", "Exp", "Gelu", "Log", "Sigmoid", "Sin", "Softplus", "Sqrt", "Tanh"), _COSTLY),
    **dict.fromkeys(("ArgMax", "ArgMin", "ReduceMax", "ReduceMean", "ReduceMin"), _reduce),
    **dict.fromkeys(("ReduceSum", "ReduceSumSquare"), _reduce),
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
    "Identity": lambda call: [call.first],
    "LayerNormalization": _layer_norm,
    "Less": _broadcast(np.less, kind=BOOL),
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
"""The operators that a student may use: each runs once, and its output size depends on shapes and constants."""
