"""Convolutional features of every modality side by side, and one linear map from them: what a closed form fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import RocketConfig
from mmkd_models.networks.rocket import RocketFeatures, claims_of
from mmkd_models.networks.teacher import Inputs


class Rocket(nn.Module):
    """A linear map from the features of all modalities.

    Args:
        configs: of each modality's features, by its name.
        outputs: K, the classes or labels, or 1.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, modalities: Sequence[ModalitySpec], configs: Mapping[str, RocketConfig], outputs: int) -> None:
        super().__init__()
        self.names = tuple(modality.name for modality in modalities)
        self.features = nn.ModuleDict({one.name: RocketFeatures(one, configs[one.name]) for one in modalities})
        self.register_buffer("weight", torch.zeros(sum(configs[name].features for name in self.names), outputs))
        self.register_buffer("bias", torch.zeros(outputs))

    @property
    def configs(self) -> dict[str, RocketConfig]:
        """Gives which features each modality has."""
        return {name: cast("RocketFeatures", self.features[name]).config for name in self.names}

    def forward(self, inputs: Inputs) -> Tensor:
        """Gives (B, K) scores."""
        found = [self.features[name](*inputs[name]) for name in self.names]
        return torch.cat(found, dim=1) @ self.weight + self.bias


def rocket_fault(
    state: Mapping[str, Tensor], modalities: Sequence[ModalitySpec], configs: Mapping[str, RocketConfig], outputs: int
) -> str | None:
    """Says what makes tensors no rocket of these features: `expected ..., got ...`; None where they are sound."""
    names = [modality.name for modality in modalities]
    if list(configs) != names:
        return f"expected features of {', '.join(names)}, got of {', '.join(configs) or 'none'}"
    for modality in modalities:
        for claim, (claimed, most) in claims_of(configs[modality.name], modality).items():
            if claimed > most:
                return f"{modality.name}: {claim}: expected at most {most}, got {claimed}"
    wanted, weight = sum(config.features for config in configs.values()), state.get("weight", torch.empty(0))
    if weight.shape != (wanted, outputs):
        return f"expected weights ({wanted}, {outputs}), got {tuple(weight.shape)}"
    with torch.device("meta"):  # no number in the metadata allocates memory
        expected = Rocket(modalities, configs, outputs).state_dict()
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
    known = {name: (tensor.shape, tensor.dtype) for name, tensor in expected.items()}
    if shapes != known:
        strange = sorted(name for name in {*shapes, *known} if shapes.get(name) != known.get(name))
        return f"expected the tensors of its features, got others: {', '.join(strange[:3])}"
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        return "expected finite tensors, got NaN or infinity"
    return None
