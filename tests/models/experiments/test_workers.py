"""Workers: errors of jobs come through, dead processes are reported, a run has one owner, and progress is shown."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mmkd_app.cli.progress import progress_lines
from mmkd_edge.errors import CheckpointError, MmkdError, UnavailableError, UsageError
from mmkd_models.data import open_dataset
from mmkd_models.experiments.experiment import Experiment
from mmkd_models.experiments.folder import claim
from mmkd_models.experiments.runs import Progress, Run, make_claimed, make_runs
from mmkd_models.experiments.workers import Workers
from mmkd_models.train_config import TrainingProgress
from tests.edge.ended import has_ended
from tests.edge.said import said

HOLD = """
import sys, time
from pathlib import Path
from mmkd_models.experiments.folder import claim
with claim(Path(sys.argv[1])) as is_ours:
    print(is_ours, flush=True)
    time.sleep(60)
"""

WORK = """
import multiprocessing, operator, time
from mmkd_models.experiments.workers import Workers

def jobs():
    yield 1
    (process,) = multiprocessing.active_children()
    print(process.pid, flush=True)
    time.sleep(60)

with Workers(2) as workers:
    workers.run(operator.is_, jobs())
"""


@pytest.fixture
def student(machines, comparison, tmp_path):
    """A student whose teacher is a damaged file."""
    experiment = Experiment(dataset=machines, plan=comparison(), out=tmp_path)
    run = next(run for run in experiment.phases()[0] if " teacher " in run.title)
    run.path.mkdir(parents=True)
    (run.path / "teacher.ckpt").write_text("{")
    return experiment.phases()[1][0]


def test_the_error_of_a_job_in_another_process_is_raised_here_and_ends_the_processes(student):
    messages = []
    for count in (1, 2):
        with pytest.raises(CheckpointError) as caught, Workers(count) as workers:
            workers.run(make_claimed, [student])
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "teacher.ckpt: expected a " in messages[0]
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_reported(student):
    def kill():
        for process in multiprocessing.active_children():
            process.kill()

    def jobs():
        killer.start()
        yield student

    killer = threading.Timer(0.3, kill)  # while it still imports
    with pytest.raises(MmkdError) as caught, Workers(2) as workers:
        workers.run(make_claimed, jobs())
    killer.join()
    assert str(caught.value) == (
        "workers: expected processes that end their work, one died; the same command continues; where "
        "memory is short give --workers 1"
    )
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_worker_ends_with_the_process_that_started_it(number):
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        worker = process.stdout.readline()
        process.send_signal(number)
    assert has_ended(worker)


def test_without_ray_the_extra_is_named(student, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError) as caught, Workers(2, executor="ray") as workers:
        workers.run(make_claimed, [student])
    assert str(caught.value) == "--executor ray needs ray, which this Python lacks; run: pip install 'mmkd-edge[ray]'"
    assert caught.value.exit_code == 3


def test_jobs_are_taken_one_by_one_in_their_order():
    taken, made = list[int](), list[int]()

    def jobs():
        for number in range(3):
            assert made == taken  # the next one is asked for when the last one is made
            taken.append(number)
            yield number

    with Workers(1) as workers:
        workers.run(lambda job, on_step: made.append(job), jobs())
    assert made == [0, 1, 2]


def test_a_claim_has_one_owner_until_its_work_ends_or_fails(tmp_path):
    with claim(tmp_path / "run") as first:
        assert first
        with claim(tmp_path / "run") as second, claim(tmp_path / "other") as other:
            assert (second, other) == (False, True)
    with pytest.raises(ZeroDivisionError), claim(tmp_path / "run"):
        _ = 1 / 0
    with pytest.raises(BlockingIOError), claim(tmp_path / "run"):
        raise BlockingIOError  # the body's own, as of a full pipe
    with claim(tmp_path / "run") as again:
        assert again


def test_a_killed_process_loses_its_claim(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        with claim(tmp_path) as is_ours:
            assert not is_ours
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with claim(tmp_path) as is_ours:
            assert is_ours


def test_a_run_that_another_command_makes_is_waited_for(student, tmp_path, monkeypatch):
    result = tmp_path / "result"
    monkeypatch.setattr("mmkd_models.experiments.runs.time.sleep", lambda seconds: result.touch())  # made elsewhere
    with claim(student.path), Workers(1) as workers:
        make_runs(workers, [replace(student, is_done=result.exists)])
    assert result.exists()
    assert [path.name for path in student.path.iterdir()] == ["lock"]


def test_a_host_with_other_data_is_refused(machines):
    make, (path, sha256) = machines.__reduce__()
    assert make(path, sha256).sha256 == sha256
    assert said(UsageError, make, path, "ab" * 32) == (
        f"{path}: expected dataset abababababab, got {open_dataset(path).sha256[:12]}; use the same files on every host"
    )


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
