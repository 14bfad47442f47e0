"""Extra-trees in arrays: grown by scikit-learn, stored without pickle, walked alike in every engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.errors import CheckpointError
from mmkd_edge.spec import TaskKind
from mmkd_models.networks.config import TreesConfig

TREES_DTYPES = {
    "roots": torch.int32,
    "feature": torch.int32,
    "threshold": torch.float32,
    "left": torch.int32,
    "right": torch.int32,
    "fractions": torch.float32,
}
_GROWN_DEPTH = 48  # readers take 64
_SAMPLE = 8  # trees that show how large all will be


class Forest(nn.Module):
    """Trees of a forest in common arrays: left if a feature is at most the threshold."""

    roots: Tensor  # int32 (trees,), the first node of each tree, ascending
    feature: Tensor  # int32 (nodes,), the feature that a node reads; -1 at a leaf
    threshold: Tensor  # float32 (nodes,)
    left: Tensor  # int32 (nodes,), next node; at a leaf its row in `fractions`
    right: Tensor  # int32 (nodes,); 0 at a leaf
    fractions: Tensor  # float32 (leaves, K), of each class or label; of a regression the mean (leaves, 1)

    def __init__(self, arrays: Mapping[str, Tensor], *, kind: TaskKind) -> None:
        super().__init__()
        self.kind = kind
        for name in TREES_DTYPES:
            self.register_buffer(name, arrays[name])

    def votes(self, features: Tensor) -> Tensor:
        """(B, F) float32 -> (B, K) float64: mean of the leaves, as scikit-learn's `predict_proba`."""
        return self.walk(features)[0]

    def walk(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the votes (B, K), and (B,) how near a feature came to its threshold, relative to 1 + its size."""
        node = self.roots.long().expand(len(features), -1)  # (B, trees)
        nearest = features.new_full((len(features),), torch.inf)
        while True:
            feature = self.feature[node]
            if bool((feature < 0).all()):
                return self.fractions[self.left[node].long()].double().mean(1), nearest
            values = features.gather(1, feature.clamp(min=0).long())
            apart = (values - self.threshold[node]).abs() / (1 + values.abs())
            nearest = torch.minimum(nearest, torch.where(feature < 0, torch.inf, apart).amin(1))
            following = torch.where(values <= self.threshold[node], self.left[node], self.right[node])
            node = torch.where(feature < 0, node, following.long())

    def logits(self, votes: Tensor) -> Tensor:
        """Return (B, K) logits of the smoothed votes; of a regression the votes."""
        if self.kind == "regression":
            return votes
        # One more vote, spread evenly (Laplace's rule of succession): a fraction of 0 has no logarithm.
        trees = len(self.roots)
        if self.kind == "multi_label":
            return torch.log((trees * votes + 0.5) / (trees * (1 - votes) + 0.5))
        return torch.log((trees * votes + 1 / votes.shape[1]) / (trees + 1))


class StudentTrees(Forest):
    """The trees of a student, whose logits count `scale` times."""

    def __init__(self, config: TreesConfig, outputs: int, *, kind: TaskKind) -> None:
        shapes = {"roots": (config.trees,), "fractions": (config.leaves, outputs)}
        arrays = {
            name: torch.zeros(shapes.get(name, (config.nodes,)), dtype=dtype) for name, dtype in TREES_DTYPES.items()
        }
        super().__init__(arrays, kind=kind)
        self.scale = nn.Buffer(torch.ones(1))

    @property
    def config(self) -> TreesConfig:
        """The sizes."""
        return TreesConfig(trees=len(self.roots), nodes=len(self.feature), leaves=len(self.fractions))

    def forward(self, features: Tensor, votes: Tensor | None = None) -> Tensor:
        """(B, F) -> (B, K) logits; `votes` (B, K) are the trees' in a graph."""
        votes = self.votes(features).to(features.dtype) if votes is None else votes
        return self.logits(votes) * self.scale


def grow_arrays(
    features: NDArray[np.float32],
    labels: NDArray[Any],
    *,
    trees: int,
    classes: int,
    kind: TaskKind,
    seed: int,
    most_nodes: int | None = None,
) -> dict[str, Tensor]:
    """Grow extra-trees (Geurts, Ernst, Wehenkel, Machine Learning 63, 2006) on features (N, F).

    With `most_nodes` leaves hold as many windows as that needs, and walks are bounded.
    """
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    # The mean of labels that are 0 or 1 is the fraction that is on, and least squares split as Gini's impurity does.
    make = ExtraTreesClassifier if kind == "classification" else ExtraTreesRegressor
    options: dict[str, Any] = {} if most_nodes is None else {"max_depth": _GROWN_DEPTH, "min_samples_leaf": 1}
    count = trees if most_nodes is None else min(trees, _SAMPLE)
    while True:
        forest = make(n_estimators=count, random_state=seed, **options).fit(features, labels)
        grown = [tree.tree_ for tree in forest.estimators_]
        if most_nodes is not None and sum(tree.node_count for tree in grown) * trees > most_nodes * count:
            options["min_samples_leaf"] *= 2
        elif count == trees:
            break
        else:
            count = trees
    starts = np.cumsum([0, *(tree.node_count for tree in grown)])
    leaves = np.concatenate([tree.children_left < 0 for tree in grown])
    sides = {}
    for side in ("left", "right"):
        following = [getattr(tree, f"children_{side}") + start for tree, start in zip(grown, starts, strict=False)]
        sides[side] = np.where(leaves, 0, np.concatenate(following))
    values = np.concatenate([tree.value for tree in grown])[leaves]  # (leaves, outputs, classes)
    fractions = values[..., 0]
    if kind == "classification":
        fractions = np.zeros((len(values), classes))  # a class without a window has no column in the forest
        fractions[:, forest.classes_] = values[:, 0] / values[:, 0].sum(1, keepdims=True)
    rows, row = np.unique(fractions.astype(np.float32), axis=0, return_inverse=True)
    sides["left"][leaves] = row.reshape(-1)
    thresholds = np.concatenate([tree.threshold for tree in grown])
    nearest = thresholds.astype(np.float32)
    below = np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    arrays = {
        "roots": starts[:-1].astype(np.int32),
        "feature": np.where(leaves, -1, np.concatenate([tree.feature for tree in grown])).astype(np.int32),
        "threshold": np.where(leaves, 0, below).astype(np.float32),
        "left": sides["left"].astype(np.int32),
        "right": sides["right"].astype(np.int32),
        "fractions": rows,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def check_trees(arrays: Mapping[str, Tensor], *, features: int, path: str) -> None:
    """Raise CheckpointError unless every node leads onwards inside its tree, and every leaf to its row."""
    if not _are_linked(arrays, features=features):
        raise CheckpointError(
            f"{path}: expected every node to lead onwards inside its tree and every leaf to its row, got other "
            "links; the file was altered"
        )


def _are_linked(arrays: Mapping[str, Tensor], *, features: int) -> bool:
    roots, feature, left, right = (arrays[name].long() for name in ("roots", "feature", "left", "right"))
    nodes = torch.arange(len(feature))
    if (
        min(len(feature), len(roots)) == 0
        or int(roots[0]) != 0
        or bool((roots.diff() <= 0).any())
        or int(roots[-1]) >= len(feature)
    ):
        return False
    ends = torch.cat([roots[1:], torch.tensor([len(feature)])])
    end = ends[torch.searchsorted(roots, nodes, right=True) - 1]
    inner = (left > nodes) & (left < end) & (right > nodes) & (right < end) & (feature < features)
    leaf = (left >= 0) & (left < len(arrays["fractions"])) & (right == 0) & (feature == -1)
    return bool(torch.where(feature < 0, leaf, inner).all())
