"""`mmkd-distill`: from teachers' checkpoints and a dataset directory to a student's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mmkd_edge.command.help import command_app, command_class
from mmkd_models.commands.int8 import start_of
from mmkd_models.commands.train_options import (
    Batch,
    Causal,
    Data,
    Devices,
    Embed,
    Fold,
    Force,
    Json,
    MetricOption,
    Modality,
    Output,
    Patience,
    Practise,
    PrecisionOption,
    Resume,
    Seed,
    Share,
    chosen_augment,
    train_config,
    training_data,
    with_metric,
)
from mmkd_models.commands.train_output import chosen_run, hold_output, pretty, training_shown, write_student_and_report
from mmkd_models.defaults import INT8_TRAIN, METHOD, STUDENT_PRESET, STUDENT_TRAIN
from mmkd_models.networks.config import preset_named, student_config, student_like
from mmkd_models.training.fits import check_same_fold, check_teacher

_distill = command_app()


def run_distill(arguments: Sequence[str]) -> None:
    """Runs `mmkd-distill` with these arguments."""
    _distill(args=list(arguments), prog_name="mmkd-distill")


def _print_recipe(wanted: bool) -> None:
    if wanted:
        from mmkd_models.distil.methods import taught_by

        print(pretty(taught_by(METHOD)))
        raise typer.Exit


def _list_terms(wanted: bool) -> None:
    if wanted:
        from mmkd_models.distil.recipe_text import terms_text

        print(terms_text())
        raise typer.Exit


@_distill.command(
    cls=command_class(),
    epilog="Example: mmkd-distill teacher.ckpt mydata --modality acc -o student.ckpt. Several teachers as one: "
    "mmkd-distill a.ckpt b.ckpt mydata --modality acc --term task --term logit --term edam,member=1. For INT8: "
    "mmkd-distill teacher.ckpt mydata --modality acc --qat student.ckpt -o student-qat.ckpt",
)
def distill(
    context: typer.Context,
    teacher: Annotated[
        list[Path],
        typer.Argument(
            metavar="TEACHER...",
            help="Teacher checkpoint, from mmkd-train teacher, or several: their answers are averaged, and terms that "
            "look inside name one of them, member=0 for the first.",
        ),
    ],
    data: Data,
    modality: Modality,
    output: Output = Path("student.ckpt"),
    preset: Annotated[
        str | None,
        typer.Option(
            help="Size: tiny, small, medium or base; teacher is that of the teacher's encoder.",
            show_default=f"{STUDENT_PRESET}; with --qat the student's",
        ),
    ] = None,
    causal: Causal = False,
    qat: Annotated[
        Path | None,
        typer.Option(
            metavar="STUDENT",
            help="Quantisation-aware distillation: go on with this trained student, computing as its INT8 graph will, "
            "and keep the ranges for mmkd-export --precision int8.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file with the recipe; see --print-recipe.")] = None,
    term: Annotated[
        list[str] | None,
        typer.Option(help="One term of the recipe, KIND[,NAME=VALUE...] (repeat); see --list-terms."),
    ] = None,
    trust: Annotated[
        str | None,
        typer.Option(
            help="How much the teacher counts in a window: none (always fully), label (by its probability of the true "
            "class; fully without a label), confidence (as label; by its own without one). Default: the recipe's."
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="How the student starts: fresh, or teacher (the weights of the teacher's own encoder, with --preset "
            "teacher; of several teachers the first one's). Default: the recipe's."
        ),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            help="What is averaged of several teachers: probabilities (at the temperature of the term) or logits. "
            "Default: the recipe's, else probabilities."
        ),
    ] = None,
    label_share: Share = 1.0,
    fold: Fold = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Optimisation steps.", min=1, show_default=f"{STUDENT_TRAIN.steps}; with --qat {INT8_TRAIN.steps}"
        ),
    ] = None,
    batch: Batch = STUDENT_TRAIN.batch,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate.",
            min=0.0,
            show_default=f"{STUDENT_TRAIN.learning_rate}; with --qat {INT8_TRAIN.learning_rate}",
        ),
    ] = None,
    patience: Patience = STUDENT_TRAIN.patience,
    metric: MetricOption = None,
    seed: Seed = 0,
    practise_missing: Practise = True,
    precision: PrecisionOption = STUDENT_TRAIN.precision,
    devices: Devices = 1,
    resume: Resume = False,
    force: Force = False,
    embed_windows: Embed = True,
    print_recipe: Annotated[
        bool,
        typer.Option(
            "--print-recipe",
            help="Print the default recipe (of three classes or more; of anything else it is --term logit) and stop.",
            is_eager=True,
            callback=_print_recipe,
        ),
    ] = False,
    list_terms: Annotated[
        bool,
        typer.Option(
            "--list-terms", help="Print what a recipe can consist of and stop.", is_eager=True, callback=_list_terms
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Distil one or more teachers into a student of one modality; windows without labels (-1) teach too."""
    from mmkd_models.distil.methods import default_recipe
    from mmkd_models.distil.recipe_text import chosen_recipe
    from mmkd_models.training.checkpoint import file_sha256
    from mmkd_models.training.replaced import check_replaced
    from mmkd_models.training.teacher_set import TaughtBy, read_teachers
    from mmkd_models.training.trainings import distil, distil_int8, planned_facts

    usual = STUDENT_TRAIN if qat is None else INT8_TRAIN
    train = train_config(
        usual.steps if steps is None else steps,
        batch,
        usual.learning_rate if learning_rate is None else learning_rate,
        patience,
        seed,
        precision,
        devices,
    )
    size = preset or STUDENT_PRESET
    named = None if size == "teacher" else student_config(preset_named(size, option="--preset"), causal=causal)
    hold_output(context, output, teachers=teacher)
    training = training_data(data, label_share=label_share, fold=fold, seed=seed, modalities=None)
    start = None if qat is None else start_of(qat, modality, preset=preset, causal=causal, output=output)
    usual_recipe = default_recipe(training.train.spec.task)
    chosen = chosen_recipe(usual_recipe, file=recipe, terms=term or (), trust=trust, init=init, mix=mix)
    first, *further = [TaughtBy(checkpoint=read_teachers(path), sha256=file_sha256(path)) for path in teacher]
    for one in (first, *further):
        check_teacher(one.checkpoint, training.train)
    origins = [(f"teacher {path}", one.checkpoint.facts) for path, one in zip(teacher, (first, *further), strict=True)]
    origins += [] if start is None else [(f"--qat {qat}", start.checkpoint.facts)]
    for who, facts in origins:
        check_same_fold(who, facts, dataset_sha256=training.sha256, fold=fold)
    seen = [spec.name for one in (first, *further) for spec in one.checkpoint.modalities]
    training = training.for_pair(seen, modality)
    train = with_metric(train, metric, training)
    augment = chosen_augment(practise_missing=practise_missing)
    config = named or student_like(first.checkpoint.config, causal=causal) if start is None else start.checkpoint.config
    if not (force or resume):
        check_replaced(
            output,
            kind="student",
            modalities=[modality],
            config=config,
            facts=planned_facts(training, train, augment, recipe=chosen, teachers=(first, *further)),
            start_sha256=None if start is None else start.sha256,
        )
    with training_shown(f"{modality} student" if start is None else f"{modality} student in INT8", output) as show:
        run = chosen_run(train, augment, output, resume=resume, embed_windows=embed_windows, on_step=show)
        if start is not None:
            checkpoint = distil_int8(
                training,
                start.checkpoint,
                run,
                start_sha256=start.sha256,
                groups=start.groups,
                teachers=(first, *further),
                recipe=chosen,
            )
        else:
            checkpoint = distil(
                training,
                modality,
                config,
                run,
                teacher=first.checkpoint,
                teacher_sha256=first.sha256,
                recipe=chosen,
                further=further,
            )
    write_student_and_report(output, checkpoint, json=json)
