"""Networks that start with what another knows: a student with its encoder in the teacher, a teacher with an old one.

The teacher's encoder has been trained beside the other modalities; before the fusion it is a student's encoder of the
same size. (Starting from the teacher's layers: Sun et al., "Patient Knowledge Distillation for BERT", EMNLP 2019.)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_models.networks.causal import CausalEncoder
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher

logger = logging.getLogger(__name__)


def take_encoder(student: nn.Module, teacher: nn.Module, modality: str) -> tuple[str, ...]:
    """Copies the teacher's encoder and pool of the modality into the student, and gives the names of what stays fresh.

    A shallower student takes the first blocks; a deeper one keeps its further blocks fresh. The head stays fresh: it
    reads a student's embedding, the teacher's reads the fused one.

    Raises UsageError where a network is not one of ours, the student is causal, or a tensor has another shape in the
    student.
    """
    if not (isinstance(student, Student) and isinstance(teacher, Teacher)):
        raise UsageError(
            "recipe: init 'teacher' copies between the networks of mmkd-edge, and this student or teacher is another; "
            "load its weights yourself and set init to 'fresh'"
        )
    if isinstance(student.encoder, CausalEncoder):
        raise UsageError(
            "recipe: init 'teacher': expected a windowed student, got a causal one, whose tokens are made otherwise "
            "than the teacher's; set init to 'fresh'"
        )
    source: dict[str, Tensor] = {}
    for part, module in (("encoder", teacher.encoders[modality]), ("pool", teacher.pools[modality])):
        source.update({f"{part}.{name}": value for name, value in module.state_dict().items()})
    target = student.state_dict()
    taken = {name: value for name, value in source.items() if name in target}
    _check_shapes(taken, target, modality)
    fresh = tuple(name for name in target if name not in taken)
    student.load_state_dict({**target, **{name: value.detach().clone() for name, value in taken.items()}})
    logger.info("student: %d tensors taken from the teacher, fresh: %s", len(taken), ", ".join(fresh))
    return fresh


def take_teacher(teacher: Teacher, old: Teacher) -> tuple[str, ...]:
    """Copies an old teacher's weights into one of the same size and labels, and gives the names of what stays fresh.

    What belongs to a modality that only one of the two has is left alone: its encoder, its blocks of the fusion, its
    pool. Where the old one had several modalities, the new one answers as it did while the new sensors are missing.
    """
    target, source = teacher.state_dict(), old.state_dict()
    taken = {name: value.detach().clone() for name, value in source.items() if name in target}
    teacher.load_state_dict({**target, **taken})
    return tuple(name for name in target if name not in taken)


def _check_shapes(taken: Mapping[str, Tensor], target: Mapping[str, Tensor], modality: str) -> None:
    for name, value in taken.items():
        if value.shape != target[name].shape:
            raise UsageError(
                f"recipe: init 'teacher': {name} of the student is {tuple(target[name].shape)}, and that of the "
                f"teacher's {modality} encoder {tuple(value.shape)}; give the student the sizes of that encoder "
                "(mmkd-distill --preset teacher), or set init to 'fresh'"
            )
