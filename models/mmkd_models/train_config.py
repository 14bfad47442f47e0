"""Settings of a training, its curve and its progress; without torch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import msgspec

from mmkd_models.metrics.scores import AnyMetric

_PLAIN_EVERY_S = 10.0

TrainingPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a training."""

    steps: int = 400
    batch: int = 64  # windows per step, over all devices
    learning_rate: float = 2e-3  # peak of a linear warm-up, then a cosine to 1 % (Loshchilov and Hutter, ICLR 2017)
    weight_decay: float = 0.05  # of AdamW, on matrices only
    warmup_share: float = 0.1  # fraction of the steps that warm up
    clip_norm: float = 1.0
    ema_decay: float = 0.99  # decay of the averaged weights that are validated and written; 0 uses the raw weights
    eval_every: int = 50  # steps between validations
    patience: int = 0  # validations without a new best score before training stops; 0 never stops
    metric: AnyMetric = "balanced_accuracy"
    # take the latest weights that validate within this many standard errors of the best; 0 takes the best (the
    # one-standard-error rule: Breiman et al., 1984, section 3.4.3)
    near_best: float = 1.0
    seed: int = 0
    precision: TrainingPrecision = "32-true"  # Lightning Fabric's name of the arithmetic
    devices: int = 1  # per machine, that share each batch


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """One validation: mean training loss since the last one, and the score."""

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


OnStep = Callable[[TrainingProgress], None]


def is_first_process() -> bool:
    """Return whether this process writes the results: of several that share each batch, the first."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def training_bar(title: str) -> Iterator[OnStep]:
    """Yield an observer that writes to stderr: a live bar on a terminal, else a line every few seconds."""
    if not sys.stderr.isatty():
        yield _plain_lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    texts = TextColumn("{task.description}"), TextColumn("{task.fields[terms]}")
    columns = (texts[0], BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(), texts[1])
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, terms="")

        def show(progress: TrainingProgress) -> None:
            bar.update(task, completed=progress.step, total=progress.steps, terms=terms_in_words(progress))

        yield show


def _plain_lines(title: str) -> OnStep:
    last = time.monotonic()

    def show(progress: TrainingProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_EVERY_S or progress.step == progress.steps:
            last = now
            sys.stderr.write(f"{title}: step {progress.step}/{progress.steps} {terms_in_words(progress)}\n")
            sys.stderr.flush()

    return show


def terms_in_words(progress: TrainingProgress) -> str:
    """Return the loss terms of a step, and the best score so far if there is one."""
    parts = [f"{name} {value:.3f}" for name, value in progress.terms.items()]
    if progress.best_score is not None:
        parts.append(f"best valid {progress.best_score:.3f}")
    return " ".join(parts)
