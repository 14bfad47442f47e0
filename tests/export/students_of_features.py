"""Students whose graph has convolutional features, with random heads: nothing is trained."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import torch

from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.networks.rocket import fit_rocket, prune_rocket
from mmkd_models.networks.student import Student
from mmkd_models.training.checkpoint import StudentCheckpoint


def of_features(start: StudentCheckpoint, kind: str) -> StudentCheckpoint:
    """As this one, but of that kind: features of its carried windows, half of them pruned."""
    assert start.carried is not None
    values, present = prepare_batch(start.carried.windows, start.modality)
    scale = (values.mean((0, 1)), values.std((0, 1)))
    features = fit_rocket(start.modality, values, present, scale=scale, seed=0, features=168)
    features = prune_rocket(features, start.modality, np.arange(0, 168, 2))
    config = msgspec.structs.replace(start.config, kind=kind, rocket=features.config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Student(start.modality, len(start.task.labels), config).state_dict()
    state |= {f"rocket.{name}": value for name, value in features.state_dict().items()}
    return replace(start, config=config, state=state)
