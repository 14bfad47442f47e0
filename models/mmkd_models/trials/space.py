"""What a study tries: teachers, student sizes, methods, learning rates and seeds, and the names of what they give.

A trial's name follows from everything that decides its weights and from nothing else, so that processes, hosts and
later runs agree on what is finished without talking to each other.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.labelled import Labelled
from mmkd_models.distillation.method import Method
from mmkd_models.networks.config import MemberKind, Preset, student_config, teacher_config
from mmkd_models.train_config import TrainConfig
from mmkd_report.schema.study import NONE

TEACHERS_FOLDER = "teachers"

_METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*(@[A-Za-z0-9][A-Za-z0-9_.+-]*)?")
_DIGITS = 10


class TeacherChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What teaches: a teacher, out-of-fold teachers, or several of them whose answers are mixed.

    Fields that came later are left out where they say nothing, so that the names of earlier trials stay.

    Attributes:
        modalities: what it sees, in the order of the dataset.
        out_of_fold: how many teachers are cross-fitted in place of one.
        committee: the kinds of its members, as `default_members` gives them; unset of a single transformer.
        number: of an ensemble, which member it is, from 1 for the second one; the first one has none.
        further: what teaches beside it; these have no further ones.
    """

    modalities: tuple[str, ...]
    preset: Preset
    out_of_fold: int | msgspec.UnsetType = msgspec.UNSET
    committee: tuple[MemberKind, ...] | msgspec.UnsetType = msgspec.UNSET
    number: int | msgspec.UnsetType = msgspec.UNSET
    further: tuple[TeacherChoice, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def members(self) -> tuple[TeacherChoice, ...]:
        """Gives what is trained and written as one file each."""
        return (msgspec.structs.replace(self, further=msgspec.UNSET), *(self.further or ()))

    @property
    def name(self) -> str:
        """Gives `acc:small`, `acc:small,committee`, `acc:small,out-of-fold=5`, or members with `/` between them."""
        families = Counter(msgspec.structs.replace(one, number=msgspec.UNSET) for one in self.members)
        return "/".join(
            f"{'+'.join(one.modalities)}:{one.preset}"
            + (",committee" if one.committee else "")
            + (f",out-of-fold={one.out_of_fold}" if one.out_of_fold else "")
            + (f",ensemble={count}" if count > 1 else "")
            for one, count in families.items()
        )


def mixed_choice(choices: Sequence[TeacherChoice]) -> TeacherChoice:
    """Gives one choice of these, each of which is a single member; equal ones become members of an ensemble."""
    counts: Counter[TeacherChoice] = Counter()
    members = []
    for one in choices:
        members.append(msgspec.structs.replace(one, number=counts[one] or msgspec.UNSET))
        counts[one] += 1
    return msgspec.structs.replace(members[0], further=tuple(members[1:]) or msgspec.UNSET)


class StudyConditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all trials of a study share, and what decides their weights.

    Attributes:
        dataset_sha256: of the dataset's content.
        modality: the student's.
        label_share: share of the training windows whose labels anyone sees; 1 where whole groups are labelled.
        labelled_groups: how many whole groups show their labels; unset where a share does, as in names of before.
        self_training: train a second generation of every teacher on the unlabelled windows too.
        teacher_train: how teachers are trained; seeds are the trials'.
        student_train: how students are trained; seeds and learning rates are the trials'.
        choose: train every student in a race of several kinds (`training.choosing.race`), of which validation keeps
            one; unset where a student is a transformer, as in names of before.
        threads: of every training; other numbers of threads may give other last bits.
    """

    dataset_sha256: str
    modality: str
    label_share: float
    labelled_groups: int | msgspec.UnsetType = msgspec.UNSET
    self_training: bool
    teacher_train: TrainConfig
    student_train: TrainConfig
    augment: AugmentConfig
    choose: bool | msgspec.UnsetType = msgspec.UNSET
    threads: int

    @property
    def labelled(self) -> Labelled:
        """Gives what is labelled."""
        return Labelled(share=self.label_share, groups=self.labelled_groups or None)


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a study may combine.

    Attributes:
        baseline_learning_rates: those that labels alone may choose from beside them.
    """

    teachers: tuple[TeacherChoice, ...]
    students: tuple[Preset, ...]
    methods: tuple[Method, ...]
    learning_rates: tuple[float, ...]
    baseline_learning_rates: tuple[float, ...] = ()

    def rates_of(self, entry: Entry) -> tuple[float, ...]:
        """Gives the learning rates that an entry may choose from."""
        further = self.baseline_learning_rates if entry.method == NONE else ()
        return tuple(dict.fromkeys([*self.learning_rates, *further]))

    def teacher(self, name: str) -> TeacherChoice:
        """Gives the teacher of that name."""
        return next(teacher for teacher in self.teachers if teacher.name == name)

    def method(self, name: str) -> Method:
        """Gives the method of that name."""
        return next(method for method in self.methods if method.name == name)


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, order=True):
    """One row of the study's table: a student size, a method, and the teacher's name (None for labels alone)."""

    student: Preset
    method: str
    teacher: str | None


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry with a learning rate: what the search chooses among."""

    entry: Entry
    learning_rate: float


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A candidate on one seed (and its fold): one training."""

    candidate: Candidate
    seed: int


def entries(space: Space, impossible: Sequence[Entry] = ()) -> tuple[Entry, ...]:
    """Gives every combination that can be trained, labels alone first, once for each student size."""
    found = [
        Entry(student=student, method=method.name, teacher=None if method.recipe is None else teacher.name)
        for student, method, teacher in product(space.students, space.methods, space.teachers)
    ]
    skipped = set(impossible)
    return tuple(dict.fromkeys(entry for entry in found if entry not in skipped))


def candidates(space: Space, impossible: Sequence[Entry] = ()) -> tuple[Candidate, ...]:
    """Gives every entry with every learning rate."""
    return tuple(
        Candidate(entry=entry, learning_rate=rate)
        for entry in entries(space, impossible)
        for rate in space.rates_of(entry)
    )


def check_space(space: Space) -> None:
    """Raises UsageError where a part of the space is empty, named twice, or without the method `none`."""
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
    for option, rates in (
        ("--learning-rate", space.learning_rates),
        ("--baseline-learning-rate", space.baseline_learning_rates),
    ):
        if min(rates, default=1.0) <= 0:
            raise UsageError(f"{option}: expected above 0, got {min(rates):g}; correct it")


def trial_name(conditions: StudyConditions, space: Space, trial: Trial) -> str:
    """Gives the name of a trial's folder: what people read in it, and a hash of all that decides its weights."""
    entry, rate = trial.candidate.entry, trial.candidate.learning_rate
    teacher = None if entry.teacher is None else _teacher_names(conditions, space.teacher(entry.teacher), trial.seed)
    decides = {
        "conditions": msgspec.structs.replace(conditions, teacher_train=TrainConfig(), self_training=False),
        "teacher": teacher,
        "student": student_config(entry.student),
        "recipe": space.method(entry.method).recipe,
        "learning_rate": rate,
        "seed": trial.seed,
    }
    return f"{entry.method}-{entry.student}-{rate:g}-seed{trial.seed}-{_hash(decides)}"


def _teacher_names(conditions: StudyConditions, teacher: TeacherChoice, seed: int) -> str | list[str]:
    names = [teacher_name(conditions, member, seed) for member in teacher.members]
    return names[0] if len(names) == 1 else names


def teacher_name(conditions: StudyConditions, teacher: TeacherChoice, seed: int) -> str:
    """Gives the name of a teacher's folder, as `trial_name`; of several members that of what they say together."""
    if len(teacher.members) > 1:
        return f"mix-seed{seed}-{_hash(_teacher_names(conditions, teacher, seed))}"
    own = msgspec.structs.replace(conditions, student_train=TrainConfig(), modality="", choose=msgspec.UNSET)
    decides = {
        "conditions": own,
        "modalities": teacher.modalities,
        "teacher": teacher_config(teacher.preset),
        "seed": seed,
        **({"out_of_fold": teacher.out_of_fold} if teacher.out_of_fold else {}),
        **({"committee": teacher.committee} if teacher.committee else {}),
        **({"number": teacher.number} if teacher.number else {}),
    }
    return f"{teacher.preset}-seed{seed}-{_hash(decides)}"


def candidate_key(conditions: StudyConditions, space: Space, candidate: Candidate, seeds: Sequence[int]) -> str:
    """Gives a hash of a candidate on these seeds."""
    return _hash([trial_name(conditions, space, Trial(candidate=candidate, seed=seed)) for seed in seeds])


def teacher_folder(out: Path, conditions: StudyConditions, teacher: TeacherChoice, seed: int) -> Path:
    """Gives where a study in `out` keeps a teacher."""
    return out / TEACHERS_FOLDER / teacher_name(conditions, teacher, seed)


def trial_folder(out: Path, conditions: StudyConditions, space: Space, trial: Trial) -> Path:
    """Gives where a study in `out` keeps a trial."""
    return out / "trials" / trial_name(conditions, space, trial)


def _hash(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:_DIGITS]
