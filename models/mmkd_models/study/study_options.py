"""What a study is told, and whether a dataset can have it."""

from __future__ import annotations

import msgspec
import numpy as np

from mmkd_edge.errors import UsageError
from mmkd_models.data.checking.related import refuse_shared_samples
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import check_seeds, fold_count, fold_indices
from mmkd_models.data.labelled import seen_labels
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.metrics.scores import check_metric
from mmkd_models.ray_tasks import Executor
from mmkd_models.trials.sizes import MeasureLatency
from mmkd_models.trials.space import Space, StudyConditions, TeacherChoice, check_space


class StudyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a study is told.

    Attributes:
        grid: train everything on every seed, in place of a search.
        trials: candidates that a search may try, labels alone not counted.
        finalists: entries that a search trains on all seeds that count.
        seeds: seeds (and folds), from 0.
        search_seeds: how many of them the search learns from; they do not count in its table.
        max_latency_ms: of the exported student's median; None for any.
        max_parameters: of the student; None for any.
        budget_hours: after which nothing new is begun; None for any.
        workers: how many trainings at once.
        storage: as `open_storage` takes it; None keeps a journal in the study's folder.
        rivals: what is trained without a network to compare with.
        compared: teachers, of one member each, that are trained for their figures and teach nobody.
        required: methods that must be possible; others that no pair of networks can have are left out.
    """

    conditions: StudyConditions
    space: Space
    grid: bool = False
    trials: int = 40
    finalists: int = 3
    seeds: int = 5
    search_seeds: int = 1
    max_latency_ms: float | None = None
    max_parameters: int | None = None
    budget_hours: float | None = None
    workers: int = 1
    executor: Executor = "local"
    storage: str | None = None
    rivals: tuple[RivalName, ...] = ("extra_trees",)
    compared: tuple[TeacherChoice, ...] = ()
    required: tuple[str, ...] = ()


def seeds_that_count(dataset: Dataset, *, seeds: int, search_seeds: int) -> tuple[int, ...]:
    """Gives the seeds whose test windows a search has not seen: it neither ran on their fold nor validated on them.

    Of a dataset without groups, whose own split is the only fold, it is that fold: a search looks at validation alone.

    Raises:
        UsageError: there is none.
    """
    windows = dataset.everything()
    if fold_count(windows) == 1:
        return (0,)
    searched = [fold_indices(windows, fold=seed, seed=0) for seed in range(search_seeds)]
    seen = np.concatenate([part for fold in searched for part in (fold.valid, fold.test)])
    clean = [
        seed
        for seed in range(search_seeds, seeds)
        if not np.isin(fold_indices(windows, fold=seed, seed=0).test, seen).any()
    ]
    if not clean:
        raise UsageError(
            f"study: expected a seed whose test windows the search did not see, got none of {seeds} after "
            f"{search_seeds}; raise --seeds to {search_seeds + 2} or more, or lower --search-seeds"
        )
    return tuple(clean)


def check_study(dataset: Dataset, options: StudyOptions, measure_latency: MeasureLatency | None) -> None:
    """Raises UsageError where the options make no sense, or this dataset cannot have such a study."""
    check_space(options.space)
    conditions = options.conditions
    for train in (conditions.teacher_train, conditions.student_train):
        check_metric(train.metric, dataset.spec.task.kind)
    dataset.everything().with_modalities((conditions.modality,))  # refuses a name that is unknown
    for teacher in (*options.space.teachers, *options.compared):
        for member in teacher.members:
            dataset.everything().with_modalities(member.modalities)
    for teacher in options.compared:
        if len(teacher.members) > 1:
            raise UsageError(
                f"--compare-teacher {teacher.name}: expected a single teacher, got several; name them apart"
            )
    if options.max_latency_ms is not None and measure_latency is None:
        raise UsageError("max_latency_ms: expected a way to measure latencies, got none; give measure_latency")
    if options.seeds < 1 or options.workers < 1 or options.trials < 1 or options.finalists < 1:
        raise UsageError(
            "study: expected seeds, workers, trials and finalists of 1 or more, got "
            f"{options.seeds}, {options.workers}, {options.trials} and {options.finalists}; correct them"
        )
    windows = dataset.everything()
    check_seeds(windows, options.seeds)
    refuse_shared_samples(windows)
    for seed in range(options.seeds):
        known = windows.subset(fold_indices(windows, fold=seed, seed=0).train)
        seen_labels(known, conditions.labelled, seed=seed)  # refuses what a fold cannot have, before a folder is taken
    if not options.grid and not 1 <= options.search_seeds < options.seeds and fold_count(windows) > 1:
        raise UsageError(
            f"study: expected search seeds from 1 to {options.seeds - 1} of {options.seeds} seeds, got "
            f"{options.search_seeds}; the others are for the table, raise --seeds or lower --search-seeds"
        )
