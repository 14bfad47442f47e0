"""One worker of a study: takes what nobody else works on, in the same order of phases as every other worker.

With a grid: teachers, then every trial. With a search: teachers and labels alone on the search's seeds, then what
Optuna proposes, then the finalists on the seeds that count. Any number of workers, in any processes or hosts that share
the folder and the storage, do the work once between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import open_dataset
from mmkd_models.train_config import Progress
from mmkd_models.trials.choice import baseline_candidates, finalist_candidates
from mmkd_models.trials.claims import Claims, open_storage
from mmkd_models.trials.folder import StudyFolder
from mmkd_models.trials.plan import Candidate, Conditions, Entry, Space, TeacherChoice, Trial, candidates
from mmkd_models.trials.teachers import is_here, run_teacher, teacher_result
from mmkd_models.trials.trials import TRIAL_FILE, TrialResult, run_trial, trial_result

WAIT_S = 0.5


class WorkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told; it can be pickled.

    Attributes:
        dataset: the dataset's directory.
        out: the study's folder, which all workers share.
        storage: where claims and the search are kept, as `open_storage` takes it.
        conditions: of all trials.
        space: what may be combined.
        impossible: combinations that no training can have.
        grid: do everything; None of the search then.
        trials: candidates that the search may try, labels alone not counted.
        finalists: how many entries are trained on all seeds.
        search_seeds: those the search learns from.
        seeds: those that count.
        deadline: when nothing new is begun, in seconds since the epoch; None for no end.
        workers: how many there are; for the guess how long the finalists take.
        compared: teachers that are trained for their figures and teach nobody.
    """

    dataset: str
    out: str
    storage: str
    conditions: Conditions
    space: Space
    impossible: tuple[Entry, ...]
    grid: bool
    trials: int
    finalists: int
    search_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    deadline: float | None
    workers: int
    compared: tuple[TeacherChoice, ...] = ()


Tick = Callable[[Progress | None], None]
"""Called after every training step, and now and then while waiting (with None)."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a worker has at hand: the order, the study's folder, its claims, and whom it tells that it is alive."""

    order: WorkOrder
    folder: StudyFolder
    claims: Claims
    tick: Tick

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return self.order.deadline is not None and time.time() >= self.order.deadline


def work(order: WorkOrder, number: int, *, tick: Tick | None = None) -> None:
    """Works until all is done or the time is used up; changes the folder and the storage.

    Args:
        order: the same for all workers.
        number: of this worker, from 0.
        tick: see `Tick`.

    Raises:
        UsageError: the folder, the dataset or the storage cannot be used from here.
    """
    with _quiet_search(), _threads(order.conditions.threads):
        bench = open_bench(order, tick=tick)
        if order.grid:
            do_trials(bench, candidates(order.space, order.impossible), order.seeds)
            compare_teachers(bench)
            return
        do_trials(bench, baseline_candidates(order.space), order.search_seeds)
        from mmkd_models.trials.search import search

        search(bench, number)
        do_trials(bench, finalists_of(bench), order.seeds)
        compare_teachers(bench)


def compare_teachers(bench: Bench) -> None:
    """Trains the teachers that teach nobody, on the seeds that count."""
    for seed in bench.order.seeds:
        share(bench, [TeacherJob(bench, one, seed, figures_alone=True) for one in bench.order.compared])


def finalists_of(bench: Bench) -> tuple[Candidate, ...]:
    """Gives the finalists of a search, as far as it came, and the baselines that they are compared with."""
    order = bench.order
    return finalist_candidates(
        bench.folder, impossible=order.impossible, seeds=order.search_seeds, most=order.finalists
    )


def open_bench(order: WorkOrder, *, tick: Tick | None = None) -> Bench:
    """Opens everything that an order names.

    Raises:
        UsageError: the study's folder is not here, or the dataset is another one.
    """
    out = Path(order.out)
    if not out.is_dir():
        raise UsageError(f"study {out}: expected a folder that all workers share, found none here; mount it")
    dataset = open_dataset(order.dataset)
    if dataset.sha256 != order.conditions.dataset_sha256:
        raise UsageError(
            f"study {out}: expected dataset {order.conditions.dataset_sha256[:12]}, got {dataset.sha256[:12]} in "
            f"{order.dataset}; use the same files on every host"
        )
    folder = StudyFolder(out=out, dataset=dataset, conditions=order.conditions, space=order.space)
    scope = f"{order.conditions.modality}-{order.conditions.dataset_sha256[:12]}"
    claims = Claims(open_storage(order.storage), scope)
    return Bench(order=order, folder=folder, claims=claims, tick=tick or (lambda progress: None))


@contextmanager
def _quiet_search() -> Iterator[None]:
    """Keeps Optuna from writing a line for every claim and proposal."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def do_trials(bench: Bench, chosen: Sequence[Candidate], seeds: Sequence[int]) -> None:
    """Trains these candidates on these seeds, their teachers first, and waits until others have done their part."""
    for seed in seeds:  # one seed after the other: what is finished early can be compared
        jobs = [TrialJob(bench, Trial(candidate=candidate, seed=seed)) for candidate in chosen]
        waiting = [job for job in jobs if not job.is_done()]
        names = {job.trial.candidate.entry.teacher for job in waiting}
        share(bench, teacher_jobs(bench, [one for one in bench.order.space.teachers if one.name in names], seed))
        share(bench, waiting)


def teacher_jobs(bench: Bench, teachers: Sequence[TeacherChoice], seed: int) -> tuple[TeacherJob, ...]:
    """Gives the jobs of all members of these teachers, each once."""
    members = dict.fromkeys(member for teacher in teachers for member in teacher.members)
    return tuple(TeacherJob(bench, member, seed) for member in members)


@dataclass(frozen=True)
class TeacherJob:
    """A teacher of one member that somebody has to train; of one that teaches nobody the figures are enough."""

    bench: Bench
    teacher: TeacherChoice
    seed: int
    figures_alone: bool = False

    @property
    def key(self) -> str:
        """Gives what a worker claims to do it."""
        return self.bench.folder.of_teacher(self.teacher, self.seed).name

    def is_done(self) -> bool:
        """Whether its result is there."""
        if self.figures_alone:
            return teacher_result(self.bench.folder, self.teacher, self.seed) is not None
        return is_here(self.bench.folder, self.teacher, self.seed)

    def do(self) -> None:
        """Does it."""
        run_teacher(self.bench.folder, self.teacher, self.seed, on_step=self.bench.tick)


@dataclass(frozen=True)
class TrialJob:
    """A trial that somebody has to train to its end."""

    bench: Bench
    trial: Trial

    @property
    def key(self) -> str:
        """Gives what a worker claims to do it."""
        return self.bench.folder.of_trial(self.trial).name

    def is_done(self) -> bool:
        """Whether its result is there."""
        result = trial_result(self.bench.folder, self.trial)
        # What a search gave up early may still be needed: as a part of a grid it is trained to its end.
        return result is not None and result.state != "pruned"

    def do(self) -> None:
        """Does it."""
        finish_trial(self.bench, self.trial)


def finish_trial(bench: Bench, trial: Trial) -> TrialResult:
    """Trains a trial to its end, one that a search has pruned too."""
    result = trial_result(bench.folder, trial)
    if result is not None and result.state == "pruned":
        (bench.folder.of_trial(trial) / TRIAL_FILE).unlink()
    return run_trial(bench.folder, trial, on_step=bench.tick)


def share(bench: Bench, jobs: Sequence[TeacherJob] | Sequence[TrialJob]) -> None:
    """Does the jobs that nobody else does, and returns when all are done or the time is used up."""
    waiting = [job for job in jobs if not job.is_done()]
    while waiting and not bench.is_over:
        taken = False
        for job in waiting:
            if bench.is_over:
                break
            with bench.claims.hold(job.key) as mine:
                if mine and not job.is_done():
                    job.do()
                    taken = True
        waiting = [job for job in waiting if not job.is_done()]
        if waiting and not taken:
            bench.tick(None)
            time.sleep(WAIT_S)
