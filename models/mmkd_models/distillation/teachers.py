"""Several teachers of one student: their answers to a batch, mixed, and whether a recipe fits them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from msgspec import UNSET
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_models.data.batches import Batch
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.term import Goal, InnerTerm
from mmkd_models.networks.committee import Committee, FixedViews
from mmkd_models.networks.teacher import Teacher, TeacherOutput


def mixed_logits(goal: Goal, logits: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Return logits z (B, K) of all teachers together; those of a single teacher as they are.

    softmax(z / T), or the sigmoid of several labels, is the mean of the teachers' probabilities at T, and numbers are
    averaged (Hinton, Vinyals, Dean, 2015).

    Args:
        logits: (B, K) of each teacher; no gradient flows into them.
        temperature: T > 0 at which z will be read.
    """
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack([each.detach().float() for each in logits])  # (M, B, K)
    if goal.kind == "regression":
        return stacked.mean(0)
    if goal.kind == "multi_label":
        on, off = (torch.logsumexp(F.logsigmoid(sign * stacked / temperature), dim=0) for sign in (1, -1))
        return temperature * (on - off)
    log_probabilities = torch.log_softmax(stacked / temperature, dim=-1)
    return temperature * (torch.logsumexp(log_probabilities, dim=0) - math.log(len(logits)))


@torch.no_grad()
def answers_of(teachers: Sequence[nn.Module], batch: Batch, *, taps: bool) -> tuple[TeacherOutput, ...]:
    """Return what each teacher answers to a batch; committees use the numbers of the windows."""
    answers = []
    for teacher in teachers:
        network = teacher.to(batch.targets.device)
        rows = {"index": batch.index, "partner": batch.partner, "share": batch.share}
        more = rows if isinstance(network, FixedViews) else {}
        answers.append(network(batch.inputs, **more, taps=taps))
    return tuple(answers)


def known_teacher(teacher: nn.Module) -> Teacher | None:
    """Return the transformer of a teacher or a committee; None for a network of the user's own."""
    if isinstance(teacher, Committee | FixedViews):
        return teacher.first
    return teacher if isinstance(teacher, Teacher) else None


def check_teachers(recipe: Recipe, teachers: Sequence[nn.Module], modality: str) -> None:
    """Raise UsageError if a recipe needs what these teachers cannot give a student of this modality."""
    if not teachers:
        raise UsageError("distillation: expected one or more teachers, got none; name some")
    count = len(teachers)
    for term in recipe.terms:
        if not isinstance(term, InnerTerm):
            continue
        if term.member is UNSET and count > 1:
            raise UsageError(
                f"recipe: term {term.name!r} looks into one teacher, and there are {count}; name it with member, "
                f"from 0 to {count - 1} in the order of the teachers"
            )
        if not 0 <= term.reads_teacher < count:
            raise UsageError(
                f"recipe: term {term.name!r}: expected a member from 0 to {count - 1} of {count} "
                f"{'teacher' if count == 1 else 'teachers'}, got {term.member}; correct it"
            )
        known = known_teacher(teachers[term.reads_teacher])
        if known is not None and modality not in known.names and term.compares_layers():
            raise UsageError(
                f"recipe: term {term.name!r} needs a teacher that sees {modality!r}, and this one sees "
                f"{', '.join(known.names)}; train a teacher with it, or learn from outputs and embedding alone"
            )
