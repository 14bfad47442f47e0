"""`mmkd-train teacher` and `mmkd-train student`: from a dataset directory to a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from mmkd_app.cli.options import Command, Option, run_line
from mmkd_app.cli.run import loading, run_command, sensor_choice, shell_line
from mmkd_app.training.checkpoints import (
    hold_output,
    train_and_report,
    training_shown,
    training_tracked,
    write_committee_and_report,
    write_student_and_report,
)
from mmkd_app.training.options import (
    NEEDS,
    Data,
    Embed,
    Json,
    Members,
    Modality,
    Output,
    StudentOptions,
    TrainingOptions,
    new_run,
    refuse_without_effect,
    same_windows,
    training_data,
)
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import open_dataset
from mmkd_models.defaults import STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.networks.config import preset_named, teacher_config

if TYPE_CHECKING:
    import typer

    from mmkd_models.data.windows import Windows
    from mmkd_models.training.inputs import TrainingData

_AS_TEACHERS = TrainingOptions(steps=TEACHER_TRAIN.steps, learning_rate=TEACHER_TRAIN.learning_rate)
_NORMAL_OPTIONS = (
    "modality",
    "data",
    "output",
    "preset",
    "faults",
    "fold",
    "seed",
    "force",
    "embed_windows",
    "json",
    "mlflow",
)


def main() -> NoReturn:
    """Run `mmkd-train`."""
    run_command("mmkd-train", run_train, needs=NEEDS, extra="train")


def run_train(arguments: Sequence[str]) -> None:
    """Run `mmkd-train`."""
    commands = (
        Command(function=teacher, epilog="Example: mmkd-train teacher mydata -o teacher.ckpt"),
        Command(function=student, epilog="Example: mmkd-train student mydata --modality acc -o baseline.ckpt"),
    )
    run_line("mmkd-train", arguments, commands)


def teacher(
    context: typer.Context,
    data: Data,
    *,
    output: Output = Path("teacher.ckpt"),
    modality: Annotated[
        list[str] | None,
        Option("Use only this modality (repeat; one makes a unimodal teacher); default all.", metavar="NAME"),
    ] = None,
    members: Members = None,
    preset: Annotated[str, Option("Size of a transformer: tiny, small, medium or base.")] = TEACHER_PRESET,
    start: Annotated[
        Path | None,
        Option("Start with the weights of this teacher, for the modalities that both have.", metavar="TEACHER.ckpt"),
    ] = None,
    options: TrainingOptions = _AS_TEACHERS,
    json: Json = False,
) -> None:
    """Train a teacher on all modalities of a dataset, or on the named ones: a committee of several members."""
    size = teacher_config(preset_named(preset, option="--preset"))
    hold_output(context, output, teachers=[start] if start else [], replace=options.force or options.resume)
    training = training_data(data, options, modalities=modality)
    run = new_run(output, training, options, TEACHER_TRAIN)
    with loading("mmkd-train"):  # torch takes seconds: what is wrong above is refused before
        from mmkd_models.training.checkpoint import read_teacher_file
        from mmkd_models.training.committee import default_members, members_named, train_committee
        from mmkd_models.training.inputs import check_start
    old = None if start is None else read_teacher_file(start)
    if old is not None:
        check_start(old.checkpoint, size, training.train)
    specs = training.train.spec.modalities
    chosen = default_members(specs) if members is None else members_named(members.split(","), specs)
    sensor, hint = sensor_choice([spec.name for spec in specs], data)
    following = shell_line("mmkd-distill", output, data, "--modality", sensor, "-o", "student.ckpt")
    following += same_windows(options) + hint
    with training_tracked(output, options) as tracker:
        trained = train_committee(
            training,
            size,
            run,
            members=chosen,
            start=old,
            watch=lambda name: training_shown(name, output, tracker),
        )
        write_committee_and_report(output, trained, tracker, following=following, json=json)


def student(
    context: typer.Context,
    data: Data,
    *,
    modality: Modality,
    output: Output = Path("baseline.ckpt"),
    student: StudentOptions,
    faults: Annotated[
        Path | None,
        Option("Normal running: also learn the labelled faults of this dataset's train and valid.", metavar="DATA"),
    ] = None,
    options: TrainingOptions,
    embed_windows: Embed = True,
    json: Json = False,
) -> None:
    """Train a student of one modality on labels only: the baseline that distillation has to beat.

    On a dataset of normal running its answer is a score, and how often normal windows have such a score.
    """
    from mmkd_models.training.inputs import TrainingRequest

    config = student.config()
    hold_output(context, output, replace=options.force or options.resume)
    training = training_data(data, options, modalities=[modality], normal=True)
    modality = training.train.spec.modalities[0].name
    run = new_run(
        output, training, options, STUDENT_TRAIN, embed_windows=embed_windows, clock_error_s=student.clock_error
    )
    if training.train.spec.task.kind == "normal":
        from mmkd_models.training.normal import fit_normal_student

        refuse_without_effect(
            context, _NORMAL_OPTIONS, "on a student of normal running, which has no steps and no labels"
        )
        known = None if faults is None else _known_faults(training, faults, modality)
        with training_tracked(output, options) as tracker:
            checkpoint = fit_normal_student(training, modality, config, run, faults=known)
            write_student_and_report(output, checkpoint, tracker, json=json)
        return
    if faults is not None:
        raise UsageError("--faults: expected a dataset of normal running beside it, got labels; leave it out")
    with loading("mmkd-train"):
        import mmkd_models.training.students  # noqa: F401 - with torch, which takes seconds
    made = TrainingRequest(training, modality, config, run)
    train_and_report(output, made, student, options, title=f"{modality} baseline", json=json)


def _known_faults(training: TrainingData, faults: Path, modality: str) -> Windows:
    """Return the faults that teach: of the same dataset only those of its training windows."""
    from mmkd_models.training.normal import known_faults

    dataset, spec = open_dataset(faults), training.train.spec
    own = training.train.rows if dataset.sha256 == training.sha256 else None
    return known_faults(dataset, spec.task.labels[0], spec.modality(modality), among=own)
