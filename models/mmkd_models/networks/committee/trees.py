"""Extra-trees on window statistics as plain arrays: what scikit-learn grew, answered here.

Owns the arrays, their checks and their answers. Growing them is `grown_trees`; nothing of scikit-learn is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec, TaskKind
from mmkd_models.networks.committee.statistics import statistics_count, window_statistics
from mmkd_models.networks.fronts.as_series import SeriesView, as_series, series_spec
from mmkd_models.networks.teacher import Inputs

TREES = 300
_MOST_TREES = 10_000
_DTYPES = {
    "roots": torch.int32,
    "feature": torch.int32,
    "threshold": torch.float32,
    "left": torch.int32,
    "right": torch.int32,
    "shares": torch.float32,
}


class Trees(nn.Module):
    """Trees of one forest, one after another in the same arrays.

    A window goes from a root to a leaf: left where its statistic is at most the threshold, else right.

    Attributes:
        roots: int32 (trees,), the first node of each tree, ascending.
        feature: int32 (nodes,), the statistic that a node looks at; -1 at a leaf.
        threshold: float32 (nodes,).
        left: int32 (nodes,), the next node; at a leaf its row in `shares`.
        right: int32 (nodes,); 0 at a leaf.
        shares: float32 (leaves, K), the shares of the classes among the windows that grew the leaf, of several labels
            the share of each, of a regression the mean number, (leaves, 1).
    """

    roots: Tensor
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    shares: Tensor

    def __init__(
        self,
        names: Sequence[str],
        arrays: Mapping[str, Tensor],
        *,
        kind: TaskKind,
        views: Mapping[str, SeriesView] | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.views = nn.ModuleDict(views or {})
        self.kind = kind
        for name in _DTYPES:
            self.register_buffer(name, arrays[name])

    def forward(self, inputs: Inputs) -> Tensor:
        """Gives (B, K) logits of the smoothed votes; of a regression (B, 1) numbers in the target's unit."""
        votes = self.votes(statistics_of(inputs, self.names, dict(self.views.items())))
        if self.kind == "regression":
            return votes.float()
        # One vote more, spread evenly (Laplace's rule of succession): a share of 0 has no logarithm.
        trees = len(self.roots)
        if self.kind == "multi_label":
            return torch.logit((trees * votes + 0.5) / (trees + 1)).float()
        return torch.log((trees * votes + 1 / votes.shape[1]) / (trees + 1)).float()

    def votes(self, statistics: Tensor) -> Tensor:
        """(B, F) float32 -> (B, K) float64: the mean of the leaves, as `predict_proba` of scikit-learn gives it."""
        node = self.roots.long().expand(len(statistics), -1)  # (B, trees)
        while True:
            feature = self.feature[node]
            if bool((feature < 0).all()):
                return self.shares[self.left[node].long()].double().mean(1)
            seen = statistics.gather(1, feature.clamp(min=0).long())
            following = torch.where(seen <= self.threshold[node], self.left[node], self.right[node])
            node = torch.where(feature < 0, node, following.long())


def statistics_of(inputs: Inputs, names: Sequence[str], views: Mapping[str, nn.Module]) -> Tensor:
    """Gives float32 (B, F), the statistics of these modalities side by side; of sound and video, of their series."""
    return torch.cat([window_statistics(*as_series(inputs, views, name)) for name in names], dim=1)


def grown_trees(
    statistics: NDArray[np.float32],
    labels: NDArray[Any],
    names: Sequence[str],
    *,
    classes: int,
    kind: TaskKind,
    seed: int,
    views: Mapping[str, SeriesView] | None = None,
) -> Trees:
    """Grows extra-trees (Geurts, Ernst, Wehenkel, "Extremely randomized trees", Machine Learning 63, 2006).

    Args:
        statistics: (N, F), of labelled windows.
        labels: (N,) or (N, K); each class has a window.
        names: the modalities whose statistics they are, in order.
        views: what makes series of those that are none.
    """
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    # The mean of labels that are 0 or 1 is the share that is on, and least squares cut as Gini's impurity does.
    grower = ExtraTreesClassifier if kind == "classification" else ExtraTreesRegressor
    forest = grower(n_estimators=TREES, random_state=seed).fit(statistics, labels)
    grown = [tree.tree_ for tree in forest.estimators_]
    starts = np.cumsum([0, *(tree.node_count for tree in grown)])
    leaves = np.concatenate([tree.children_left < 0 for tree in grown])
    sides = {}
    for side in ("left", "right"):
        following = [getattr(tree, f"children_{side}") + start for tree, start in zip(grown, starts, strict=False)]
        sides[side] = np.where(leaves, 0, np.concatenate(following))
    sides["left"][leaves] = np.arange(leaves.sum())
    values = np.concatenate([tree.value for tree in grown])[leaves]  # (leaves, outputs, classes)
    shares = values[:, 0] / values[:, 0].sum(1, keepdims=True) if kind == "classification" else values[..., 0]
    assert shares.shape[1] == classes
    arrays = {
        "roots": starts[:-1].astype(np.int32),
        "feature": np.where(leaves, -1, np.concatenate([tree.feature for tree in grown])).astype(np.int32),
        "threshold": np.where(leaves, 0, _at_most(np.concatenate([tree.threshold for tree in grown]))),
        "left": sides["left"].astype(np.int32),
        "right": sides["right"].astype(np.int32),
        "shares": shares.astype(np.float32),
    }
    return Trees(names, {name: torch.from_numpy(array) for name, array in arrays.items()}, kind=kind, views=views)


def _at_most(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above: a float32 statistic is at most one where it is at most the other."""
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def trees_fault(arrays: Mapping[str, Tensor], modalities: Sequence[ModalitySpec], *, classes: int) -> str | None:
    """Says what makes arrays no trees on these modalities: `expected ..., got ...`; None where they are sound."""
    if {name: array.dtype for name, array in arrays.items()} != _DTYPES:
        kinds = {name: str(array.dtype).removeprefix("torch.") for name, array in sorted(arrays.items())}
        return f"expected the arrays {', '.join(_DTYPES)}, got {kinds}"
    roots, shares = arrays["roots"], arrays["shares"]
    nodes, leaves = len(arrays["feature"]), len(shares)
    flat = all(
        array.ndim == 1 and len(array) == nodes for name, array in arrays.items() if name not in ("roots", "shares")
    )
    if not flat or roots.ndim != 1 or not 1 <= len(roots) <= _MOST_TREES or shares.shape != (leaves, classes):
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        return f"expected 1 to {_MOST_TREES} trees with arrays (nodes,) and shares (leaves, {classes}), got {shapes}"
    if not bool(torch.isfinite(shares).all() and torch.isfinite(arrays["threshold"]).all()):
        return "expected finite thresholds and shares, got NaN or infinity"
    if not _are_linked(arrays, features=sum(statistics_count(*series_spec(one).shape) for one in modalities)):
        return "expected every node to lead onwards inside its tree and every leaf to its shares, got other links"
    return None


def _are_linked(arrays: Mapping[str, Tensor], *, features: int) -> bool:
    """Whether every way from a root ends at a leaf: nodes lead to later ones of their tree alone."""
    roots, feature, left, right = (arrays[name].long() for name in ("roots", "feature", "left", "right"))
    nodes = torch.arange(len(feature))
    if len(feature) == 0 or int(roots[0]) != 0 or bool((roots.diff() <= 0).any()) or int(roots[-1]) >= len(feature):
        return False
    ends = torch.cat([roots[1:], torch.tensor([len(feature)])])
    end = ends[torch.searchsorted(roots, nodes, right=True) - 1]
    leaf = feature < 0
    inner = (left > nodes) & (left < end) & (right > nodes) & (right < end) & (feature < features)
    last = (left >= 0) & (left < len(arrays["shares"])) & (right == 0) & (feature == -1)
    return bool(torch.where(leaf, last, inner).all())
