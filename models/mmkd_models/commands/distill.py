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
        Data,
        Embed,
        Json,
        Kind,
        Modality,
        Output,
        TrainingOptions,
        new_run,
        training_data,
    )
    from mmkd_models.commands.outputs import drop_states, hold_output, training_shown, write_student_and_report
    from mmkd_models.defaults import INT8_TRAIN, METHOD, STUDENT_PRESET, STUDENT_TRAIN
    from mmkd_models.networks.config import kind_named, preset_named, student_config, student_like

if TYPE_CHECKING:
    import typer

    from mmkd_models.distillation.recipe import Recipe
    from mmkd_models.networks.config import StudentConfig
    from mmkd_models.training.checkpoint import StudentCheckpoint
    from mmkd_models.training.inputs import TrainingData, TrainingRun
    from mmkd_models.training.teacher_set import TaughtBy

_ABOUT = "Distil one or more teachers into a student of one modality; windows without labels (-1) teach too."
_EPILOG = (
    "Example: mmkd-distill teacher.ckpt mydata --modality acc -o student.ckpt. Several teachers as one: "
    "mmkd-distill a.ckpt b.ckpt mydata --modality acc --term task --term logit --term edam,member=1. For INT8: "
    "mmkd-distill teacher.ckpt mydata --modality acc --qat student.ckpt -o student-qat.ckpt"
)


def main() -> NoReturn:
    """Runs `mmkd-distill`."""
    run_command("mmkd-distill", run_distill, needs=NEEDS, extra="train", about=_ABOUT)


def run_distill(arguments: Sequence[str]) -> None:
    """Runs `mmkd-distill` with these arguments."""
    run_line("mmkd-distill", arguments, [Command(function=distill, epilog=_EPILOG)])


def _recipe_json() -> str:
    from mmkd_models.distillation.methods import taught_by

    return json_text(taught_by(METHOD))


def _terms() -> str:
    from mmkd_models.distillation.recipe_text import terms_text

    return terms_text()


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """Which student learns: a new one of some size, or one that goes on."""

    preset: Annotated[
        str | None,
        Option(
            "Size: tiny, small, medium or base; teacher is that of the teacher's encoder.",
            shown=f"{STUDENT_PRESET}; with --qat the student's",
        ),
    ] = None
    kind: Kind = "transformer"
    choose: Annotated[
        bool,
        Option(
            "Train students in several ways, labels alone among them, and write the one that validation prefers.",
            ("--choose",),
        ),
    ] = False
    causal: Causal = False
    qat: Annotated[
        Path | None,
        Option(
            "Quantisation-aware distillation: go on with this trained student, computing as its INT8 graph will, "
            "and keep the ranges for mmkd-export --precision int8.",
            metavar="STUDENT",
            shown=False,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What it learns from its teachers."""

    recipe: Annotated[Path | None, Option("JSON file with the recipe; see --print-recipe.")] = None
    term: Annotated[
        list[str] | None, Option("One term of the recipe, KIND[,NAME=VALUE...] (repeat); see --list-terms.")
    ] = None
    trust: Annotated[
        str | None,
        Option(
            "How much the teacher counts in a window: none (always fully), label (by its probability of the true "
            "class; fully without a label), confidence (as label; by its own without one). Default: the recipe's."
        ),
    ] = None
    init: Annotated[
        str | None,
        Option(
            "How the student starts: fresh, or teacher (the weights of the teacher's own encoder, with --preset "
            "teacher; of several teachers the first one's). Default: the recipe's."
        ),
    ] = None
    mix: Annotated[
        str | None,
        Option(
            "What is averaged of several teachers: probabilities (at the temperature of the term) or logits. "
            "Default: the recipe's, else probabilities."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DistillationOptions(TrainingOptions):
    """Those of every training; a student that practises INT8 goes on more shortly and gently."""

    steps: Annotated[
        int | None,
        Option("Optimisation steps.", min=1, shown=f"{STUDENT_TRAIN.steps}; with --qat {INT8_TRAIN.steps}"),
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
class DistillResultOptions:
    """What is written, and what is printed."""

    embed_windows: Embed = True
    print_recipe: Annotated[
        bool,
        Option(
            "Print the default recipe (of three classes or more; of anything else it is --term logit) and stop.",
            ("--print-recipe",),
            says=_recipe_json,
        ),
    ] = False
    list_terms: Annotated[
        bool, Option("Print what a recipe can consist of and stop.", ("--list-terms",), says=_terms)
    ] = False
    json: Json = False


def distill(
    context: typer.Context,
    *,
    teacher: Annotated[
        list[Path],
        Argument(
            "TEACHER...",
            "Teacher checkpoint, from mmkd-train teacher, or several: their answers are averaged, and terms that "
            "look inside name one of them, member=0 for the first.",
        ),
    ],
    data: Data,
    modality: Modality,
    output: Output = Path("student.ckpt"),
    student: StudentOptions,
    taught: RecipeOptions,
    options: DistillationOptions,
    result: DistillResultOptions,
) -> None:
    """Distil one or more teachers into a student of one modality; windows without labels (-1) teach too."""
    from mmkd_models.training.closed_form.students import taught_student
    from mmkd_models.training.replaced import check_replaced
    from mmkd_models.training.trainings import distil_int8, planned_facts

    _check_kind(student, taught)
    new = _new_student(student)
    hold_output(context, output, teachers=teacher)
    training = training_data(data, options, modalities=None)
    start = _starting_student(student, modality, output)
    recipe = _recipe(taught, training)
    teachers = _teachers(teacher, training, start, fold=options.fold)
    seen = [spec.name for one in teachers for spec in one.checkpoint.modalities]
    training = training.for_pair(seen, modality)
    named = start.checkpoint.config if start else new
    kind = kind_named(student.kind, option="--kind")
    config = named or student_like(teachers[0].checkpoint.config, causal=student.causal, kind=kind)
    run = new_run(output, training, options, INT8_TRAIN if start else STUDENT_TRAIN, embed_windows=result.embed_windows)
    if not (options.force or options.resume):
        check_replaced(
            output,
            kind="student",
            modalities=[modality],
            config=config,
            facts=planned_facts(
                training,
                run.train,
                run.augment,
                recipe=None if config.kind == "rocket" else recipe,
                teachers=teachers,
            ),
            start_sha256=None if start is None else start.sha256,
            choose=student.choose,
        )
    if not options.resume:
        drop_states(output)
    with training_shown(f"{modality} student in INT8" if start else f"{modality} student", output) as show:
        run = replace(run, on_step=show)
        if start is not None:
            checkpoint = distil_int8(
                training,
                start.checkpoint,
                run,
                start_sha256=start.sha256,
                groups=start.groups,
                teachers=teachers,
                recipe=recipe,
            )
        elif student.choose:
            checkpoint = _raced(training, modality, config, run, teachers=teachers, recipe=recipe)
        else:
            checkpoint = taught_student(training, modality, config, run, teachers=teachers, recipe=recipe)
    write_student_and_report(output, checkpoint, json=result.json)


def _raced(
    training: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TaughtBy],
    recipe: Recipe,
) -> StudentCheckpoint:
    from mmkd_models.training.choosing.race import labelled_race, taught_race

    alone, taught = (replace(run, run_dir=run.run_dir and run.run_dir / name) for name in ("labels", "taught"))
    labelled = labelled_race(training.with_modalities((modality,)), modality, config, alone)
    return taught_race(training, modality, config, taught, teachers=teachers, recipe=recipe, labelled=labelled)


def _new_student(options: StudentOptions) -> StudentConfig | None:
    """The student of a named size; None where it is that of the teacher's encoder."""
    size = options.preset or STUDENT_PRESET
    if size == "teacher":
        return None
    kind = kind_named(options.kind, option="--kind")
    return student_config(preset_named(size, option="--preset"), causal=options.causal, kind=kind)


def _check_kind(student: StudentOptions, taught: RecipeOptions) -> None:
    """Refuses, for kinds that are not trained step by step, what only such a training can do."""
    kind = kind_named(student.kind, option="--kind")
    if student.choose and (kind != "transformer" or student.qat is not None):
        beside = "--qat" if student.qat is not None else f"--kind {kind}"
        raise UsageError(
            f"--choose: expected no {beside} beside it, since validation chooses among fresh students of every kind; "
            "leave one of them out"
        )
    if kind == "transformer":
        return
    if student.qat is not None:
        raise UsageError(
            f"--kind {kind}: expected no kind beside --qat, which goes on with a student of the kind transformer; "
            "leave it out"
        )
    named = [
        name
        for name, value in (
            ("--recipe", taught.recipe),
            ("--term", taught.term),
            ("--trust", taught.trust),
            ("--init", taught.init),
            ("--mix", taught.mix),
        )
        if value
    ]
    if kind == "rocket" and named:
        raise UsageError(
            f"{named[0]}: expected no recipe beside --kind rocket, whose regression learns the teachers' "
            "probabilities and the labels; leave it out, or take --kind hybrid"
        )


def _recipe(options: RecipeOptions, training: TrainingData) -> Recipe:
    from mmkd_models.distillation.methods import default_recipe
    from mmkd_models.distillation.recipe_text import chosen_recipe

    return chosen_recipe(
        default_recipe(training.train.spec.task),
        file=options.recipe,
        terms=options.term or (),
        trust=options.trust,
        init=options.init,
        mix=options.mix,
    )


def _teachers(
    paths: Sequence[Path], training: TrainingData, start: StartingStudent | None, *, fold: int | None
) -> list[TaughtBy]:
    """Reads the teachers; refuses those that cannot judge these windows, or know windows that judge the student."""
    from mmkd_models.training.checkpoint import file_sha256
    from mmkd_models.training.compatible import check_same_fold, check_teacher
    from mmkd_models.training.teacher_set import TaughtBy, read_teachers

    teachers = [TaughtBy(checkpoint=read_teachers(path), sha256=file_sha256(path)) for path in paths]
    for one in teachers:
        check_teacher(one.checkpoint, training.train)
    origins = [(f"teacher {path}", one.checkpoint.facts) for path, one in zip(paths, teachers, strict=True)]
    origins += [] if start is None else [(f"--qat {start.path}", start.checkpoint.facts)]
    for who, facts in origins:
        check_same_fold(who, facts, dataset_sha256=training.sha256, fold=fold)
    return teachers


@dataclass(frozen=True, kw_only=True)
class StartingStudent:
    """The student that practises INT8, and the layers that compute in it."""

    path: Path
    checkpoint: StudentCheckpoint
    sha256: str
    groups: tuple[tuple[str, ...], ...]


def _starting_student(options: StudentOptions, modality: str, output: Path) -> StartingStudent | None:
    """Reads the student of `--qat`, and asks the export which of its layers compute in INT8; None without `--qat`.

    Raises:
        UsageError: the options do not fit the student, or there is no such file.
        CheckpointError: the file is no student's checkpoint.
        UnavailableError: the export's libraries are missing.
    """
    from mmkd_models.training.checkpoint import file_sha256, read_student

    path, preset = options.qat, options.preset
    if path is None:
        return None
    if preset is not None:
        raise UsageError(f"--preset {preset}: expected no size beside --qat, which takes the student's; leave it out")
    checkpoint = read_student(path)
    if options.causal or checkpoint.config.causal:
        raise UsageError(
            f"--qat {path}: expected a windowed student, got a causal one, which does not practise INT8; "
            "export it as it is"
        )
    if checkpoint.modality.name != modality:
        raise UsageError(
            f"--qat {path}: expected a student of {modality!r}, got one of {checkpoint.modality.name!r}; "
            f"use --modality {checkpoint.modality.name}"
        )
    if output.exists() and output.samefile(path):
        raise UsageError(f"--out {output}: expected another file than the student's, got the same; choose another")
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise UnavailableError(
            f"--qat asks the export which layers compute in INT8, and needs {' and '.join(missing)}, which this "
            "Python lacks; run: pip install 'mmkd-edge[export]'"
        )
    from mmkd_export.graph.onnx_from_student import practised_layers

    groups = practised_layers(checkpoint)
    return StartingStudent(path=path, checkpoint=checkpoint, sha256=file_sha256(path), groups=groups)
