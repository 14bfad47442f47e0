"""Settings of a training and its curve; without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from mmkd_models.metrics.scores import AnyMetric

TrainingPrecision = Literal["32-true", "bf16-mixed"]


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a training."""

    steps: int = 400
    batch: int = 64  # windows per step, over all devices
    learning_rate: float = 2e-3  # peak of a linear warm-up, then a cosine to 1 % (Loshchilov and Hutter, ICLR 2017)
    ema_decay: float = 0.99  # decay of the averaged weights; 0 uses the raw weights
    eval_every: int = 50  # steps between validations
    patience: int = 0  # validations without a new best before training stops; 0 never stops
    metric: AnyMetric = "balanced_accuracy"
    seed: int = 0
    precision: TrainingPrecision = "32-true"  # Lightning Fabric's name of the arithmetic
    devices: int = 1  # per machine, that share each batch


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """A validation: mean training loss since the last one, and the score."""

    step: int
    train_loss: float
    valid_score: float
    terms: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """The state of a training after a step."""

    step: int
    steps: int
    terms: Mapping[str, float]
    best_score: float | None
    curve: Sequence[Validation] = ()  # so far
    folder: Path | None = None  # of the training's logs


OnStep = Callable[[TrainingProgress], None]


def is_first_process() -> bool:
    """Return whether this process, the first, writes results."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


Show = Callable[[str, float, float | None, bool], None]
"""Takes a line, the seconds so far, the seconds left if they are known, and whether the line ends something."""


def terms_in_words(progress: TrainingProgress) -> str:
    """Format a step's loss terms and the best score, if any."""
    parts = [f"{name} {value:.3f}" for name, value in progress.terms.items()]
    if progress.best_score is not None:
        parts.append(f"best valid {progress.best_score:.3f}")
    return " ".join(parts)
