"""Inputs of every training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec, task_text
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.folds import ALL, Labelled
from mmkd_models.data.labels import absent_labels
from mmkd_models.data.windows import Windows
from mmkd_models.networks.config import MemberKind
from mmkd_models.train_config import OnStep, TrainConfig

Weights = dict[MemberKind, float]

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.distillation.recipe import Recipe
    from mmkd_models.networks.config import StudentConfig, TeacherConfig
    from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint, TeacherCheckpoint, TeacherFile


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Windows for training and validation."""

    train: Windows
    valid: Windows
    sha256: str  # of the dataset
    fold: int | msgspec.UnsetType | None = msgspec.UNSET  # None for the dataset's own split, unset if unknown
    labelled: Labelled = ALL  # the rule by which `train` shows its labels

    def with_modalities(self, names: Sequence[str]) -> TrainingData:
        """Return the windows with these modalities, in order."""
        train, valid = (windows.with_modalities(names) for windows in (self.train, self.valid))
        return replace(self, train=train, valid=valid)

    def for_pair(self, teacher: Sequence[str], student: str) -> TrainingData:
        """Return the windows with a teacher's and a student's modalities."""
        return self.with_modalities(tuple(dict.fromkeys([*teacher, student])))


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Settings of a run."""

    train: TrainConfig
    augment: AugmentConfig
    run_dir: Path | None = None  # of resume state and logs; None stores nothing
    resume: bool = False
    embed_windows: bool = True  # whether a student carries validation windows
    answers: Path | None = None  # folder of teachers' answers, for distillations with the same batches
    on_step: OnStep | None = None
    on_member: Callable[[str], object] | None = None  # takes a line for each finished member without steps


@dataclass(frozen=True, kw_only=True)
class LatencyLimit:
    """Longest latency of a student, estimated as the sum of its members, each measured alone."""

    ms: float
    measure: Callable[[StudentCheckpoint], float]  # milliseconds of a window on this machine

    def keep(self, parts: Sequence[StudentCheckpoint], candidates: list[Weights]) -> list[Weights]:
        """Return the candidates within the limit."""
        times = {part.config.members[0]: self.measure(part) for part in parts}
        within = [mix for mix in candidates if sum(times[member] for member in mix) <= self.ms]
        if not within:
            latencies = ", ".join(f"{member} {ms:.3g} ms" for member, ms in times.items())
            raise UsageError(
                f"--max-latency-ms {self.ms:g}: expected a member that keeps it, got {latencies} per window in the "
                "native engine here; raise it, or choose a smaller size"
            )
        return within


@dataclass(frozen=True)
class TrainingRequest:
    """What decides a student; a transformer has a recipe."""

    data: TrainingData
    modality: str
    config: StudentConfig
    run: TrainingRun
    teachers: Sequence[TeacherFile] = ()
    recipe: Recipe | None = None
    candidates: tuple[MemberKind, ...] | None = None  # to choose among by validation; None trains the config's members
    limit: LatencyLimit | None = None  # of what is chosen
    labels_compete: bool = True  # with candidates and teachers


def check_labels(data: TrainingData) -> None:
    """Raise UsageError for a class or label without example."""
    task, known = data.train.spec.task, data.train.labels[data.train.labelled]
    several, absent = task.kind == "multi_label", absent_labels(task, known)
    if absent:
        expected, what = ("every label to be on in", "label") if several else ("every class to have", "class")
        raise UsageError(
            f"training windows: expected {expected} a labelled window, got none for {', '.join(absent)}; "
            f"label some, raise --label-fraction or --labelled-groups, or take the {what} out of the dataset"
        )


def check_start(start: TeacherCheckpoint, config: TeacherConfig, windows: Windows) -> None:
    """Raise UsageError if such a teacher cannot start with another's weights."""
    names = [modality.name for modality in windows.spec.modalities]
    shared = [modality for modality in start.modalities if modality.name in names]
    if not shared:
        raise UsageError(
            f"--start: expected a teacher of one of the modalities {', '.join(names)}, got one of "
            f"{', '.join(modality.name for modality in start.modalities)}; leave --start out"
        )
    check_compatible("starting teacher", start.task, shared, windows)
    if (start.config.encoder, start.config.fusion_depth) != (config.encoder, config.fusion_depth):
        same = start.config.preset == config.preset
        raise UsageError(
            f"--start: expected a teacher of the size {config.preset}, got {start.config.preset}"
            + (", built otherwise; leave --start out" if same else f"; give --preset {start.config.preset}")
        )


def check_same_fold(who: str, facts: Provenance, *, dataset_sha256: str, fold: int | None) -> None:
    """Raise UsageError if a model saw another fold (None: own split) of the judging dataset."""
    if facts.dataset_sha256 != dataset_sha256 or facts.fold is msgspec.UNSET or facts.fold == fold:
        return
    ours, theirs = ("the dataset's own split" if one is None else f"fold {one}" for one in (fold, facts.fold))
    fix = "leave --fold out" if facts.fold is None else f"give --fold {facts.fold}"
    raise UsageError(
        f"{who}: expected one that was trained on {ours}, as the student is, got one of {theirs}, which may know "
        f"windows that judge the student; {fix}, or train it anew"
    )


def check_compatible(who: str, task: TaskSpec, modalities: Sequence[ModalitySpec], windows: Windows) -> None:
    """Raise UsageError if a network cannot judge windows; `who` ends with its kind."""
    spec = windows.spec
    advice = f"name the dataset of its training, or train a {who.rpartition(' ')[2]} on this dataset"
    expected = msgspec.structs.replace(spec.task, labels=spec.task.labels[:1]) if task.kind == "normal" else spec.task
    if task != expected:
        raise UsageError(f"{who}: expected the {task_text(spec.task)} of the dataset, got {task_text(task)}; {advice}")
    names = [modality.name for modality in spec.modalities]
    for modality in modalities:
        if not spec.has(modality.name):
            raise UsageError(
                f"{who}: expected a dataset with modality {modality.title!r}, which it was trained with, got "
                f"{', '.join(names)}; {advice}"
            )
        found = spec.modality(modality.name)
        if found.shape != modality.shape or found.rate_hz != modality.rate_hz:
            raise UsageError(
                f"{who}: modality {modality.name!r}: expected windows (T, C)={modality.shape} at "
                f"{modality.rate_hz} Hz, got {found.shape} at {found.rate_hz} Hz; {advice}"
            )
        for key in ("channels", "range", "normalise"):
            required, got = getattr(modality, key), getattr(found, key)
            if key == "range" and got is None:
                continue  # the export gave the student a plausible one
            if got != required:
                raise UsageError(
                    f"{who}: modality {modality.name!r}: expected {key} {required!r}, got {got!r}; {advice}"
                )
