"""What commands of experiments share: options of a comparison, its plan, progress, and latencies of exported models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import msgspec

from mmkd_app.cli.options import Option
from mmkd_app.cli.show import hint_at_resuming
from mmkd_app.training.options import MaxLatency, Members
from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_edge.machine import require_modules, usable_cores
from mmkd_edge.opening.options import OpenOptions
from mmkd_models.data.checking.related import refuse_shared_samples
from mmkd_models.data.dataset import Dataset, shipped_dataset
from mmkd_models.data.folds import (
    ALL,
    Labelled,
    check_seeds,
    choose_labels,
    fold_trainings,
    labelled_from_options,
    usual_labelled,
)
from mmkd_models.defaults import AUGMENT, BASELINE_LEARNING_RATES, STUDENT_PRESET, TEACHER_PRESET, default_trainings
from mmkd_models.experiments.workers import Executor
from mmkd_models.metrics.scores import DEFAULT_METRIC
from mmkd_models.networks.config import preset_named, student_members

if TYPE_CHECKING:
    from mmkd_documents.study import PairLatency
    from mmkd_models.evaluation.rivals import RivalName
    from mmkd_models.experiments.experiment import Experiment, ResultTable
    from mmkd_models.experiments.plan import ExperimentPlan
    from mmkd_models.experiments.study import MeasureLatency
    from mmkd_models.networks.config import MemberKind

LAUNCHES = 2


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """Scope of the comparison."""

    modality: Annotated[
        list[str] | None, Option("Train a student for this sensor (repeat); default every one.", metavar="NAME")
    ] = None
    seeds: Annotated[int, Option("Seeds; each judges on another fold of groups.", min=1)] = 1
    label_fraction: Annotated[float | None, Option("Fraction of training labels to use.", shown=False)] = None
    labelled_groups: Annotated[
        int | None,
        Option(
            "Use the labels of N whole groups of the training windows.",
            metavar="N",
            shown="all; of the shipped recordings a third",
        ),
    ] = None
    teacher: Annotated[str, Option("Teacher size: tiny, small, medium or base.")] = TEACHER_PRESET
    student: Annotated[str, Option("Student size: tiny, small, medium or base.")] = STUDENT_PRESET
    method: Annotated[
        str | None, Option("Distillation method, of mmkd-study --list-methods; default that of mmkd-distill.")
    ] = None
    members: Members = None
    student_members: Annotated[
        str | None,
        Option(
            "Members of every student: transformer, convolutions, intervals, trees.",
            ("--student-members",),
            "NAMES",
            shown="all; with --no-choose transformer",
        ),
    ] = None
    choose: Annotated[
        bool,
        Option(
            "Train each student by several methods and ship the one that validation prefers.", ("--choose/--no-choose",)
        ),
    ] = True
    max_latency_ms: MaxLatency = None
    steps: Annotated[int | None, Option("Training steps of every network; default as shipped.", min=1)] = None


def requested_plan(
    data: Dataset,
    options: ComparisonOptions,
    *,
    workers: int | None = None,
    executor: Executor = "local",
    rivals: Sequence[RivalName] | None = None,
) -> ExperimentPlan:
    """Return the plan of a comparison; raise UsageError without a possible fold."""
    windows = data.everything()
    check_seeds(windows, options.seeds)
    refuse_shared_samples(windows)
    preset_named(options.teacher, option="--teacher")
    trainings = fold_trainings(windows, options.seeds)
    is_shipped = data.path.resolve().parent == shipped_dataset().resolve().parent
    usual = usual_labelled(trainings) if is_shipped else ALL
    labelled = labelled_from_options(options.label_fraction, options.labelled_groups, otherwise=usual)
    for seed, training in enumerate(trainings):
        choose_labels(training, labelled, seed=seed)  # refuses what a fold cannot have
    plan = comparison_of(data, options, labelled)
    plan = plan if rivals is None else msgspec.structs.replace(plan, rivals=tuple(rivals))
    return msgspec.structs.replace(plan, workers=workers or default_workers(), executor=executor)


def comparison_of(data: Dataset, options: ComparisonOptions, labelled: Labelled) -> ExperimentPlan:
    """Return the plan of these options."""
    from mmkd_models.distillation.recipe import default_recipe, taught_by
    from mmkd_models.experiments.plan import Conditions, comparison_plan, teacher_choice
    from mmkd_models.training.closed_form import check_lengths
    from mmkd_models.training.committee import default_members, members_named

    size, modalities = preset_named(options.student, option="--student"), data.spec.modalities
    names = [data.spec.modality(name).name for name in options.modality or [spec.name for spec in data.spec.sensors]]
    data.everything().with_modalities(names)  # refuses names that are unknown or there twice
    own: tuple[MemberKind, ...] | msgspec.UnsetType = msgspec.UNSET
    if options.student_members is not None:
        own = student_members(options.student_members, option="--student-members")
        for name in () if options.choose else names:  # a choice leaves out what needs longer windows
            check_lengths(data.spec.modality(name), own)
    if options.max_latency_ms is not None and not options.choose:
        raise UsageError("--max-latency-ms limits what a choice may take; leave out --no-choose")
    members = members_named(options.members.split(","), modalities) if options.members else default_members(modalities)
    teacher_train, student_train = default_trainings(DEFAULT_METRIC[data.spec.task.kind], options.steps)
    return comparison_plan(
        Conditions(
            labelled=labelled,
            teacher_train=teacher_train,
            student_train=student_train,
            augment=AUGMENT,
            choose=options.choose,
            members=own,
        ),
        sensors=names,
        teacher=teacher_choice(data.spec, preset_named(options.teacher, option="--teacher"), members),
        student=size,
        recipe=default_recipe(data.spec.task) if options.method is None else taught_by(options.method),
        baseline_learning_rates=BASELINE_LEARNING_RATES,
        seeds=range(options.seeds),
    )


def run_with_progress(experiment: Experiment) -> ResultTable:
    """Make the missing runs, with a progress line."""
    from mmkd_app.cli.progress import progress_lines
    from mmkd_models.experiments.experiment import run
    from mmkd_models.experiments.runs import Progress

    with hint_at_resuming(), progress_lines() as show:
        return run(experiment, progress=Progress(show=show))


def default_workers() -> int:
    """Return one worker per core, at most 8: each takes some hundred megabytes."""
    return min(usable_cores(), 8)


def latency_meter(duration_s: float, *, energy: bool = False) -> MeasureLatency:
    """Return a function that exports and measures a student and its teacher, and the student's energy."""
    require_modules(
        ("onnx", "onnxscript", "onnxruntime", "psutil"), by="mmkd-study with latencies", extra="export,bench"
    )

    def _measure(student: Path, teacher: Path) -> PairLatency:
        from mmkd_export.graph.onnx_from_student import onnx_from_teacher
        from mmkd_export.pipeline import export
        from mmkd_export.plan import export_plan
        from mmkd_models.training.checkpoint import read_teacher

        taught_by = read_teacher(teacher)
        with TemporaryDirectory() as temporary:
            model, bundle = Path(temporary) / "teacher.onnx", Path(temporary) / "student.edge"
            model.write_bytes(onnx_from_teacher(taught_by.transformer(), taught_by.modalities))
            export(export_plan(student, output=bundle))
            pair = pair_latency(model, bundle, duration_s=duration_s)
            return msgspec.structs.replace(pair, student_mj=measure_energy(bundle, duration_s) if energy else None)

    return _measure


def measure_energy(bundle: Path, duration_s: float) -> float | None:
    """Return the energy of an answer above idle, in mJ, on one thread; None where no power sensor answers."""
    from mmkd_bench.machine.power import power_sensor
    from mmkd_bench.measuring.opening import Choice
    from mmkd_bench.run import measure_bundle
    from mmkd_documents.bench import Settings

    try:
        power_sensor()
    except UnavailableError:
        return None
    settings = Settings(launches=LAUNCHES, duration_s=duration_s)
    choice = Choice(bundle=str(bundle), options=OpenOptions(backend="ort", threads=1))
    measured = measure_bundle(choice, settings).energy
    return None if measured is None else measured.above_idle_mj


def pair_latency(teacher: Path, student: Path, *, duration_s: float) -> PairLatency:
    """Measure a teacher (ONNX) and a student (bundle), in turn in one process, one thread each."""
    from mmkd_bench.in_turn import measure_pair
    from mmkd_documents.figures import RatioRange
    from mmkd_documents.study import PairLatency

    pair = measure_pair(teacher, student, launches=LAUNCHES, duration_s=duration_s)
    first = {"p50": pair.first_p50_us, "p90": pair.first_p90_us, "p99": pair.first_p99_us}
    second = {"p50": pair.second_p50_us, "p90": pair.second_p90_us, "p99": pair.second_p99_us}
    return PairLatency(
        student_ms={name: value.median / 1000 for name, value in second.items()},
        teacher_ms={name: value.median / 1000 for name, value in first.items()},
        ratio=pair.ratio.median,
        ratios=msgspec.convert(pair.ratio, RatioRange, from_attributes=True),
        machine=msgspec.to_builtins(pair.machine),
    )
