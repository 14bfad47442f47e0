"""What the encoder of a sensor that comes learns before any label, and what stands still."""

from __future__ import annotations

import msgspec
import torch

from mmkd_models.data import Dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.networks.config import EncoderConfig, TeacherConfig
from mmkd_models.networks.teacher import Teacher
from proofs.new_encoder import EncoderFound, SeeingLearner, _table

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8, dropout=0.0)


def test_a_new_encoder_learns_where_the_others_embed_a_window_and_no_label_is_read(machines: Dataset) -> None:
    torch.manual_seed(0)
    teacher = Teacher(machines.spec.modalities, 3, TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1))
    learner = SeeingLearner(teacher, "gyro")
    batch = BatchSource(machines.split("train"), AugmentConfig(mixup=0.0), batch=8, labelled_share=0.0, seed=0).at(0)
    blind = msgspec.structs.replace(batch, targets=batch.targets * 0, labelled=batch.labelled * 0)
    first, again = (learner(one, 0.0)["loss"] for one in (batch, blind))
    assert torch.equal(first, again)
    first.backward()
    moved = {name.split(".")[1] for name, value in teacher.named_parameters() if value.grad is not None}
    assert moved == {"gyro"}
    optimiser = torch.optim.Adam(teacher.parameters(), lr=1e-2)
    for _ in range(10):
        optimiser.zero_grad()
        learner(batch, 0.0)["loss"].backward()
        optimiser.step()
    assert learner(batch, 0.0)["loss"] < first


def test_a_row_for_each_way() -> None:
    scores = {"fresh": (0.9, 0.8, 0.7), "old sensors": (1.0, 0.5, 0.25)}
    lines = _table([EncoderFound(dataset="d", added="gyro", labels=0, steps=150, scores=scores)])
    assert lines[1:] == [
        "| d gyro | all | 150 | fresh | 90.0 | 80.0 | 70.0 |",
        "| d gyro | all | 150 | old sensors | 100.0 | 50.0 | 25.0 |",
    ]
