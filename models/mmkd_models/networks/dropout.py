"""Dropout whose masks cost little on a processor.

Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 2014. torch draws a number
of its Mersenne Twister for every value, an eighth of a teacher's training step on one core; here a byte of NumPy's
SFC64 decides, which each call seeds from torch's generator, so that seeds and resumed trainings repeat as before.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BYTES = 256


class Dropout(nn.Module):
    """`nn.Dropout`, on a processor with the probability rounded to a 256th; what is kept is scaled accordingly.

    Args:
        probability: that a value is dropped in training, 0 to below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        kept = max(1, round(_BYTES * (1 - self.probability)))
        return x * ((_random_bytes(x.shape) < kept).to(x.dtype) * (_BYTES / kept))


def _random_bytes(shape: torch.Size) -> Tensor:
    count = math.prod(shape)
    seed = int(torch.randint(2**62, ()))
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, size=-(-count // 8), dtype=np.uint64)
    return torch.from_numpy(words.view(np.uint8)[:count]).view(shape)
