"""`mmkd-train teacher` and `mmkd-train student`: from a dataset directory to a checkpoint."""

from __future__ import annotations

from mmkd_edge.cli.interrupts import loading

with loading("mmkd-train"):
    from collections.abc import Sequence
    from dataclasses import replace
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, NoReturn

    import msgspec

    from mmkd_edge.cli.options import Command, Option, run_line
    from mmkd_edge.cli.run import run_command, shell_line
    from mmkd_edge.errors import UsageError
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
        same_windows,
        training_data,
    )
    from mmkd_models.commands.outputs import (
        drop_states,
        hold_output,
        training_shown,
        write_committee_and_report,
        write_student_and_report,
        write_teachers_and_report,
    )
    from mmkd_models.defaults import COMMITTEE, STUDENT_PRESET, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
    from mmkd_models.networks.config import kind_named, preset_named, student_config, teacher_config

if TYPE_CHECKING:
    import typer

    from mmkd_models.networks.config import MemberKind, TeacherConfig
    from mmkd_models.training.inputs import TeacherStart, TrainingData

_ABOUT = "Train a multimodal teacher, or a single-sensor student on labels alone (the baseline)."
_AS_TEACHERS = TrainingOptions(steps=TEACHER_TRAIN.steps, learning_rate=TEACHER_TRAIN.learning_rate)


def main() -> NoReturn:
    """Runs `mmkd-train`."""
    run_command("mmkd-train", run_train, needs=NEEDS, extra="train", about=_ABOUT)


def run_train(arguments: Sequence[str]) -> None:
    """Runs `mmkd-train` with these arguments."""
    commands = (
        Command(function=teacher, epilog="Example: mmkd-train teacher mydata -o teacher.ckpt"),
        Command(function=student, epilog="Example: mmkd-train student mydata --modality acc -o baseline.ckpt"),
    )
    run_line("mmkd-train", arguments, commands, about=_ABOUT)


def teacher(
    context: typer.Context,
    data: Data,
    *,
    output: Output = Path("teacher.ckpt"),
    modality: Annotated[
        list[str] | None,
        Option("Use only these modalities (repeat; one makes a unimodal teacher); default all.", metavar="NAME"),
    ] = None,
    members: Annotated[
        str | None,
        Option(
            "Who answers together: transformer, rocket, trees, with commas between them. A transformer alone is the "
            "plain network; named twice, it is there with two seeds. Rocket and trees of the best sensor alone join "
            "where validation wants them.",
            metavar="NAMES",
            shown=f"{','.join(COMMITTEE)}; with --out-of-fold transformer",
        ),
    ] = None,
    preset: Annotated[str, Option("Size of a transformer: tiny, small, medium or base.")] = TEACHER_PRESET,
    self_training: Annotated[
        bool,
        Option(
            "Let a second generation of each transformer learn from unlabelled windows.",
            ("--self-training/--no-self-training",),
        ),
    ] = True,
    out_of_fold: Annotated[
        int | None,
        Option(
            "Train K teachers into one file, each without one part of the groups of the training windows: in a "
            "distillation every window is taught by the one that has not seen it. Takes K times as long.",
            metavar="K",
            min=2,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        Option(
            "Teacher whose weights it starts with, for the modalities that both have: a new sensor's encoder is fresh.",
            metavar="TEACHER.ckpt",
        ),
    ] = None,
    options: TrainingOptions = _AS_TEACHERS,
    json: Json = False,
) -> None:
    """Train a teacher on all modalities of a dataset, or on those that are named: a committee of several members."""
    from mmkd_models.training.committee import train_committee
    from mmkd_models.training.cross_fit import cross_fit
    from mmkd_models.training.replaced import check_replaced
    from mmkd_models.training.trainings import planned_facts

    size = teacher_config(preset_named(preset, option="--preset"))
    if not options.practise_missing:
        size = msgspec.structs.replace(size, modality_dropout=0.0)
    hold_output(context, output, teachers=[start] if start else [])
    training = training_data(data, options, modalities=modality)
    old = _start(start, out_of_fold, size, training)
    chosen = _members(members, out_of_fold, training)
    run = new_run(output, training, options, TEACHER_TRAIN)
    if not (options.force or options.resume):
        check_replaced(
            output,
            kind="teacher" if out_of_fold is None else "teacher-set",
            modalities=[spec.name for spec in training.train.spec.modalities],
            config=size,
            facts=planned_facts(training, run.train, run.augment, started_from=old.sha256 if old else None),
            teachers=out_of_fold or 1,
            members=chosen,
        )
    if not options.resume:
        drop_states(output)
    following = _distill_command(output, data, training) + same_windows(options)
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
    trained = train_committee(
        training,
        size,
        run,
        members=chosen,
        self_training=self_training,
        start=old,
        watch=lambda name: training_shown(name, output),
    )
    write_committee_and_report(output, trained, following=following, json=json)


def _start(
    path: Path | None, out_of_fold: int | None, size: TeacherConfig, training: TrainingData
) -> TeacherStart | None:
    """Whose weights it starts with, which fits the training; a teacher that knows what it shall judge does not."""
    from mmkd_models.training.checkpoint import file_sha256, read_teacher
    from mmkd_models.training.compatible import check_start
    from mmkd_models.training.inputs import TeacherStart

    if path is None:
        return None
    if out_of_fold is not None:
        raise UsageError(
            f"--start {path}: expected one teacher, got --out-of-fold {out_of_fold}; it may know the groups that are "
            "held back: leave one of the two out"
        )
    start = TeacherStart(checkpoint=read_teacher(path), sha256=file_sha256(path))
    check_start(start.checkpoint, size, training.train)
    return start


def _members(named: str | None, out_of_fold: int | None, training: TrainingData) -> tuple[MemberKind, ...]:
    """What is named, or else the default; out-of-fold teachers are transformers alone."""
    from mmkd_models.training.committee import default_members, members_named

    if named is None:
        return ("transformer",) if out_of_fold is not None else default_members(training.train.spec.modalities)
    chosen = members_named(named.split(","), training.train.spec.modalities)
    if out_of_fold is not None and len(chosen) > 1:
        raise UsageError(
            f"--out-of-fold {out_of_fold}: expected transformers alone, got --members {named}; a committee is not "
            "cross-fitted: leave one of the two out"
        )
    return chosen


def student(
    context: typer.Context,
    data: Data,
    *,
    modality: Modality,
    output: Output = Path("baseline.ckpt"),
    preset: Annotated[str, Option("Size: tiny, small, medium or base.")] = STUDENT_PRESET,
    kind: Kind = "transformer",
    causal: Causal = False,
    options: TrainingOptions,
    embed_windows: Embed = True,
    json: Json = False,
) -> None:
    """Train a student of one modality on labels alone: the baseline that distillation has to beat."""
    from mmkd_models.training.closed_form.students import labelled_student
    from mmkd_models.training.replaced import check_replaced
    from mmkd_models.training.trainings import planned_facts

    chosen = kind_named(kind, option="--kind")
    size = student_config(preset_named(preset, option="--preset"), causal=causal, kind=chosen)
    hold_output(context, output)
    training = training_data(data, options, modalities=[modality])
    run = new_run(output, training, options, STUDENT_TRAIN, embed_windows=embed_windows)
    if not (options.force or options.resume):
        facts = planned_facts(training, run.train, run.augment)
        check_replaced(output, kind="student", modalities=[modality], config=size, facts=facts)
    if not options.resume:
        drop_states(output)
    with training_shown(f"{modality} baseline", output) as show:
        checkpoint = labelled_student(training, modality, size, replace(run, on_step=show))
    write_student_and_report(output, checkpoint, json=json)


def _distill_command(output: Path, data: Path, training: TrainingData) -> str:
    name = training.train.spec.modalities[0].name
    return shell_line("mmkd-distill", output, data, "--modality", name, "-o", "student.ckpt")
