"""Three verbs for notebooks and scripts, as `import mmkd_app.verbs as mm` offers them.

They train what `mmkd-train` and `mmkd-distill` train with the same options.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmkd_app.cli.progress import training_bar
from mmkd_app.training.options import TrainingOptions, new_run, training_data
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.novelty import NoveltyRule
from mmkd_edge.predict.preprocess import join_parts, prepare_batch
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.importing.from_frames import dataset
from mmkd_models.data.spec import SplitName
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import STUDENT_PRESET, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.distillation.recipe import default_recipe
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.metrics.scores import known_score
from mmkd_models.networks.config import MEMBERS, preset_named, student_config, student_members, teacher_config
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherCheckpoint,
    TeacherFile,
    read_student,
    read_teacher_file,
    write_student,
    write_teacher,
)
from mmkd_models.training.inputs import TrainingData, TrainingRequest, TrainingRun, check_compatible
from mmkd_models.training.predict import logits_of, scores_of

__all__ = ["Student", "Teacher", "dataset", "distill"]

Given = Dataset | Windows | npt.NDArray[Any] | dict[str, npt.NDArray[Any]]


class _Trained:
    checkpoint: Any

    def predict_proba(self, data: Given, *, split: SplitName = "test") -> npt.NDArray[np.float64]:
        """Return probabilities (N, K), numbers (N, 1), or score and p-value (N, 2) of (N, T, C), NaN = missing."""
        windows, modality = self._windows(data, split)
        if isinstance(windows, Windows):
            logits = logits_of(self.checkpoint.network(), windows, modality=modality)
        else:
            prepared = {spec.name: prepare_batch(windows[spec.name], spec) for spec in self._sensors}
            inputs = {name: tuple(map(torch.from_numpy, pair)) for name, pair in prepared.items()}
            network = self.checkpoint.network()
            with torch.no_grad():
                output = network(inputs) if modality is None else network(*inputs[modality])
            logits = output.logits.numpy()
        kind = self.checkpoint.task.kind
        if kind == "normal":
            rule = NoveltyRule(calibration=self.checkpoint.facts.normal)
            scores = np.exp(logits[:, 0].astype(np.float64))
            return np.stack([scores, [rule.p_value(score) for score in scores.tolist()]], axis=1)
        return logits.astype(np.float64) if kind == "regression" else probabilities_of(logits, kind=kind)

    def predict(self, data: Given, *, split: SplitName = "test") -> npt.NDArray[Any]:
        """Return class names (N,), "" for unlike normal running; labels off or on (N, K); or numbers (N,)."""
        task: TaskSpec = self.checkpoint.task
        answers = self.predict_proba(data, split=split)
        if task.kind == "regression":
            numbers: npt.NDArray[Any] = answers[:, 0]
            return numbers
        if task.kind == "normal":
            return np.where(answers[:, 1] > self.checkpoint.facts.normal.level, task.labels[0], "")
        if task.kind == "multi_label":
            return np.asarray(answers >= task.on_from, dtype=np.uint8)
        names: npt.NDArray[Any] = np.array(task.labels)[answers.argmax(axis=1)]
        return names

    def score(self, data: Dataset | Windows, *, split: SplitName = "test") -> float:
        """Return the metric of its training on the labelled windows of a split."""
        windows, modality = self._windows(data, split)
        if not isinstance(windows, Windows):
            raise UsageError("score: expected a dataset or its windows, which have labels, got arrays; pass a dataset")
        scores = scores_of(self.checkpoint.network(), windows, modality=modality)
        metric = self.checkpoint.facts.metric
        score = known_score(metric, float(scores.metric(metric)))
        if score is None:
            raise UsageError("score: expected windows with known faults, got normal running alone; pass some of each")
        return score

    @property
    def _sensors(self) -> tuple[ModalitySpec, ...]:
        checkpoint = self.checkpoint
        return (checkpoint.modality,) if isinstance(checkpoint, StudentCheckpoint) else checkpoint.modalities

    def _windows(self, data: Given, split: SplitName) -> tuple[Windows | dict[str, Any], str | None]:
        sensors, is_student = self._sensors, isinstance(self.checkpoint, StudentCheckpoint)
        name = sensors[0].name if is_student else None
        windows = data.split(split) if isinstance(data, Dataset) else data
        if isinstance(windows, Windows):
            check_compatible("student" if is_student else "teacher", self.checkpoint.task, sensors, windows)
            return windows.with_modalities([spec.name for spec in sensors]), name
        arrays = windows if isinstance(windows, dict) else {sensors[0].name: windows}
        for spec in sensors:
            if spec.parts and {part.name for part in spec.parts} <= set(arrays):
                joined = join_parts([np.asarray(arrays[part.name], np.float32) for part in spec.parts], spec)
                arrays = {**arrays, spec.name: joined}
            got = np.shape(arrays[spec.name]) if spec.name in arrays else "none"
            if got[1:] != spec.shape:
                shape = ", ".join(map(str, spec.shape))
                raise UsageError(f"{spec.name}: expected windows (N, {shape}), got {got}; give such an array")
        return {spec.name: _values(arrays[spec.name], spec) for spec in sensors}, name


def _values(array: npt.ArrayLike, modality: ModalitySpec) -> npt.NDArray[Any]:
    """Return windows as a dataset has them: video as it is, others float32 with NaN where masked."""
    if modality.kind == "video":
        return np.asarray(array)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which counts as missing
        return np.asarray(np.ma.filled(np.ma.asarray(array, dtype=np.float32), np.nan))  # type: ignore[no-untyped-call]


@dataclass(kw_only=True)
class Teacher(_Trained):
    """A teacher of all sensors of a dataset: a committee, as `mmkd-train teacher` trains it.

    Args:
        size: of its transformer: tiny, small, medium or base.
        members: transformer, convolutions, trees; by default as shipped.
        sensors: that it sees; by default all.
        steps: of the transformer's training; by default as shipped.
        metric: that validation maximises; by default that of the kind of task.
        label_fraction: show the labels of this part of the training windows; by default all.
        labelled_groups: show the labels of this number of whole groups, not of a fraction.
        progress: show the training steps on stderr.
    """

    size: str = TEACHER_PRESET
    members: Sequence[str] | None = None
    sensors: Sequence[str] | None = None
    steps: int | None = None
    metric: str | None = None
    label_fraction: float | None = None
    labelled_groups: int | None = None
    seed: int = 0
    progress: bool = True
    fitted: TeacherCheckpoint | None = field(default=None, init=False, repr=False)

    def fit(self, data: Dataset | str | Path) -> Teacher:
        """Train on the labelled training windows; the validation windows weight the members."""
        from mmkd_models.training.committee import default_members, members_named, train_committee

        names = ("steps", "metric", "label_fraction", "labelled_groups", "seed")
        options = TrainingOptions(learning_rate=None, **{name: getattr(self, name) for name in names})
        training, run = _plan(data, options, TEACHER_TRAIN, self.sensors)
        specs = training.train.spec.modalities
        chosen = default_members(specs) if self.members is None else members_named(self.members, specs)
        self.fitted = train_committee(
            training,
            teacher_config(preset_named(self.size, option="size")),
            run,
            members=chosen,
            watch=lambda name: _open_bar(name, self.progress),
        )
        return self

    @classmethod
    def load(cls, path: str | Path) -> Teacher:
        """Open the file of a trained teacher."""
        teacher = cls()
        teacher.fitted = read_teacher_file(Path(path)).checkpoint
        return teacher

    def save(self, path: str | Path) -> Path:
        """Write the teacher where `mmkd-distill` reads it."""
        write_teacher(Path(path), self.checkpoint)
        return Path(path)

    @property
    def checkpoint(self) -> TeacherCheckpoint:
        """What was trained. Raise UsageError before `fit`."""
        if self.fitted is None:
            raise UsageError("teacher: expected a trained one, got one before fit; call fit(data) first")
        return self.fitted

    @property
    def file(self) -> TeacherFile:
        """The teacher with the SHA-256 that its file has."""
        with tempfile.TemporaryDirectory() as folder:
            return read_teacher_file(self.save(Path(folder) / "teacher.ckpt"))

    def _repr_html_(self) -> str:
        if self.fitted is None:
            return "<p>Teacher, not trained: call <code>fit(data)</code></p>"
        checkpoint = self.checkpoint
        rows = [("together", checkpoint.facts.score)]
        members = () if checkpoint.committee is None else checkpoint.committee.members
        rows += [(f"{member.named}, weight {member.weight:.2f}", member.score) for member in members]
        sensors = ", ".join(modality.name for modality in checkpoint.modalities)
        return _table(f"Teacher of {sensors}", f"{checkpoint.facts.metric} on validation", rows)


@dataclass(frozen=True, eq=False)
class Student(_Trained):
    """A trained student of one sensor."""

    checkpoint: StudentCheckpoint

    @classmethod
    def load(cls, path: str | Path) -> Student:
        """Open the file of a student."""
        return cls(read_student(Path(path)))

    def save(self, path: str | Path) -> Path:
        """Write the student where the commands read it."""
        write_student(Path(path), self.checkpoint)
        return Path(path)

    def export(self, path: str | Path, *, targets: Sequence[str] = ()) -> Path:
        """Write the verified bundle that a device runs, as `mmkd-export` does. `targets` as its option `--target`."""
        from mmkd_export.pipeline import export
        from mmkd_export.plan import ExportPlan

        with tempfile.TemporaryDirectory() as folder:
            source = self.save(Path(folder) / "student.ckpt")
            return export(ExportPlan(source=source, output=Path(path), targets=tuple(targets))).path

    def _repr_html_(self) -> str:
        facts = self.checkpoint.facts
        rows = [(trial.name, trial.valid_score) for trial in facts.tried or ()] or [("student", facts.score)]
        figure = f"{facts.metric} on validation"
        if facts.normal and known_score(facts.metric, facts.score) is None:
            rows, figure = [("false alarms", facts.normal.window_rate)], "no known fault in validation, so no AUROC"
        taught = "normal running" if facts.normal else "taught" if facts.teachers_sha256 else "labels only"
        title = f"Student of {self.checkpoint.modality.name}: {facts.shipped or taught}"
        return _table(title, figure, rows)


def distill(
    teacher: Teacher | Sequence[Teacher] | None,
    data: Dataset | str | Path,
    *,
    sensor: str,
    size: str = STUDENT_PRESET,
    members: Sequence[str] | None = None,
    choose: bool = False,
    causal: bool = False,
    steps: int | None = None,
    metric: str | None = None,
    label_fraction: float | None = None,
    labelled_groups: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Student:
    """Train a student of one sensor from one teacher or several, as `mmkd-distill` does; None: on labels only.

    Args:
        sensor: the one that stays on the device, or a cheaper one derived from it: `acc@10Hz`; or two, of
            which either may be missing: `acc+gyro`.
        members: transformer, convolutions, intervals, trees; by default a transformer, and all with `choose`.
        choose: train all members, also on labels only, and keep what validation prefers.
        causal: attend to the past only, for streams.
        steps, metric, label_fraction, labelled_groups, progress: as of `Teacher`.

    Raise UsageError if teacher and data differ, or the options do not fit together.
    """
    from mmkd_models.training.normal import fit_normal_student
    from mmkd_models.training.students import train_student

    teachers = [] if teacher is None else [teacher] if isinstance(teacher, Teacher) else list(teacher)
    if strange := [one for one in teachers if not isinstance(one, Teacher)]:
        got = f"got {type(strange[0]).__name__}; open a checkpoint with Teacher.load(PATH)"
        raise UsageError(f"distill: expected a Teacher, several, or None, {got}")
    files = [teacher.file for teacher in teachers]
    options = TrainingOptions(
        steps=steps,
        learning_rate=None,
        metric=metric,
        label_fraction=label_fraction,
        labelled_groups=labelled_groups,
        seed=seed,
    )
    training, run = _plan(data, options, STUDENT_TRAIN, normal=not files)
    for file in files:
        check_compatible("teacher", file.checkpoint.task, file.checkpoint.modalities, training.train)
    usual = MEMBERS if choose and not causal else ("transformer",)
    among = student_members(",".join(members or usual), option="members")
    config = student_config(preset_named(size, option="size"), causal=causal, members=among)
    sensor = training.train.spec.modality(sensor).name  # a cheaper one is written as a text
    training = training.for_pair([spec.name for file in files for spec in file.checkpoint.modalities], sensor)
    if training.train.spec.task.kind == "normal":
        if any([members, choose, causal, steps, metric, label_fraction, labelled_groups]):
            raise UsageError(
                "distill: a student of normal running takes sensor, size and seed alone; leave the rest out"
            )
        return Student(fit_normal_student(training, sensor, config, run))
    recipe = default_recipe(training.train.spec.task)
    with _open_bar(f"{sensor} student", progress) as on_step:
        run = replace(run, on_step=on_step)
        candidates = among if choose else None
        return Student(train_student(TrainingRequest(training, sensor, config, run, files, recipe, candidates)))


def _plan(
    data: Dataset | str | Path,
    options: TrainingOptions,
    usual: TrainConfig,
    sensors: Sequence[str] | None = None,
    *,
    normal: bool = False,
) -> tuple[TrainingData, TrainingRun]:
    path = data.path if isinstance(data, Dataset) else Path(data)
    training = training_data(path, options, modalities=sensors, normal=normal)
    return training, replace(new_run(path, training, options, usual), run_dir=None)


def _open_bar(title: str, progress: bool) -> Any:
    return training_bar(title) if progress else nullcontext()


def _table(title: str, figure: str, rows: Sequence[tuple[str, float]]) -> str:
    lines = "".join(
        f"<tr><td>{escape(name)}</td><td>{value:.3f}</td>"
        f'<td><meter min="0" max="1" value="{min(max(value, 0.0), 1.0):.3f}">{value:.3f}</meter></td></tr>'
        for name, value in rows
    )
    head = f"<tr><th>{escape(title)}</th><th colspan=2>{escape(figure)}</th></tr>"
    return f"<table>{head}{lines}</table>"
