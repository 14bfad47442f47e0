"""How a network is trained: settings and the curve they lead to, as they stand in checkpoints.

Data alone, without torch: commands read their defaults from it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mmkd_models.metrics.scores import AnyMetric

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network is trained.

    Attributes:
        steps: optimisation steps.
        batch: windows per step, over all devices.
        learning_rate: peak of the schedule: linear warm-up, then a cosine to 1 % (Loshchilov and Hutter, ICLR 2017).
        weight_decay: of AdamW, on matrices only.
        warmup_share: share of the steps that warm up.
        clip_norm: largest gradient norm.
        ema_decay: of the averaged weights that are validated and kept; 0 keeps the raw weights.
        eval_every: steps between validations.
        patience: validations without a better score than any before, after which training stops; 0 never stops early.
        metric: what validation maximises.
        near_best: of the weights that validate within this many standard errors of the best, the latest are kept; 0
            keeps the best. Validation sets are small, and the best of many noisy scores often is an early, lucky one.
            The one-standard-error rule (Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3),
            with the end of the schedule, where learning rate and moving average are calmest, as the simple choice.
        seed: of everything random.
        precision: Lightning Fabric's name of the arithmetic.
        devices: how many devices (or CPU processes) share a batch.
    """

    steps: int = 400
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.1
    clip_norm: float = 1.0
    ema_decay: float = 0.99
    eval_every: int = 50
    patience: int = 0
    metric: AnyMetric = "balanced_accuracy"
    near_best: float = 1.0
    seed: int = 0
    precision: Precision = "32-true"
    devices: int = 1


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One validation: mean training loss since the last one, and the score."""

    step: int
    train_loss: float
    valid_score: float
    terms: dict[str, float]


class AugmentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How training windows are varied. Every number without a unit is a probability or a share.

    Attributes:
        shift: move windows by up to half a hop where they are cut from recordings.
        mixup: share of batches whose windows are mixed in pairs, with one lambda ~ U(0, 1) per pair over all modalities
            (Zhang et al., "mixup", ICLR 2018; uniform lambda as in function matching, Beyer et al., CVPR 2022).
        noise: standard deviation of added noise, in standard deviations of the channel.
        gain: largest relative change of a window's scale around the channel's mean.
        channel_dropout: probability that a channel of a window is hidden.
        span_dropout: probability that a span of a window, up to half of it, is hidden.
    """

    shift: bool = True
    mixup: float = 0.8
    noise: float = 0.05
    gain: float = 0.1
    channel_dropout: float = 0.05
    span_dropout: float = 0.2
