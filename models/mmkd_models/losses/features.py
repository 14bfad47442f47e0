"""Features: the student's vectors, projected, learn the teacher's; whole, or their slow part alone.

Sources: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (a projector and squares); Liu et al.,
"Distilling Cross-Modal Knowledge via Feature Disentanglement" (FD-CMKD), AAAI 2026, arXiv 2511.19887: across modalities
the low frequencies of features agree and the high ones hardly do, so the low ones are matched by squares. Taken from
it: the split by Fourier transform and the squares on the low part. Left out: its logarithmic loss on the high part, its
scale loss (the teacher's vectors are normalised here, so that scales are the same everywhere), its shared classifier.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.losses.weighting import weighted_mean


def feature_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    valid: Tensor | None = None,
    low_pass: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Gives the mean square of projected student minus normalised teacher, over tokens and channels; float32.

    The teacher's vectors are brought to mean 0 and variance 1 over their channels, so that a student that says nothing
    (zeros) costs 1 whatever the teacher's scale, and less where only low frequencies count.

    Args:
        student: (B, L, D) projected tokens.
        teacher: (B, L, D) tokens; no gradient flows into it.
        valid: (B, L) 1 for tokens with samples behind them, else 0: the others are no difference; all where None.
        low_pass: (L, L) from `low_pass_matrix`: what of the difference counts; all of it where None.
        weight: (B,) trust in each window.
    """
    with torch.autocast(student.device.type, enabled=False):
        target = F.layer_norm(teacher.detach().float(), teacher.shape[-1:])
        difference = student.float() - target
        if valid is not None:
            difference = difference * valid.float()[..., None]
        if low_pass is not None:
            difference = low_pass @ difference
        total: Tensor = difference.square().mean(-1).sum(-1)  # (B,)
    tokens = torch.full_like(total, student.shape[1]) if valid is None else valid.float().sum(-1)
    some = (tokens > 0).float()
    return weighted_mean(total / tokens.clamp(min=1.0), some if weight is None else some * weight)


def low_pass_matrix(length: int, keep: float) -> Tensor:
    """Gives the (length, length) projection onto the lowest frequencies: the mean and the next ones.

    Args:
        length: of the axis that is transformed.
        keep: share of the length // 2 + 1 frequencies, above 0 and up to 1; at least one is kept.

    Example:
        >>> low_pass_matrix(2, 0.5).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    frequencies = length // 2 + 1
    kept = (torch.arange(frequencies) < max(1, math.ceil(keep * frequencies))).float()
    spectrum = torch.fft.rfft(torch.eye(length), dim=0) * kept[:, None]
    matrix: Tensor = torch.fft.irfft(spectrum, n=length, dim=0)
    return matrix


class Projector(nn.Module):
    """The student's vectors in the teacher's width; trained beside the student, never exported."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(student_width, teacher_width)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, L, D_S) -> (B, L, D_T), in float32 under autocast too."""
        with torch.autocast(vectors.device.type, enabled=False):
            projected: Tensor = self.linear(vectors.float())
            return projected
