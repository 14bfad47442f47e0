"""Training on a terminal: a live bar with the loss terms, or a plain line every few seconds where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmkd_models.train_config import TrainingProgress

_PLAIN_EVERY_S = 10.0


@contextmanager
def training_bar(title: str) -> Iterator[Callable[[TrainingProgress], None]]:
    """Yield an observer that writes to stderr: a live bar on a terminal, else a line every few seconds."""
    if sys.stderr.isatty():
        with _live_bar(title) as show:
            yield show
    else:
        yield _plain_lines(title)


@contextmanager
def _live_bar(title: str) -> Iterator[Callable[[TrainingProgress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[terms]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, terms="")

        def show(progress: TrainingProgress) -> None:
            bar.update(task, completed=progress.step, total=progress.steps, terms=terms_in_words(progress))

        yield show


def _plain_lines(title: str) -> Callable[[TrainingProgress], None]:
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
