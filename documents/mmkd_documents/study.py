"""`study.json`: fractions from 0 to 1, gains in percentage points; `measures` describe figures of other tasks."""

from __future__ import annotations

from typing import Any

import msgspec

from mmkd_documents import figures

NONE = "none"
"""The method that learns from labels only: the baseline."""

ScoreTable = dict[str, figures.Spread]


class SeedGain(figures.Interval, frozen=True, kw_only=True):
    """A gain on the same seeds, with the sample std and every seed's."""

    std: float | None
    per_seed: tuple[float, ...]


class StudyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a study; the search sees no test window of the table's seeds."""

    mode: str  # `grid` or `search`
    modality: str
    label_fraction: float | None  # None if whole groups are labelled
    metric: str  # maximised on validation
    gain_metric: str = ""  # if it is another one
    search_seeds: tuple[int, ...]  # or folds; empty for a grid
    seeds: tuple[int, ...]  # or folds of the table
    student_steps: int
    teacher_steps: int
    learning_rates: tuple[float, ...]
    max_latency_ms: float | None = None  # median of a student
    labelled_groups: figures.LabelledGroups | None = None
    labels_spread_in_time: figures.LabelLeak | None = None
    choose: bool = False  # whether validation chooses each student among several kinds


class TrialCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Trials by result; `expected` is the size of a grid."""

    complete: bool
    finished: int
    failed: int
    expected: int | None = None


class StudyDataset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The dataset of the study."""

    name: str
    sha256: str
    source: str
    licence: str
    labels: tuple[str, ...]
    modalities: tuple[str, ...]
    windows: int
    groups: int
    kind: str = "classification"
    split: figures.Split | None = None


class PairLatency(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of student and teacher, called in turn in the same processes."""

    student_ms: dict[str, float]  # p50, p90 and p99 of one window
    teacher_ms: dict[str, float]
    ratio: float  # teacher over student, the median of `ratios`
    ratios: figures.RatioRange | None = None
    student_mj: float | None = None  # of an answer above idle, where it was asked for and a power sensor answers
    machine: dict[str, Any] = {}


class StudentSize(msgspec.Struct, frozen=True, kw_only=True):
    """One student size."""

    preset: str
    parameters: int
    latency: PairLatency | None = None  # compared with the first teacher
    excluded: str = ""  # the reason, if left out


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """A student's size, method and teacher, None for labels only."""

    student: str
    method: str
    teacher: str | None


class TeacherRow(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher of an entry."""

    name: str
    modalities: tuple[str, ...]
    preset: str  # its size
    parameters: int
    seeds: tuple[int, ...]  # finished
    valid_score: figures.Spread
    test: ScoreTable
    sha256: tuple[str, ...]  # checkpoints, by seed


class RivalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A rival on the same sensor and labels: scores, or why there are none."""

    name: str
    seeds: tuple[int, ...]
    test: ScoreTable | None
    reason: str = ""
    valid_score: figures.Spread | None = None
    teacher: str | None = None  # None for a rival that learns from labels only


class EntryRow(Combination, frozen=True, kw_only=True):
    """One row of the table."""

    seeds: tuple[int, ...]  # finished
    learning_rates: tuple[float, ...]  # best on validation, by seed
    search_score: float | None  # mean validation score on the search's seeds; None in a grid
    valid_score: figures.Spread
    test: ScoreTable
    gain_points: dict[str, SeedGain] | None  # by metric, over labels only of the same size and seeds
    gap_recovered: float | None  # fraction of the gap to the teacher; None if that is not significant
    parameters: int
    latency_ms: float | None  # p50
    chosen: bool
    chance: figures.Chance | None = None


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The unbiased score of choosing by validation inside every fold of a grid."""

    chosen: tuple[str, ...]  # method and size, by seed
    test: ScoreTable
    gain_points: dict[str, SeedGain]  # by metric, over labels only of the same size


class Recommendation(Combination, frozen=True, kw_only=True):
    """The chosen student."""

    learning_rate: float
    seed: int  # the best on validation
    checkpoint: str
    sha256: str
    valid_score: float
    latency: PairLatency | None = None  # of its size


class StudyMethod(msgspec.Struct, frozen=True, kw_only=True):
    """A method and its recipe; None is labels only."""

    name: str
    recipe: dict[str, Any] | None = None


class SkippedCombination(Combination, frozen=True, kw_only=True):
    """An impossible combination, and why."""

    reason: str


class TrialRow(Combination, frozen=True, kw_only=True):
    """One training of a student, with its validation score."""

    learning_rate: float
    seed: int
    state: str
    score: float | None
    reason: str = ""
    sha256: str | None = None


class StudyDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document; `measures` are its figures, that of gains first for other tasks than classes."""

    format_version: int = 1
    facts: StudyFacts
    coverage: TrialCounts
    dataset: StudyDataset
    students: tuple[StudentSize, ...]
    teachers: tuple[TeacherRow, ...]
    methods: tuple[StudyMethod, ...]
    skipped: tuple[SkippedCombination, ...]
    entries: tuple[EntryRow, ...]
    rivals: tuple[RivalRow, ...]
    selection: Selection | None
    recommendation: Recommendation
    trials: tuple[TrialRow, ...]
    versions: dict[str, Any]
    duration_s: float
    command: str = ""
    measures: tuple[figures.Measure, ...] = figures.OF_CLASSES

    @property
    def chosen_by(self) -> figures.Measure:
        """The measure that validation maximised."""
        return next(measure for measure in self.measures if measure.name == self.facts.metric)

    @property
    def reported_metric(self) -> figures.Measure:
        """The measure of scores and gains."""
        return next(
            measure for measure in self.measures if measure.name == (self.facts.gain_metric or self.facts.metric)
        )

    @property
    def has_intervals(self) -> bool:
        """Whether any gain has an interval."""
        gains = [
            entry.gain_points[self.reported_metric.name] for entry in self.entries if entry.gain_points is not None
        ]
        return any(gain.low is not None for gain in gains)


def chosen_entry(study: StudyDocument) -> EntryRow:
    """Return the entry that validation chose."""
    return next(entry for entry in study.entries if entry.chosen)


def find_baseline(study: StudyDocument, student: str) -> EntryRow | None:
    """Return the entry of labels only in that size."""
    return next((entry for entry in study.entries if entry.method == NONE and entry.student == student), None)


def find_teacher(study: StudyDocument, name: str | None) -> TeacherRow | None:
    """Return the teacher of that name."""
    return next((teacher for teacher in study.teachers if teacher.name == name), None)
