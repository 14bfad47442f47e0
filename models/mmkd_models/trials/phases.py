"""The phases of a worker, in the same order for every worker of a study.

With a grid: teachers, then every trial. With a search: teachers and labels alone on the search's seeds, then what
Optuna proposes, then the finalists on the seeds that count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmkd_models.trials.by_validation import baseline_candidates, finalist_candidates
from mmkd_models.trials.search import search
from mmkd_models.trials.space import Candidate, candidates
from mmkd_models.trials.worker import TeacherTraining, Tick, Worker, WorkOrder, do_trials, open_worker, share


def work(order: WorkOrder, number: int, *, tick: Tick | None = None) -> None:
    """Works until all is done or the time is used up; changes the folder and the storage.

    Raises:
        UsageError: the folder, the dataset or the storage cannot be used from here.
    """
    with _quiet_search(), _threads(order.conditions.threads):
        worker = open_worker(order, tick=tick)
        if order.grid:
            do_trials(worker, candidates(order.space, order.impossible), order.seeds)
            compare_teachers(worker)
            return
        do_trials(worker, baseline_candidates(order.space), order.search_seeds)
        search(worker, number)
        do_trials(worker, finalists_of(worker), order.seeds)
        compare_teachers(worker)


def compare_teachers(worker: Worker) -> None:
    """Trains the teachers that teach nobody, on the seeds that count."""
    for seed in worker.order.seeds:
        share(worker, [TeacherTraining(worker, one, seed, figures_alone=True) for one in worker.order.compared])


def finalists_of(worker: Worker) -> tuple[Candidate, ...]:
    """Gives the finalists of a search, as far as it came, and the baselines that they are compared with."""
    order = worker.order
    return finalist_candidates(
        worker.folder, impossible=order.impossible, seeds=order.search_seeds, most=order.finalists
    )


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
