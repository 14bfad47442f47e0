"""The training data's statistics in the front-ends of a network."""

from __future__ import annotations

from typing import cast

import torch

from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.data.batches import channel_movement, channel_statistics, spread_rows
from mmkd_models.data.windows import Windows
from mmkd_models.losses.term import target_scale
from mmkd_models.networks.encoder import Encoder, Front, FrontEnd
from mmkd_models.networks.fronts.causal.frames import CausalFrames
from mmkd_models.networks.fronts.causal.series import CausalFront
from mmkd_models.networks.fronts.causal.sound import CausalSound
from mmkd_models.networks.fronts.log_mel import LogMelFront
from mmkd_models.networks.student import HybridStudent, Student
from mmkd_models.networks.teacher import Teacher

_CHUNK = 64
_LEAST_SPREAD = 1e-3
"""Of a log-mel, in nats."""


def set_normalisation(network: Student | HybridStudent | Teacher, windows: Windows) -> None:
    """Copy mean and standard deviation of the training data into the front-ends, so that they travel in the graph.

    Those of a regression's target go to its end, over the labelled windows.

    Raises:
        ValueError: the network is a student and the windows have more than its one modality.
        UsageError: the target has fewer than two different values in the labelled windows.
    """
    if network.answer.kind == "regression":
        for buffer, value in zip((network.answer.mean, network.answer.std), target_scale(windows), strict=True):
            buffer.fill_(value)
    for name, front in _fronts(network, windows).items():
        mean, std = channel_statistics(windows, name)
        front.mean.copy_(torch.from_numpy(mean))
        front.std.copy_(torch.from_numpy(std))
        if isinstance(front, FrontEnd) and front.has_movement:
            front.movement.copy_(torch.from_numpy(channel_movement(windows, name)))
        if isinstance(front, LogMelFront | CausalSound):
            set_mel_statistics(front, windows, name)


@torch.no_grad()
def set_mel_statistics(front: LogMelFront | CausalSound, windows: Windows, name: str) -> None:
    """Copy mean and standard deviation of each log-mel over the training's frames into a front-end."""
    spec = windows.spec.modality(name)
    one, rows = windows.with_modalities((name,)), spread_rows(windows, name)
    total = torch.zeros(3, *front.mel_mean.shape, dtype=torch.float64)
    for start in range(0, len(rows), _CHUNK):
        prepared = prepare_batch(one.take(rows[start : start + _CHUNK])[name], spec)
        mels, there = front.log_mels(*(torch.from_numpy(part) for part in prepared))
        mels, there = mels.double(), there.double()[..., None]
        for place, power in enumerate((there.expand_as(mels), mels * there, mels * mels * there)):
            total[place] += power.sum((0, 2))
    count = total[0].clamp(min=1.0)
    mean = total[1] / count
    spread = (total[2] / count - mean * mean).clamp(min=_LEAST_SPREAD**2).sqrt()
    front.mel_mean.copy_(mean)
    front.mel_std.copy_(torch.where(total[0] > 0, spread, 1.0))


def _fronts(
    network: Student | HybridStudent | Teacher, windows: Windows
) -> dict[str, Front | CausalFront | CausalSound | CausalFrames]:
    if isinstance(network, Teacher):
        return {name: cast("Encoder", network.encoders[name]).front for name in network.names}
    names = [modality.name for modality in windows.spec.modalities]
    if len(names) != 1:
        raise ValueError(f"student: expected windows of one modality, got {names}; choose with with_modalities")
    return {names[0]: network.encoder.front}
