"""What a tiny training computes: restructuring changes none of it."""

from __future__ import annotations

import pytest

from mmkd_models.data import Dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.distillation.recipe import Recipe, term_from_text
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import TeacherFile
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.trainings import distil, train_teacher

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8)
TERMS = ("task", "dist", "edam", "relation,heads=2", "feature", "crd,width=4")


def test_a_teacher_and_its_student_learn_what_they_always_did(machines: Dataset) -> None:
    data = TrainingData(train=machines.split("train"), valid=machines.split("valid"), sha256=machines.sha256)
    run = TrainingRun(train=TrainConfig(steps=3, batch=8, eval_every=3, seed=1), augment=AugmentConfig())
    teacher = train_teacher(data, TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1), run)
    recipe = Recipe(terms=tuple(map(term_from_text, TERMS)))
    teachers = [TeacherFile(checkpoint=teacher, sha256="ab" * 32)]
    config = StudentConfig(preset="test", encoder=ENCODER)
    student = distil(data, "acc", config, run, teachers=teachers, recipe=recipe)
    found = {"teacher": teacher.facts.curve[-1].train_loss, **student.facts.curve[-1].terms}
    # Measured on x86 with torch 2; other processors round otherwise.
    assert found == pytest.approx(
        {
            "teacher": 1.12251,
            "task": 1.07009,
            "dist": 2.82050,
            "edam": 0.0326460,
            "relation": 0.0672046,
            "feature": 1.46554,
            "crd": 8.28348,
        },
        rel=1e-3,
    )
