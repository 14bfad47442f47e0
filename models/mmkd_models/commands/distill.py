"""`mmkd-distill`: from teachers' checkpoints and a dataset directory to a student's."""

from __future__ import annotations

from mmkd_edge.cli.interrupts import loading

with loading("mmkd-distill"):
    from collections.abc import Sequence
    from dataclasses import dataclass, replace
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, NoReturn

    from mmkd_edge.cli.options import Argument, Command, Option, run_line
    from mmkd_edge.cli.run import run_command
    from mmkd_edge.cli.show import json_text
    from mmkd_edge.errors import UsageError
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
    from mmkd_models.defaults import METHOD, STUDENT_PRESET, STUDENT_TRAIN
    from mmkd_models.networks.config import MEMBERS, MemberKind, preset_named, student_config, student_members

if TYPE_CHECKING:
    import typer


_EPILOG = (
    "Example: mmkd-distill teacher.ckpt mydata --modality acc -o student.ckpt. Several teachers as one: "
    "mmkd-distill a.ckpt b.ckpt mydata --modality acc --term task --term logit --term edam,member=1"
)


def main() -> NoReturn:
    """Run `mmkd-distill`."""
    run_command("mmkd-distill", run_distill, needs=NEEDS, extra="train")


def run_distill(arguments: Sequence[str]) -> None:
    """Run `mmkd-distill`."""
    run_line("mmkd-distill", arguments, [Command(function=distill, epilog=_EPILOG)])


def _recipe_json() -> str:
    from mmkd_models.distillation.recipe import taught_by

    return json_text(taught_by(METHOD))


def _terms() -> str:
    from mmkd_models.distillation.recipe import terms_text

    return terms_text()


@dataclass(frozen=True, kw_only=True)
class _Options:
    preset: Annotated[str, Option("Size: tiny, small, medium or base.")] = STUDENT_PRESET
    members: RacedMembers = None
    choose: Annotated[
        bool, Option("Train the members, labels only too, and write what validation prefers of all.", ("--choose",))
    ] = False
    max_latency_ms: MaxLatency = None
    causal: Causal = False
    clock_error: ClockError = 0.0
    recipe: Annotated[Path | None, Option("JSON file with the recipe; see --print-recipe.")] = None
    term: Annotated[
        list[str] | None, Option("One term of the recipe, KIND[,NAME=VALUE...] (repeat); see --list-terms.")
    ] = None


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
    student: _Options,
    options: TrainingOptions,
    embed_windows: Embed = True,
    print_recipe: Annotated[
        bool,
        Option("Print the default recipe for three classes or more and stop.", ("--print-recipe",), says=_recipe_json),
    ] = False,
    list_terms: Annotated[
        bool, Option("Print all terms of a recipe with their options and stop.", ("--list-terms",), says=_terms)
    ] = False,
    json: Json = False,
) -> None:
    """Distil one or more teachers into a student of one sensor; windows without labels (-1) teach too."""
    from mmkd_models.distillation.recipe import chosen_recipe, default_recipe
    from mmkd_models.training.checkpoint import read_teacher_file
    from mmkd_models.training.inputs import StudentTraining, check_compatible, check_same_fold
    from mmkd_models.training.students import race_student, train_student

    members = student_members(
        student.members or ("transformer" if not student.choose else ",".join(MEMBERS)), choose=student.choose
    )
    _check_combinations(members, student)
    config = student_config(
        preset_named(student.preset, option="--preset"),
        causal=student.causal,
        members=("transformer",) if student.choose else members,
    )
    hold_output(context, output, teachers=teacher, replace=options.force or options.resume)
    training = training_data(data, options, modalities=None)
    modality = training.train.spec.modality(modality).name
    recipe = chosen_recipe(default_recipe(training.train.spec.task), file=student.recipe, terms=student.term or ())
    teachers = [read_teacher_file(path) for path in teacher]
    for file in teachers:
        check_compatible("teacher", file.checkpoint.task, file.checkpoint.modalities, training.train)
    for path, file in zip(teacher, teachers, strict=True):
        facts = file.checkpoint.facts
        check_same_fold(f"teacher {path}", facts, dataset_sha256=training.sha256, fold=options.fold)
    training = training.for_pair([spec.name for file in teachers for spec in file.checkpoint.modalities], modality)
    clock_error_s = student.clock_error
    run = new_run(output, training, options, STUDENT_TRAIN, embed_windows=embed_windows, clock_error_s=clock_error_s)
    with training_tracked(output, options) as tracker:
        with training_shown(f"{modality} student", output, tracker) as show:
            made = StudentTraining(training, modality, config, replace(run, on_step=show), teachers, recipe)
            if student.choose:
                from mmkd_export.targets.native import latency_limit

                checkpoint = race_student(made, among=members, limit=latency_limit(student.max_latency_ms))
            else:
                checkpoint = train_student(made)
        write_student_and_report(output, checkpoint, tracker, json=json)


def _check_combinations(members: tuple[MemberKind, ...], student: _Options) -> None:
    if student.max_latency_ms is not None and not student.choose:
        raise UsageError("--max-latency-ms limits what --choose may take; add --choose")
    if "transformer" not in members and (student.recipe or student.term):
        raise UsageError(
            f"{'--recipe' if student.recipe else '--term'} cannot be combined with --members {student.members}, which "
            "learn the teachers' probabilities and the labels; leave it out, or add the member transformer"
        )
