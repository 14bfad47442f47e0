"""What is known of a study before anything is trained: options, limits, sizes with their costs, what is impossible."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import torch

from mmkd_edge.cli.outputs import check_folder
from mmkd_edge.errors import PerformanceError, UsageError
from mmkd_models.carried import carried_windows
from mmkd_models.data.checking.related import refuse_shared_samples
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import check_seeds, fold_count, fold_indices
from mmkd_models.data.labelled import seen_labels
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.distillation.methods import Method
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.experiments.folder import Folder, read_result, write_result
from mmkd_models.experiments.plan import (
    Candidate,
    Conditions,
    Entry,
    Space,
    TeacherChoice,
    check_space,
    entries,
    hash_of,
)
from mmkd_models.experiments.search import finalists
from mmkd_models.experiments.workers import Executor
from mmkd_models.losses.term import Goal
from mmkd_models.metrics.scores import check_metric
from mmkd_models.networks.config import Preset, student_config, teacher_config
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import (
    Provenance,
    StudentCheckpoint,
    TeacherCheckpoint,
    library_versions,
    write_student,
    write_teacher,
)
from mmkd_models.training.fitting import set_normalisation
from mmkd_report.schema.study import NONE, PairLatency, Skipped, StudentSize

MeasureLatency = Callable[[Path, Path], PairLatency]
"""From a student's and a teacher's checkpoint to the latencies of both as they are exported, on this machine."""


class StudyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a study is asked for.

    Attributes:
        grid: train everything on every seed, in place of a search.
        trials: candidates that a search may try, labels only not counted.
        finalists: entries that a search trains on all seeds that count.
        seeds: seeds (and folds), from 0.
        search_seeds: how many of them the search learns from; they do not count in its table.
        max_latency_ms: of the exported student's median.
        max_parameters: of the student.
        budget_hours: after which nothing new is begun.
        workers: trainings at a time.
        rivals: what is trained without a network to compare with.
        compared: teachers, of one member each, that are trained for their figures and teach nobody.
        required: methods that must be possible; others that no pair of networks can have are left out.
    """

    conditions: Conditions
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
    rivals: tuple[RivalName, ...] = ("extra_trees",)
    compared: tuple[TeacherChoice, ...] = ()
    required: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PreparedStudy:
    """What is known before anything is trained.

    Attributes:
        folder: with the sizes and methods that are possible.
        search_seeds: empty for a grid.
        seeds: those that count.
        deadline: in seconds since the epoch.
    """

    options: StudyOptions
    folder: Folder
    sizes: tuple[StudentSize, ...]
    skipped: tuple[Skipped, ...]
    impossible: tuple[Entry, ...]
    search_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    deadline: float | None

    @property
    def table_entries(self) -> tuple[Entry, ...]:
        """The entries of the table: all of a grid, or a search's finalists with their baselines."""
        if self.options.grid:
            return entries(self.folder.space, self.impossible)
        return tuple(candidate.entry for candidate in self.finalists)

    @property
    def finalists(self) -> tuple[Candidate, ...]:
        """What a search has found so far."""
        return finalists(self.folder, self.impossible, self.search_seeds, most=self.options.finalists)


def prepare_study(
    dataset: Dataset, options: StudyOptions, *, out: Path, measure_latency: MeasureLatency | None = None
) -> PreparedStudy:
    """Check options and folder, and find which sizes and methods are possible; arguments and errors as `study`."""
    check_study(dataset, options, measure_latency)
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    folder = Folder(out=out.absolute(), dataset=dataset, conditions=options.conditions, space=options.space)
    sizes = student_sizes(
        folder,
        options.space.students,
        max_latency_ms=options.max_latency_ms,
        max_parameters=options.max_parameters,
        measure_latency=measure_latency,
    )
    kept = tuple(preset for preset, size in zip(options.space.students, sizes, strict=True) if not size.excluded)
    folder = replace(folder, space=msgspec.structs.replace(options.space, students=kept))
    skipped = impossible_entries(folder, required=options.required)
    methods = possible_methods(folder.space, skipped)
    names = [method.name for method in methods]
    return PreparedStudy(
        options=options,
        folder=replace(folder, space=msgspec.structs.replace(folder.space, methods=methods)),
        sizes=sizes,
        skipped=skipped,
        impossible=tuple(
            msgspec.convert({"student": one.student, "method": one.method, "teacher": one.teacher}, Entry)
            for one in skipped
            if one.method in names
        ),
        search_seeds=() if options.grid else tuple(range(options.search_seeds)),
        seeds=tuple(range(options.seeds))
        if options.grid
        else seeds_that_count(dataset, seeds=options.seeds, search_seeds=options.search_seeds),
        deadline=None if options.budget_hours is None else time.time() + 3600 * options.budget_hours,
    )


def seeds_that_count(dataset: Dataset, *, seeds: int, search_seeds: int) -> tuple[int, ...]:
    """The seeds whose test windows a search has not seen: it neither ran on their fold nor validated on them.

    If a dataset has no groups, its own split is the only fold, and a search looks at validation alone.

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
    """Raise UsageError if the options make no sense, or this dataset cannot have such a study."""
    check_space(options.space)
    conditions, windows = options.conditions, dataset.everything()
    for train in (conditions.teacher_train, conditions.student_train):
        check_metric(train.metric, dataset.spec.task.kind)
    windows.with_modalities((conditions.modality,))  # refuses a name that is unknown
    for teacher in (*options.space.teachers, *options.compared):
        for member in teacher.members:
            windows.with_modalities(member.modalities)
    for teacher in options.compared:
        if len(teacher.members) > 1:
            raise UsageError(
                f"--compare-teacher {teacher.name}: expected a single teacher, got several; name them apart"
            )
    if options.max_latency_ms is not None and measure_latency is None:
        raise UsageError("max_latency_ms: expected a way to measure latencies, got none; give measure_latency")
    if min(options.seeds, options.workers, options.trials, options.finalists) < 1:
        raise UsageError(
            "study: expected seeds, workers, trials and finalists of 1 or more, got "
            f"{options.seeds}, {options.workers}, {options.trials} and {options.finalists}; correct them"
        )
    check_seeds(windows, options.seeds)
    refuse_shared_samples(windows)
    for seed in range(options.seeds):
        train_windows = windows.subset(fold_indices(windows, fold=seed, seed=0).train)
        seen_labels(train_windows, conditions.labelled, seed=seed)  # refuses what a fold cannot have
    if not options.grid and not 1 <= options.search_seeds < options.seeds and fold_count(windows) > 1:
        raise UsageError(
            f"study: expected search seeds from 1 to {options.seeds - 1} of {options.seeds} seeds, got "
            f"{options.search_seeds}; the others are for the table, raise --seeds or lower --search-seeds"
        )


def student_sizes(
    folder: Folder,
    presets: Sequence[Preset],
    *,
    max_latency_ms: float | None,
    max_parameters: int | None,
    measure_latency: MeasureLatency | None,
) -> tuple[StudentSize, ...]:
    """Return each size with its costs, and why it is out where it breaks a limit.

    Latencies are measured once, with weights that need no training (they do not change them), and kept in the study's
    folder.

    Raises:
        PerformanceError: no size keeps the limits.
    """
    spec, task = folder.dataset.spec, folder.dataset.spec.task
    sizes = []
    for preset in presets:
        modality = spec.modality(folder.conditions.modality)
        network = Student(modality, len(task.labels), student_config(preset), kind=task.kind)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        too_large = max_parameters is not None and parameters > max_parameters
        latency = None if measure_latency is None or too_large else _latency_of_size(folder, preset, measure_latency)
        excluded = f"{parameters:,} parameters, more than {max_parameters:,}" if too_large else ""
        if latency is not None and max_latency_ms is not None and latency.student_ms["p50"] > max_latency_ms:
            excluded = f"{latency.student_ms['p50']:.3g} ms, more than {max_latency_ms:g} ms"
        sizes.append(
            StudentSize(
                preset=preset,
                parameters=parameters,
                latency=latency,
                excluded=excluded,
            )
        )
    if all(size.excluded for size in sizes):
        reasons = "; ".join(f"{size.preset} has {size.excluded}" for size in sizes)
        raise PerformanceError(
            f"study: expected a student size that keeps the limits, got none: {reasons}; "
            "raise --max-latency-ms or --max-parameters, or add a smaller --student"
        )
    return tuple(sizes)


def impossible_entries(folder: Folder, *, required: Sequence[str]) -> tuple[Skipped, ...]:
    """Return the combinations that no training can have, with the reason that the training itself would give.

    Raises:
        UsageError: a method of these names, or every method, has no teacher and student that can have it.
    """
    spec, task = folder.dataset.spec, folder.dataset.spec.task
    modality = spec.modality(folder.conditions.modality)
    teachers = {choice.name: [_network(folder, one) for one in choice.members] for choice in folder.space.teachers}
    skipped = []
    for entry in entries(folder.space):
        recipe = folder.space.method(entry.method).recipe
        if recipe is None or entry.teacher is None:
            continue
        student = Student(modality, len(task.labels), student_config(entry.student), kind=task.kind)
        teacher, goal = teachers[entry.teacher], Goal(kind=task.kind)
        try:
            DistillLearner(student, teacher, recipe, modality=modality.name, goal=goal)
        except UsageError as error:
            skipped.append(
                Skipped(student=entry.student, method=entry.method, teacher=entry.teacher, reason=str(error))
            )
    _check_required(folder.space, skipped, required)
    return tuple(skipped)


def _network(folder: Folder, member: TeacherChoice) -> Teacher:
    spec = folder.dataset.spec
    modalities = [spec.modality(name) for name in member.modalities]
    return Teacher(modalities, len(spec.task.labels), teacher_config(member.preset), kind=spec.task.kind)


def possible_methods(space: Space, skipped: Sequence[Skipped]) -> tuple[Method, ...]:
    """Return the methods that some teacher and student can have."""
    out = {(one.student, one.method, one.teacher) for one in skipped}
    left = {entry.method for entry in entries(space) if (entry.student, entry.method, entry.teacher) not in out}
    return tuple(method for method in space.methods if method.name in left)


def _check_required(space: Space, skipped: Sequence[Skipped], required: Sequence[str]) -> None:
    left = [method.name for method in possible_methods(space, skipped)]
    names = required or [one.method for one in skipped if left == [NONE]]
    for name in names:
        if name not in left:
            reason = next(one.reason for one in skipped if one.method == name)
            raise UsageError(f"method {name!r}: expected a teacher and a student that can have it: {reason}")


def _latency_of_size(folder: Folder, preset: Preset, measure_latency: MeasureLatency) -> PairLatency:
    key = hash_of([folder.conditions.dataset_sha256, folder.space.teachers[0]])
    path = folder.out / "latency" / f"{folder.conditions.modality}-{preset}-{key}.json"
    latency = read_result(path, PairLatency)
    if latency is None:
        with TemporaryDirectory() as temporary:
            student, teacher = Path(temporary) / "student.ckpt", Path(temporary) / "teacher.ckpt"
            write_student(student, _untrained_student(folder, preset))
            write_teacher(teacher, _untrained_teacher(folder, folder.space.teachers[0]))
            latency = measure_latency(student, teacher)
        write_result(path, latency)
    return latency


def _untrained_student(folder: Folder, preset: Preset) -> StudentCheckpoint:
    spec, name, training = folder.dataset.spec, folder.conditions.modality, folder.fold(0).training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = Student(spec.modality(name), len(spec.task.labels), student_config(preset), kind=spec.task.kind)
    set_normalisation(student, training.train.with_modalities((name,)))
    return StudentCheckpoint(
        modality=spec.modality(name),
        task=spec.task,
        config=student_config(preset),
        facts=_facts(folder),
        state=dict(student.state_dict()),
        carried=carried_windows(training.valid, name, seed=0),
    )


def _untrained_teacher(folder: Folder, choice: TeacherChoice) -> TeacherCheckpoint:
    spec = folder.dataset.spec
    modalities = tuple(spec.modality(name) for name in choice.modalities)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = Teacher(modalities, len(spec.task.labels), teacher_config(choice.preset), kind=spec.task.kind)
    set_normalisation(teacher, folder.fold(0).training.train.with_modalities(choice.modalities))
    return TeacherCheckpoint(
        modalities=modalities,
        task=spec.task,
        config=teacher_config(choice.preset),
        facts=_facts(folder),
        state=dict(teacher.state_dict()),
    )


def _facts(folder: Folder) -> Provenance:
    conditions = folder.conditions
    return Provenance(
        dataset=folder.dataset.spec.name,
        dataset_sha256=conditions.dataset_sha256,
        licence=folder.dataset.spec.licence,
        metric=conditions.student_train.metric,
        score=0.0,
        best_step=0,
        training=conditions.student_train,
        augment=conditions.augment,
        versions=library_versions(),
    )
