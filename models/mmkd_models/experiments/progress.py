"""How far an experiment is, and how long it will still take: a bar on a terminal, else a plain line now and then."""

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
class _Tracked:
    """A run that was begun here.

    Attributes:
        resumed: how much of it was done when it was begun; None before its first step.
    """

    run: Run
    began_s: float
    ended_s: float | None = None
    trainings: int = 0
    done: float = 0.0
    resumed: float | None = None

    def hear(self, progress: TrainingProgress) -> None:
        costs = self.run.costs
        before, now = sum(costs[: self.trainings]), costs[min(self.trainings, len(costs) - 1)]
        done = min(1.0, (before + now * progress.step / progress.steps) / sum(costs))
        self.resumed = done if self.resumed is None else self.resumed
        self.done = max(self.done, done)
        self.trainings += progress.step == progress.steps

    @property
    def measured(self) -> float:
        """The cost that was worked off here."""
        return (self.done - (self.resumed or 0.0)) * sum(self.run.costs)


@dataclass
class Progress:
    """Follows runs by their costs, phase by phase.

    Args:
        workers: runs at a time.
        afterwards_s: what follows the last run.
    """

    show: Show = lambda line, so_far_s, left_s, is_end: None
    workers: int = 1
    afterwards_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _waiting: list[list[Run]] = field(default_factory=list)
    _tracked: dict[Path, _Tracked] = field(default_factory=dict)
    _began_s: float | None = None

    def expect(self, phases: Sequence[Sequence[Run]]) -> None:
        """Replace what is still to be made."""
        self._began_s = self.clock() if self._began_s is None else self._began_s
        self._waiting = [[run for run in phase if not run.is_done()] for phase in phases]

    def on_step(self, run: Run, progress: TrainingProgress) -> None:
        """Take in where a run stands, and show it."""
        self._track(run).hear(progress)
        line = f"{run.title}: step {progress.step}/{progress.steps} {terms_in_words(progress)}".rstrip()
        self._tell(line, progress.step == progress.steps)

    def on_end(self, run: Run) -> None:
        """Take in that a run is made, and show it if it reported no steps."""
        tracked = self._track(run)
        tracked.done, tracked.ended_s = 1.0, self.clock()
        if tracked.resumed is None:
            self._tell(f"{run.title}: done", True)

    def left_s(self) -> float | None:
        """The seconds until everything is over; None before anything was measured."""
        if not any(one.measured > 0 for one in self._tracked.values()):
            return None
        active = [
            (1 - one.done) * sum(one.run.costs) * self._pace(one.run.stage, one)
            for one in self._tracked.values()
            if one.ended_s is None
        ]
        phases = [[sum(run.costs) * self._pace(run.stage) for run in phase] for phase in self._waiting if phase]
        joined = [[*active, *(phases[0] if phases else [])], *phases[1:]]
        total = sum(max(sum(phase) / self.workers, max(phase, default=0.0)) for phase in joined)
        return total + self.afterwards_s

    def _track(self, run: Run) -> _Tracked:
        if run.path not in self._tracked or self._tracked[run.path].ended_s is not None:
            phase = next((one for one in self._waiting if any(other.stage == run.stage for other in one)), None)
            if phase is not None:  # of a search any run of the stage stands for any other
                same = next((other for other in phase if other.path == run.path), None)
                phase.remove(same or next(other for other in phase if other.stage == run.stage))
            self._tracked[run.path] = _Tracked(run=run, began_s=self.clock())
        return self._tracked[run.path]

    def _pace(self, stage: str, own: _Tracked | None = None) -> float:
        """Seconds per cost: of the run itself, else of its stage, else of all."""
        measured = [one for one in self._tracked.values() if one.measured > 0]
        alike = [one for one in measured if one is own] or [one for one in measured if one.run.stage == stage]
        now = self.clock()
        seconds = sum((one.ended_s or now) - one.began_s for one in alike or measured)
        return seconds / sum(one.measured for one in alike or measured)

    def _tell(self, line: str, is_end: bool) -> None:
        began = self.clock() if self._began_s is None else self._began_s
        self.show(line, self.clock() - began, self.left_s(), is_end)


@contextmanager
def progress_lines() -> Iterator[Show]:
    """Yield what shows lines on stderr: a bar on a terminal, else plain lines."""
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
    """A time as people say it.

    Example:
        >>> [duration_in_words(seconds) for seconds in (42, 200, 9000)]
        ['42 s', '3 min', '2.5 h']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
