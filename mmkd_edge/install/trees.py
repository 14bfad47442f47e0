"""The tree operator of ONNX-ML in a bundle's graph, checked from its bytes: engines follow its numbers unchecked.

Every tree is whole, every walk ends after at most 64 nodes, and no number leads out of the features or the targets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.onnx_wire import Value, fields

TREES_DOMAIN, TREES_OPERATOR, TREES_VERSION = "ai.onnx.ml", "TreeEnsembleRegressor", 3

MAX_NODES, MAX_DEPTH, MAX_TARGETS = 1 << 18, 64, 4096
_MODES = re.compile(rb"\x0aBRANCH_LEQ|\x04LEAF")
_NODES = tuple(
    f"nodes_{name}" for name in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
)
_TARGETS = ("target_treeids", "target_nodeids", "target_ids", "target_weights")
_TEXTS = {"aggregate_function": b"AVERAGE", "post_transform": b"NONE"}
_MAX_VARINT = 5  # bytes
Whole = NDArray[np.int64]


def require(condition: bool, got: str, expected: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(f"the graph has {got}; expected {expected}")


def check_trees(attributes: Sequence[Value], *, columns: int) -> None:
    """Raise ValueError for attributes that mmkd-export does not write for trees on so many features."""
    lists: dict[str, NDArray[np.generic]] = {}
    for attribute in attributes:
        name, values = _attribute(attribute)
        require(name not in lists, f"two attributes {name!r} of trees", "one")
        lists[name] = values
    expected = {*_NODES, *_TARGETS, *_TEXTS, "n_targets"}
    require(set(lists) == expected, f"trees with {sorted(lists)}", f"{sorted(expected)}")
    is_inner, values = lists["nodes_modes"], lists["nodes_values"].astype(np.float64)
    tree, node, feature, yes, no = (
        lists[f"nodes_{name}"].astype(np.int64)
        for name in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
    )
    count, targets = len(tree), int(lists["n_targets"][0])
    sizes = {len(lists[name]) for name in _NODES}
    require(sizes == {count} and 0 < count <= MAX_NODES, f"trees of {sorted(sizes)} nodes", f"1 to {MAX_NODES}")
    starts = np.flatnonzero(node == 0)
    trees = len(starts)
    require(trees > 0 and starts[0] == 0, "trees without a first node", "the nodes of each tree in order")
    owner = np.repeat(np.arange(trees), np.diff(np.append(starts, count)))
    in_order = bool((tree == owner).all() and (node == np.arange(count) - starts[owner]).all())
    require(in_order, "nodes of trees out of order", "the nodes of each tree in order")
    inner = np.flatnonzero(is_inner)
    used = feature[inner]
    fits = bool((used >= 0).all() and (used < columns).all() and np.isfinite(values).all())
    require(fits, "a node that reads a feature or a threshold which is none", f"features 0 to {columns - 1}")
    ends = np.append(starts[1:], count)[owner[inner]]
    children = np.stack([side[inner] + starts[owner[inner]] for side in (yes, no)])
    inside = bool((children > inner).all() and (children < ends).all() and (np.stack([yes, no])[:, inner] > 0).all())
    require(inside, "a node that leads out of its tree or back", "one that leads onwards")
    parents = np.bincount(children.ravel(), minlength=count)
    require(bool((parents == (node > 0)).all()), "a node with several ways to it or none", "one way to every node")
    _require_shallow(starts, inner, children, count)
    _check_targets(lists, starts, is_inner, targets)


def _require_shallow(starts: Whole, inner: Whole, children: Whole, count: int) -> None:
    row = np.full(count, -1)
    row[inner] = np.arange(len(inner))
    level = starts
    for _ in range(MAX_DEPTH + 1):
        below = row[level]
        level = children[:, below[below >= 0]].ravel()
        if not len(level):
            return
    require(False, "a walk of more nodes", f"at most {MAX_DEPTH}")


def _check_targets(
    lists: dict[str, NDArray[np.generic]], starts: Whole, is_inner: NDArray[np.generic], targets: int
) -> None:
    owner, node, number, weight = (lists[name].astype(np.float64) for name in _TARGETS)
    sizes = {len(part) for part in (owner, node, number, weight)}
    require(len(sizes) == 1 and 1 <= targets <= MAX_TARGETS, f"{targets} targets of trees", f"1 to {MAX_TARGETS}")
    count = len(is_inner)
    require(max(sizes) <= count * targets, "more targets than leaves have", "one for each output")
    ends = np.append(starts[1:], count)
    known = bool(
        (owner >= 0).all() and (owner < len(starts)).all() and (number >= 0).all() and (number < targets).all()
    )
    require(known and bool(np.isfinite(weight).all()), "a target of no tree or output, or no number", "all of its own")
    place = (starts[owner.astype(np.int64)] + node).astype(np.int64)
    inside = bool((node >= 0).all() and (place < ends[owner.astype(np.int64)]).all())
    require(inside and not bool(is_inner[place].any()), "a target of a node that is no leaf", "targets of leaves")


def _attribute(message: Value) -> tuple[str, NDArray[np.generic]]:
    """Return an attribute's name and values, read at once: fields one by one would take seconds."""
    odd = "an attribute of trees that is laid out as mmkd-export does not write it"
    if isinstance(message, int) or len(message) < 2 or message[0] != 0x0A or message[1] > 0x7F:
        raise ValueError(f"the graph has {odd}")
    start = 2 + message[1]
    name, body = bytes(message[2:start]).decode("utf-8", "replace"), message[start:]
    if name == "n_targets" or name in _TEXTS:
        texts = dict(fields(body))
        expected: dict[int, Value] = {3: texts.get(3, 0), 20: 2}
        if name in _TEXTS:
            expected = {4: memoryview(_TEXTS[name]), 20: 3}
        require(
            texts == expected and isinstance(texts.get(3, 0), int), f"{name!r} of trees with other values", "its own"
        )
        return name, np.array([texts.get(3, 0)])
    require(name in _NODES or name in _TARGETS, f"an attribute {name!r} of trees", "one that mmkd-export writes")
    raw = np.frombuffer(body, dtype=np.uint8)
    kind = 8 if name == "nodes_modes" else 6 if name in ("nodes_values", "target_weights") else 7
    require(len(raw) >= 3 and raw[-3:].tolist() == [0xA0, 0x01, kind], odd, "a list")
    raw = raw[:-3]
    if kind == 8:
        modes = _modes(raw.tobytes())
        require(modes is not None, "a node of trees with another rule", "at most a threshold, or a leaf")
        return name, np.array(modes)
    if kind == 6:
        require(len(raw) % 5 == 0 and bool((raw[::5] == 0x3D).all()), odd, "a list")
        return name, np.ascontiguousarray(raw.reshape(-1, 5)[:, 1:]).view("<f4").ravel()
    return name, _whole(raw, odd)


def _modes(raw: bytes) -> list[bool] | None:
    parts = raw.split(b"J")[1:] if raw[:1] == b"J" else []
    modes = [part == b"\x0aBRANCH_LEQ" for part in parts]
    known = all(_MODES.fullmatch(part) for part in parts)
    return modes if known and parts else None


def _whole(raw: NDArray[np.uint8], odd: str) -> Whole:
    """Numbers from 0, each after a tag of its own."""
    ends = np.flatnonzero(raw < 0x80)
    starts = np.append(0, ends[:-1] + 1) if len(ends) else ends
    lengths = ends - starts + 1
    tags, firsts = starts[::2], starts[1::2]
    fits = len(ends) % 2 == 0 and (len(raw) == 0 or ends[-1] == len(raw) - 1)
    fits = fits and bool((raw[tags] == 0x40).all() and (lengths[::2] == 1).all() and (lengths <= _MAX_VARINT).all())
    require(fits, odd, "a list")
    values = np.zeros(len(firsts), dtype=np.int64)
    for byte in range(_MAX_VARINT):
        there = lengths[1::2] > byte
        values[there] |= (raw[firsts[there] + byte].astype(np.int64) & 0x7F) << 7 * byte
    return values
