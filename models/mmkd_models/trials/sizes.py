"""Sizes and limits: what each student size costs, which ones a study may use, which combinations cannot be trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from torch import nn

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError, PerformanceError, UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.carried import carried_windows
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.distillation.method import Method
from mmkd_models.losses.goal import Goal
from mmkd_models.networks.config import Preset, student_config, teacher_config
from mmkd_models.networks.encoder import blank_inputs
from mmkd_models.networks.out_of_fold import OutOfFoldTeachers
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import (
    Provenance,
    StudentCheckpoint,
    TeacherCheckpoint,
    library_versions,
    write_student,
    write_teacher,
)
from mmkd_models.training.normalisation import set_normalisation
from mmkd_models.trials.folder import StudyFolder
from mmkd_models.trials.space import Entry, Space, TeacherChoice, entries
from mmkd_report.schema.study import NONE, PairLatency, Skipped, StudentSize

_FEW = 2  # windows of a memory bank that is made to see whether it can be

MeasureLatency = Callable[[Path, Path], PairLatency]
"""From a student's and a teacher's checkpoint to the latencies of both as they are exported, on this machine."""


def student_sizes(
    folder: StudyFolder,
    presets: Sequence[Preset],
    *,
    max_latency_ms: float | None,
    max_parameters: int | None,
    measure_latency: MeasureLatency | None,
) -> tuple[StudentSize, ...]:
    """Gives each size with its costs, and why it is out where it breaks a limit.

    Latencies are measured once, with weights that need no training (they do not change them), and kept in the study's
    folder.

    Raises:
        PerformanceError: no size keeps the limits.
    """
    spec, task = folder.dataset.spec, folder.dataset.spec.task
    found = []
    for preset in presets:
        modality = spec.modality(folder.conditions.modality)
        network = Student(modality, len(task.labels), student_config(preset), kind=task.kind)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        too_large = max_parameters is not None and parameters > max_parameters
        latency = None if measure_latency is None or too_large else _latency_of_size(folder, preset, measure_latency)
        excluded = f"{parameters:,} parameters, more than {max_parameters:,}" if too_large else ""
        if latency is not None and max_latency_ms is not None and latency.student_ms["p50"] > max_latency_ms:
            excluded = f"{latency.student_ms['p50']:.3g} ms, more than {max_latency_ms:g} ms"
        found.append(
            StudentSize(
                preset=preset,
                parameters=parameters,
                mflops=_mflops(network, modality),
                latency=latency,
                excluded=excluded,
            )
        )
    if all(size.excluded for size in found):
        reasons = "; ".join(f"{size.preset} has {size.excluded}" for size in found)
        raise PerformanceError(
            f"study: expected a student size that keeps the limits, got none: {reasons}; "
            "raise --max-latency-ms or --max-parameters, or add a smaller --student"
        )
    return tuple(found)


def impossible_entries(folder: StudyFolder, *, required: Sequence[str]) -> tuple[Skipped, ...]:
    """Gives the combinations that no training can have, with the reason that the training itself would give.

    Raises:
        UsageError: a method of these names, or every method, has no teacher and student that can have it.
    """
    spec, task = folder.dataset.spec, folder.dataset.spec.task
    modality = spec.modality(folder.conditions.modality)
    teachers = {choice.name: [_network(folder, one) for one in choice.members] for choice in folder.space.teachers}
    skipped = []
    for entry in entries(folder.space):
        recipe = folder.space.method(entry.method).recipe
        if recipe is None or entry.teacher is None:
            continue
        student = Student(modality, len(task.labels), student_config(entry.student), kind=task.kind)
        teacher, goal = teachers[entry.teacher], Goal(kind=task.kind)
        try:
            DistillLearner(student, teacher, recipe, modality=modality.name, windows=_FEW, goal=goal)
        except UsageError as error:
            skipped.append(
                Skipped(student=entry.student, method=entry.method, teacher=entry.teacher, reason=str(error))
            )
    _check_required(folder.space, skipped, required)
    return tuple(skipped)


def _network(folder: StudyFolder, member: TeacherChoice) -> Teacher | OutOfFoldTeachers:
    spec = folder.dataset.spec
    modalities = [spec.modality(name) for name in member.modalities]
    teacher = Teacher(modalities, len(spec.task.labels), teacher_config(member.preset), kind=spec.task.kind)
    return OutOfFoldTeachers([teacher], torch.zeros(_FEW, dtype=torch.int64)) if member.out_of_fold else teacher


def possible_methods(space: Space, skipped: Sequence[Skipped]) -> tuple[Method, ...]:
    """Gives the methods that some teacher and student can have."""
    out = {Entry(student=_preset(one), method=one.method, teacher=one.teacher) for one in skipped}
    left = {entry.method for entry in entries(space) if entry not in out}
    return tuple(method for method in space.methods if method.name in left)


def _check_required(space: Space, skipped: Sequence[Skipped], required: Sequence[str]) -> None:
    left = [method.name for method in possible_methods(space, skipped)]
    wanted = required or [one.method for one in skipped if left == [NONE]]
    for name in wanted:
        if name not in left:
            reason = next(one.reason for one in skipped if one.method == name)
            raise UsageError(f"method {name!r}: expected a teacher and a student that can have it: {reason}")


def _preset(skipped: Skipped) -> Preset:
    preset: Preset = msgspec.convert(skipped.student, Preset)
    return preset


def _mflops(network: Student, spec: ModalitySpec) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(*blank_inputs(spec))
    return float(counter.get_total_flops() / 1e6)


def _latency_of_size(folder: StudyFolder, preset: Preset, measure_latency: MeasureLatency) -> PairLatency:
    path = folder.out / "latency" / f"{preset}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=PairLatency)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: expected latencies, got a damaged file ({error}); delete it") from error
    student, teacher = path.with_suffix(".student.ckpt"), path.with_suffix(".teacher.ckpt")
    try:
        write_student(student, _untrained_student(folder, preset))
        write_teacher(teacher, _untrained_teacher(folder, folder.space.teachers[0]))
        latency = measure_latency(student, teacher)
    finally:
        student.unlink(missing_ok=True)
        teacher.unlink(missing_ok=True)
    write_file(path, msgspec.json.format(msgspec.json.encode(latency), indent=1))
    return latency


def _untrained_student(folder: StudyFolder, preset: Preset) -> StudentCheckpoint:
    spec, name = folder.dataset.spec, folder.conditions.modality
    training = folder.fold(0).training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = Student(spec.modality(name), len(spec.task.labels), student_config(preset), kind=spec.task.kind)
    set_normalisation(student, training.train.with_modalities((name,)))
    return StudentCheckpoint(
        modality=spec.modality(name),
        task=spec.task,
        config=student_config(preset),
        facts=_facts(folder),
        state=_state(student),
        carried=carried_windows(training.valid, name, seed=0),
    )


def _untrained_teacher(folder: StudyFolder, choice: TeacherChoice) -> TeacherCheckpoint:
    spec = folder.dataset.spec
    modalities = tuple(spec.modality(name) for name in choice.modalities)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = Teacher(modalities, len(spec.task.labels), teacher_config(choice.preset), kind=spec.task.kind)
    set_normalisation(teacher, folder.fold(0).training.train.with_modalities(choice.modalities))
    return TeacherCheckpoint(
        modalities=modalities,
        task=spec.task,
        config=teacher_config(choice.preset),
        facts=_facts(folder),
        state=_state(teacher),
    )


def _state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _facts(folder: StudyFolder) -> Provenance:
    conditions = folder.conditions
    return Provenance(
        dataset=folder.dataset.spec.name,
        dataset_sha256=conditions.dataset_sha256,
        licence=folder.dataset.spec.licence,
        metric=conditions.student_train.metric,
        score=0.0,
        best_step=0,
        training=conditions.student_train,
        augment=conditions.augment,
        versions=library_versions(),
    )
