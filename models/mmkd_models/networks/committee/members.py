"""From the tensors of a file to the member of a committee that they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.networks.committee.network import MemberFacts
from mmkd_models.networks.committee.rocket import Rocket, rocket_fault
from mmkd_models.networks.committee.trees import Trees, trees_fault
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.networks.fronts.as_series import series_views
from mmkd_models.networks.teacher import Teacher


def member_from_state(
    facts: MemberFacts,
    state: Mapping[str, Tensor],
    modalities: Sequence[ModalitySpec],
    task: TaskSpec,
    config: TeacherConfig,
) -> nn.Module:
    """Gives a member with its tensors; a transformer is of this configuration."""
    modalities = _seen_by(facts, modalities)
    match facts.kind:
        case "trees":
            names = [modality.name for modality in modalities]
            return Trees(names, state, kind=task.kind, views=series_views(modalities))
        case "rocket":
            network: nn.Module = Rocket(modalities, facts.features or {}, len(task.labels))
        case "transformer":
            network = Teacher(modalities, len(task.labels), config, kind=task.kind)
    network.load_state_dict(state)
    return network


def member_fault(
    facts: MemberFacts, state: Mapping[str, Tensor], modalities: Sequence[ModalitySpec], task: TaskSpec
) -> str | None:
    """Says what makes tensors no member of this kind that is no transformer; None where they are sound."""
    if facts.bias and (len(facts.bias) != len(task.labels) or not all(map(math.isfinite, facts.bias))):
        return f"expected a finite bias of {len(task.labels)} logits, got {', '.join(f'{one:g}' for one in facts.bias)}"
    modalities = _seen_by(facts, modalities)
    if not modalities:
        return f"expected a modality of the teacher, got {facts.modality}"
    if facts.kind == "rocket":
        return rocket_fault(state, modalities, facts.features or {}, len(task.labels))
    return trees_fault(state, modalities, classes=len(task.labels))


def _seen_by(facts: MemberFacts, modalities: Sequence[ModalitySpec]) -> Sequence[ModalitySpec]:
    return [one for one in modalities if one.name == facts.modality] if facts.modality else modalities
