"""The document `study.json`: options, trials and table of a study, and the student it recommends.

Fractions run from 0 to 1, gains are percentage points; for other tasks than classes `measures` describe the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mmkd_report.schema.figures import (
    OF_CLASSES,
    Guessing,
    LabelLeak,
    LabelledGroups,
    Measure,
    RatioRange,
    Split,
    Spread,
)
from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1
NONE = "none"
"""The method that learns from labels only, the baseline of every other one."""

ScoreTable = dict[str, Spread]
"""Scores on the test windows, over seeds, by measure."""


class SeedGain(msgspec.Struct, frozen=True, kw_only=True):
    """A gain on the same seeds: mean, sample deviation, 95 % interval (None below five groups) and every seed."""

    mean: float
    std: float | None
    low: float | None
    high: float | None
    per_seed: tuple[float, ...]


class StudyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a study.

    Attributes:
        mode: `grid` or `search`.
        modality: the student's.
        label_share: fraction of the training windows whose labels were seen; None if whole groups were labelled.
        metric: what validation maximised.
        told_by: the measure of gains, if it is another one.
        search_seeds: seeds (and folds) of the search; empty for a grid.
        seeds: seeds (and folds) of the table; the search saw none of their test windows.
        max_latency_ms: of a student's median.
        choose: every student is the winner of a race of several kinds; else unset.
    """

    mode: str
    modality: str
    label_share: float | None
    metric: str
    told_by: str | msgspec.UnsetType = msgspec.UNSET
    search_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    threads: int
    student_steps: int
    teacher_steps: int
    learning_rates: tuple[float, ...]
    max_latency_ms: float | None = None
    max_parameters: int | None = None
    labelled_groups: LabelledGroups | None = None
    labels_spread_in_time: LabelLeak | None = None
    choose: bool | msgspec.UnsetType = msgspec.UNSET


class TrialCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Trials by how they ended; `expected` is the size of a grid."""

    complete: bool
    finished: int
    failed: int
    expected: int | None = None


class StudyDataset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The dataset."""

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
    """Latencies of an exported student and its teacher, called in turn in the same processes of one machine.

    Attributes:
        student_ms: p50, p90 and p99 of one window.
        ratio: how many times faster the student is, the median of `ratios`.
    """

    student_ms: dict[str, float]
    teacher_ms: dict[str, float]
    ratio: float
    ratios: RatioRange | None = None
    machine: dict[str, Any] = {}


class StudentSize(msgspec.Struct, frozen=True, kw_only=True):
    """One student size.

    Attributes:
        latency: beside the first teacher.
        excluded: why it was left out of the study; empty if it was not.
    """

    preset: str
    parameters: int
    latency: PairLatency | None = None
    excluded: str = ""


class TeacherRow(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher that taught an entry of the table.

    Attributes:
        preset: its size.
        seeds: on which it is finished.
        sha256: of the checkpoint of each seed.
        is_reference: whether it is the smallest teacher within half a point of the best on validation.
    """

    name: str
    modalities: tuple[str, ...]
    preset: str
    parameters: int
    seeds: tuple[int, ...]
    valid_score: Spread
    test: ScoreTable
    sha256: tuple[str, ...]
    is_reference: bool = False


class RivalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A rival on the same sensor and labels: scores, or the reason why there are none.

    Attributes:
        teacher: None for a rival that learns from labels only.
    """

    name: str
    seeds: tuple[int, ...]
    test: ScoreTable | None
    reason: str = ""
    valid_score: Spread | None = None
    teacher: str | None = None


class EntryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    Attributes:
        seeds: on which it is finished.
        learning_rates: the one that validated best, for each seed.
        search_score: mean validation score on the search's seeds; None in a grid.
        gain_points: by metric, over labels only in the same size and on the same seeds.
        gap_recovered: fraction of the gap between labels only and the teacher; None if that gap is not significant.
        latency_ms: p50 of the student.
    """

    student: str
    method: str
    teacher: str | None
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    search_score: float | None
    valid_score: Spread
    test: ScoreTable
    gain_points: dict[str, SeedGain] | None
    gap_recovered: float | None
    parameters: int
    latency_ms: float | None
    chosen: bool
    guessing: Guessing | None = None


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The score of choosing by validation inside every fold of a grid: the choice does not flatter it.

    Attributes:
        chosen: method and size by seed.
        gain_points: by metric, over labels only of the same size.
    """

    chosen: tuple[str, ...]
    test: ScoreTable
    gain_points: dict[str, SeedGain]


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen student.

    Attributes:
        seed: the one that validates best.
        latency: of the checkpoint, exported, with its teacher; None where it was not measured.
        within_limits: whether that keeps the limits of the study.
    """

    student: str
    method: str
    teacher: str | None
    learning_rate: float
    seed: int
    checkpoint: str
    sha256: str
    valid_score: float
    latency: PairLatency | None = None
    within_limits: bool = True


class StudyMethod(msgspec.Struct, frozen=True, kw_only=True):
    """A method and its recipe; None is labels only."""

    name: str
    recipe: dict[str, Any] | None = None


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A combination that no training can have, and why."""

    student: str
    method: str
    teacher: str | None
    reason: str


class TrialRow(msgspec.Struct, frozen=True, kw_only=True):
    """One training of a student: what it was, how it ended, its score on validation."""

    student: str
    method: str
    teacher: str | None
    learning_rate: float
    seed: int
    state: str
    score: float | None
    reason: str = ""
    sha256: str | None = None


class StudyDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document. `figures` are written where the task is not one of classes."""

    format_version: int = FORMAT_VERSION
    facts: StudyFacts
    coverage: TrialCounts
    dataset: StudyDataset
    students: tuple[StudentSize, ...]
    teachers: tuple[TeacherRow, ...]
    methods: tuple[StudyMethod, ...]
    skipped: tuple[Skipped, ...]
    entries: tuple[EntryRow, ...]
    rivals: tuple[RivalRow, ...]
    selection: Selection | None
    recommendation: Recommendation
    trials: tuple[TrialRow, ...]
    versions: dict[str, Any]
    duration_s: float
    command: str = ""
    figures: tuple[Measure, ...] | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="measures")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the figures of the document are."""
        return self.figures or OF_CLASSES

    @property
    def chosen_by(self) -> Measure:
        """What validation maximised."""
        return next(one for one in self.measures if one.name == self.facts.metric)

    @property
    def reported_metric(self) -> Measure:
        """What scores and gains are told in."""
        return next(one for one in self.measures if one.name == (self.facts.told_by or self.facts.metric))

    @property
    def has_intervals(self) -> bool:
        """Whether groups enough were tested for some gain to have one."""
        gains = [
            entry.gain_points[self.reported_metric.name] for entry in self.entries if entry.gain_points is not None
        ]
        return any(gain.low is not None for gain in gains)


def read_study(document: Mapping[str, Any]) -> StudyDocument:
    """Return the typed form of `study.json`; errors as `typed`."""
    return typed(document, StudyDocument, name="study", version=FORMAT_VERSION)


def chosen_entry(study: StudyDocument) -> EntryRow:
    """The entry that validation chose."""
    return next(entry for entry in study.entries if entry.chosen)


def baseline_of(study: StudyDocument, student: str) -> EntryRow | None:
    """Labels only in that size."""
    return next((entry for entry in study.entries if entry.method == NONE and entry.student == student), None)


def teacher_of(study: StudyDocument, name: str | None) -> TeacherRow | None:
    """The teacher of that name."""
    return next((teacher for teacher in study.teachers if teacher.name == name), None)
