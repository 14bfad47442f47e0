"""Committee members without transformer: extra-trees on statistics, and a ridge on rocket features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.errors import CheckpointError
from mmkd_edge.spec import ModalitySpec, TaskKind, TaskSpec
from mmkd_models.data.checking.scan import window_statistics
from mmkd_models.networks.committee import MemberFacts
from mmkd_models.networks.config import RocketConfig, TeacherConfig
from mmkd_models.networks.fronts.as_series import series_view
from mmkd_models.networks.rocket import RocketFeatures, claimed_sizes
from mmkd_models.networks.teacher import Inputs, Teacher
from mmkd_models.tensors import same_tensors

TREES = 300
_DTYPES = {
    "roots": torch.int32,
    "feature": torch.int32,
    "threshold": torch.float32,
    "left": torch.int32,
    "right": torch.int32,
    "fractions": torch.float32,
}


class Rocket(nn.Module):
    """A linear map from all convolutional features to K outputs."""

    weight: Tensor
    bias: Tensor

    def __init__(self, modalities: Sequence[ModalitySpec], configs: Mapping[str, RocketConfig], outputs: int) -> None:
        super().__init__()
        self.names = tuple(modality.name for modality in modalities)
        self.features = nn.ModuleDict({spec.name: RocketFeatures(spec, configs[spec.name]) for spec in modalities})
        self.register_buffer("weight", torch.zeros(sum(configs[name].features for name in self.names), outputs))
        self.register_buffer("bias", torch.zeros(outputs))

    @property
    def configs(self) -> dict[str, RocketConfig]:
        """The features of each modality."""
        return {name: cast("RocketFeatures", self.features[name]).config for name in self.names}

    def forward(self, inputs: Inputs) -> Tensor:
        """Return (B, K) scores."""
        features = [self.features[name](*inputs[name]) for name in self.names]
        return torch.cat(features, dim=1) @ self.weight + self.bias


class Trees(nn.Module):
    """Trees of a forest in common arrays: left if a statistic is at most the threshold."""

    roots: Tensor  # int32 (trees,), the first node of each tree, ascending
    feature: Tensor  # int32 (nodes,), the statistic that a node reads; -1 at a leaf
    threshold: Tensor  # float32 (nodes,)
    left: Tensor  # int32 (nodes,), next node; at a leaf its row in `fractions`
    right: Tensor  # int32 (nodes,); 0 at a leaf
    # float32 (leaves, K), the fraction of each class or label in the leaf; of a regression the mean (leaves, 1)
    fractions: Tensor

    def __init__(self, modalities: Sequence[ModalitySpec], arrays: Mapping[str, Tensor], *, kind: TaskKind) -> None:
        super().__init__()
        self.views = nn.ModuleDict({modality.name: series_view(modality) for modality in modalities})
        self.kind = kind
        for name in _DTYPES:
            self.register_buffer(name, arrays[name])

    def forward(self, inputs: Inputs) -> Tensor:
        """Return (B, K) logits of the smoothed votes; of a regression (B, 1) in the target's unit."""
        votes = self.votes(window_figures(inputs, self.views))
        if self.kind == "regression":
            return votes.float()
        # One more vote, spread evenly (Laplace's rule of succession): a fraction of 0 has no logarithm.
        trees = len(self.roots)
        if self.kind == "multi_label":
            return torch.logit((trees * votes + 0.5) / (trees + 1)).float()
        return torch.log((trees * votes + 1 / votes.shape[1]) / (trees + 1)).float()

    def votes(self, statistics: Tensor) -> Tensor:
        """(B, F) float32 -> (B, K) float64: mean of the leaves, as scikit-learn's `predict_proba`."""
        node = self.roots.long().expand(len(statistics), -1)  # (B, trees)
        while True:
            feature = self.feature[node]
            if bool((feature < 0).all()):
                return self.fractions[self.left[node].long()].double().mean(1)
            values = statistics.gather(1, feature.clamp(min=0).long())
            following = torch.where(values <= self.threshold[node], self.left[node], self.right[node])
            node = torch.where(feature < 0, node, following.long())


def window_figures(inputs: Inputs, views: nn.ModuleDict) -> Tensor:
    """Return the modalities' statistics, as series, float32 (B, F)."""
    parts = []
    for name, view in views.items():
        values, present = view(*inputs[name])
        statistics = window_statistics(torch.where(present > 0, values.float(), torch.nan).cpu().numpy())
        parts.append(torch.from_numpy(statistics.astype(np.float32)).to(values.device))
    return torch.cat(parts, dim=1)


def grow_trees(
    statistics: NDArray[np.float32],
    labels: NDArray[Any],
    modalities: Sequence[ModalitySpec],
    *,
    classes: int,
    kind: TaskKind,
    seed: int,
) -> Trees:
    """Grow extra-trees (Geurts, Ernst, Wehenkel, Machine Learning 63, 2006) on statistics (N, F)."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    # The mean of labels that are 0 or 1 is the fraction that is on, and least squares split as Gini's impurity does.
    forest = (ExtraTreesClassifier if kind == "classification" else ExtraTreesRegressor)(
        n_estimators=TREES, random_state=seed
    ).fit(statistics, labels)
    grown = [tree.tree_ for tree in forest.estimators_]
    starts = np.cumsum([0, *(tree.node_count for tree in grown)])
    leaves = np.concatenate([tree.children_left < 0 for tree in grown])
    sides = {}
    for side in ("left", "right"):
        following = [getattr(tree, f"children_{side}") + start for tree, start in zip(grown, starts, strict=False)]
        sides[side] = np.where(leaves, 0, np.concatenate(following))
    sides["left"][leaves] = np.arange(leaves.sum())
    values = np.concatenate([tree.value for tree in grown])[leaves]  # (leaves, outputs, classes)
    fractions = values[..., 0]
    if kind == "classification":
        fractions = np.zeros((len(values), classes))  # a class without a window has no column in the forest
        fractions[:, forest.classes_] = values[:, 0] / values[:, 0].sum(1, keepdims=True)
    thresholds = np.concatenate([tree.threshold for tree in grown])
    nearest = thresholds.astype(np.float32)
    below = np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    arrays = {
        "roots": starts[:-1].astype(np.int32),
        "feature": np.where(leaves, -1, np.concatenate([tree.feature for tree in grown])).astype(np.int32),
        "threshold": np.where(leaves, 0, below),
        "left": sides["left"].astype(np.int32),
        "right": sides["right"].astype(np.int32),
        "fractions": fractions.astype(np.float32),
    }
    return Trees(modalities, {name: torch.from_numpy(array) for name, array in arrays.items()}, kind=kind)


def member_from_state(
    facts: MemberFacts,
    state: Mapping[str, Tensor],
    modalities: Sequence[ModalitySpec],
    task: TaskSpec,
    config: TeacherConfig,
) -> nn.Module:
    """Return a member with its tensors; a transformer gets this configuration."""
    modalities = _read_modalities(facts, modalities)
    match facts.kind:
        case "trees":
            return Trees(modalities, state, kind=task.kind)
        case "rocket":
            network: nn.Module = Rocket(modalities, facts.features or {}, len(task.labels))
        case "transformer":
            network = Teacher(modalities, len(task.labels), config, kind=task.kind)
    network.load_state_dict(state)
    return network


def check_member(
    facts: MemberFacts, state: Mapping[str, Tensor], modalities: Sequence[ModalitySpec], task: TaskSpec, *, path: str
) -> None:
    """Raise CheckpointError for impossible facts or tensors of a rocket or trees; no claim allocates memory."""
    modalities, configs = _read_modalities(facts, modalities), facts.features or {}
    names, fault = [modality.name for modality in modalities], None
    if facts.bias and (len(facts.bias) != len(task.labels) or not all(map(math.isfinite, facts.bias))):
        got = ", ".join(f"{value:g}" for value in facts.bias)
        fault = f"expected a finite bias of {len(task.labels)} logits, got {got}"
    elif not names:
        fault = f"expected a modality of the teacher, got {facts.modality}"
    elif facts.kind == "rocket" and list(configs) != names:
        fault = f"expected features of {', '.join(names)}, got of {', '.join(configs) or 'none'}"
    for modality in [] if fault or facts.kind != "rocket" else modalities:
        for claim, (claimed, most) in claimed_sizes(configs[modality.name], modality).items():
            if claimed > most:
                fault = f"{modality.name}: {claim}: expected at most {most}, got {claimed}"
    if fault:
        raise CheckpointError(f"{path}: {fault}; the file was altered")
    if facts.kind == "rocket":
        with torch.device("meta"):
            expected = Rocket(modalities, configs, len(task.labels)).state_dict()
    else:
        sizes = {name: state.get(name, torch.empty(0)).numel() for name in _DTYPES}
        shapes = {"roots": (sizes["roots"],), "fractions": (sizes["fractions"] // len(task.labels), len(task.labels))}
        expected = {
            name: torch.empty(shapes.get(name, (sizes["feature"],)), dtype=dtype, device="meta")
            for name, dtype in _DTYPES.items()
        }
    same_tensors(expected, state, path=path)
    if facts.kind == "trees":
        blank = [np.zeros((1, *series_view(spec).spec.shape), dtype=np.float32) for spec in modalities]
        if not _are_linked(state, features=sum(window_statistics(window).shape[1] for window in blank)):
            raise CheckpointError(
                f"{path}: expected every node to lead onwards inside its tree and every leaf to its row, got other "
                "links; the file was altered"
            )


def _read_modalities(facts: MemberFacts, modalities: Sequence[ModalitySpec]) -> Sequence[ModalitySpec]:
    return [spec for spec in modalities if spec.name == facts.modality] if facts.modality else modalities


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
