"""The checkpoint that a command trains: refused before, shown on the way, written and told of at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mmkd_edge.command.outputs import check_name, held
from mmkd_edge.command.run import shell_line
from mmkd_edge.errors import UsageError
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.train_config import TrainConfig

if TYPE_CHECKING:  # --help needs no torch
    import typer
    from torch import nn

    from mmkd_models.train_config import OnStep
    from mmkd_models.training.checkpoint import Facts, StudentCheckpoint
    from mmkd_models.training.teacher_set import OutOfFoldCheckpoint
    from mmkd_models.training.trainings import Run


def write_teachers_and_report(output: Path, teachers: OutOfFoldCheckpoint, *, following: str, json: bool) -> None:
    """Writes out-of-fold teachers and says what they are, in the first process."""
    from mmkd_models.training.teacher_set import write_teacher_set

    if not is_first_process():
        return
    write_teacher_set(output, teachers)
    drop_states(output)
    names = [spec.name for spec in teachers.modalities]
    parameters = sum(parameter.numel() for network in teachers.networks() for parameter in network.parameters())
    metric = teachers.facts[0].metric
    if json:
        summary = {
            "checkpoint": str(output),
            "modalities": names,
            "parameters": parameters,
            "out_of_fold_score": teachers.score,
            "facts": teachers.facts,
        }
        print(pretty(summary))
        return
    scores = " ".join(f"{facts.score:.3f}" for facts in teachers.facts)
    print(f"modalities    {', '.join(names)}")
    print(f"parameters    {parameters:,} in {len(teachers.facts)} teachers")
    print(f"validation    {metric} {scores}")
    print(f"out of fold   {metric} {teachers.score:.3f} on training windows, each by the teacher that has not seen it")
    print(f"logs          {shell_line('tensorboard', '--logdir', run_dir_of(output))}")
    print(f"wrote {output}; next: {following}")


def write_student_and_report(output: Path, checkpoint: StudentCheckpoint, *, json: bool) -> None:
    """Writes a student and says what it is, in the first process."""
    from mmkd_models.training.checkpoint import write_student

    if not is_first_process():
        return
    write_student(output, checkpoint)
    drop_states(output)
    precision = () if checkpoint.int8 is None else ("--precision", "int8")
    following = shell_line("mmkd-export", output, *precision, "-o", output.with_suffix(".edge"))
    names = [checkpoint.modality.name]
    report_training(checkpoint.facts, checkpoint.network(), output, names, following=following, json=json)


def is_first_process() -> bool:
    """With --devices every process runs the whole command; Lightning Fabric numbers those that it starts."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def hold_output(context: typer.Context, output: Path, *, teachers: Sequence[Path] = ()) -> None:
    """Keeps the output to this command until it ends.

    Refuses, before anything is trained, one that could not be written, is written by another command, or would replace
    the teacher.
    """
    if output.is_dir():
        raise UsageError(f"--out {output}: expected the name of a checkpoint, got a directory; name a file in it")
    if any(output.exists() and teacher.exists() and output.samefile(teacher) for teacher in teachers):
        raise UsageError(f"--out {output}: expected another file than the teacher's, got the same; choose another name")
    check_name(output, ".ckpt")
    if is_first_process():
        context.with_resource(held(output))


@contextmanager
def training_shown(title: str, output: Path) -> Iterator[OnStep]:
    """Gives an observer for a progress bar; says how to go on where Ctrl-C ends a training that can."""
    from mmkd_models.training.progress import training_bar

    try:
        with training_bar(title) as show:
            yield show
    except KeyboardInterrupt:
        if any(_states(output)):
            sys.stderr.write("the same command with --resume continues\n")
        raise


def chosen_run(
    train: TrainConfig, augment: AugmentConfig, output: Path, *, resume: bool, embed_windows: bool, on_step: OnStep
) -> Run:
    """Gives a run with its logs and resume state beside the checkpoint."""
    from mmkd_models.training.trainings import Run

    return Run(
        train=train,
        augment=augment,
        run_dir=run_dir_of(output),
        resume=resume,
        embed_windows=embed_windows,
        on_step=on_step,
    )


def run_dir_of(output: Path) -> Path:
    """Gives the folder of the training's logs and resume state, beside its checkpoint."""
    return output.with_name(output.name + ".run")


def _states(output: Path) -> Iterator[Path]:
    """Gives the resume states of all the trainings that make this checkpoint."""
    from mmkd_models.training.resume import FILE_NAME

    return run_dir_of(output).rglob(FILE_NAME)


def drop_states(output: Path) -> None:
    """Drops the resume states of finished trainings; their TensorBoard logs stay."""
    for state in list(_states(output)):
        state.unlink()


def pretty(document: Any) -> str:
    """Gives a document as people read JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def report_training(
    facts: Facts, network: nn.Module, output: Path, modalities: Sequence[str], *, following: str, json: bool
) -> None:
    """Says what was trained, and which command is next."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if json:
        summary = {"checkpoint": str(output), "modalities": list(modalities), "parameters": parameters, "facts": facts}
        print(pretty(summary))
        return
    print(f"modalities    {', '.join(modalities)}")
    print(f"parameters    {parameters:,}")
    print(f"validation    {facts.metric} {facts.score:.3f} at step {facts.best_step} of {facts.training.steps}")
    print(f"logs          {shell_line('tensorboard', '--logdir', run_dir_of(output))}")
    print(f"wrote {output}; next: {following}")
