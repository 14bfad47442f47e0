"""What a term with layers compares: attention maps, relations, hidden states or the embedding of two networks.

Teacher and student may differ in width, heads, depth and number of time tokens; tokens are brought together by the time
they stand for. Everything here reads what a student and a teacher give, so that networks of your own need nothing but
to give it. Whether the two can be tied is `ties.py`'s to say, before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_models.losses.attention import aligned_map, edam_divergence, edam_loss
from mmkd_models.losses.features import Projector, feature_loss, low_pass_matrix
from mmkd_models.losses.relation import relation_loss
from mmkd_models.losses.timeline import resampled
from mmkd_models.networks.encoder import EXTRA_TOKENS, Projections
from mmkd_models.networks.student import StudentOutput
from mmkd_models.networks.teacher import TeacherOutput
from mmkd_models.recipe import (
    EdamTerm,
    FeatureTerm,
    RelationTerm,
    layer_pairs,
)


def student_depth(student: StudentOutput) -> int:
    """Gives the number of layers that a student shows."""
    return max(len(student.hidden), len(student.attention), len(student.projections))


def teacher_depth(teacher: TeacherOutput, modality: str) -> int:
    """Gives the number of layers in which a teacher shows its own tokens of the modality."""
    return max(len(teacher.hidden.get(modality, ())), len(teacher.projections.get(modality, ())))


def fusion_depth(teacher: TeacherOutput, modality: str) -> int:
    """Gives the number of layers in which a teacher's tokens of the modality query those of others."""
    maps = teacher.cross_attention.get(modality, ())
    return max(len(maps), len(teacher.cross_projections.get(modality, ())))


def edam_pairs(
    term: EdamTerm, student: StudentOutput, teacher: TeacherOutput, modality: str
) -> tuple[tuple[int, int], ...]:
    """Gives the pairs (self-attention layer of the student, cross-attention layer of the teacher)."""
    maps = teacher.cross_attention.get(modality, ())
    pairs = layer_pairs(term.layers, student=student_depth(student), teacher=fusion_depth(teacher, modality))
    _need("edam", "attention maps", [own for own, _ in pairs], student.attention, "student")
    _need("edam", "cross-attention maps", [other for _, other in pairs], maps, "teacher")
    return pairs


def edam_of(
    term: EdamTerm, student: StudentOutput, teacher: TeacherOutput, modality: str, *, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gives the loss and its divergence, mean over the pairs of layers; `weight` (B,) is the trust in each window."""
    losses, divergences = [], []
    for own, other in edam_pairs(term, student, teacher, modality):
        ours = student.attention[own]
        theirs = teacher.cross_attention[modality][other]
        valid = _valid(student, ours.shape[-1], ours)
        length = ours.shape[-1] - EXTRA_TOKENS
        target = aligned_map(
            theirs,
            source_lengths=source_lengths(teacher, modality),
            length=length,
            extra=EXTRA_TOKENS,
            valid_keys=valid,
            groups=ours.shape[1] if term.heads == "group" else None,
        )
        target = _query_rows(target, teacher.valid[modality], length)
        losses.append(edam_loss(ours, target, valid_rows=valid, weight=weight))
        divergences.append(edam_divergence(ours, target, valid_rows=valid, weight=weight).detach())
    return torch.stack(losses).mean(), torch.stack(divergences).mean()


def relation_of(
    term: RelationTerm, student: StudentOutput, teacher: TeacherOutput, modality: str, *, weight: Tensor | None
) -> Tensor:
    """Gives the mean over the pairs of layers and the kinds of vectors."""
    losses = []
    for own, other in relation_pairs(term, student, teacher, modality):
        ours, theirs = student.projections[own], teaching(term, teacher, modality)[other]
        for kind in term.vectors:
            vectors: Tensor = getattr(ours, kind)
            valid = _valid(student, vectors.shape[1], vectors)
            target = _on_students_tokens(getattr(theirs, kind), teacher, modality, vectors.shape[1])
            losses.append(relation_loss(vectors, target, heads=term.heads, valid=valid, weight=weight))
    return torch.stack(losses).mean()


class FeatureHead(nn.Module):
    """The projectors of a feature term, one per pair of layers, and what it keeps of the frequencies.

    Time tokens are low-passed along time, the summary tokens are taken as they are. An embedding has no time: there the
    axis is its channels, in the order of the teacher's.

    Args:
        term: what is matched.
        student: what the student gives for a window, with taps.
        teacher: what the teacher gives for the same window, with taps.
        modality: the student's.
    """

    low_pass: Tensor | None

    def __init__(self, term: FeatureTerm, student: StudentOutput, teacher: TeacherOutput, modality: str) -> None:
        super().__init__()
        self.term, self.modality = term, modality
        widths = [(o.shape[-1], t.shape[-1]) for o, t in self._tied(student, teacher)]
        self.projectors = nn.ModuleList(Projector(own, other) for own, other in widths if term.project)
        low_pass = self._low_pass(student, teacher) if term.keep < 1 else None
        self.register_buffer("low_pass", low_pass, persistent=False)

    def forward(self, student: StudentOutput, teacher: TeacherOutput, *, weight: Tensor | None) -> Tensor:
        """Gives the mean over the pairs of layers; `weight` (B,) is the trust in each window."""
        losses = []
        for number, (ours, theirs) in enumerate(self._tied(student, teacher)):
            projected = self.projectors[number](ours) if self.term.project else ours
            if self.term.level == "embedding":
                # One token whose channels are compared; they are the axis of the frequencies.
                losses.append(_embedding_loss(projected, theirs, self.low_pass, weight))
                continue
            length = ours.shape[1]
            target = _on_students_tokens(theirs, teacher, self.modality, length)
            valid = _valid(student, length, ours)
            losses.append(feature_loss(projected, target, valid=valid, low_pass=self.low_pass, weight=weight))
        return torch.stack(losses).mean()

    def _tied(self, student: StudentOutput, teacher: TeacherOutput) -> list[tuple[Tensor, Tensor]]:
        if self.term.level == "embedding":
            return [(student.embedding, teacher.embedding)]
        pairs = feature_pairs(self.term, student, teacher, self.modality)
        return [(student.hidden[own], teacher.hidden[self.modality][other]) for own, other in pairs]

    def _low_pass(self, student: StudentOutput, teacher: TeacherOutput) -> Tensor:
        if self.term.level == "embedding":
            return low_pass_matrix(teacher.embedding.shape[-1], self.term.keep)
        length = student.hidden[-1].shape[1] - EXTRA_TOKENS
        matrix = torch.eye(length + EXTRA_TOKENS)
        matrix[:length, :length] = low_pass_matrix(length, self.term.keep)
        return matrix


def _embedding_loss(student: Tensor, teacher: Tensor, low_pass: Tensor | None, weight: Tensor | None) -> Tensor:
    if low_pass is None:
        return feature_loss(student[:, None], teacher[:, None], weight=weight)
    target = torch.nn.functional.layer_norm(teacher.detach().float(), teacher.shape[-1:])
    with torch.autocast(student.device.type, enabled=False):
        difference = (student.float() - target) @ low_pass  # (B, D); the matrix is symmetric
    nothing = torch.zeros_like(difference)
    return feature_loss(difference[:, None], nothing[:, None], weight=weight)


def _on_students_tokens(tokens: Tensor, teacher: TeacherOutput, modality: str, length: int) -> Tensor:
    """(B, L_T + 2, D) -> (B, length, D): the teacher's tokens at the student's times."""
    if tokens.shape[1] == length:
        return tokens
    valid = teacher.valid.get(modality, tokens.new_ones(tokens.shape[:2]))
    found, _ = resampled(tokens, valid, length=length - EXTRA_TOKENS, extra=EXTRA_TOKENS)
    return found


def source_lengths(teacher: TeacherOutput, modality: str) -> list[int]:
    """Time tokens of the other modalities, in the order of a cross-attention's keys."""
    return [there.shape[1] - EXTRA_TOKENS for name, there in teacher.valid.items() if name != modality]


def _query_rows(target: Tensor, valid: Tensor, length: int) -> Tensor:
    """(B, ..., Lq, L) -> (B, ..., length + 2, L): the rows of the map at the student's times."""
    if target.shape[-2] == length + EXTRA_TOKENS:
        return target
    rows = target.reshape(-1, *target.shape[-2:])
    owners = valid.repeat_interleave(len(rows) // len(valid), dim=0)
    found, _ = resampled(rows, owners, length=length, extra=EXTRA_TOKENS)
    return found.reshape(*target.shape[:-2], length + EXTRA_TOKENS, -1)


def _valid(student: StudentOutput, length: int, like: Tensor) -> Tensor:
    if student.valid is not None:
        return student.valid
    return torch.ones(like.shape[0], length, device=like.device)


def relation_pairs(
    term: RelationTerm, student: StudentOutput, teacher: TeacherOutput, modality: str
) -> tuple[tuple[int, int], ...]:
    """Gives the pairs (self-attention layer of the student, layer of the teacher's attention that teaches)."""
    depth = fusion_depth(teacher, modality) if term.teacher == "cross" else teacher_depth(teacher, modality)
    pairs = layer_pairs(term.layers, student=student_depth(student), teacher=depth)
    _need("relation", "projections", [own for own, _ in pairs], student.projections, "student")
    what = "cross-attention projections" if term.teacher == "cross" else "projections"
    _need("relation", what, [other for _, other in pairs], teaching(term, teacher, modality), "teacher")
    return pairs


def teaching(term: RelationTerm, teacher: TeacherOutput, modality: str) -> tuple[Projections, ...]:
    """Gives the projections of the teacher's attention that the term names, by layer."""
    found = teacher.cross_projections if term.teacher == "cross" else teacher.projections
    return found.get(modality, ())


def feature_pairs(
    term: FeatureTerm, student: StudentOutput, teacher: TeacherOutput, modality: str
) -> tuple[tuple[int, int], ...]:
    """Gives the pairs of layers (student, teacher) whose hidden states are tied."""
    states = teacher.hidden.get(modality, ())
    pairs = layer_pairs(term.layers, student=student_depth(student), teacher=teacher_depth(teacher, modality))
    _need("feature", "hidden states", [own for own, _ in pairs], student.hidden, "student")
    _need("feature", "hidden states", [other for _, other in pairs], states, "teacher")
    return pairs


def _need(kind: str, what: str, layers: Sequence[int], given: Sequence[object], who: str) -> None:
    """A silent zero would look like a loss that has been learnt."""
    if max(layers) >= len(given):
        raise UsageError(
            f"recipe: term {kind!r} needs the {what} of layer {max(layers)} of the {who}, which gives those of "
            f"{len(given)} layers; let its forward return them where it is called with taps=True"
        )
