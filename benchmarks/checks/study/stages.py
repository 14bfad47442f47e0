"""A study of several sets in stages: what is trained in which order, until the time is used up.

Stage 1 compares the main methods with few labels on two sets and two folds. Stage 2 takes labels only, the teacher's
outputs and what validated best so far to all sets, folds and shares of labels. Stage 3 compares the remaining methods
and teachers where stage 1 was; should one of them be better, stage 2 takes it too. A portion is a grid on one sensor up
to one seed; what is finished goes into the results after each portion. Sensors of one set share its teachers.

Few labels are a tenth of the windows, or those of a third of the groups. With a race every student is the winner of
several kinds, so that only what a race can teach is compared: the teacher's outputs and the default recipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import msgspec

from checks.study.files import DATASET_FILE, SeedResults, SizeResults, read_seeds, size_file
from checks.study.pool import ALL_MODALITIES, OUTPUTS, pooled_results
from mmkd_documents.study import NONE
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.folds import Labelled, fold_trainings, usual_labelled
from mmkd_models.defaults import AUGMENT, METHOD, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.distillation.recipe import shipped_methods
from mmkd_models.experiments.experiment import run
from mmkd_models.experiments.folder import write_result
from mmkd_models.experiments.plan import Conditions, ExperimentPlan, Space, teachers_from_text
from mmkd_models.experiments.runs import Progress
from mmkd_models.experiments.study import MeasureLatency, prepare_study
from mmkd_models.experiments.table import dataset_facts
from mmkd_models.networks.config import Preset, preset_named

LEARNING_RATES = (2e-3,)
BASELINE_LEARNING_RATES = (1e-3, 3e-3)
FIRST_SHARE, ALL_LABELS = 0.1, 1.0
COMMITTEE_ADDED = "committee"
"""To a teacher's size, where a race is taught: the transformer of that size is one of several members."""

_FIRST_SETS = 2


class StudySensor(msgspec.Struct, frozen=True):
    """A dataset directory, the student's modality, and the size of the teacher of all modalities."""

    path: str
    modality: str
    teacher: Preset = TEACHER_PRESET


def sensor_from_text(text: str) -> StudySensor:
    """Return the sensor of `DIR:MODALITY` or `DIR:MODALITY:SIZE`."""
    first, _, last = text.rpartition(":")
    if ":" in first and last in get_args(Preset):
        path, _, modality = first.rpartition(":")
        return StudySensor(path, modality, preset_named(last, option=text))
    return StudySensor(first, last)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The stages of a study.

    Attributes:
        sets: the first two are those of stages 1 and 3.
        first_seeds: seeds of stages 1 and 3; `seeds` are those of stage 2.
        best: number of recipes in stage 2 besides labels only and outputs.
        further_methods: methods of stage 3; None for all that stage 1 has not.
        further_teachers: other teachers of a sensor in stage 3, which teach by outputs.
        whole_groups: the few labels are those of a third of a set's groups, not of a tenth of its windows.
        choose: every student is the winner of a race, and a committee teaches.
    """

    sets: tuple[StudySensor, ...]
    first_seeds: int = 2
    seeds: int = 5
    best: int = 2
    first_methods: tuple[str, ...] = (
        "none",
        "logit",
        "logit+task",
        "dist",
        "crd",
        "edam@last",
        "relation@last",
        "logit+crd",
        "logit+edam@last",
        "logit+relation@last",
    )
    further_methods: tuple[str, ...] | None = None
    further_teachers: tuple[str, ...] = (COMMITTEE_ADDED,)
    steps: int | None = None
    teacher_steps: int | None = None
    workers: int = 1
    whole_groups: bool = False
    choose: bool = False


def with_races(plan: Plan) -> Plan:
    """Return the plan with races: labels only, outputs and the default recipe, each taught by one committee."""
    return msgspec.structs.replace(
        plan, choose=True, first_methods=(NONE, OUTPUTS, METHOD), further_methods=(), further_teachers=()
    )


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """One grid: a sensor, which labels, seeds from 0, methods, and how teachers are made.

    Attributes:
        label_fraction: fraction of windows with a label; 1 with `whole_groups`.
        whole_groups: a third of the groups are labelled.
    """

    sensor: StudySensor
    label_fraction: float
    seeds: int
    methods: tuple[str, ...]
    made: str = ""
    whole_groups: bool = False


def first_stage(plan: Plan) -> tuple[Portion, ...]:
    """Return stage 1: the main methods, fold by fold on the first sets."""
    return _on_first_sets(plan, methods=plan.first_methods)


def third_stage(plan: Plan) -> tuple[Portion, ...]:
    """Return stage 3: what stage 1 left out, methods first, then teachers."""
    rest = plan.further_methods
    if rest is None:
        rest = tuple(method.name for method in shipped_methods() if method.name not in plan.first_methods)
    portions: list[Portion] = []
    if rest:
        portions += _on_first_sets(plan, methods=(NONE, *rest))
    for teacher in plan.further_teachers:
        portions += _on_first_sets(plan, methods=(NONE, OUTPUTS), made=teacher)
    return tuple(portions)


def _on_first_sets(plan: Plan, *, methods: tuple[str, ...], made: str = "") -> tuple[Portion, ...]:
    share, whole_groups = few_labels(plan)
    return tuple(
        Portion(
            sensor=sensor, label_fraction=share, whole_groups=whole_groups, seeds=seeds + 1, methods=methods, made=made
        )
        for seeds in range(plan.first_seeds)
        for sensor in plan.sets[:_FIRST_SETS]
    )


def second_stage(plan: Plan, best: Sequence[str]) -> tuple[Portion, ...]:
    """Return stage 2 with these recipes: seed by seed over all sets, few labels before all."""
    methods = tuple(dict.fromkeys([NONE, OUTPUTS, *best]))
    return tuple(
        Portion(sensor=sensor, label_fraction=share, seeds=seeds + 1, methods=methods, whole_groups=whole_groups)
        for share, whole_groups in (few_labels(plan), (ALL_LABELS, False))
        for seeds in range(plan.seeds)
        for sensor in plan.sets
    )


def few_labels(plan: Plan) -> tuple[float, bool]:
    """Return the label fraction of stages 1 and 3, and whether whole groups are labelled."""
    return (ALL_LABELS, True) if plan.whole_groups else (FIRST_SHARE, False)


def best_methods(found: Sequence[SeedResults], count: int) -> tuple[str, ...]:
    """Return up to `count` recipes that validate best in results of stages 1 and 3, without outputs.

    Only recipes with the largest number of folds count, so that one lucky fold does not.
    """
    rows = pooled_results(found, {}).pooled if found else ()
    usual = [
        row
        for row in rows
        if (row.layout[0] == FIRST_SHARE or row.layout[1])
        and row.pair in (ALL_MODALITIES, f"{ALL_MODALITIES},{COMMITTEE_ADDED}")
        and row.method != OUTPUTS
    ]
    most = max((row.folds for row in usual), default=0)
    ranked = sorted((row for row in usual if row.folds == most), key=lambda row: -row.valid_gain)
    return tuple(row.method for row in ranked[:count])


OnPortion = Callable[[Portion], None]


def run_stages(
    plan: Plan,
    *,
    build: Path,
    budget_hours: float | None,
    on_portion: OnPortion | None = None,
    progress: Progress | None = None,
) -> bool:
    """Train what the folder lacks, portion by portion; return whether all is there.

    Raises:
        UsageError: a set or modality is not there.
    """
    if not plan.sets:
        raise UsageError("study: expected one or more sets, got none; name DIR:MODALITY")
    deadline = None if budget_hours is None else time.time() + 3600 * budget_hours
    datasets = {sensor.path: open_dataset(sensor.path) for sensor in plan.sets}
    for dataset in datasets.values():
        if dataset.spec.task.kind != "classification":
            raise UsageError(
                f"a study of several sets: expected a dataset of classes, got {dataset.spec.name!r} of the kind"
                f" {dataset.spec.task.kind}, whose figures have no mean with those of others; use mmkd-study"
            )
        if plan.whole_groups:
            a_third(dataset, plan.seeds)  # refuses what has no such groups, before anything is trained

    def second() -> tuple[Portion, ...]:
        return second_stage(plan, best_methods(_first_set_results(read_seeds(build), plan, datasets), plan.best))

    for portions in (partial(first_stage, plan), second, partial(third_stage, plan), second):
        for portion in portions():
            left = None if deadline is None else (deadline - time.time()) / 3600
            if left is not None and left <= 0:
                return False
            if on_portion is not None:
                on_portion(portion)
            _advance(portion, plan, datasets[portion.sensor.path], build, left, progress)
    return deadline is None or time.time() < deadline


def measure_sizes(plan: Plan, *, build: Path, measure_latency: MeasureLatency) -> None:
    """Write the size of every sensor's students, and their latency and the usual teacher's on this machine."""
    for sensor in plan.sets:
        dataset = open_dataset(sensor.path)
        portion = Portion(sensor=sensor, label_fraction=FIRST_SHARE, seeds=1, methods=(NONE, OUTPUTS))
        grid = portion_plan(portion, plan, dataset, None)
        out = build / dataset.spec.name
        prepared = prepare_study(dataset, grid, out=out, measure_latency=measure_latency)
        sizes = SizeResults(
            dataset=dataset.spec.name,
            modality=sensor.modality,
            teacher=grid.teacher.name,
            students=prepared.sizes,
        )
        write_result(size_file(out, sensor.modality), sizes)


def _first_set_results(
    results: Sequence[SeedResults], plan: Plan, datasets: Mapping[str, Dataset]
) -> tuple[SeedResults, ...]:
    """Return results of the sensors, folds and labels of stage 1, which choose recipes."""
    sensors = {(datasets[sensor.path].sha256, sensor.modality) for sensor in plan.sets[:_FIRST_SETS]}
    return tuple(
        result
        for result in results
        if (result.dataset.sha256, result.conditions.modality) in sensors
        and (result.conditions.labelled.fraction, bool(result.conditions.labelled.groups)) == few_labels(plan)
        and result.seed < plan.first_seeds
    )


def _advance(
    portion: Portion, plan: Plan, dataset: Dataset, build: Path, hours: float | None, progress: Progress | None
) -> None:
    grid, out = portion_plan(portion, plan, dataset, hours), build / dataset.spec.name
    prepared = prepare_study(dataset, grid, out=out)
    write_result(out / DATASET_FILE, dataset_facts(dataset))
    run(prepared.experiment, progress=progress)


def a_third(dataset: Dataset, seeds: int) -> int:
    """Return a third of the groups, for every fold of so many.

    Raises:
        UsageError: there are too few groups, or no third of them has every class.
    """
    groups = usual_labelled(fold_trainings(dataset.everything(), seeds)).groups
    if groups is None:
        raise UsageError(
            f"--whole-groups: expected six groups to train on or more in dataset {dataset.spec.name!r}, a third of "
            "which has every class on every fold, got fewer; leave the option out, or leave out this set"
        )
    return groups


def portion_plan(portion: Portion, plan: Plan, dataset: Dataset, hours: float | None) -> ExperimentPlan:
    """Return the grid of a portion."""
    known = {method.name: method for method in shipped_methods()}
    student = msgspec.structs.replace(STUDENT_TRAIN, steps=plan.steps or STUDENT_TRAIN.steps)
    teacher = msgspec.structs.replace(TEACHER_TRAIN, steps=plan.teacher_steps or TEACHER_TRAIN.steps)
    made = portion.made or (COMMITTEE_ADDED if plan.choose else "")
    return ExperimentPlan(
        conditions=Conditions(
            labelled=Labelled(groups=a_third(dataset, plan.seeds))
            if portion.whole_groups
            else Labelled(fraction=portion.label_fraction),
            teacher_train=teacher,
            student_train=student,
            augment=AUGMENT,
            choose=plan.choose,
        ),
        sensors=(portion.sensor.modality,),
        space=Space(
            teachers=teachers_from_text([",".join(filter(None, (portion.sensor.teacher, made)))], dataset),
            students=("tiny",),
            methods=tuple(known[name] for name in portion.methods),
            learning_rates=LEARNING_RATES,
            baseline_learning_rates=() if plan.choose else (*LEARNING_RATES, *BASELINE_LEARNING_RATES),
        ),
        seeds=tuple(range(portion.seeds)),
        budget_hours=hours,
        workers=plan.workers,
    )
