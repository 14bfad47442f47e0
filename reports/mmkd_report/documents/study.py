"""The document `study.json` as typed, frozen data: what the study page is made of.

Owns the reading and checking of that document. Unknown keys are left alone, so that the document may grow. Fractions
run from 0 to 1, gains and effects are percentage points; of tasks that are not of classes `measures` say what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mmkd_report.documents.reading import Split, typed
from mmkd_report.errors import DocumentError
from mmkd_report.words.guessing import Guessing
from mmkd_report.words.measures import OF_CLASSES, Measure

FORMAT_VERSION = 1
NONE = "none"
"""The method that learns from labels alone."""


class SeedSpread(msgspec.Struct, frozen=True, kw_only=True):
    """One measure over seeds."""

    mean: float
    std: float | None = None
    per_seed: tuple[float, ...] = ()


class PairedGain(msgspec.Struct, frozen=True, kw_only=True):
    """A paired difference over seeds, with its interval."""

    mean: float
    std: float | None
    low: float
    high: float
    per_seed: tuple[float, ...]


ScoreTable = dict[str, SeedSpread]
"""Scores on the test windows, by the names of the document's measures."""


class StudyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the study was told."""

    mode: str
    modality: str
    label_share: float
    metric: str
    told_by: str | None = None
    search_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    threads: int
    student_steps: int
    teacher_steps: int
    learning_rates: tuple[float, ...]
    trials: int | None = None
    budget_hours: float | None = None
    max_latency_ms: float | None = None
    max_parameters: int | None = None


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the work is done."""

    complete: bool
    finished: int
    pruned: int
    failed: int
    expected: int | None = None


class StudyDataset(msgspec.Struct, frozen=True, kw_only=True):
    """What the study trained on."""

    name: str
    sha256: str
    source: str
    licence: str
    labels: tuple[str, ...]
    modalities: tuple[str, ...]
    windows: int
    groups: int
    kind: str = "classification"
    split: Split | None = None


class PairLatency(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of a student and its teacher, and how many times faster the student is."""

    student_ms: dict[str, float]
    teacher_ms: dict[str, float]
    ratio: float
    machine: dict[str, Any] = {}


class StudentSize(msgspec.Struct, frozen=True, kw_only=True):
    """One student size; `excluded` says why it was left out."""

    preset: str
    parameters: int
    mflops: float
    latency: PairLatency | None = None
    excluded: str = ""


class TeacherRow(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher on the test windows."""

    name: str
    modalities: tuple[str, ...]
    preset: str
    parameters: int
    seeds: tuple[int, ...]
    valid_score: SeedSpread | None
    test: ScoreTable
    sha256: tuple[str, ...]
    is_reference: bool = False


class RivalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A rival without a network on the test windows, or why it has no scores."""

    name: str
    seeds: tuple[int, ...]
    test: ScoreTable | None
    reason: str = ""
    valid_score: SeedSpread | None = None


class EntryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    student: str
    method: str
    kind: str
    level: str
    teacher: str | None
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    search_score: float | None
    valid_score: SeedSpread
    test: ScoreTable
    gain_points: dict[str, PairedGain] | None
    gap_recovered: float | None
    parameters: int
    latency_ms: float | None
    on_front: bool
    chosen: bool
    guessing: Guessing | None = None


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What choosing by validation inside every fold gives."""

    chosen: tuple[str, ...]
    test: ScoreTable
    gain_points: dict[str, PairedGain]


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What one value of a factor does to the validation score."""

    factor: str
    value: str
    points: float
    trials: int
    per_seed: tuple[float | None, ...]


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """The student that is kept."""

    student: str
    method: str
    teacher: str | None
    learning_rate: float
    seed: int
    checkpoint: str | None
    sha256: str | None
    valid_score: float
    latency: PairLatency | None = None
    within_limits: bool = True


class StudyMethod(msgspec.Struct, frozen=True, kw_only=True):
    """A method and its recipe; None is labels alone."""

    name: str
    recipe: dict[str, Any] | None = None


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A combination that no training can have."""

    student: str
    method: str
    teacher: str | None
    reason: str


class TrialRow(msgspec.Struct, frozen=True, kw_only=True):
    """One training."""

    student: str
    method: str
    teacher: str | None
    learning_rate: float
    seed: int
    state: str
    score: float | None
    best_step: int | None
    duration_s: float
    reason: str = ""


class StudyDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    format_version: int
    facts: StudyFacts
    coverage: Coverage
    dataset: StudyDataset
    students: tuple[StudentSize, ...]
    teachers: tuple[TeacherRow, ...]
    methods: tuple[StudyMethod, ...]
    skipped: tuple[Skipped, ...]
    entries: tuple[EntryRow, ...]
    rivals: tuple[RivalRow, ...]
    selection: Selection | None
    effects: tuple[Effect, ...]
    effect_seeds: tuple[int, ...]
    recommendation: Recommendation
    trials: tuple[TrialRow, ...]
    versions: dict[str, Any]
    duration_s: float
    command: str = ""
    measures: tuple[Measure, ...] = OF_CLASSES

    @property
    def chosen_by(self) -> Measure:
        """What validation maximised."""
        return next(one for one in self.measures if one.name == self.facts.metric)

    @property
    def told_by(self) -> Measure:
        """What scores and gains are told in."""
        return next(one for one in self.measures if one.name == (self.facts.told_by or self.facts.metric))


def read_study(document: Mapping[str, Any]) -> StudyDocument:
    """The typed form of `study.json`.

    Raises:
        DocumentError: A format version that this release does not know, a missing or mistyped value, or no entry that
            is chosen.
    """
    study = typed(document, StudyDocument, name="study", version=FORMAT_VERSION)
    chosen = sum(entry.chosen for entry in study.entries)
    if chosen != 1:
        raise DocumentError(f"study document: expected one entry that is chosen, got {chosen}; mark the one that is")
    names = [one.name for one in study.measures]
    for key, name in (("metric", study.facts.metric), ("told_by", study.facts.told_by)):
        if name is not None and name not in names:
            raise DocumentError(
                f"study document: facts.{key}: expected one of {', '.join(names)}, got {name!r}; correct it"
            )
    for where, test in _tables(study):
        missing = [name for name in names if name not in test]
        if missing:
            raise DocumentError(f"study document: {where}: expected a score for {', '.join(missing)}, got none; add it")
    return study


def _tables(study: StudyDocument) -> Iterator[tuple[str, ScoreTable]]:
    for number, entry in enumerate(study.entries):
        yield f"entries[{number}].test", entry.test
    for number, teacher in enumerate(study.teachers):
        yield f"teachers[{number}].test", teacher.test
    for number, rival in enumerate(study.rivals):
        if rival.test is not None:
            yield f"rivals[{number}].test", rival.test


def chosen_entry(study: StudyDocument) -> EntryRow:
    """The entry that validation chose."""
    return next(entry for entry in study.entries if entry.chosen)


def baseline_of(study: StudyDocument, student: str) -> EntryRow | None:
    """Labels alone in that size."""
    return next((entry for entry in study.entries if entry.method == NONE and entry.student == student), None)


def teacher_of(study: StudyDocument, name: str | None) -> TeacherRow | None:
    """The teacher of that name."""
    return next((teacher for teacher in study.teachers if teacher.name == name), None)
