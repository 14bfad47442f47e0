"""Trust: how much a teacher may teach about one window.

A teacher that is wrong about a window should not teach it. Idea: Huo et al., "C2KD: Bridging the Modality Gap for
Cross-Modal Knowledge Distillation", CVPR 2024, which filters out windows with misaligned soft labels. Here nothing is
filtered out: a window counts by the teacher's probability of its true class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_models.losses.goal import Goal


def trust_in_teacher(teacher_logits: Tensor, targets: Tensor, labelled: Tensor, *, by_confidence: bool) -> Tensor:
    """Gives (B,) weights from 0 to 1.

    Where the label is known: what label and teacher have in common, sum_k min(y_k, p_k). For an unmixed label that is
    the teacher's probability of the true class; for a mixed one it is 1 when the teacher sees the same mixture.

    Args:
        teacher_logits: (B, K).
        targets: (B, K) label distribution, zeros where unknown.
        labelled: (B,) 1 where the label is known, else 0.
        by_confidence: an unlabelled window counts by the teacher's largest probability, else fully.
    """
    probabilities = torch.softmax(teacher_logits.detach().float(), dim=-1)
    known = torch.minimum(probabilities, targets.float()).sum(-1)
    unknown = probabilities.amax(-1) if by_confidence else torch.ones_like(known)
    return torch.where(labelled > 0, known, unknown)


def trust_in_labels(teacher_logits: Tensor, targets: Tensor, labelled: Tensor, *, by_confidence: bool) -> Tensor:
    """Gives (B,) weights from 0 to 1 for a teacher of several labels: the same, mean over the labels.

    Each label is a distribution over on and off, with which the teacher has min(y, p) + min(1 - y, 1 - p) = 1 - |y - p|
    in common; its confidence is max(p, 1 - p).

    Args:
        teacher_logits: (B, K).
        targets: (B, K) from 0 to 1, zeros where unknown.
        labelled: (B,) 1 where the labels are known, else 0.
        by_confidence: an unlabelled window counts by the teacher's confidence, else fully.
    """
    probabilities = torch.sigmoid(teacher_logits.detach().float())
    known = 1 - (targets.float() - probabilities).abs().mean(-1)
    unknown = torch.maximum(probabilities, 1 - probabilities).mean(-1) if by_confidence else torch.ones_like(known)
    return torch.where(labelled > 0, known, unknown)


def trust_of(goal: Goal, teacher: Tensor, targets: Tensor, labelled: Tensor, *, by_confidence: bool) -> Tensor:
    """Gives (B,) how much the teacher counts in each window; a regression has no such measure."""
    trust = trust_in_labels if goal.kind == "multi_label" else trust_in_teacher
    return trust(teacher, targets, labelled, by_confidence=by_confidence)
