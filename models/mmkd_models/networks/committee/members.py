"""From the tensors of a file to the member of a committee that they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.networks.committee.trees import Trees, trees_fault
from mmkd_models.networks.config import MemberKind, TeacherConfig
from mmkd_models.networks.teacher import Teacher


def member_from_state(
    kind: MemberKind,
    state: Mapping[str, Tensor],
    modalities: Sequence[ModalitySpec],
    task: TaskSpec,
    config: TeacherConfig,
) -> nn.Module:
    """Gives a member with its tensors; a transformer is of this configuration."""
    if kind == "trees":
        return Trees([modality.name for modality in modalities], state, kind=task.kind)
    teacher = Teacher(modalities, len(task.labels), config, kind=task.kind)
    teacher.load_state_dict(state)
    return teacher


def member_fault(
    kind: MemberKind, state: Mapping[str, Tensor], modalities: Sequence[ModalitySpec], task: TaskSpec
) -> str | None:
    """Says what makes tensors no member of this kind that is no transformer; None where they are sound."""
    return trees_fault(state, modalities, classes=len(task.labels))
