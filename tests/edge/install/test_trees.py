"""The tree operator in a bundle's graph: what mmkd-export writes passes, every altered number is refused."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from mmkd_edge.install.graphs import check_graph  # noqa: E402
from tests.edge.said import said  # noqa: E402

COLUMNS = 5
# Two trees: one that asks twice, and one of a single leaf.
TREES = {
    "aggregate_function": "AVERAGE",
    "n_targets": 2,
    "nodes_falsenodeids": [2, 0, 4, 0, 0, 0],
    "nodes_featureids": [4, 0, 1, 0, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
    "nodes_nodeids": [0, 1, 2, 3, 4, 0],
    "nodes_treeids": [0, 0, 0, 0, 0, 1],
    "nodes_truenodeids": [1, 0, 3, 0, 0, 0],
    "nodes_values": [0.5, 0.0, -1.0, 0.0, 0.0, 0.0],
    "post_transform": "NONE",
    "target_ids": [0, 1, 0, 1],
    "target_nodeids": [1, 3, 4, 0],
    "target_treeids": [0, 0, 0, 1],
    "target_weights": [1.0, 1.0, 0.25, 0.5],
}


def graph(trees, *, domain="ai.onnx.ml", operator="TreeEnsembleRegressor", fixed=True):
    helper = onnx.helper
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["row"]),
        helper.make_node(operator, ["row" if fixed else "x"], ["votes"], domain=domain, **trees),
    ]
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, COLUMNS]) for name in ("x", "y")]
    out = helper.make_tensor_value_info("votes", onnx.TensorProto.FLOAT, [1, 2])
    shape = onnx.numpy_helper.from_array(np.array([1, COLUMNS], dtype=np.int64), "shape")
    model = helper.make_model(
        helper.make_graph(nodes, "g", info, [out], [shape]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)],
    )
    return bytes(model.SerializeToString(deterministic=True))


def test_whole_trees_pass_and_answer():
    runtime = pytest.importorskip("onnxruntime")
    data = graph(TREES)
    check_graph(data)
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    leaves = {(0, 0, 0, 0, 0.5): [0.5, 0.25], (0, -2, 0, 0, 1): [0, 0.75], (0, 0, 0, 0, 1): [0.125, 0.25]}
    for x, expected in leaves.items():
        (votes,) = session.run(["votes"], {"x": np.array([x], np.float32), "y": np.zeros((1, COLUMNS), np.float32)})
        np.testing.assert_allclose(votes, [expected])


def set_item(name, place, value):
    return lambda trees: trees[name].__setitem__(place, value)


LEADS = "a node that leads out of its tree or back; expected one that leads onwards"
READS = "a node that reads a feature or a threshold which is none; expected features 0 to 4"
ORDER = "nodes of trees out of order; expected the nodes of each tree in order"
TARGET = "a target of no tree or output, or no number; expected all of its own"
INNER = "a target of a node that is no leaf; expected targets of leaves"
LAYOUT = "an attribute of trees that is laid out as mmkd-export does not write it"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (set_item("nodes_featureids", 0, COLUMNS), READS),
        (set_item("nodes_values", 0, float("nan")), READS),
        (set_item("nodes_truenodeids", 0, 5), LEADS),
        (set_item("nodes_falsenodeids", 2, 2), LEADS),
        (set_item("nodes_truenodeids", 2, 0), LEADS),
        (set_item("nodes_truenodeids", 0, 3), "a node with several ways to it or none; expected one way to every node"),
        (set_item("nodes_treeids", 5, 0), ORDER),
        (set_item("nodes_nodeids", 4, 5), ORDER),
        (set_item("nodes_nodeids", 0, 1), "trees without a first node; expected the nodes of each tree in order"),
        (
            set_item("nodes_modes", 0, "BRANCH_LT"),
            "a node of trees with another rule; expected at most a threshold, or",
        ),
        (set_item("target_ids", 0, 2), TARGET),
        (set_item("target_treeids", 0, 2), TARGET),
        (set_item("target_weights", 0, float("inf")), TARGET),
        (set_item("target_nodeids", 0, 0), INNER),
        (set_item("target_nodeids", 3, 1), INNER),
        (lambda trees: trees["target_ids"].pop(), "2 targets of trees; expected 1 to 4096"),
        (lambda trees: trees.update(n_targets=0), "0 targets of trees; expected 1 to 4096"),
        (lambda trees: trees["nodes_values"].append(0.0), "trees of [6, 7] nodes; expected 1 to 262144"),
        (lambda trees: trees.update(aggregate_function="MAX"), "'aggregate_function' of trees with other values"),
        (lambda trees: trees.update(post_transform="PROBIT"), "'post_transform' of trees with other values"),
        (lambda trees: trees.update(base_values=[1.0, 2.0]), "an attribute 'base_values' of trees; expected one that"),
        (lambda trees: trees.pop("n_targets"), "trees with ['aggregate_function', 'nodes_falsenodeids'"),
        (set_item("nodes_truenodeids", 0, -1), LAYOUT),
        (set_item("nodes_featureids", 0, 1 << 40), LAYOUT),
    ],
)
def test_other_trees_are_refused(change, told):
    trees = {name: list(value) if isinstance(value, list) else value for name, value in TREES.items()}
    change(trees)
    assert said(ValueError, check_graph, graph(trees)).startswith(f"the graph has {told}")


def test_a_deep_tree_is_refused():
    def chain(depth):
        """Every second node a leaf."""
        count = 2 * depth + 1
        inner = [number < count - 1 and number % 2 == 0 for number in range(count)]
        leaves = [number for number in range(count) if not inner[number]]
        trees = TREES | dict.fromkeys(("nodes_featureids", "nodes_treeids"), [0] * count)
        trees |= {"nodes_values": [0.0] * count, "nodes_nodeids": list(range(count)), "target_nodeids": leaves}
        trees |= dict.fromkeys(("target_ids", "target_treeids"), [0] * len(leaves))
        return trees | {
            "nodes_modes": ["BRANCH_LEQ" if is_inner else "LEAF" for is_inner in inner],
            "nodes_truenodeids": [number + 1 if is_inner else 0 for number, is_inner in enumerate(inner)],
            "nodes_falsenodeids": [number + 2 if is_inner else 0 for number, is_inner in enumerate(inner)],
            "target_weights": [1.0] * len(leaves),
        }

    check_graph(graph(chain(64)))
    assert said(ValueError, check_graph, graph(chain(65))) == "the graph has a walk of more nodes; expected at most 64"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fixed": False}, "trees on features without a fixed shape; expected the output of a Reshape to a row"),
        ({"domain": ""}, "an operator of the domain ''; expected ai.onnx.ml"),
        ({"operator": "TreeEnsembleClassifier"}, "the operator 'TreeEnsembleClassifier'; expected one that students"),
        ({"operator": "Relu"}, "an operator of the domain 'ai.onnx.ml'; expected ONNX's own"),
    ],
)
def test_trees_elsewhere_are_refused(options, told):
    assert said(ValueError, check_graph, graph(TREES, **options)).startswith(f"the graph has {told}")


def test_every_flipped_byte_is_refused_or_runs():
    """No mutant that passes makes the engine read outside of its tensors."""
    runtime = pytest.importorskip("onnxruntime")
    data, rng, passed = bytearray(graph(TREES)), np.random.default_rng(0), 0
    x = {"x": np.zeros((1, COLUMNS), np.float32), "y": np.zeros((1, COLUMNS), np.float32)}
    for _ in range(400):
        mutant = bytearray(data)
        mutant[rng.integers(len(data))] = rng.integers(256)
        try:
            check_graph(bytes(mutant))
        except ValueError:
            continue
        passed += 1
        try:
            runtime.InferenceSession(bytes(mutant), providers=["CPUExecutionProvider"]).run(None, x)
        except Exception:
            continue
    assert passed > 10  # thresholds, weights and names of tensors
