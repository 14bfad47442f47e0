"""Student and teacher checkpoints: one safetensors file each, tensors + JSON metadata.

A student checkpoint contains exactly its network's tensors, and those of a portable student that differ from them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from torch import Tensor

from mmkd_edge.bundle.manifest import Adapted, Normal, OverTime, TrainingHashes
from mmkd_edge.bundle.statistics import GroupReference
from mmkd_edge.bundle.strict_json import JsonError, parse_object
from mmkd_edge.derive import derivation_fault
from mmkd_edge.errors import CheckpointError, unprintable_in
from mmkd_edge.spec import ModalitySpec, TaskSpec, frames_fault, stored, task_fault
from mmkd_models.carried import CarriedWindows, carried_from, carried_tensors
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.folds import Labelled
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.network_bounds import check_bounds
from mmkd_models.networks.committee import Committee, CommitteeFacts, committee_fault
from mmkd_models.networks.config import MemberKind, StudentConfig, TeacherConfig, named
from mmkd_models.networks.members import check_member, member_from_state
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.networks.trees import TREES_DTYPES, check_trees
from mmkd_models.novelty import TrainingEmbeddings, embedding_tensors, embeddings_from_tensors
from mmkd_models.tensors import read_tensors, same_tensors, write_tensors
from mmkd_models.train_config import TrainConfig, Validation

FORMAT_VERSION = 1


class TriedStudent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A compared student; `log_likelihood` is of calibrated answers, in nats."""

    name: str
    valid_score: float
    log_likelihood: float


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Origin of a network."""

    dataset: str
    dataset_sha256: str
    fold: int | msgspec.UnsetType | None = msgspec.UNSET  # None for the dataset's own split, unset if unknown
    labelled: Labelled | None = None  # the rule that showed its labels; None for all
    licence: str
    metric: str
    score: float  # on validation
    best_step: int
    teacher_sha256: str | None = stored(None)
    further_teachers_sha256: tuple[str, ...] | None = None
    training: TrainConfig
    augment: AugmentConfig
    recipe: Recipe | None = stored(None)  # None for labels only
    curve: tuple[Validation, ...] = stored(())
    prior_tau: float | None = None  # correction of class frequencies, 0 to 1; None for 0
    group_reference: GroupReference | None = None
    weights: dict[MemberKind, float] | None = None  # of an average's members, with the sum 1
    shipped: str | None = None  # the best of `tried`
    tried: tuple[TriedStudent, ...] | None = None
    teacher_score: float | None = None  # the best teacher's on the windows of `tried`
    started_from: str | None = None  # SHA-256 of that teacher
    adapted: tuple[Adapted, ...] | None = None  # in order; the score is on old windows
    training_hashes: TrainingHashes | None = None
    normal: Normal | None = None
    over_time: OverTime | None = None
    versions: dict[str, str] = stored({})

    @property
    def teachers_sha256(self) -> tuple[str, ...]:
        """Hashes of all teachers, in order."""
        first = () if self.teacher_sha256 is None else (self.teacher_sha256,)
        return first + (self.further_teachers_sha256 or ())


class _PortableDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    config: StudentConfig
    score: float
    weights: dict[MemberKind, float] | None = None


class _StudentDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    format_version: int
    modality: ModalitySpec
    task: TaskSpec
    config: StudentConfig
    facts: Provenance
    portable: _PortableDocument | None = None


class _TeacherDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    format_version: int
    modalities: tuple[ModalitySpec, ...]
    task: TaskSpec
    config: TeacherConfig
    facts: Provenance
    committee: CommitteeFacts | None = None


@dataclass(frozen=True, kw_only=True)
class StudentCheckpoint:
    """A trained student with its export data."""

    modality: ModalitySpec
    task: TaskSpec
    config: StudentConfig
    facts: Provenance
    state: Mapping[str, Tensor]
    carried: CarriedWindows | None
    embeddings: TrainingEmbeddings | None = None  # for novelty
    portable: StudentCheckpoint | None = None  # for engines that lack a member

    def network(self) -> Student:
        """Return the student in evaluation mode."""
        student = Student(self.modality, self.task.outputs, self.config, kind=self.task.kind)
        student.load_state_dict(self.state)
        return student.eval()

    @property
    def normalisation(self) -> dict[str, list[float]]:
        """Mean and std (C,) of the training data's channels."""
        first = self.config.members[0]
        part = {"transformer": "encoder.front.", "convolutions": "convolutions."}.get(first, "intervals.")
        raw = "raw_" if first != "transformer" and self.modality.kind != "series" else ""
        state = self.state
        std = 1 / state["intervals.scale"] if part == "intervals." and not raw else state[f"{part}{raw}std"]
        return {"mean": state[f"{part}{raw}mean"].tolist(), "std": std.tolist()}


@dataclass(frozen=True, kw_only=True)
class TeacherCheckpoint:
    """A trained transformer or committee."""

    modalities: tuple[ModalitySpec, ...]
    task: TaskSpec
    config: TeacherConfig
    facts: Provenance  # the first transformer's; the score is the committee's
    state: Mapping[str, Tensor]
    committee: CommitteeFacts | None = None
    further: tuple[Mapping[str, Tensor], ...] = ()  # the states of a committee's other members

    def network(self) -> Teacher | Committee:
        """Return the teacher in evaluation mode."""
        if self.committee is None:
            return self.transformer()
        further = [
            member_from_state(member, state, self.modalities, self.task, self.config)
            for member, state in zip(self.committee.members[1:], self.further, strict=True)
        ]
        return Committee([self.transformer(), *further], self.committee, kind=self.task.kind).eval()

    def transformer(self) -> Teacher:
        """Return the (first) transformer in evaluation mode."""
        teacher = Teacher(self.modalities, len(self.task.labels), self.config, kind=self.task.kind)
        teacher.load_state_dict(self.state)
        return teacher.eval()


@dataclass(frozen=True, kw_only=True)
class TeacherFile:
    """A teacher and the SHA-256 of its file."""

    checkpoint: TeacherCheckpoint
    sha256: str


def read_teacher_file(path: Path) -> TeacherFile:
    """Read a teacher and its hash."""
    return TeacherFile(checkpoint=read_teacher(path), sha256=file_sha256(path))


def write_student(path: Path, checkpoint: StudentCheckpoint) -> None:
    """Replace the file atomically."""
    parts = {"student/": checkpoint.state}
    if checkpoint.carried is not None:
        parts["carried/"] = carried_tensors(checkpoint.carried)
    if checkpoint.embeddings is not None:
        parts["novelty/"] = embedding_tensors(checkpoint.embeddings)
    portable, known = checkpoint.portable, checkpoint.state
    document: _PortableDocument | None = None
    if portable is not None:
        facts = portable.facts
        document = _PortableDocument(config=portable.config, score=facts.score, weights=facts.weights)
        parts["portable/student/"] = {
            name: tensor
            for name, tensor in portable.state.items()
            if name not in known or not torch.equal(known[name], tensor)
        }
        parts["portable/novelty/"] = {} if portable.embeddings is None else embedding_tensors(portable.embeddings)
    values = {name: getattr(checkpoint, name, FORMAT_VERSION) for name in _StudentDocument.__struct_fields__}
    _write(path, parts, values | {"portable": document}, kind="student")


def write_teacher(path: Path, checkpoint: TeacherCheckpoint) -> None:
    """Replace the file atomically."""
    members = {f"member{number}/": state for number, state in enumerate(checkpoint.further, start=1)}
    values = {name: getattr(checkpoint, name, FORMAT_VERSION) for name in _TeacherDocument.__struct_fields__}
    _write(path, {"teacher/": checkpoint.state, **members}, values, kind="teacher")


def _write(path: Path, parts: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, object], *, kind: str) -> None:
    present = {name: value for name, value in values.items() if value is not None}
    tensors = {f"{part}{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    write_tensors(path, tensors, kind=kind, document=msgspec.json.encode(present))


def read_student(path: Path) -> StudentCheckpoint:
    """Read a student. Raise UsageError for a missing file, CheckpointError for a damaged one or another kind."""
    tensors, raw = read_tensors(path, kind="student")
    document = _decode_document(raw, _StudentDocument, path)
    prefixes = ("student/", "carried/", "novelty/", "portable/student/", "portable/novelty/")
    document_of_other = document.portable or None
    state, carried, novelty, *others = _parts(tensors, prefixes if document_of_other else prefixes[:3], path)
    modality, task = document.modality, document.task
    _check_sizes((modality,), task, path)
    _check_normal(document, path)
    network = _build_network(modality, task, document.config, state, path)
    checkpoint = StudentCheckpoint(
        modality=modality,
        task=task,
        config=document.config,
        facts=document.facts,
        state=state,
        carried=carried_from(carried, modality, task, path) if carried else None,
        embeddings=embeddings_from_tensors(novelty, width=network.head.in_features, path=path) if novelty else None,
    )
    if document_of_other is None:
        return checkpoint
    other_state, other_novelty = others
    own = {name: tensor for name, tensor in state.items() if name not in other_state}
    network = _build_network(modality, task, document_of_other.config, other_state, path, shared=own)
    names = set(network.state_dict())
    facts = msgspec.structs.replace(
        document.facts, score=document_of_other.score, weights=document_of_other.weights, prior_tau=None
    )
    portable = replace(
        checkpoint,
        config=document_of_other.config,
        facts=facts,
        state={**{name: tensor for name, tensor in own.items() if name in names}, **other_state},
        carried=None,
        embeddings=embeddings_from_tensors(other_novelty, width=network.head.in_features, path=path)
        if other_novelty
        else None,
    )
    return replace(checkpoint, portable=portable)


def _build_network(
    modality: ModalitySpec,
    task: TaskSpec,
    config: StudentConfig,
    state: Mapping[str, Tensor],
    path: Path,
    *,
    shared: Mapping[str, Tensor] | None = None,
) -> Student:
    sizes: tuple[tuple[MemberKind, object], ...] = (("convolutions", config.convolutions), ("trees", config.trees))
    for member, size in sizes:
        if member in config.members and size is None:
            raise CheckpointError(
                f"{path}: metadata: expected the sizes of its {member}, got none; the file was altered"
            )
    encoder = config.encoder if "transformer" in config.members else None
    known = {**(shared or {}), **state}
    check_bounds((modality,), task, encoder, known, path=path, student=config)
    with torch.device("meta"):  # shapes alone: no number in the metadata allocates memory
        network = Student(modality, task.outputs, config, kind=task.kind)
    expected = network.state_dict()
    same_tensors(expected, {name: part for name, part in known.items() if name in expected or name in state}, path=path)
    if network.trees is not None and network.intervals is not None:
        trees = {name: known[f"trees.{name}"] for name in TREES_DTYPES}
        check_trees(trees, features=network.intervals.features, path=str(path))
    return network


def _check_normal(document: _StudentDocument, path: Path) -> None:
    task, config, normal = document.task, document.config, document.facts.normal or None
    is_normal, what = task.kind == "normal", "components and scores of normal running"
    if is_normal and (config.members != ("convolutions",) or config.components < 1 or normal is None):
        got = f"{named(config.members)} with {config.components} and {'none' if normal is None else len(normal.scores)}"
        raise CheckpointError(f"{path}: metadata: expected convolutions with {what}, got {got}; the file was altered")
    if not is_normal and (config.components or normal is not None):
        raise CheckpointError(f"{path}: metadata: expected no {what} of a {task.kind}, got some; the file was altered")
    if normal is not None and any(low > high for low, high in itertools.pairwise(normal.scores)):
        raise CheckpointError(f"{path}: metadata: expected rising scores of normal running; the file was altered")


def read_teacher(path: Path) -> TeacherCheckpoint:
    """Read a teacher; errors as `read_student`."""
    tensors, raw = read_tensors(path, kind="teacher")
    document = _decode_document(raw, _TeacherDocument, path)
    modalities, task, config, committee = document.modalities, document.task, document.config, document.committee
    members = committee.members[1:] if committee else ()
    prefixes = ("teacher/", *(f"member{number}/" for number in range(1, len(members) + 1)))
    state, *further = _parts(tensors, prefixes, path)
    _check_sizes(modalities, task, path)
    check_bounds(modalities, task, config.encoder, state, path=path, fusion_depth=config.fusion_depth)
    with torch.device("meta"):  # shapes alone: no number in the metadata allocates memory
        network = Teacher(modalities, len(task.labels), config, kind=task.kind)
    same_tensors(network.state_dict(), state, path=path)
    if committee and (fault := committee_fault(committee)):
        raise CheckpointError(f"{path}: committee: {fault}; the file was altered")
    for number, (member, tensors) in enumerate(zip(members, further, strict=True), start=1):
        if member.kind == "transformer":
            same_tensors(state, tensors, path=path)
        else:
            check_member(member, tensors, modalities, task, path=f"{path}: member {number} ({member.kind})")
    return TeacherCheckpoint(
        modalities=modalities,
        task=task,
        config=config,
        facts=document.facts,
        state=state,
        committee=committee or None,
        further=tuple(further),
    )


def library_versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("mmkd-edge", "torch", "numpy", "lightning-fabric", "safetensors")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def file_sha256(path: Path) -> str:
    """Return a file's hexadecimal SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parts(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...], path: Path) -> list[dict[str, Tensor]]:
    unknown = sorted(name for name in tensors if not name.startswith(prefixes))
    if unknown:
        raise CheckpointError(
            f"{path}: expected only tensors named {' or '.join(prefixes)}..., got {unknown[:3]}; the file was altered"
        )
    return [
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in prefixes
    ]


def _check_sizes(modalities: Sequence[ModalitySpec], task: TaskSpec, path: Path) -> None:
    fit = all(
        m.samples >= 1 and m.channels and 0 < m.rate_hz < math.inf and frames_fault(m) is None for m in modalities
    )
    if sources := [source for m in modalities for source in m.sources]:
        _check_sizes(sources, task, path)
    if fault := next(filter(None, map(derivation_fault, modalities)), None):
        raise CheckpointError(f"{path}: metadata: {fault}; the file was altered")
    fewest = 2 if task.kind == "classification" else 1
    if not modalities or not fit or len(task.labels) < fewest:
        raise CheckpointError(
            f"{path}: metadata: expected modalities with samples, channels and a rate, and two labels or more, got "
            f"{[(m.name, m.shape, m.rate_hz) for m in modalities]} and {list(task.labels)}; the file was altered"
        )
    names = [*task.labels, task.unit or "", *(text for m in modalities for text in (m.name, m.unit, *m.channels))]
    if name := unprintable_in(names):
        raise CheckpointError(
            f"{path}: metadata: expected names without control characters and line breaks, got {name!a}; "
            "the file was altered"
        )
    wrong = task_fault(task)
    if wrong is not None:
        raise CheckpointError(f"{path}: metadata: task.{wrong[0]}: {wrong[1]}; the file was altered")


_Document = TypeVar("_Document", bound=msgspec.Struct)


def _decode_document(raw: bytes, kind: type[_Document], path: Path) -> _Document:
    try:
        found_version = parse_object(raw).get("format_version")
    except JsonError as error:
        raise CheckpointError(f"{path}: metadata: {error}; copy the file again from where it was made") from error
    if found_version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format_version {FORMAT_VERSION}, got {found_version}; use the version of "
            "mmkd-edge that wrote it"
        )
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path}: metadata: {error}; the file was altered or made by another version") from error
