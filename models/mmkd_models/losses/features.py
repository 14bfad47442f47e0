"""Features: the student's vectors, projected, learn the teacher's; whole, or their slow part alone.

Sources: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (a projector and squares); Liu et al.,
"Distilling Cross-Modal Knowledge via Feature Disentanglement" (FD-CMKD), AAAI 2026, arXiv 2511.19887: across modalities
the low frequencies of features agree and the high ones hardly do, so the low ones are matched by squares. Taken from
it: the split by Fourier transform and the squares on the low part. Left out: its logarithmic loss on the high part, its
scale loss (the teacher's vectors are normalised here, so that scales are the same everywhere), its shared classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.losses.layers import (
    Layers,
    check_layers,
    check_shown,
    check_token_counts,
    layer_pairs,
    on_students_tokens,
    shape,
    student_depth,
    teacher_depth,
    valid_tokens,
)
from mmkd_models.losses.term import MemberIndex, Mix, Pair, TrainingStep, Weight, constant, refused
from mmkd_models.losses.tokens import weighted_mean
from mmkd_models.networks.encoder import EXTRA_TOKENS


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


class FeatureTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="feature"):
    """Projected hidden states or embedding learn the teacher's; `keep` below 1 learns the lowest frequencies alone."""

    weight: Weight = constant(1.0)
    level: Literal["hidden", "embedding"] = "hidden"
    layers: Layers = 1
    keep: float = 1.0
    project: bool = True
    member: MemberIndex = msgspec.UNSET

    def looks_into(self) -> MemberIndex:
        """Into the member's hidden states or embedding."""
        return self.member

    def compares_layers(self) -> bool:
        """Layers with hidden states; an embedding is none."""
        return self.level == "hidden"

    def compares_vectors(self) -> bool:
        """Yes: the projector is the same for all windows."""
        return True

    def check(self, *, kind: TaskKind, classes: int | None, mix: Mix | None) -> None:
        """Raises UsageError for a share of frequencies that cannot be, and for layers of an embedding."""
        if not 0 < self.keep <= 1:
            raise refused(self, "a share of frequencies to keep above 0 and up to 1", f"{self.keep}; correct it")
        if self.level == "embedding" and self.layers != 1:
            raise refused(self, "no layers with level 'embedding', which has none", f"{self.layers!r}; leave them out")

    def check_depth(self, *, student: int, fusion: int, blocks: int) -> None:
        """Raises UsageError where a layer is named that is not there."""
        if self.compares_layers():
            check_layers(self, self.layers, student=student, teacher=blocks, cross=False)

    def check_pair(self, pair: Pair, *, causal: bool) -> None:
        """Raises UsageError for widths that need a projector, and tokens that have no time in common."""
        for ours, own_name, theirs, other_name in self._named(pair):
            both = f"recipe: term 'feature': {shape(ours[0])} of {own_name} and {shape(theirs[0])} of {other_name}"
            if not self.project and ours.shape[-1] != theirs.shape[-1]:
                raise UsageError(
                    f"{both} cannot be tied without a projector; "
                    "set project to true, or choose a student of the teacher's width"
                )
            if self.compares_layers():
                check_token_counts(both, ours.shape[1], theirs.shape[1])
                if self.keep < 1 and ours.shape[1] <= EXTRA_TOKENS:
                    raise UsageError(f"{both} have no time tokens, and so no frequencies to keep; set keep to 1")

    def head(self, pair: Pair, *, windows: int | None) -> FeatureHead:
        """The projectors, one per pair of layers, and what is kept of the frequencies."""
        widths = [(ours.shape[-1], theirs.shape[-1]) for ours, theirs in self._tied(pair)]
        low_pass = self._low_pass(pair) if self.keep < 1 else None
        return FeatureHead(widths if self.project else (), low_pass)

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """The mean over the pairs of layers."""
        assert isinstance(head, FeatureHead)  # what `head` made before the first step
        losses = []
        for number, (ours, theirs) in enumerate(self._tied(step.pair)):
            projected = head.projectors[number](ours) if self.project else ours
            if self.level == "embedding":
                # One token whose channels are compared; they are the axis of the frequencies.
                losses.append(_embedding_loss(projected, theirs, head.low_pass, step.trust))
                continue
            length = ours.shape[1]
            target = on_students_tokens(theirs, step.pair, length)
            valid = valid_tokens(step.pair.student, length, ours)
            losses.append(feature_loss(projected, target, valid=valid, low_pass=head.low_pass, weight=step.trust))
        return {"feature": torch.stack(losses).mean()}

    def _pairs(self, pair: Pair) -> tuple[tuple[int, int], ...]:
        depth = teacher_depth(pair.teacher, pair.modality)
        pairs = layer_pairs(self.layers, student=student_depth(pair.student), teacher=depth)
        states = pair.teacher.hidden.get(pair.modality, ())
        check_shown(self, "hidden states", [own for own, _ in pairs], pair.student.hidden, "student")
        check_shown(self, "hidden states", [other for _, other in pairs], states, "teacher")
        return pairs

    def _tied(self, pair: Pair) -> list[tuple[Tensor, Tensor]]:
        if self.level == "embedding":
            return [(pair.student.embedding, pair.teacher.embedding)]
        states = pair.teacher.hidden.get(pair.modality, ())
        return [(pair.student.hidden[own], states[other]) for own, other in self._pairs(pair)]

    def _named(self, pair: Pair) -> list[tuple[Tensor, str, Tensor, str]]:
        if self.level == "embedding":
            names = [("the student's embedding", "the teacher's embedding")]
        else:
            names = [(f"student layer {own}", f"teacher layer {other}") for own, other in self._pairs(pair)]
        tied = zip(self._tied(pair), names, strict=True)
        return [(ours, own_name, theirs, other_name) for (ours, theirs), (own_name, other_name) in tied]

    def _low_pass(self, pair: Pair) -> Tensor:
        """Time tokens are low-passed along time, the summary tokens stay; of an embedding along its channels."""
        if self.level == "embedding":
            return low_pass_matrix(pair.teacher.embedding.shape[-1], self.keep)
        length = pair.student.hidden[-1].shape[1] - EXTRA_TOKENS
        matrix = torch.eye(length + EXTRA_TOKENS)
        matrix[:length, :length] = low_pass_matrix(length, self.keep)
        return matrix


class FeatureHead(nn.Module):
    """The projectors of a feature term, and what it keeps of the frequencies.

    Args:
        widths: of (student, teacher) in every pair of layers that has a projector.
        low_pass: (L, L), or (D, D) of an embedding; None where everything is kept.
    """

    low_pass: Tensor | None

    def __init__(self, widths: Sequence[tuple[int, int]], low_pass: Tensor | None) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(Projector(own, other) for own, other in widths)
        self.register_buffer("low_pass", low_pass, persistent=False)


def _embedding_loss(student: Tensor, teacher: Tensor, low_pass: Tensor | None, weight: Tensor | None) -> Tensor:
    if low_pass is None:
        return feature_loss(student[:, None], teacher[:, None], weight=weight)
    target = F.layer_norm(teacher.detach().float(), teacher.shape[-1:])
    with torch.autocast(student.device.type, enabled=False):
        difference = (student.float() - target) @ low_pass  # (B, D); the matrix is symmetric
    nothing = torch.zeros_like(difference)
    return feature_loss(difference[:, None], nothing[:, None], weight=weight)
