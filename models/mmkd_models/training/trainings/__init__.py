"""The trainings, from windows to a checkpoint: a teacher, a baseline on labels alone, a distilled student.

Owns how a training is put together. The commands and the demo call these; neither knows more than they do.
"""

from mmkd_models.training.trainings.distillation import check_teachers, distil, keep_answers
from mmkd_models.training.trainings.from_labels import self_train, train_baseline, train_teacher
from mmkd_models.training.trainings.int8_practice import distil_int8
from mmkd_models.training.trainings.provenance import planned_facts, with_novelty

__all__ = [
    "check_teachers",
    "distil",
    "distil_int8",
    "keep_answers",
    "planned_facts",
    "self_train",
    "train_baseline",
    "train_teacher",
    "with_novelty",
]
