"""`mmkd-distill`: from teachers' checkpoints and a dataset directory to a student's."""

from __future__ import annotations

from mmkd_edge.cli.interrupts import loading

with loading("mmkd-distill"):
    import importlib.util
    from collections.abc import Sequence
    from dataclasses import dataclass, replace
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, NoReturn

    from mmkd_edge.cli.options import Argument, Command, Option, run_line
    from mmkd_edge.cli.run import run_command
    from mmkd_edge.cli.show import json_text
    from mmkd_edge.errors import UnavailableError, UsageError
    from mmkd_models.commands.options import (
        NEEDS,
        Causal,
        ClockError,
        Data,
        Embed,
        Json,
        MaxLatency,
        Modality,
        Output,
        RacedMembers,
        TrainingOptions,
        new_run,
        training_data,
    )
    from mmkd_models.commands.outputs import hold_output, training_shown, training_tracked, write_student_and_report
    from mmkd_models.defaults import INT8_TRAIN, METHOD, STUDENT_PRESET, STUDENT_TRAIN
    from mmkd_models.networks.config import MEMBERS, MemberKind, preset_named, student_config, student_members

if TYPE_CHECKING:
    import typer

    from mmkd_models.training.checkpoint import StudentCheckpoint

_ABOUT = "Distil one or more teachers into a student of one modality; windows without labels (-1) teach too."
_EPILOG = (
    "Example: mmkd-distill teacher.ckpt mydata --modality acc -o student.ckpt. Several teachers as one: "
    "mmkd-distill a.ckpt b.ckpt mydata --modality acc --term task --term logit --term edam,member=1. For INT8: "
    "mmkd-distill teacher.ckpt mydata --modality acc --qat student.ckpt -o student-qat.ckpt"
)


def main() -> NoReturn:
    """Run `mmkd-distill`."""
    run_command("mmkd-distill", run_distill, needs=NEEDS, extra="train", about=_ABOUT)


def run_distill(arguments: Sequence[str]) -> None:
    """Run `mmkd-distill` with these arguments."""
    run_line("mmkd-distill", arguments, [Command(function=distill, epilog=_EPILOG)])


def _recipe_json() -> str:
    from mmkd_models.distillation.recipe import taught_by

    return json_text(taught_by(METHOD))


def _terms() -> str:
    from mmkd_models.distillation.recipe import terms_text

    return terms_text()


@dataclass(frozen=True, kw_only=True)
class _StudentOptions:
    preset: Annotated[
        str | None, Option("Size: tiny, small, medium or base.", shown=f"{STUDENT_PRESET}; with --qat the student's")
    ] = None
    members: RacedMembers = None
    choose: Annotated[
        bool, Option("Train the members, labels only too, and write what validation prefers of all.", ("--choose",))
    ] = False
    max_latency_ms: MaxLatency = None
    causal: Causal = False
    clock_error: ClockError = 0.0
    qat: Annotated[
        Path | None,
        Option("Continue with this trained student, computing as its INT8 graph.", metavar="STUDENT", shown=False),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _RecipeOptions:
    recipe: Annotated[Path | None, Option("JSON file with the recipe; see --print-recipe.")] = None
    term: Annotated[
        list[str] | None, Option("One term of the recipe, KIND[,NAME=VALUE...] (repeat); see --list-terms.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class _DistillationOptions(TrainingOptions):
    steps: Annotated[
        int | None, Option("Optimisation steps.", min=1, shown=f"{STUDENT_TRAIN.steps}; with --qat {INT8_TRAIN.steps}")
    ] = None
    learning_rate: Annotated[
        float | None,
        Option(
            "Peak learning rate.",
            min=0.0,
            shown=f"{STUDENT_TRAIN.learning_rate}; with --qat {INT8_TRAIN.learning_rate}",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _DistillResultOptions:
    embed_windows: Embed = True
    print_recipe: Annotated[
        bool,
        Option("Print the default recipe for three classes or more and stop.", ("--print-recipe",), says=_recipe_json),
    ] = False
    list_terms: Annotated[
        bool, Option("Print all terms of a recipe with their options and stop.", ("--list-terms",), says=_terms)
    ] = False
    json: Json = False


def distill(
    context: typer.Context,
    *,
    teacher: Annotated[
        list[Path],
        Argument("TEACHER...", "Teacher checkpoint of mmkd-train teacher, or several, whose answers are averaged."),
    ],
    data: Data,
    modality: Modality,
    output: Output = Path("student.ckpt"),
    student: _StudentOptions,
    taught: _RecipeOptions,
    options: _DistillationOptions,
    result: _DistillResultOptions,
) -> None:
    """Distil one or more teachers into a student of one modality; windows without labels (-1) teach too."""
    from mmkd_models.distillation.recipe import chosen_recipe, default_recipe
    from mmkd_models.training.checkpoint import file_sha256, read_teacher_file
    from mmkd_models.training.inputs import check_compatible, check_same_fold
    from mmkd_models.training.students import race_student, train_student
    from mmkd_models.training.trainings import distil_int8

    members = student_members(
        student.members or ("transformer" if not student.choose else ",".join(MEMBERS)), choose=student.choose
    )
    _check_combinations(members, student, taught)
    config = student_config(
        preset_named(student.preset or STUDENT_PRESET, option="--preset"),
        causal=student.causal,
        members=("transformer",) if student.choose else members,
    )
    hold_output(context, output, teachers=teacher, replace=options.force or options.resume)
    training = training_data(data, options, modalities=None)
    modality = training.train.spec.modality(modality).name
    start = None if student.qat is None else _read_start(student, modality, output)
    recipe = chosen_recipe(default_recipe(training.train.spec.task), file=taught.recipe, terms=taught.term or ())
    teachers = [read_teacher_file(path) for path in teacher]
    for file in teachers:
        check_compatible("teacher", file.checkpoint.task, file.checkpoint.modalities, training.train)
    origins = [(f"teacher {path}", file.checkpoint.facts) for path, file in zip(teacher, teachers, strict=True)]
    origins += [] if start is None else [(f"--qat {student.qat}", start.facts)]
    for who, facts in origins:
        check_same_fold(who, facts, dataset_sha256=training.sha256, fold=options.fold)
    training = training.for_pair([spec.name for file in teachers for spec in file.checkpoint.modalities], modality)
    usual, embeds, clock_error_s = INT8_TRAIN if start else STUDENT_TRAIN, result.embed_windows, student.clock_error
    run = new_run(output, training, options, usual, embed_windows=embeds, clock_error_s=clock_error_s)
    with training_tracked(output, options) as tracker:
        with training_shown(f"{modality} student in INT8" if start else f"{modality} student", output, tracker) as show:
            run = replace(run, on_step=show)
            if start is not None and student.qat is not None:
                from mmkd_export.graph.onnx_from_student import practised_layers

                checkpoint = distil_int8(
                    training,
                    start,
                    run,
                    start_sha256=file_sha256(student.qat),
                    groups=practised_layers(start),
                    teachers=teachers,
                    recipe=recipe,
                )
            elif student.choose:
                from mmkd_export.targets.native import latency_limit

                limit = latency_limit(student.max_latency_ms)
                checkpoint = race_student(
                    training, modality, config, run, teachers=teachers, recipe=recipe, among=members, limit=limit
                )
            else:
                checkpoint = train_student(training, modality, config, run, teachers=teachers, recipe=recipe)
        write_student_and_report(output, checkpoint, tracker, json=result.json)


def _check_combinations(members: tuple[MemberKind, ...], student: _StudentOptions, taught: _RecipeOptions) -> None:
    if student.choose and student.qat is not None:
        raise UsageError(
            "--choose cannot be combined with --qat: validation chooses among new students; leave one of them out"
        )
    if student.max_latency_ms is not None and not student.choose:
        raise UsageError("--max-latency-ms limits what --choose may take; add --choose")
    if student.qat is not None and (student.members is not None or student.preset is not None or student.causal):
        other = "--causal" if student.causal else "--preset" if student.preset is not None else "--members"
        raise UsageError(f"{other} cannot be combined with --qat, which continues with a trained student; leave it out")
    if "transformer" not in members and (taught.recipe or taught.term):
        raise UsageError(
            f"{'--recipe' if taught.recipe else '--term'} cannot be combined with --members {student.members}, which "
            "learn the teachers' probabilities and the labels; leave it out, or add the member transformer"
        )


def _read_start(options: _StudentOptions, modality: str, output: Path) -> StudentCheckpoint:
    from mmkd_models.training.checkpoint import read_student

    assert options.qat is not None
    checkpoint = read_student(options.qat)
    if checkpoint.config.causal or checkpoint.modality.name != modality:
        got = "a causal one" if checkpoint.config.causal else f"one of {checkpoint.modality.name!r}"
        raise UsageError(f"--qat {options.qat}: expected a windowed student of {modality!r}, got {got}; choose another")
    if output.exists() and output.samefile(options.qat):
        raise UsageError(f"--out {output}: expected another file than the student's, got the same; choose another")
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise UnavailableError(
            f"--qat asks the export which layers compute in INT8, and needs {' and '.join(missing)}, which this "
            "Python lacks; run: pip install 'mmkd-edge[export]'"
        )
    return checkpoint
