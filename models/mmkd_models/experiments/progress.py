"""Progress of an experiment with the time left: a bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mmkd_models.experiments.runs import Run
from mmkd_models.train_config import TrainingProgress, terms_in_words

_PLAIN_EVERY_S = 10.0

Show = Callable[[str, float, float | None, bool], None]
"""Gets a line, the seconds so far, the seconds left if they are known, and whether the line ends something."""


@dataclass
class Progress:
    """Follows runs by their costs; `afterwards_s` is needed after the last run."""

    show: Show = lambda line, so_far_s, left_s, is_end: None
    afterwards_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _began_s: float | None = None
    _left: float = 0.0
    _worked: float = 0.0
    _done: dict[Path, tuple[int, float]] = field(default_factory=dict)

    def expect(self, phases: Sequence[Sequence[Run]]) -> None:
        """Set the runs that are still to be made."""
        self._began_s = self.clock() if self._began_s is None else self._began_s
        self._left = sum(sum(run.costs) for phase in phases for run in phase if not run.is_done())

    def on_step(self, run: Run, progress: TrainingProgress) -> None:
        """Show the step of a run. Steps before its first report are not this command's work."""
        trainings, is_end = self._done.get(run.path, (0, 0.0))[0], progress.step == progress.steps
        training = run.costs[min(trainings, len(run.costs) - 1)]
        cost = min(sum(run.costs), sum(run.costs[:trainings]) + training * progress.step / progress.steps)
        self._advance(run, trainings + is_end, cost, is_work=run.path in self._done)
        self._show(f"{run.title}: step {progress.step}/{progress.steps} {terms_in_words(progress)}".rstrip(), is_end)

    def on_end(self, run: Run) -> None:
        """Count a run as made, and show it if it reported no steps."""
        is_silent = run.path not in self._done
        self._advance(run, len(run.costs), sum(run.costs), is_work=True)
        if is_silent:
            self._show(f"{run.title}: done", True)

    def left_s(self) -> float | None:
        """Return the seconds left at the pace so far; None before anything was made."""
        if self._began_s is None or not self._worked:
            return None
        return max(0.0, self._left) * (self.clock() - self._began_s) / self._worked + self.afterwards_s

    def _advance(self, run: Run, trainings: int, cost: float, *, is_work: bool) -> None:
        more = cost - self._done.get(run.path, (0, 0.0))[1]
        self._left -= more
        self._worked += more * is_work
        self._done[run.path] = trainings, cost

    def _show(self, line: str, is_end: bool) -> None:
        began = self.clock() if self._began_s is None else self._began_s
        self.show(line, self.clock() - began, self.left_s(), is_end)


@contextmanager
def progress_lines() -> Iterator[Show]:
    """Yield a function that shows lines on stderr."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = BarColumn(bar_width=24), TextColumn("{task.fields[left]}"), TextColumn("{task.description}")
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0, left="")

        def show(line: str, so_far_s: float, left_s: float | None, is_end: bool) -> None:
            done = 0.0 if left_s is None else so_far_s / max(so_far_s + left_s, 1e-9)
            bar.update(task, completed=done, description=line, left=_left(left_s))

        yield show


def _plain_lines() -> Show:
    last: dict[str, float] = {}

    def show(line: str, so_far_s: float, left_s: float | None, is_end: bool) -> None:
        title = line.split(": step")[0]
        if is_end or so_far_s - last.setdefault(title, so_far_s) >= _PLAIN_EVERY_S:
            last[title] = so_far_s
            left = f"; {_left(left_s)}" if left_s else ""
            sys.stderr.write(f"{line}{left}\n")
            sys.stderr.flush()

    return show


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"about {duration_in_words(seconds)} left"


def duration_in_words(seconds: float) -> str:
    """Return a time as people say it.

    Example:
        >>> [duration_in_words(seconds) for seconds in (42, 200, 9000)]
        ['42 s', '3 min', '2.5 h']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
