"""Ways to damage a model: its bytes, and of an ONNX graph what the bytes mean."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

_PAGE_BYTES = 4096
_LARGE = (0, -1, 1, 2, 255, 1 << 16, 1 << 31, (1 << 40) + 1, -(1 << 63), (1 << 63) - 1)
_OTHERS = ("Loop", "If", "Scan", "ConstantOfShape", "Expand", "Tile", "Resize", "NonZero", "Einsum", "Nobody")


def mutated_bytes(data: bytes, dice: random.Random) -> bytes:
    """One to three changes of bits, bytes, pages or the length."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        if changed:
            dice.choice(_OF_BYTES)(changed, dice)
    return bytes(changed) or b"\0"


def mutated_graph(data: bytes, dice: random.Random) -> bytes:
    """One to three changes of operators, attributes, edges, shapes or values."""
    import onnx

    model = onnx.load_from_string(data)
    for _ in range(dice.randint(1, 3)):
        dice.choice(_OF_GRAPHS)(model, dice)
    changed: bytes = model.SerializeToString()
    return changed


def _flip(data: bytearray, dice: random.Random) -> None:
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _scramble(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data))
    data[place : place + 16] = dice.randbytes(len(data[place : place + 16]))


def _zero(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data)) // _PAGE_BYTES * _PAGE_BYTES
    data[place : place + _PAGE_BYTES] = bytes(len(data[place : place + _PAGE_BYTES]))


def _cut(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(len(data)) :]


def _insert(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data))
    data[place:place] = dice.randbytes(dice.randint(1, 64))


def _drop(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data))
    del data[place : place + dice.randint(1, 64)]


_OF_BYTES: tuple[Callable[[bytearray, random.Random], None], ...] = (_flip, _scramble, _zero, _cut, _insert, _drop)


def _other_operator(model: ModelProto, dice: random.Random) -> None:
    node = dice.choice(model.graph.node)
    node.op_type = dice.choice((dice.choice(model.graph.node).op_type, dice.choice(_OTHERS)))


def _other_attribute(model: ModelProto, dice: random.Random) -> None:
    attributes = [one for node in model.graph.node for one in node.attribute]
    if attributes:
        attribute = dice.choice(attributes)
        if attribute.ints:
            attribute.ints[dice.randrange(len(attribute.ints))] = dice.choice(_LARGE)
        else:
            attribute.i = dice.choice(_LARGE)


def _other_edge(model: ModelProto, dice: random.Random) -> None:
    node = dice.choice([node for node in model.graph.node if node.input])
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    node.input[dice.randrange(len(node.input))] = dice.choice((dice.choice(names), ""))


def _fewer_or_more_edges(model: ModelProto, dice: random.Random) -> None:
    node = dice.choice([node for node in model.graph.node if node.input])
    if dice.random() < 0.5:
        del node.input[dice.randrange(len(node.input))]
    else:
        node.input.append(dice.choice(("", node.input[0])))


def _other_shape(model: ModelProto, dice: random.Random) -> None:
    tensor = dice.choice(model.graph.initializer)
    sizes = list(tensor.dims)
    if len(sizes) > 1 and dice.random() < 0.6:
        dice.shuffle(sizes)
    elif sizes:
        sizes[dice.randrange(len(sizes))] = dice.choice(_LARGE)
    del tensor.dims[:]
    tensor.dims.extend(sizes)


def _other_values(model: ModelProto, dice: random.Random) -> None:
    tensor = dice.choice(model.graph.initializer)
    if tensor.raw_data:
        values = bytearray(tensor.raw_data)
        place = dice.randrange(len(values))
        values[place : place + 8] = dice.randbytes(len(values[place : place + 8]))
        tensor.raw_data = bytes(values)


def _other_type(model: ModelProto, dice: random.Random) -> None:
    dice.choice(model.graph.initializer).data_type = dice.randint(0, 24)


def _drop_node(model: ModelProto, dice: random.Random) -> None:
    if len(model.graph.node) > 1:
        del model.graph.node[dice.randrange(len(model.graph.node))]


_OF_GRAPHS: tuple[Callable[[ModelProto, random.Random], None], ...] = (
    _other_operator,
    _other_attribute,
    _other_edge,
    _fewer_or_more_edges,
    _other_shape,
    _other_values,
    _other_type,
    _drop_node,
)
