"""`mmkd-train teacher`, `mmkd-train student` and `mmkd-distill`: from a dataset directory to a checkpoint."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer
from torch import nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.augment import AugmentConfig
from mmkd_models.checkpoint import (
    Facts,
    StudentCheckpoint,
    file_sha256,
    write_student,
    write_teacher,
)
from mmkd_models.config import choice, preset_named, student_config, student_like, teacher_config
from mmkd_models.cross_fit import cross_fit
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.defaults import INT8_TRAIN, RECIPE, STUDENT_PRESET, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.evaluate.scores import default_metric, metrics_of
from mmkd_models.fits import check_teacher
from mmkd_models.int8_cli import start_of
from mmkd_models.jobs import (
    OnStep,
    Run,
    TrainingData,
    distil,
    distil_int8,
    self_train,
    train_baseline,
    train_teacher,
    visible_labels,
)
from mmkd_models.progress import training_bar
from mmkd_models.recipe_text import chosen_recipe, terms_text
from mmkd_models.resume import FILE_NAME
from mmkd_models.teacher_set import OutOfFoldCheckpoint, TaughtBy, read_teachers, write_teacher_set
from mmkd_models.train import Precision, TrainConfig

_Data = Annotated[Path, typer.Argument(help="Dataset directory; see mmkd-data.")]
_Output = Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write.")]
_Modality = Annotated[str, typer.Option(help="The one modality that the student sees.")]
_Share = Annotated[float, typer.Option(help="Share of the training labels to use; 0.1 is a tenth.")]
_Fold = Annotated[int | None, typer.Option(help="Use grouped fold N of all windows, not the dataset's split.", min=0)]
_Steps = Annotated[int, typer.Option(help="Optimisation steps.", min=1)]
_Batch = Annotated[int, typer.Option(help="Windows per step.", min=2)]
_Rate = Annotated[float, typer.Option(help="Peak learning rate.", min=0.0)]
_Patience = Annotated[int, typer.Option(help="Validations without progress before stopping; 0 never stops.", min=0)]
_MetricOption = Annotated[
    str | None,
    typer.Option(
        help="What validation maximises. Classes: accuracy, balanced_accuracy, macro_f1; several labels: macro_f1, "
        "mean_average_precision, subset_accuracy; a number: r2, pearson.",
        show_default=", ".join(default_metric(kind) for kind in get_args(TaskKind)),
    ),
]
_Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
_Practise = Annotated[
    bool,
    typer.Option(
        "--practise-missing/--no-practise-missing",
        help="Hide channels, spans and (from a teacher) modalities in training, as sensors fail.",
    ),
]
_PrecisionOption = Annotated[str, typer.Option(help="Arithmetic: 32-true, bf16-mixed or 16-mixed.")]
_Devices = Annotated[int, typer.Option(help="Devices (or CPU processes) that share each batch.", min=1)]
_Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted training of the same options.")]
_Causal = Annotated[
    bool,
    typer.Option("--causal", help="Let no token see what comes after it: a stream then computes only the new samples."),
]
_Embed = Annotated[bool, typer.Option("--embed-windows/--no-embed-windows", help="Carry up to 256 validation windows.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]

_train = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train a multimodal teacher, or a single-sensor student on labels alone (the baseline).",
)
_distill = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)


def run_train(arguments: Sequence[str]) -> None:
    """Runs `mmkd-train` with these arguments."""
    _train(args=list(arguments), prog_name="mmkd-train")


def run_distill(arguments: Sequence[str]) -> None:
    """Runs `mmkd-distill` with these arguments."""
    _distill(args=list(arguments), prog_name="mmkd-distill")


def _print_recipe(wanted: bool) -> None:
    if wanted:
        print(_pretty(RECIPE))
        raise typer.Exit


def _list_terms(wanted: bool) -> None:
    if wanted:
        print(terms_text())
        raise typer.Exit


@_train.command(epilog="Example: mmkd-train teacher mydata -o teacher.ckpt")
def teacher(
    data: _Data,
    output: _Output = Path("teacher.ckpt"),
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Use only these modalities (repeat; one makes a unimodal teacher); default all."),
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
    label_share: _Share = 1.0,
    fold: _Fold = None,
    steps: _Steps = TEACHER_TRAIN.steps,
    batch: _Batch = TEACHER_TRAIN.batch,
    learning_rate: _Rate = TEACHER_TRAIN.learning_rate,
    patience: _Patience = TEACHER_TRAIN.patience,
    metric: _MetricOption = None,
    seed: _Seed = 0,
    practise_missing: _Practise = True,
    precision: _PrecisionOption = TEACHER_TRAIN.precision,
    devices: _Devices = 1,
    resume: _Resume = False,
    json: _Json = False,
) -> None:
    """Train a teacher on all modalities of a dataset, or on those that are named."""
    train = _train_config(steps, batch, learning_rate, patience, seed, precision, devices)
    size = teacher_config(preset_named(preset, option="--preset"))
    if not practise_missing:
        size = msgspec.structs.replace(size, modality_dropout=0.0)
    _check_output(output)
    training = _training_data(data, label_share=label_share, fold=fold, seed=seed, modalities=modality)
    augment = _augment(practise_missing=practise_missing)
    train = _with_metric(train, metric, training)
    run = Run(train=train, augment=augment, run_dir=_run_dir(output), resume=resume)
    following = _distill_command(output, data, training) + _same_windows(label_share=label_share, fold=fold, seed=seed)
    if out_of_fold is not None:
        teachers = cross_fit(
            training,
            size,
            run,
            count=out_of_fold,
            self_training=self_training,
            watch=lambda name: _training(name, output),
        )
        _write_teacher_set(output, teachers, following=following, json=json)
        return
    with _training("teacher", output) as show:
        checkpoint = train_teacher(training, size, replace(run, on_step=show))
    if self_training and not training.train.labelled.all():
        with _training("teacher, second generation", output) as show:
            second = replace(run, run_dir=_run_dir(output) / "second", on_step=show)
            checkpoint = self_train(training, checkpoint, second)
    if not _is_first_process():
        return
    write_teacher(output, checkpoint)
    _finish(output)
    names = [spec.name for spec in checkpoint.modalities]
    _report(checkpoint.facts, checkpoint.network(), output, names, following=following, json=json)


@_train.command(epilog="Example: mmkd-train student mydata --modality acc -o baseline.ckpt")
def student(
    data: _Data,
    modality: _Modality,
    output: _Output = Path("baseline.ckpt"),
    preset: Annotated[str, typer.Option(help="Size: tiny, small, medium or base.")] = STUDENT_PRESET,
    causal: _Causal = False,
    label_share: _Share = 1.0,
    fold: _Fold = None,
    steps: _Steps = STUDENT_TRAIN.steps,
    batch: _Batch = STUDENT_TRAIN.batch,
    learning_rate: _Rate = STUDENT_TRAIN.learning_rate,
    patience: _Patience = STUDENT_TRAIN.patience,
    metric: _MetricOption = None,
    seed: _Seed = 0,
    practise_missing: _Practise = True,
    precision: _PrecisionOption = STUDENT_TRAIN.precision,
    devices: _Devices = 1,
    resume: _Resume = False,
    embed_windows: _Embed = True,
    json: _Json = False,
) -> None:
    """Train a student of one modality on labels alone: the baseline that distillation has to beat."""
    train = _train_config(steps, batch, learning_rate, patience, seed, precision, devices)
    size = student_config(preset_named(preset, option="--preset"), causal=causal)
    _check_output(output)
    training = _training_data(data, label_share=label_share, fold=fold, seed=seed, modalities=[modality])
    with _training(f"{modality} baseline", output) as show:
        augment = _augment(practise_missing=practise_missing)
        run = _run(
            _with_metric(train, metric, training),
            augment,
            output,
            resume=resume,
            embed_windows=embed_windows,
            on_step=show,
        )
        checkpoint = train_baseline(training, modality, size, run)
    _write_student(output, checkpoint, json=json)


@_distill.command(
    epilog="Example: mmkd-distill teacher.ckpt mydata --modality acc -o student.ckpt. Several teachers as one: "
    "mmkd-distill a.ckpt b.ckpt mydata --modality acc --term task --term logit --term edam,member=1. For INT8: "
    "mmkd-distill teacher.ckpt mydata --modality acc --qat student.ckpt -o student-qat.ckpt"
)
def distill(
    teacher: Annotated[
        list[Path],
        typer.Argument(
            help="Teacher checkpoint, from mmkd-train teacher, or several: their answers are averaged, and terms that "
            "look inside name one of them, member=0 for the first."
        ),
    ],
    data: _Data,
    modality: _Modality,
    output: _Output = Path("student.ckpt"),
    preset: Annotated[
        str | None,
        typer.Option(
            help="Size: tiny, small, medium or base; teacher is that of the teacher's encoder.",
            show_default=f"{STUDENT_PRESET}; with --qat the student's",
        ),
    ] = None,
    causal: _Causal = False,
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
    label_share: _Share = 1.0,
    fold: _Fold = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Optimisation steps.", min=1, show_default=f"{STUDENT_TRAIN.steps}; with --qat {INT8_TRAIN.steps}"
        ),
    ] = None,
    batch: _Batch = STUDENT_TRAIN.batch,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate.",
            min=0.0,
            show_default=f"{STUDENT_TRAIN.learning_rate}; with --qat {INT8_TRAIN.learning_rate}",
        ),
    ] = None,
    patience: _Patience = STUDENT_TRAIN.patience,
    metric: _MetricOption = None,
    seed: _Seed = 0,
    practise_missing: _Practise = True,
    precision: _PrecisionOption = STUDENT_TRAIN.precision,
    devices: _Devices = 1,
    resume: _Resume = False,
    embed_windows: _Embed = True,
    print_recipe: Annotated[
        bool,
        typer.Option(
            "--print-recipe", help="Print the default recipe and stop.", is_eager=True, callback=_print_recipe
        ),
    ] = False,
    list_terms: Annotated[
        bool,
        typer.Option(
            "--list-terms", help="Print what a recipe can consist of and stop.", is_eager=True, callback=_list_terms
        ),
    ] = False,
    json: _Json = False,
) -> None:
    """Distil one or more teachers into a student of one modality; windows without labels (-1) teach too."""
    usual = STUDENT_TRAIN if qat is None else INT8_TRAIN
    train = _train_config(
        usual.steps if steps is None else steps,
        batch,
        usual.learning_rate if learning_rate is None else learning_rate,
        patience,
        seed,
        precision,
        devices,
    )
    chosen = chosen_recipe(RECIPE, file=recipe, terms=term or (), trust=trust, init=init, mix=mix)
    start = None if qat is None else start_of(qat, modality, preset=preset, causal=causal, output=output)
    size = preset or STUDENT_PRESET
    named = None if size == "teacher" else student_config(preset_named(size, option="--preset"), causal=causal)
    _check_output(output, teachers=teacher)
    first, *further = [TaughtBy(checkpoint=read_teachers(path), sha256=file_sha256(path)) for path in teacher]
    training = _training_data(data, label_share=label_share, fold=fold, seed=seed, modalities=None)
    for one in (first, *further):
        check_teacher(one.checkpoint, training.train)
    seen = [spec.name for one in (first, *further) for spec in one.checkpoint.modalities]
    training = training.for_pair(seen, modality)
    augment = _augment(practise_missing=practise_missing)
    with _training(f"{modality} student" if start is None else f"{modality} student in INT8", output) as show:
        run = _run(
            _with_metric(train, metric, training),
            augment,
            output,
            resume=resume,
            embed_windows=embed_windows,
            on_step=show,
        )
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
                named or student_like(first.checkpoint.config, causal=causal),
                run,
                teacher=first.checkpoint,
                teacher_sha256=first.sha256,
                recipe=chosen,
                further=further,
            )
    _write_student(output, checkpoint, json=json)


def _distill_command(output: Path, data: Path, training: TrainingData) -> str:
    name = training.train.spec.modalities[0].name
    return f"mmkd-distill {_quoted(output)} {_quoted(data)} --modality {name} -o student.ckpt"


def _write_teacher_set(output: Path, teachers: OutOfFoldCheckpoint, *, following: str, json: bool) -> None:
    if not _is_first_process():
        return
    write_teacher_set(output, teachers)
    _finish(output)
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
        print(_pretty(summary))
        return
    scores = " ".join(f"{facts.score:.3f}" for facts in teachers.facts)
    print(f"modalities    {', '.join(names)}")
    print(f"parameters    {parameters:,} in {len(teachers.facts)} teachers")
    print(f"validation    {metric} {scores}")
    print(f"out of fold   {metric} {teachers.score:.3f} on training windows, each by the teacher that has not seen it")
    print(f"logs          tensorboard --logdir {_quoted(_run_dir(output))}")
    print(f"wrote {output}; next: {following}")


def _write_student(output: Path, checkpoint: StudentCheckpoint, *, json: bool) -> None:
    if not _is_first_process():
        return
    write_student(output, checkpoint)
    _finish(output)
    precision = "" if checkpoint.int8 is None else " --precision int8"
    following = f"mmkd-export {_quoted(output)}{precision} -o {_quoted(output.with_suffix('.edge'))}"
    names = [checkpoint.modality.name]
    _report(checkpoint.facts, checkpoint.network(), output, names, following=following, json=json)


def _is_first_process() -> bool:
    """With --devices every process runs the whole command; Lightning Fabric numbers those that it starts."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _check_output(output: Path, *, teachers: Sequence[Path] = ()) -> None:
    """Refuses, before anything is trained, an output that could not be written or would replace the teacher."""
    if output.is_dir():
        raise UsageError(f"--output {output}: expected the name of a checkpoint, got a directory; name a file in it")
    if any(output.exists() and teacher.exists() and output.samefile(teacher) for teacher in teachers):
        raise UsageError(
            f"--output {output}: expected another file than the teacher's, got the same; choose another name"
        )


@contextmanager
def _training(title: str, output: Path) -> Iterator[OnStep]:
    """Gives an observer for a progress bar; says how to go on where Ctrl-C ends a training that can."""
    try:
        with training_bar(title) as show:
            yield show
    except KeyboardInterrupt:
        kept = any(_states(output))
        sys.stderr.write("interrupted; the same command with --resume continues\n" if kept else "interrupted\n")
        raise


def _train_config(
    steps: int, batch: int, learning_rate: float, patience: int, seed: int, precision: str, devices: int
) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        patience=patience,
        seed=seed,
        precision=choice(precision, get_args(Precision), option="--precision"),
        devices=devices,
    )


def _with_metric(train: TrainConfig, metric: str | None, training: TrainingData) -> TrainConfig:
    kind = training.train.spec.task.kind
    chosen = default_metric(kind) if metric is None else choice(metric, metrics_of(kind), option="--metric")
    return msgspec.structs.replace(train, metric=chosen)


def _training_data(
    path: Path, *, label_share: float, fold: int | None, seed: int, modalities: Sequence[str] | None
) -> TrainingData:
    dataset = open_dataset(path)
    if fold is None:
        train, valid = dataset.split("train"), dataset.split("valid")
    else:
        windows = dataset.everything()
        rows = fold_indices(windows, fold=fold, seed=0)
        train, valid = windows.subset(rows.train), windows.subset(rows.valid)
    train = train.with_labels(visible_labels(train, share=label_share, seed=seed))
    training = TrainingData(train=train, valid=valid, sha256=dataset.sha256)
    return training.with_modalities(modalities) if modalities else training


def _same_windows(*, label_share: float, fold: int | None, seed: int) -> str:
    """Gives the options with which another command sees the same windows and labels, where they are not the defaults.

    A student that is distilled from the teacher of one fold on another fold is judged on windows that its teacher knew.
    """
    options = [] if label_share == 1 else [f"--label-share {label_share:g}"]
    options += [] if fold is None else [f"--fold {fold}"]
    options += [] if seed == 0 else [f"--seed {seed}"]
    return "".join(f" {option}" for option in options)


def _augment(*, practise_missing: bool) -> AugmentConfig:
    return AugmentConfig() if practise_missing else AugmentConfig(channel_dropout=0.0, span_dropout=0.0)


def _run(
    train: TrainConfig, augment: AugmentConfig, output: Path, *, resume: bool, embed_windows: bool, on_step: OnStep
) -> Run:
    return Run(
        train=train,
        augment=augment,
        run_dir=_run_dir(output),
        resume=resume,
        embed_windows=embed_windows,
        on_step=on_step,
    )


def _run_dir(output: Path) -> Path:
    """Gives the folder of the training's logs and resume state, beside its checkpoint."""
    return output.with_name(output.name + ".run")


def _states(output: Path) -> Iterator[Path]:
    """Gives the resume states of all the trainings that make this checkpoint."""
    return _run_dir(output).rglob(FILE_NAME)


def _finish(output: Path) -> None:
    """Drops the resume states of finished trainings; their TensorBoard logs stay."""
    for state in list(_states(output)):
        state.unlink()


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _pretty(document: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _report(
    facts: Facts, network: nn.Module, output: Path, modalities: Sequence[str], *, following: str, json: bool
) -> None:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if json:
        summary = {"checkpoint": str(output), "modalities": list(modalities), "parameters": parameters, "facts": facts}
        print(_pretty(summary))
        return
    print(f"modalities    {', '.join(modalities)}")
    print(f"parameters    {parameters:,}")
    print(f"validation    {facts.metric} {facts.score:.3f} at step {facts.best_step} of {facts.training.steps}")
    print(f"logs          tensorboard --logdir {_quoted(_run_dir(output))}")
    print(f"wrote {output}; next: {following}")
