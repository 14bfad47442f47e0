"""Distil a teacher of your own into a student of your own: any `nn.Module` that answers as ours do, no library edited.

Run it with `python examples/own_networks.py`; it needs `mmkd-edge[train]`.
"""

from functools import partial

import torch
from torch import Tensor, nn

from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.data.batches import BatchSource
from mmkd_models.defaults import AUGMENT
from mmkd_models.distillation.learner import DistillLearner, SupervisedLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.term import constant
from mmkd_models.networks.student import StudentOutput
from mmkd_models.networks.teacher import TeacherOutput
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.loop import fit
from mmkd_models.training.predict import scores_of


class _Student(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(6, width, 9, 4), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten())
        self.head = nn.Linear(width, 7)

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> StudentOutput:
        embedding = self.body(torch.cat([values, present], dim=-1).transpose(1, 2))  # (B, T, C) twice -> (B, D)
        return StudentOutput(logits=self.head(embedding), embedding=embedding)


class _Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.acc, self.gyro = _Student(width=48), _Student(width=48)

    def forward(self, inputs: dict[str, tuple[Tensor, Tensor]], *, taps: bool = False) -> TeacherOutput:
        both = self.acc(*inputs["acc"]), self.gyro(*inputs["gyro"])
        embedding = torch.cat([each.embedding for each in both], dim=-1)
        return TeacherOutput(logits=both[0].logits + both[1].logits, embedding=embedding)


torch.manual_seed(0)
dataset = open_dataset(shipped_dataset("watch_exercises"))
batch_at = BatchSource(dataset.split("train"), AUGMENT, batch=32, labelled_fraction=0.0, seed=0).at
config, judge = TrainConfig(steps=60, eval_every=30), partial(scores_of, windows=dataset.split("valid"))

teacher = _Teacher()
taught = fit(SupervisedLearner(teacher, modality=None), batch_at, evaluate=partial(judge, modality=None), config=config)
teacher.load_state_dict(taught.state)
recipe = Recipe(terms=(LogitTerm(weight=constant(1.0)), CrdTerm(weight=constant(0.1), width=16)))
learner = DistillLearner(_Student(width=16), teacher, recipe, modality="acc", example=batch_at(0).inputs)
student = fit(learner, batch_at, evaluate=partial(judge, modality="acc"), config=config)
print(f"on validation: teacher {taught.scores.accuracy:.2f}, student of acc alone {student.scores.accuracy:.2f}")
