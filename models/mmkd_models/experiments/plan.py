"""What an experiment trains: sensors, teachers, sizes, methods, learning rates and seeds, within a budget."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import msgspec

from mmkd_documents.study import NONE
from mmkd_edge.errors import UsageError
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import Labelled, LeftOutDomains
from mmkd_models.data.spec import DatasetSpec
from mmkd_models.distillation.recipe import Method, Recipe
from mmkd_models.evaluation.rivals import RIVALS, RivalName
from mmkd_models.experiments.workers import Executor
from mmkd_models.networks.config import MemberKind, Preset, preset_named, student_config, teacher_config
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.committee import default_members

_METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*(@[A-Za-z0-9][A-Za-z0-9_.+-]*)?")
_DIGITS = 10
_COMMITTEE = "committee"
_TAUGHT = "taught"


class TeacherChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A teacher; `committee` has its members' kinds, if any."""

    modalities: tuple[str, ...]
    preset: Preset
    committee: tuple[MemberKind, ...] = ()

    @property
    def name(self) -> str:
        """`acc+gyro:small`, or `acc+gyro:small,committee`."""
        return f"{'+'.join(self.modalities)}:{self.preset}" + (f",{_COMMITTEE}" if self.committee else "")


def teachers_from_text(texts: Sequence[str], dataset: Dataset) -> tuple[TeacherChoice, ...]:
    """Parse `small`, `gyro:tiny`, `acc+gyro:small,committee`."""
    teachers = []
    for text in texts:
        name, *settings = text.split(",")
        if settings not in ([], [_COMMITTEE]):
            got = ",".join(settings)
            raise UsageError(
                f"--teacher {text}: expected nothing or {_COMMITTEE} after the size, got {got!r}; correct it"
            )
        modalities, _, size = name.rpartition(":")
        names = modalities.split("+") if modalities else [spec.name for spec in dataset.spec.modalities]
        dataset.everything().with_modalities(names)  # refuses names that are unknown or there twice
        specs = [spec for spec in dataset.spec.modalities if spec.name in names]
        teachers.append(
            TeacherChoice(
                modalities=tuple(spec.name for spec in specs),
                preset=preset_named(size, option="--teacher"),
                committee=default_members(specs) if settings else (),
            )
        )
    return tuple(teachers)


def teacher_choice(spec: DatasetSpec, preset: Preset, members: tuple[MemberKind, ...]) -> TeacherChoice:
    """Return a teacher of all sensors; a transformer alone is no committee."""
    names = tuple(modality.name for modality in spec.modalities)
    return TeacherChoice(modalities=names, preset=preset, committee=() if members == ("transformer",) else members)


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that decide the weights of all runs; an `Experiment` fills in its dataset and sensors.

    `choose` trains students in several forms for validation, `labels_compete` lets labels only join. None in `left_out`
    deals folds by groups. Without `members` a student is a transformer, and choices are among all.
    """

    dataset_sha256: str = ""
    modality: str = ""
    labelled: Labelled
    teacher_train: TrainConfig
    student_train: TrainConfig
    augment: AugmentConfig
    choose: bool = False
    labels_compete: bool = False
    left_out: LeftOutDomains | None = None
    members: tuple[MemberKind, ...] | msgspec.UnsetType = msgspec.UNSET


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Teachers, sizes, methods and learning rates to combine."""

    teachers: tuple[TeacherChoice, ...]
    students: tuple[Preset, ...]
    methods: tuple[Method, ...]
    learning_rates: tuple[float, ...]
    baseline_learning_rates: tuple[float, ...] = ()

    def learning_rates_for(self, entry: Entry) -> tuple[float, ...]:
        """Return an entry's learning rates."""
        return (self.baseline_learning_rates if entry.method == NONE else ()) or self.learning_rates

    def teacher(self, name: str) -> TeacherChoice:
        """Return the teacher of that name."""
        return next(teacher for teacher in self.teachers if teacher.name == name)

    def method(self, name: str) -> Method:
        """Return the method of that name."""
        return next(method for method in self.methods if method.name == name)


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, order=True):
    """A table row; no teacher for labels only."""

    student: Preset
    method: str
    teacher: str | None


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry with a learning rate."""

    entry: Entry
    learning_rate: float


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A candidate on one seed (and fold): one training."""

    candidate: Candidate
    seed: int


def entries(space: Space, impossible: Sequence[Entry] = ()) -> tuple[Entry, ...]:
    """Return every trainable combination, labels only once per size."""
    combined = [
        Entry(student=student, method=method.name, teacher=None if method.recipe is None else teacher.name)
        for student, method, teacher in product(space.students, space.methods, space.teachers)
    ]
    return tuple(dict.fromkeys(entry for entry in combined if entry not in set(impossible)))


def candidates(space: Space, impossible: Sequence[Entry] = ()) -> tuple[Candidate, ...]:
    """Return every entry with every learning rate."""
    return tuple(
        Candidate(entry=entry, learning_rate=rate)
        for entry in entries(space, impossible)
        for rate in space.learning_rates_for(entry)
    )


def check_space(space: Space) -> None:
    """Raise UsageError if a part is empty, repeated, or without the method `none`."""
    parts: dict[str, list[str]] = {
        "--teacher": [teacher.name for teacher in space.teachers],
        "--student": list(space.students),
        "--method": [method.name for method in space.methods],
        "--learning-rate": [f"{rate:g}" for rate in space.learning_rates],
    }
    for option, names in parts.items():
        if not names or len(set(names)) < len(names):
            raise UsageError(f"{option}: expected each once, got {', '.join(names) or 'none'}; name each once")
    for method in space.methods:
        if not _METHOD_NAME.fullmatch(method.name):
            raise UsageError(
                f"method {method.name!r}: expected letters, digits and -_.+ as in 'edam' or 'edam@last'; rename it"
            )
        if (method.name == NONE) != (method.recipe is None):
            raise UsageError(f"method {method.name!r}: expected a recipe, and none for {NONE!r} alone; correct it")
    if NONE not in parts["--method"]:
        raise UsageError(f"--method: expected {NONE!r} among the methods, what others are measured against; add it")
    if min(space.learning_rates) <= 0:
        raise UsageError(f"--learning-rate: expected above 0, got {min(space.learning_rates):g}; correct it")


def trial_name(conditions: Conditions, space: Space, trial: Trial) -> str:
    """Return a student's folder name: words, and a hash of all that decides weights."""
    entry, rate = trial.candidate.entry, trial.candidate.learning_rate
    own = msgspec.structs.replace(
        conditions,
        teacher_train=TrainConfig(),
        labels_compete=conditions.labels_compete and entry.teacher is not None,
    )
    decides = {
        "conditions": own,
        "teacher": None
        if entry.teacher is None
        else teacher_name(conditions, space.teacher(entry.teacher), trial.seed),
        "student": student_config(entry.student),
        "recipe": space.method(entry.method).recipe,
        "learning_rate": rate,
        "beaten": space.baseline_learning_rates if own.labels_compete else (),
        "seed": trial.seed,
    }
    return f"{entry.method}-{conditions.modality}-{entry.student}-{rate:g}-seed{trial.seed}-{short_hash(decides)}"


def teacher_name(conditions: Conditions, teacher: TeacherChoice, seed: int) -> str:
    """Return the name of a teacher's folder."""
    own = msgspec.structs.replace(
        conditions, student_train=TrainConfig(), modality="", choose=False, labels_compete=False
    )
    decides = {"conditions": own, "teacher": teacher, "config": teacher_config(teacher.preset), "seed": seed}
    return f"{teacher.preset}-seed{seed}-{short_hash(decides)}"


def short_hash(value: Any) -> str:
    """Hash a JSON value."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:_DIGITS]


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A search for the best of a space, on seeds that do not count: so many candidates, and those then trained."""

    seeds: tuple[int, ...]
    trials: int = 40
    finalists: int = 3


class ExperimentPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every student of `space` for every sensor on every seed, or with `search` its best candidates.

    Students that are delivered carry windows for an export and are judged with missing samples too, and the first one
    that cannot be trained is an error. Other plans go from seed to seed and say what failed.
    """

    conditions: Conditions
    sensors: tuple[str, ...]
    space: Space
    seeds: tuple[int, ...]
    search: Search | None = None
    rivals: tuple[RivalName, ...] = RIVALS
    delivers: bool = False
    max_latency_ms: float | None = None  # median of an exported student
    budget_hours: float | None = None  # no training begins after it; a search takes half
    workers: int = 1
    executor: Executor = "local"

    @property
    def teacher(self) -> TeacherChoice:
        """The first teacher."""
        return self.space.teachers[0]

    @property
    def baseline(self) -> Entry:
        """Labels only, in the first size."""
        return Entry(student=self.space.students[0], method=NONE, teacher=None)

    @property
    def student(self) -> Entry:
        """The first method with a recipe, in the first size, taught by the first teacher."""
        method = next(method for method in self.space.methods if method.recipe is not None)
        return Entry(student=self.space.students[0], method=method.name, teacher=self.teacher.name)


def comparison_plan(
    conditions: Conditions,
    *,
    sensors: Sequence[str],
    teacher: TeacherChoice,
    student: Preset,
    recipe: Recipe,
    baseline_learning_rates: tuple[float, ...],
    seeds: Sequence[int] = (0,),
    rivals: Sequence[RivalName] = RIVALS,
    workers: int = 1,
    executor: Executor = "local",
) -> ExperimentPlan:
    """Compare labels only, one method and rivals for each sensor, all with the same labels, steps and seeds.

    Without a race of forms, labels only choose their learning rate.
    """
    is_one_rate = conditions.choose or (conditions.members and "transformer" not in conditions.members)
    return ExperimentPlan(
        conditions=msgspec.structs.replace(conditions, labels_compete=conditions.choose),
        sensors=tuple(sensors),
        space=Space(
            teachers=(teacher,),
            students=(student,),
            methods=(Method(name=NONE, recipe=None), Method(name=_TAUGHT, recipe=recipe)),
            learning_rates=(conditions.student_train.learning_rate,),
            baseline_learning_rates=() if is_one_rate else baseline_learning_rates,
        ),
        seeds=tuple(seeds),
        rivals=tuple(rivals),
        delivers=True,
        workers=workers,
        executor=executor,
    )
