"""What a demo says while it trains: how far its parts are, and how long all of it will still take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mmkd_export.demo.time_left import PartTime, seconds_left
from mmkd_models.compare.comparison import Part
from mmkd_models.compare.one_fold import ComparisonProgress
from mmkd_models.distillation.answers import BLOCKS
from mmkd_models.study.progress import duration_in_words
from mmkd_models.training.choosing.race import mixings
from mmkd_models.training.progress import terms_in_words

_PLAIN_EVERY_S = 10.0
_GENERATIONS = (0.43, 0.57)
"""Of a teacher's time: the second generation also asks the first. Measured as `STAGE_COSTS`."""

Clock = Callable[[], float]
Tell = Callable[[str, float, float | None, bool], None]
"""Gets a line, the seconds so far, the seconds left where they are known, and whether the line ends something."""


class PartProgress:
    """How far one part is: the share that is done, and what of it was done since it was begun here."""

    def __init__(self, part: Part, began_s: float) -> None:
        self.part, self._began_s = part, began_s
        self._shares = _shares_of(part)
        self._over = 0
        self._first: float | None = None
        self._done = 0.0

    def hear(self, step: ComparisonProgress) -> None:
        """Takes in where the part stands."""
        if step.progress is None:
            return
        progress = step.progress
        over = sum(self._shares[: self._over])
        now = self._shares[min(self._over, len(self._shares) - 1)]
        done = min(1.0, over + now * progress.step / progress.steps)
        if self._first is None:  # it was begun a step ago or goes on from an earlier run: the pace counts from here
            self._first = done
        self._done = max(self._done, done)
        if progress.step == progress.steps:
            self._over += 1

    def time(self, now_s: float, *, is_made: bool = False) -> PartTime:
        """Gives its time so far."""
        done = 1.0 if is_made else self._done
        return PartTime(
            stage=self.part.stage,
            cost=_cost_of(self.part),
            done=done,
            measured=done - (self._first or 0.0),
            elapsed_s=now_s - self._began_s,
        )


class PhaseProgress:
    """Follows the parts of all phases."""

    def __init__(
        self,
        phases: Sequence[Sequence[Part]],
        *,
        workers: int,
        afterwards_s: float,
        tell: Tell,
        clock: Clock = time.monotonic,
    ) -> None:
        self._phases, self._workers, self._afterwards_s = phases, workers, afterwards_s
        self._tell, self._clock, self._began_s = tell, clock, clock()
        self._begun: dict[tuple[int, int], PartProgress] = {}
        self._made: dict[tuple[int, int], PartTime] = {}

    def on_step(self, phase: int, number: int, step: ComparisonProgress) -> None:
        """Takes in where a part stands, and shows it."""
        follower = self._follower(phase, number)
        follower.hear(step)
        line, progress = title_of(follower.part), step.progress
        if progress is not None:
            line += f": step {progress.step}/{progress.steps} {terms_in_words(progress)}".rstrip()
        now = self._clock()
        self._tell(line, now - self._began_s, self.left_s(), progress is None or progress.step == progress.steps)

    def on_end(self, phase: int, number: int) -> None:
        """Takes in that a part is made."""
        self._made[phase, number] = self._follower(phase, number).time(self._clock(), is_made=True)

    def left_s(self) -> float | None:
        """Gives the seconds until everything is over; None before anything was measured."""
        now = self._clock()
        found = [
            [self._time(phase, number, part, now) for number, part in enumerate(parts)]
            for phase, parts in enumerate(self._phases)
        ]
        left = seconds_left(found, workers=self._workers)
        return None if left is None else left + self._afterwards_s

    def _follower(self, phase: int, number: int) -> PartProgress:
        if (phase, number) not in self._begun:
            self._begun[phase, number] = PartProgress(self._phases[phase][number], self._clock())
        return self._begun[phase, number]

    def _time(self, phase: int, number: int, part: Part, now: float) -> PartTime:
        if (phase, number) in self._made:
            return self._made[phase, number]
        if (phase, number) in self._begun:
            return self._begun[phase, number].time(now)
        return PartTime(stage=part.stage, cost=_cost_of(part))


def title_of(part: Part) -> str:
    """Gives what a part is called: its seed, its stage and its modality."""
    title = f"seed {part.seed} {part.stage} {part.modality or ''}".rstrip()
    return title if part.block is None else f"{title} {part.block + 1}/{BLOCKS}"


def _shares_of(part: Part) -> tuple[float, ...]:
    """What each of a part's trainings takes of its time."""
    if part.stage == "teacher":
        trainings = _of_teacher(part)
        return tuple(one / sum(trainings) for one in trainings)
    count = 1
    if part.config.choose and part.stage in ("baseline", "student", "answers"):
        count = len(mixings(part.config.augment))
    elif part.stage == "baseline":
        count = len(part.config.baseline_learning_rates)
    return (1 / max(count, 1),) * max(count, 1)


def _of_teacher(part: Part) -> tuple[float, ...]:
    """The generations of every transformer of a committee, one transformer after the other."""
    has_second = part.config.self_training and not part.config.labelled.is_all
    return (_GENERATIONS if has_second else _GENERATIONS[:1]) * part.config.members.count("transformer")


def _cost_of(part: Part) -> float:
    if part.stage == "teacher":
        return sum(_of_teacher(part))
    return 1.0 if part.block is None else 1 / BLOCKS


@contextmanager
def shown() -> Iterator[Tell]:
    """Gives what shows lines on stderr: a bar on a terminal, else a plain line of everything every few seconds."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = BarColumn(bar_width=24), TextColumn("{task.fields[left]}"), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0, left="")

        def show(line: str, so_far_s: float, left_s: float | None, is_end: bool) -> None:
            share = 0.0 if left_s is None else so_far_s / max(so_far_s + left_s, 1e-9)
            bar.update(task, completed=share, description=line, left=_left(left_s))

        yield show


def _plain_lines() -> Tell:
    last: dict[str, float] = {}

    def show(line: str, so_far_s: float, left_s: float | None, is_end: bool) -> None:
        title = line.split(":")[0]
        if is_end or so_far_s - last.setdefault(title, so_far_s) >= _PLAIN_EVERY_S:
            last[title] = so_far_s
            left = "" if left_s is None or ":" not in line else f"; {_left(left_s)}"
            sys.stderr.write(f"{line}{left}\n")
            sys.stderr.flush()

    return show


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"about {duration_in_words(seconds)} left"
