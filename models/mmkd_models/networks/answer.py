"""From a head's raw numbers to logits, which losses compare, and to the answer, which people read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmkd_edge.spec import TaskKind


class AnswerHead(nn.Module):
    """The end of a network. It has nothing to learn; of a regression it carries the scale of the target.

    Attributes:
        mean: (1,) of a regression's training targets, in the target's unit; other kinds have none.
        std: (1,) of the same targets.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: TaskKind) -> None:
        super().__init__()
        self.kind = kind
        if kind == "regression":
            self.register_buffer("mean", torch.zeros(1))
            self.register_buffer("std", torch.ones(1))

    def logits(self, raw: Tensor) -> Tensor:
        """(B, K) -> (B, K): the raw numbers as they are; of a regression the number in the target's unit, (B, 1)."""
        return raw * self.std + self.mean if self.kind == "regression" else raw

    def forward(self, raw: Tensor) -> Tensor:
        """(B, K) -> (B, K): probabilities, of several labels each its own; of a regression the number in its unit."""
        if self.kind == "classification":
            return torch.softmax(raw, dim=-1)
        if self.kind == "multi_label":
            return torch.sigmoid(raw)
        return self.logits(raw)
