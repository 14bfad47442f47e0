"""The document `study.json`: what a study was told, tried and found, and which student it recommends.

Owns its reading and checking. Unknown keys are left alone, so that the document may grow. Fractions run from 0 to 1,
gains and effects are percentage points; of tasks that are not of classes `measures` say what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mmkd_report.errors import DocumentError
from mmkd_report.schema.figures import OF_CLASSES, Guessing, LabelLeak, LabelledGroups, Measure, Split, Spread
from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1
NONE = "none"
"""The method that learns from labels only: what every other one is measured against."""

ScoreTable = dict[str, Spread]
"""Scores on the test windows, over seeds, by the names of the document's measures."""


class SeedGain(msgspec.Struct, frozen=True, kw_only=True):
    """What one is better by than another on the same seeds: mean, sample deviation, 95 % interval, every seed.

    Of a share in percentage points; of other measures in their own unit. There is no interval below five groups.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    per_seed: tuple[float, ...]


class StudyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a study was told.

    Attributes:
        mode: `grid` trains everything on every seed; `search` looks on the search's seeds for what is worth that.
        modality: the student's.
        label_share: share of the training windows whose labels anyone saw; None where whole groups were labelled.
        labelled_groups: these; None where a share was labelled.
        labels_spread_in_time: what a share of the labels tells of the others; None where nobody looked.
        metric: what validation maximised, and what the study chose by.
        told_by: the measure that gains are told in, where it is another one.
        search_seeds: seeds (and folds) of the search; empty for a grid.
        seeds: seeds (and folds) that the table is made of; the search looked at none of their test windows.
        student_steps: optimisation steps of every student and baseline.
        learning_rates: those that every entry could choose from.
        baseline_learning_rates: those that labels only could choose from beside them.
        trials: candidates that the search was allowed.
        budget_hours: time that was allowed; None for any.
        max_latency_ms: of a student's median; None for any.
        max_parameters: of a student; None for any.
        choose: every student is the winner of a race of several kinds; unset where each is a transformer.
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
    baseline_learning_rates: tuple[float, ...] = ()
    trials: int | None = None
    budget_hours: float | None = None
    max_latency_ms: float | None = None
    max_parameters: int | None = None
    labelled_groups: LabelledGroups | None = None
    labels_spread_in_time: LabelLeak | None = None
    choose: bool | msgspec.UnsetType = msgspec.UNSET


class TrialCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the work is done: trials by how they ended, and those a grid has (None of a search)."""

    complete: bool
    finished: int
    failed: int
    expected: int | None = None


class StudyDataset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the study trained on; the kind of its task, where it is not of classes; `split`, which early files lack."""

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
        student_ms: p50, p90 and p99 of one window in milliseconds.
        teacher_ms: the same of the teacher.
        ratio: how many times faster the student is.
    """

    student_ms: dict[str, float]
    teacher_ms: dict[str, float]
    ratio: float
    machine: dict[str, Any] = {}


class StudentSize(msgspec.Struct, frozen=True, kw_only=True):
    """One student size.

    Attributes:
        latency: measured with the first teacher; None where latencies were not measured.
        excluded: why it was left out of the study; empty where it was not.
    """

    preset: str
    parameters: int
    latency: PairLatency | None = None
    excluded: str = ""


class TeacherRow(msgspec.Struct, frozen=True, kw_only=True):
    """What teaches, where it taught an entry of the table.

    Attributes:
        name: of one teacher, or of several with `/` between them.
        preset: its size; several with `+` between them.
        seeds: on which it is finished.
        valid_score: None where several networks answer together.
        test: scores of their mean probabilities.
        sha256: hashes of the checkpoints, seed by seed.
        is_reference: whether it is the smallest single teacher within half a point of the best on validation.
    """

    name: str
    modalities: tuple[str, ...]
    preset: str
    parameters: int
    seeds: tuple[int, ...]
    valid_score: Spread | None
    test: ScoreTable
    sha256: tuple[str, ...]
    is_reference: bool = False


class RivalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A rival without a network on the same sensor and labels: scores, or why there are none.

    Attributes:
        valid_score: None where a seed was judged by an earlier release.
        teacher: what taught it beside the labels; None of those that only see labels.
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
        gain_points: by metric, over labels only in the same size and on the same seeds; None for labels only.
        gap_recovered: share of the way from labels only to the teacher; None where that way is not
            above 0 with its whole interval, which needs five tested groups.
        latency_ms: p50 of the student; None where latencies were not measured.
        guessing: on the test windows, in what gains are told in.
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
    """What choosing by validation inside every fold gives: the figure of a grid that no choice has flattered.

    Attributes:
        chosen: name of the method (and size) that each seed's validation chose.
        gain_points: by metric, over labels only of the same size.
    """

    chosen: tuple[str, ...]
    test: ScoreTable
    gain_points: dict[str, SeedGain]


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """The student that is kept.

    Attributes:
        seed: of the checkpoint: the one that validates best among the entry's.
        checkpoint: its file; None where only figures are here, read from results of another machine.
        latency: of the checkpoint, exported, with its teacher; None where it was not measured.
        within_limits: whether that keeps the limits of the study.
    """

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
    duration_s: float
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
        if name and name not in names:
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
    """Labels only in that size."""
    return next((entry for entry in study.entries if entry.method == NONE and entry.student == student), None)


def teacher_of(study: StudyDocument, name: str | None) -> TeacherRow | None:
    """The teacher of that name."""
    return next((teacher for teacher in study.teachers if teacher.name == name), None)
