"""Students with random weights: weights change neither the size of a student nor its time."""

from __future__ import annotations

import numpy as np
import torch

from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.carried import CarriedWindows
from mmkd_models.defaults import AUGMENT
from mmkd_models.networks.config import StudentConfig
from mmkd_models.networks.student import Student
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint

FACTS = Provenance(
    dataset="none",
    dataset_sha256="0" * 64,
    licence="none",
    metric="accuracy",
    score=0.0,
    best_step=0,
    training=TrainConfig(),
    augment=AUGMENT,
)


def untrained(modality: ModalitySpec, task: TaskSpec, config: StudentConfig, *, carried: int = 0) -> StudentCheckpoint:
    """A checkpoint of a student that learnt nothing, with this many windows of noise to export it by."""
    torch.manual_seed(0)
    noise = np.random.default_rng(1).normal(size=(carried, *modality.shape)).astype(np.float32)
    if modality.kind == "video":
        noise = np.clip(127 + 40 * noise, 0, 255).astype(np.uint8)
    windows = CarriedWindows(windows=noise, labels=np.arange(carried) % len(task.labels))
    state = Student(modality, len(task.labels), config).state_dict()
    return StudentCheckpoint(
        modality=modality, task=task, config=config, facts=FACTS, state=state, carried=windows if carried else None
    )
