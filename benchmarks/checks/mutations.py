"""Ways to damage a model: its bytes, and of an ONNX graph what the bytes mean."""

from __future__ import annotations

import random
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
            _change_bytes(changed, dice)
    return bytes(changed) or b"\0"


def mutated_graph(data: bytes, dice: random.Random) -> bytes:
    """One to three changes of operators, attributes, edges, shapes or values."""
    import onnx

    model = onnx.load_from_string(data)
    for _ in range(dice.randint(1, 3)):
        _change_graph(model, dice)
    changed: bytes = model.SerializeToString()
    return changed


def _change_bytes(data: bytearray, dice: random.Random) -> None:
    way, place = dice.randrange(6), dice.randrange(len(data))
    match way:
        case 0:
            data[place] ^= 1 << dice.randrange(8)
        case 1:
            data[place : place + 16] = dice.randbytes(len(data[place : place + 16]))
        case 2:
            page = slice(place // _PAGE_BYTES * _PAGE_BYTES, (place // _PAGE_BYTES + 1) * _PAGE_BYTES)
            data[page] = bytes(len(data[page]))
        case 3:
            del data[place:]
        case 4:
            data[place:place] = dice.randbytes(dice.randint(1, 64))
        case _:
            del data[place : place + dice.randint(1, 64)]


def _change_graph(model: ModelProto, dice: random.Random) -> None:
    way, graph = dice.randrange(8), model.graph
    if way in (0, 2, 3):
        node = dice.choice([node for node in graph.node if node.input or not way])
    elif way in (4, 5):
        tensor = dice.choice(graph.initializer)
    match way:
        case 0:
            node.op_type = dice.choice((dice.choice(graph.node).op_type, dice.choice(_OTHERS)))
        case 1:
            if attributes := [attribute for node in graph.node for attribute in node.attribute]:
                attribute = dice.choice(attributes)
                if attribute.ints:
                    attribute.ints[dice.randrange(len(attribute.ints))] = dice.choice(_LARGE)
                else:
                    attribute.i = dice.choice(_LARGE)
        case 2:
            names = [name for other in graph.node for name in (*other.input, *other.output)]
            node.input[dice.randrange(len(node.input))] = dice.choice((dice.choice(names), ""))
        case 3 if dice.random() < 0.5:
            del node.input[dice.randrange(len(node.input))]
        case 3:
            node.input.append(dice.choice(("", node.input[0])))
        case 4:
            sizes = list(tensor.dims)
            if len(sizes) > 1 and dice.random() < 0.6:
                dice.shuffle(sizes)
            elif sizes:
                sizes[dice.randrange(len(sizes))] = dice.choice(_LARGE)
            tensor.dims[:] = sizes
        case 5:
            if tensor.raw_data:
                values = bytearray(tensor.raw_data)
                place = dice.randrange(len(values))
                values[place : place + 8] = dice.randbytes(len(values[place : place + 8]))
                tensor.raw_data = bytes(values)
        case 6:
            dice.choice(graph.initializer).data_type = dice.randint(0, 24)
        case _:
            if len(graph.node) > 1:
                del graph.node[dice.randrange(len(graph.node))]
