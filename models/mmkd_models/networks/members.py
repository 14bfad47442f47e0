"""Committee members without transformer: extra-trees on intervals, and a ridge on convolutional features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mmkd_edge.errors import CheckpointError
from mmkd_edge.spec import ModalitySpec, TaskKind, TaskSpec
from mmkd_models.networks.committee import MemberFacts
from mmkd_models.networks.config import ConvolutionsConfig, TeacherConfig
from mmkd_models.networks.convolutions import ConvolutionFeatures, claimed_sizes
from mmkd_models.networks.intervals import IntervalFeatures, interval_sizes
from mmkd_models.networks.teacher import Inputs, Teacher
from mmkd_models.networks.trees import TREES_DTYPES, Forest, check_trees
from mmkd_models.tensors import same_tensors


class Convolutions(nn.Module):
    """A linear map from all convolutional features to K outputs."""

    def __init__(
        self, modalities: Sequence[ModalitySpec], configs: Mapping[str, ConvolutionsConfig], outputs: int
    ) -> None:
        super().__init__()
        self.names = tuple(modality.name for modality in modalities)
        self.features = nn.ModuleDict({spec.name: ConvolutionFeatures(spec, configs[spec.name]) for spec in modalities})
        self.weight = nn.Buffer(torch.zeros(sum(configs[name].features for name in self.names), outputs))
        self.bias = nn.Buffer(torch.zeros(outputs))

    @property
    def configs(self) -> dict[str, ConvolutionsConfig]:
        """The features of each modality."""
        return {name: cast("ConvolutionFeatures", self.features[name]).config for name in self.names}

    def forward(self, inputs: Inputs) -> Tensor:
        """Return (B, K) scores."""
        features = [self.features[name](*inputs[name]) for name in self.names]
        return torch.cat(features, dim=1) @ self.weight + self.bias


class Trees(Forest):
    """Trees on the features of intervals of all modalities."""

    def __init__(self, modalities: Sequence[ModalitySpec], arrays: Mapping[str, Tensor], *, kind: TaskKind) -> None:
        super().__init__(arrays, kind=kind)
        self.features = nn.ModuleDict({modality.name: IntervalFeatures(modality) for modality in modalities})

    def forward(self, inputs: Inputs) -> Tensor:
        """Return (B, K) logits; of a regression (B, 1) in the target's unit."""
        features = [network(*inputs[name]) for name, network in self.features.items()]
        return self.logits(self.votes(torch.cat(features, dim=1))).float()


def member_from_state(
    facts: MemberFacts,
    state: Mapping[str, Tensor],
    modalities: Sequence[ModalitySpec],
    task: TaskSpec,
    config: TeacherConfig,
) -> nn.Module:
    """Return a member with its tensors."""
    modalities = _read_modalities(facts, modalities)
    match facts.kind:
        case "trees":
            network: nn.Module = Trees(modalities, state, kind=task.kind)
        case "convolutions":
            network = Convolutions(modalities, facts.features or {}, len(task.labels))
        case "transformer":
            network = Teacher(modalities, len(task.labels), config, kind=task.kind)
    network.load_state_dict(state)
    return network


def check_member(
    facts: MemberFacts, state: Mapping[str, Tensor], modalities: Sequence[ModalitySpec], task: TaskSpec, *, path: str
) -> None:
    """Raise CheckpointError for impossible facts or tensors; no claim allocates memory."""
    modalities, configs = _read_modalities(facts, modalities), facts.features or {}
    names, fault = [modality.name for modality in modalities], None
    if facts.bias and (len(facts.bias) != len(task.labels) or not all(map(math.isfinite, facts.bias))):
        got = ", ".join(f"{value:g}" for value in facts.bias)
        fault = f"expected a finite bias of {len(task.labels)} logits, got {got}"
    elif not names:
        fault = f"expected a modality of the teacher, got {facts.modality}"
    elif facts.kind == "convolutions" and list(configs) != names:
        fault = f"expected features of {', '.join(names)}, got of {', '.join(configs) or 'none'}"
    for modality in [] if fault or facts.kind != "convolutions" else modalities:
        for claim, (claimed, most) in claimed_sizes(configs[modality.name], modality).items():
            if claimed > most:
                fault = f"{modality.name}: {claim}: expected at most {most}, got {claimed}"
    if fault:
        raise CheckpointError(f"{path}: {fault}; the file was altered")
    if facts.kind == "convolutions":
        with torch.device("meta"):
            expected = Convolutions(modalities, configs, len(task.labels)).state_dict()
    else:
        sizes = {name: state.get(name, torch.empty(0)).numel() for name in TREES_DTYPES}
        shapes = {"roots": (sizes["roots"],), "fractions": (sizes["fractions"] // len(task.labels), len(task.labels))}
        with torch.device("meta"):
            arrays = {
                name: torch.empty(shapes.get(name, (sizes["feature"],)), dtype=dtype)
                for name, dtype in TREES_DTYPES.items()
            }
            expected = Trees(modalities, arrays, kind=task.kind).state_dict()
    same_tensors(expected, state, path=path)
    if facts.kind == "trees":
        check_trees(state, features=sum(interval_sizes(spec)[2] for spec in modalities), path=path)


def _read_modalities(facts: MemberFacts, modalities: Sequence[ModalitySpec]) -> Sequence[ModalitySpec]:
    return [spec for spec in modalities if spec.name == facts.modality] if facts.modality else modalities
