"""One worker of a study: what it is told, what it has at hand, and the trainings that it shares with the others.

Any number of workers, in any processes or hosts that share the folder and the storage, do the work once between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import open_dataset
from mmkd_models.train_config import TrainingProgress
from mmkd_models.trials.claims import Claims, open_storage
from mmkd_models.trials.folder import StudyFolder
from mmkd_models.trials.space import Candidate, Entry, Space, StudyConditions, TeacherChoice, Trial
from mmkd_models.trials.students import TRIAL_FILE, TrialResult, run_trial, trial_result
from mmkd_models.trials.teachers import is_here, run_teacher, teacher_result

WAIT_S = 0.5


class WorkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told; it can be pickled.

    Attributes:
        out: the study's folder, which all workers share.
        storage: where claims and the search are kept, as `open_storage` takes it.
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
    conditions: StudyConditions
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


Tick = Callable[[TrainingProgress | None], None]
"""Called after every training step, and now and then while waiting (with None)."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What a worker has at hand: the order, the study's folder, its claims, and whom it tells that it is alive."""

    order: WorkOrder
    folder: StudyFolder
    claims: Claims
    tick: Tick

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return self.order.deadline is not None and time.time() >= self.order.deadline


def open_worker(order: WorkOrder, *, tick: Tick | None = None) -> Worker:
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
    return Worker(order=order, folder=folder, claims=claims, tick=tick or (lambda progress: None))


def do_trials(worker: Worker, chosen: Sequence[Candidate], seeds: Sequence[int]) -> None:
    """Trains these candidates on these seeds, their teachers first, and waits until others have done their part."""
    for seed in seeds:  # one seed after the other: what is finished early can be compared
        trainings = [TrialTraining(worker, Trial(candidate=candidate, seed=seed)) for candidate in chosen]
        waiting = [training for training in trainings if not training.is_done()]
        names = {training.trial.candidate.entry.teacher for training in waiting}
        share(
            worker, teacher_trainings(worker, [one for one in worker.order.space.teachers if one.name in names], seed)
        )
        share(worker, waiting)


def teacher_trainings(worker: Worker, teachers: Sequence[TeacherChoice], seed: int) -> tuple[TeacherTraining, ...]:
    """Gives the trainings of all members of these teachers, each once."""
    members = dict.fromkeys(member for teacher in teachers for member in teacher.members)
    return tuple(TeacherTraining(worker, member, seed) for member in members)


@dataclass(frozen=True)
class TeacherTraining:
    """A teacher of one member that somebody has to train; of one that teaches nobody the figures are enough."""

    worker: Worker
    teacher: TeacherChoice
    seed: int
    figures_alone: bool = False

    @property
    def key(self) -> str:
        """Gives what a worker claims to do it."""
        return self.worker.folder.of_teacher(self.teacher, self.seed).name

    def is_done(self) -> bool:
        """Whether its result is there."""
        if self.figures_alone:
            return teacher_result(self.worker.folder, self.teacher, self.seed) is not None
        return is_here(self.worker.folder, self.teacher, self.seed)

    def do(self) -> None:
        """Does it."""
        run_teacher(self.worker.folder, self.teacher, self.seed, on_step=self.worker.tick)


@dataclass(frozen=True)
class TrialTraining:
    """A trial that somebody has to train to its end."""

    worker: Worker
    trial: Trial

    @property
    def key(self) -> str:
        """Gives what a worker claims to do it."""
        return self.worker.folder.of_trial(self.trial).name

    def is_done(self) -> bool:
        """Whether its result is there."""
        result = trial_result(self.worker.folder, self.trial)
        # What a search gave up early may still be needed: as a part of a grid it is trained to its end.
        return result is not None and result.state != "pruned"

    def do(self) -> None:
        """Does it."""
        finish_trial(self.worker, self.trial)


def finish_trial(worker: Worker, trial: Trial) -> TrialResult:
    """Trains a trial to its end, one that a search has pruned too."""
    result = trial_result(worker.folder, trial)
    if result is not None and result.state == "pruned":
        (worker.folder.of_trial(trial) / TRIAL_FILE).unlink()
    return run_trial(worker.folder, trial, on_step=worker.tick)


def share(worker: Worker, trainings: Sequence[TeacherTraining] | Sequence[TrialTraining]) -> None:
    """Does the trainings that nobody else does, and returns when all are done or the time is used up."""
    waiting = [training for training in trainings if not training.is_done()]
    while waiting and not worker.is_over:
        taken = False
        for training in waiting:
            if worker.is_over:
                break
            with worker.claims.hold(training.key) as mine:
                if mine and not training.is_done():
                    training.do()
                    taken = True
        waiting = [training for training in waiting if not training.is_done()]
        if waiting and not taken:
            worker.tick(None)
            time.sleep(WAIT_S)
