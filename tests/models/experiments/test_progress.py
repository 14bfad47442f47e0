"""How long an experiment will still take, by hand, and the lines that say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmkd_models.experiments.progress import Progress, progress_lines
from mmkd_models.experiments.runs import Run, Stage
from mmkd_models.train_config import TrainingProgress


def planned(stage: Stage, number: int = 0, costs: tuple[float, ...] = (1.0,)) -> Run:
    path = Path(stage) / str(number)
    return Run(
        stage=stage, title=f"{stage} {number}", path=path, costs=costs, is_done=path.exists, make=lambda on_step: None
    )


class Clock:
    """Seconds that pass when told so."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def at(step: int, steps: int) -> TrainingProgress:
    return TrainingProgress(step=step, steps=steps, terms={"task": 0.5}, best_score=None)


def test_nothing_is_guessed_before_anything_was_measured() -> None:
    progress = Progress()
    progress.expect([[planned("teacher")]])
    assert progress.left_s() is None


def test_a_run_goes_on_at_its_own_pace_and_others_at_that_of_their_stage_else_of_all() -> None:
    clock = Clock()
    progress = Progress(clock=clock, afterwards_s=3)
    first, second, student = planned("teacher"), planned("teacher", 1), planned("student")
    progress.expect([[first, second], [student]])
    progress.on_step(first, at(1, 100))
    clock.now_s += 24
    progress.on_step(first, at(25, 100))  # 24 steps in 24 s: 75 s left of it
    assert progress.left_s() == pytest.approx(75 + 100 + 100 + 3)
    clock.now_s += 26
    progress.on_end(first)  # in 50 s all that came after its first step, 0.99 of its cost
    assert progress.left_s() == pytest.approx(2 * 50 / 0.99 + 3)


def test_workers_share_a_phase_whose_longest_run_is_waited_for() -> None:
    clock = Clock()
    progress = Progress(clock=clock, workers=2)
    teacher = planned("teacher", costs=(2.0,))
    students = [planned("student", number, (0.5,)) for number in range(3)]
    progress.expect([[teacher, planned("baseline", costs=(0.5,))], students])
    progress.on_step(teacher, at(0, 2))
    clock.now_s += 10
    progress.on_step(teacher, at(1, 2))  # 10 s for 1 of its 2
    assert progress.left_s() == pytest.approx(max(10, (10 + 5) / 2) + max(5, 15 / 2))


def test_what_an_earlier_command_did_counts_as_done_and_not_as_fast() -> None:
    clock = Clock()
    progress = Progress(clock=clock)
    run = planned("teacher", costs=(1.0, 1.0))
    progress.expect([[run]])
    progress.on_step(run, at(100, 100))  # the first of two trainings was there
    clock.now_s += 20
    progress.on_step(run, at(50, 100))
    assert progress.left_s() == pytest.approx(20)


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    run, rivals = planned("student"), planned("rivals")
    with progress_lines() as show:
        progress = Progress(show=show, clock=clock)
        progress.expect([[run, rivals]])
        for step in (1, 2, 3, 4):
            progress.on_step(run, at(step, 4))
            clock.now_s += 6
        progress.on_end(run)
        progress.on_end(rivals)
    assert capsys.readouterr().err == (
        "student 0: step 3/4 task 0.500; about 30 s left\n"
        "student 0: step 4/4 task 0.500; about 24 s left\n"
        "rivals 0: done\n"
    )
