"""`mmkd-train teacher` and `mmkd-train student`: from a dataset directory to a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from mmkd_edge.command.help import command_app, command_class
from mmkd_edge.command.run import shell_line
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
    Rate,
    Resume,
    Seed,
    Share,
    Steps,
    chosen_augment,
    same_windows,
    train_config,
    training_data,
    with_metric,
)
from mmkd_models.commands.train_output import (
    chosen_run,
    drop_states,
    hold_output,
    is_first_process,
    report_training,
    run_dir_of,
    training_shown,
    write_student_and_report,
    write_teachers_and_report,
)
from mmkd_models.defaults import STUDENT_PRESET, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.networks.config import preset_named, student_config, teacher_config

if TYPE_CHECKING:
    from mmkd_models.training.trainings import TrainingData

_train = command_app("Train a multimodal teacher, or a single-sensor student on labels alone (the baseline).")


def run_train(arguments: Sequence[str]) -> None:
    """Runs `mmkd-train` with these arguments."""
    _train(args=list(arguments), prog_name="mmkd-train")


@_train.command(cls=command_class(), epilog="Example: mmkd-train teacher mydata -o teacher.ckpt")
def teacher(
    context: typer.Context,
    data: Data,
    output: Output = Path("teacher.ckpt"),
    modality: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Use only these modalities (repeat; one makes a unimodal teacher); default all."
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="Size: tiny, small, medium or base.")] = TEACHER_PRESET,
    self_training: Annotated[
        bool,
        typer.Option(
            "--self-training/--no-self-training", help="Let a second generation learn from unlabelled windows."
        ),
    ] = True,
    out_of_fold: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Train K teachers into one file, each without one part of the groups of the training windows: in a "
            "distillation every window is taught by the one that has not seen it. Takes K times as long.",
            min=2,
        ),
    ] = None,
    label_share: Share = 1.0,
    fold: Fold = None,
    steps: Steps = TEACHER_TRAIN.steps,
    batch: Batch = TEACHER_TRAIN.batch,
    learning_rate: Rate = TEACHER_TRAIN.learning_rate,
    patience: Patience = TEACHER_TRAIN.patience,
    metric: MetricOption = None,
    seed: Seed = 0,
    practise_missing: Practise = True,
    precision: PrecisionOption = TEACHER_TRAIN.precision,
    devices: Devices = 1,
    resume: Resume = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a teacher on all modalities of a dataset, or on those that are named."""
    from mmkd_models.training.checkpoint import write_teacher
    from mmkd_models.training.cross_fit import cross_fit
    from mmkd_models.training.replaced import check_replaced
    from mmkd_models.training.trainings import Run, planned_facts, self_train, train_teacher

    train = train_config(steps, batch, learning_rate, patience, seed, precision, devices)
    size = teacher_config(preset_named(preset, option="--preset"))
    if not practise_missing:
        size = msgspec.structs.replace(size, modality_dropout=0.0)
    hold_output(context, output)
    training = training_data(data, label_share=label_share, fold=fold, seed=seed, modalities=modality)
    augment = chosen_augment(practise_missing=practise_missing)
    train = with_metric(train, metric, training)
    run = Run(train=train, augment=augment, run_dir=run_dir_of(output), resume=resume)
    if not (force or resume):
        check_replaced(
            output,
            kind="teacher" if out_of_fold is None else "teacher-set",
            modalities=[spec.name for spec in training.train.spec.modalities],
            config=size,
            facts=planned_facts(training, train, augment),
            teachers=out_of_fold or 1,
        )
    following = _distill_command(output, data, training) + same_windows(label_share=label_share, fold=fold, seed=seed)
    if out_of_fold is not None:
        teachers = cross_fit(
            training,
            size,
            run,
            count=out_of_fold,
            self_training=self_training,
            watch=lambda name: training_shown(name, output),
        )
        write_teachers_and_report(output, teachers, following=following, json=json)
        return
    with training_shown("teacher", output) as show:
        checkpoint = train_teacher(training, size, replace(run, on_step=show))
    if self_training and not training.train.labelled.all():
        with training_shown("teacher, second generation", output) as show:
            second = replace(run, run_dir=run_dir_of(output) / "second", on_step=show)
            checkpoint = self_train(training, checkpoint, second)
    if not is_first_process():
        return
    write_teacher(output, checkpoint)
    drop_states(output)
    names = [spec.name for spec in checkpoint.modalities]
    report_training(checkpoint.facts, checkpoint.network(), output, names, following=following, json=json)


@_train.command(cls=command_class(), epilog="Example: mmkd-train student mydata --modality acc -o baseline.ckpt")
def student(
    context: typer.Context,
    data: Data,
    modality: Modality,
    output: Output = Path("baseline.ckpt"),
    preset: Annotated[str, typer.Option(help="Size: tiny, small, medium or base.")] = STUDENT_PRESET,
    causal: Causal = False,
    label_share: Share = 1.0,
    fold: Fold = None,
    steps: Steps = STUDENT_TRAIN.steps,
    batch: Batch = STUDENT_TRAIN.batch,
    learning_rate: Rate = STUDENT_TRAIN.learning_rate,
    patience: Patience = STUDENT_TRAIN.patience,
    metric: MetricOption = None,
    seed: Seed = 0,
    practise_missing: Practise = True,
    precision: PrecisionOption = STUDENT_TRAIN.precision,
    devices: Devices = 1,
    resume: Resume = False,
    force: Force = False,
    embed_windows: Embed = True,
    json: Json = False,
) -> None:
    """Train a student of one modality on labels alone: the baseline that distillation has to beat."""
    from mmkd_models.training.replaced import check_replaced
    from mmkd_models.training.trainings import planned_facts, train_baseline

    train = train_config(steps, batch, learning_rate, patience, seed, precision, devices)
    size = student_config(preset_named(preset, option="--preset"), causal=causal)
    hold_output(context, output)
    training = training_data(data, label_share=label_share, fold=fold, seed=seed, modalities=[modality])
    train = with_metric(train, metric, training)
    augment = chosen_augment(practise_missing=practise_missing)
    if not (force or resume):
        facts = planned_facts(training, train, augment)
        check_replaced(output, kind="student", modalities=[modality], config=size, facts=facts)
    with training_shown(f"{modality} baseline", output) as show:
        run = chosen_run(train, augment, output, resume=resume, embed_windows=embed_windows, on_step=show)
        checkpoint = train_baseline(training, modality, size, run)
    write_student_and_report(output, checkpoint, json=json)


def _distill_command(output: Path, data: Path, training: TrainingData) -> str:
    name = training.train.spec.modalities[0].name
    return shell_line("mmkd-distill", output, data, "--modality", name, "-o", "student.ckpt")
