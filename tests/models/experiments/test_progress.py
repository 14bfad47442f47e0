"""How long an experiment will still take, by hand, and the lines that say so."""

from pathlib import Path

import pytest

from mmkd_models.experiments.runs import Progress, Run
from mmkd_models.train_config import TrainingProgress, progress_lines


def planned(stage, number=0, costs=(1.0,)):
    path = Path(stage) / str(number)
    return Run(title=f"{stage} {number}", path=path, costs=costs, is_done=path.exists, make=lambda on_step: None)


class Clock:
    """Seconds that pass when told so."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


def at(step, steps):
    return TrainingProgress(step=step, steps=steps, terms={"task": 0.5}, best_score=None)


def test_what_is_left_takes_as_long_for_its_cost_as_what_this_command_did():
    clock = Clock()
    progress = Progress(clock=clock)
    first, second, student = planned("teacher"), planned("teacher", 1), planned("student", costs=(0.5,))
    progress.expect([[first, second], [student]])
    assert progress.left_s() is None  # nothing was measured yet
    progress.on_step(first, at(0, 100))
    clock.now_s += 24
    progress.on_step(first, at(25, 100))  # a quarter in 24 s
    assert progress.left_s() == pytest.approx(4 * 24 * (0.75 + 1 + 0.5))
    clock.now_s += 26
    progress.on_end(first)
    assert progress.left_s() == pytest.approx(50 * 1.5)
    clock = Clock()
    progress = Progress(clock=clock)
    run = planned("teacher", costs=(1.0, 1.0))
    progress.expect([[run]])
    progress.on_step(run, at(100, 100))  # the first of two trainings was there
    clock.now_s += 20
    progress.on_step(run, at(50, 100))
    assert progress.left_s() == pytest.approx(20)


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys):
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
