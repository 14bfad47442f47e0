"""How far standardised features are from the leading components of normal windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST = 1e-6
"""Smallest score, whose logarithm is still finite."""


class ResidualHead(nn.Module):
    """Logarithm of the squared distance from the subspace that normal windows span, in float32.

    Without a part outside of the subspace a window is normal (Jackson and Mudholkar, "Control Procedures for Residuals
    Associated With Principal Component Analysis", Technometrics 21, 1979). `scale` makes a median of 1.
    """

    def __init__(self, features: int, components: int) -> None:
        super().__init__()
        self.components = nn.Buffer(torch.zeros(features, components))  # (F, K), orthonormal
        self.scale = nn.Buffer(torch.ones(()))  # ()

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, F) -> (B, 1)."""
        inside = embedding @ self.components
        apart = (embedding * embedding).sum(-1, keepdim=True) - (inside * inside).sum(-1, keepdim=True)
        return torch.log(torch.clamp(apart * self.scale, min=LEAST))
