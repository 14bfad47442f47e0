"""`mmkd-distill`: from teachers' checkpoints and a dataset directory to a student's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from mmkd_app.cli.options import Argument, Command, Option, run_line
from mmkd_app.cli.run import loading, run_command
from mmkd_app.cli.show import json_text
from mmkd_app.training.checkpoints import hold_output, train_and_report
from mmkd_app.training.options import (
    NEEDS,
    Data,
    Embed,
    Json,
    Modality,
    Output,
    StudentOptions,
    TrainingOptions,
    check_checkpoints,
    new_run,
    training_data,
)
from mmkd_edge.errors import UsageError
from mmkd_models.defaults import METHOD, STUDENT_TRAIN

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
    student: StudentOptions,
    recipe_file: Annotated[Path | None, Option("JSON file with the recipe; see --print-recipe.", ("--recipe",))] = None,
    term: Annotated[
        list[str] | None, Option("One term of the recipe, KIND[,NAME=VALUE...] (repeat); see --list-terms.")
    ] = None,
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
    config = student.config()
    if "transformer" not in config.members and (recipe_file or term):
        raise UsageError(
            f"{'--recipe' if recipe_file else '--term'} cannot be combined with --members {student.members}, which "
            "learn the teachers' probabilities and the labels; leave it out, or add the member transformer"
        )
    hold_output(context, output, teachers=teacher, replace=options.force or options.resume)
    training = training_data(data, options, modalities=None)
    modality = training.train.spec.modality(modality).name
    clock_error_s = student.clock_error
    run = new_run(output, training, options, STUDENT_TRAIN, embed_windows=embed_windows, clock_error_s=clock_error_s)
    check_checkpoints(teacher)
    with loading("mmkd-distill"):  # torch takes seconds: what is wrong above is refused before
        from mmkd_models.distillation.recipe import chosen_recipe, default_recipe
        from mmkd_models.training.checkpoint import read_teacher_file
        from mmkd_models.training.inputs import TrainingRequest, check_compatible, check_same_fold
    recipe = chosen_recipe(default_recipe(training.train.spec.task), file=recipe_file, terms=term or ())
    teachers = [read_teacher_file(path) for path in teacher]
    for file in teachers:
        check_compatible("teacher", file.checkpoint.task, file.checkpoint.modalities, training.train)
    for path, file in zip(teacher, teachers, strict=True):
        facts = file.checkpoint.facts
        check_same_fold(f"teacher {path}", facts, dataset_sha256=training.sha256, fold=options.fold)
    training = training.for_pair([spec.name for file in teachers for spec in file.checkpoint.modalities], modality)
    made = TrainingRequest(training, modality, config, run, teachers, recipe)
    train_and_report(output, made, student, options, title=f"{modality} student", json=json)
