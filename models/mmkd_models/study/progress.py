"""How far a study is: read from its folder, so that it counts the work of every process and host."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np

from mmkd_models.trials.by_validation import baseline_candidates
from mmkd_models.trials.folder import StudyFolder
from mmkd_models.trials.space import Trial, candidates, teacher_name, trial_name
from mmkd_models.trials.students import TRIAL_FILE, TrialResult
from mmkd_models.trials.teachers import TEACHER_FILE, TeacherResult
from mmkd_models.trials.worker import WorkOrder
from mmkd_report.schema.study import NONE

_EVERY_S = 1.0
_PLAIN_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a study stands.

    Attributes:
        done: trials that have ended, and teachers that are finished.
        expected: how many there will be; of a search, at most.
        best_score: the highest validation score of a finished trial; None before the first.
        seconds_left: a guess from the trainings so far; None before the first.
    """

    done: int
    expected: int
    best_score: float | None
    best: str
    seconds_left: float | None


class StudyWatch:
    """Reads the folder about once a second, and tells how far the study is."""

    def __init__(self, folder: StudyFolder, order: WorkOrder, tell: Callable[[Snapshot], None] | None) -> None:
        self._folder, self._order, self._tell = folder, order, tell
        self._trials: dict[str, TrialResult] = {}
        self._teachers: dict[str, TeacherResult] = {}
        self._next = 0.0
        self._mine = _names(folder, order)

    def __call__(self) -> None:
        """Tells how far the study is, if that was not done a moment ago."""
        now = time.monotonic()
        if self._tell is not None and now >= self._next:
            self._next = now + _EVERY_S
            self.last()

    def last(self) -> None:
        """Tells how far the study is."""
        if self._tell is not None:
            self._tell(self._snapshot())

    def _snapshot(self) -> Snapshot:
        self._read()
        done, expected = len(self._trials) + len(self._teachers), _expected(self._order)
        scores = [
            (one.score, one) for one in self._trials.values() if one.state == "finished" and one.score is not None
        ]
        best = max(scores, key=lambda pair: pair[0], default=None)
        return Snapshot(
            done=done,
            expected=max(done, expected),
            best_score=None if best is None else best[0],
            best="" if best is None else _words(best[1]),
            seconds_left=self._seconds_left(expected - done),
        )

    def _read(self) -> None:
        """Reads the results that were not there before; one that is just being replaced comes the next time."""
        for path in self._folder.out.glob(f"trials/*/{TRIAL_FILE}"):
            if path.parent.name in self._mine and path.parent.name not in self._trials:
                self._trials[path.parent.name] = msgspec.json.decode(path.read_bytes(), type=TrialResult)
        for path in self._folder.out.glob(f"teachers/*/{TEACHER_FILE}"):
            if path.parent.name in self._mine and path.parent.name not in self._teachers:
                self._teachers[path.parent.name] = msgspec.json.decode(path.read_bytes(), type=TeacherResult)

    def _seconds_left(self, left: int) -> float | None:
        seconds = [one.duration_s for one in self._trials.values()]
        seconds += [one.duration_s for one in self._teachers.values()]
        if not seconds:
            return None
        guess = max(0, left) * float(np.mean(seconds)) / self._order.workers
        deadline = self._order.deadline
        return guess if deadline is None else min(guess, max(0.0, deadline - time.time()))


def _names(folder: StudyFolder, order: WorkOrder) -> frozenset[str]:
    """The folders of all that the order may train; others in the study's folder are of earlier orders."""
    seeds = {*order.search_seeds, *order.seeds}
    trials = {
        trial_name(folder.conditions, folder.space, Trial(candidate=candidate, seed=seed))
        for candidate in candidates(order.space, order.impossible)
        for seed in seeds
    }
    members = {member for one in order.space.teachers for member in one.members}
    teachers = {teacher_name(folder.conditions, one, seed) for one in members for seed in seeds}
    return frozenset(trials | teachers)


def _expected(order: WorkOrder) -> int:
    every = candidates(order.space, order.impossible)
    teachers = len({member for one in order.space.teachers for member in one.members})
    if order.grid:
        return len(order.seeds) * (len(every) + teachers)
    distilled = [candidate for candidate in every if candidate.entry.method != NONE]
    entries = order.finalists + min(order.finalists, len(order.space.students))
    tried = min(order.trials, len(distilled)) + len(baseline_candidates(order.space)) + teachers
    return len(order.search_seeds) * tried + len(order.seeds) * (entries + min(teachers, order.finalists))


def _words(result: TrialResult) -> str:
    entry = result.trial.candidate.entry
    return f"{entry.method} {entry.student} seed {result.trial.seed}"


@contextmanager
def study_view() -> Iterator[Callable[[Snapshot], None]]:
    """Gives an observer of a study that writes to stderr: a live bar on a terminal, else a plain line now and then."""
    if sys.stderr.isatty():
        with _live_view() as show:
            yield show
    else:
        yield _plain_view()


@contextmanager
def _live_view() -> Iterator[Callable[[Snapshot], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("study"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("study", total=None, words="")

        def show(snapshot: Snapshot) -> None:
            bar.update(task, completed=snapshot.done, total=snapshot.expected, words=state_in_words(snapshot))

        yield show


def _plain_view() -> Callable[[Snapshot], None]:
    last: list[tuple[float, int]] = []

    def show(snapshot: Snapshot) -> None:
        now = time.monotonic()
        if last and (snapshot.done == last[-1][1] or now - last[-1][0] < _PLAIN_EVERY_S) and not _is_done(snapshot):
            return
        if last and last[-1][1] == snapshot.done:
            return
        last[:] = [(now, snapshot.done)]
        line = f"study: {snapshot.done}/{snapshot.expected} trainings, {state_in_words(snapshot)}"
        sys.stderr.write(line.rstrip(", ") + "\n")
        sys.stderr.flush()

    return show


def _is_done(snapshot: Snapshot) -> bool:
    return snapshot.done >= snapshot.expected


def state_in_words(snapshot: Snapshot) -> str:
    """Gives the best so far and the time left, as far as they are known.

    Example:
        >>> state_in_words(Snapshot(done=3, expected=9, best_score=0.7125, best="logit tiny seed 0", seconds_left=95.0))
        'best valid 0.713 (logit tiny seed 0), about 2 min left'
    """
    parts = [] if snapshot.best_score is None else [f"best valid {snapshot.best_score:.3f} ({snapshot.best})"]
    if snapshot.seconds_left is not None and not _is_done(snapshot):
        parts.append(f"about {duration_in_words(snapshot.seconds_left)} left")
    return ", ".join(parts)


def duration_in_words(seconds: float) -> str:
    """Gives a time as people say it: 42 s, 3 min, 2.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
