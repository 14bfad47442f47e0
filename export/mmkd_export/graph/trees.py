"""A student's trees as ONNX-ML's tree operator, which torch cannot trace: the graph is traced around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.install.trees import TREES_DOMAIN, TREES_OPERATOR, TREES_VERSION

if TYPE_CHECKING:
    import onnx

    from mmkd_models.networks.trees import Forest

VOTES, FEATURES = "votes", "features"
"""The traced graph's input in place of the trees, and its output that they read."""

_SHAPE = "trees.shape"


def insert_trees(model: onnx.ModelProto, forest: Forest, *, features: int) -> None:
    """Replace the input `votes` and the output `features` by a node between them, in place."""
    from onnx import helper, numpy_helper

    graph = model.graph
    for values, name in ((graph.input, VOTES), (graph.output, FEATURES)):
        del values[next(number for number, value in enumerate(values) if value.name == name)]
    # A shape that the graph itself fixes: engines do not check the features that nodes name.
    graph.initializer.append(numpy_helper.from_array(np.array([1, features], dtype=np.int64), _SHAPE))
    row = f"{FEATURES}.row"
    nodes = [
        helper.make_node("Reshape", [FEATURES, _SHAPE], [row]),
        helper.make_node(TREES_OPERATOR, [row], [VOTES], domain=TREES_DOMAIN, **_attributes(forest)),
    ]
    place = next(number for number, node in enumerate(graph.node) if FEATURES in node.output)
    for node in reversed(nodes):
        graph.node.insert(place + 1, node)
    model.opset_import.append(helper.make_opsetid(TREES_DOMAIN, TREES_VERSION))


def _attributes(forest: Forest) -> dict[str, Any]:
    roots, feature, threshold, left, right, fractions = (
        forest.get_buffer(name).numpy() for name in ("roots", "feature", "threshold", "left", "right", "fractions")
    )
    ends = np.append(roots[1:], len(feature))
    tree = np.repeat(np.arange(len(roots)), ends - roots)
    number, leaf = np.arange(len(feature)) - roots[tree], feature < 0
    yes, no = (np.where(leaf, 0, side - roots[tree]) for side in (left, right))
    # A leaf without any class, of several labels, gives nothing to the first one.
    given = fractions != 0
    given[~given.any(axis=1), 0] = True
    row, target = np.nonzero(given[left[leaf]])
    owner = np.flatnonzero(leaf)[row]
    return {
        "aggregate_function": "AVERAGE",
        "n_targets": fractions.shape[1],
        "nodes_falsenodeids": no.tolist(),
        "nodes_featureids": np.where(leaf, 0, feature).tolist(),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_nodeids": number.tolist(),
        "nodes_treeids": tree.tolist(),
        "nodes_truenodeids": yes.tolist(),
        "nodes_values": np.where(leaf, 0, threshold).astype(np.float32).tolist(),
        "post_transform": "NONE",
        "target_ids": target.tolist(),
        "target_nodeids": number[owner].tolist(),
        "target_treeids": tree[owner].tolist(),
        "target_weights": fractions[left[owner], target].tolist(),
    }
