"""What a study found, as `study.json` keeps it. Owns the words of that file; computes nothing."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mmkd_edge.spec import TaskKind
from mmkd_models.compare.fold_result import Spread
from mmkd_models.data.split import SplitFacts
from mmkd_models.evaluate.guessing import Guessing
from mmkd_models.metrics.measures import Measure
from mmkd_models.study.gains import Effect, PairedGain
from mmkd_models.trials.plan import Method
from mmkd_models.trials.trials import State

FORMAT_VERSION = 1


class StudyFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a study was told.

    Attributes:
        mode: `grid` trains everything on every seed; `search` looks on the search's seeds for what is worth that.
        modality: the student's.
        label_share: share of the training windows whose labels anyone saw.
        metric: what validation maximised, and what the study chose by.
        told_by: the measure that gains are told in, where it is another one.
        search_seeds: seeds (and folds) of the search; empty for a grid.
        seeds: seeds (and folds) that the table is made of; the search looked at none of their test windows.
        threads: of every training.
        student_steps: optimisation steps of every student and baseline.
        teacher_steps: of every teacher.
        learning_rates: those that every entry could choose from.
        baseline_learning_rates: those that labels alone could choose from beside them.
        trials: candidates that the search was allowed.
        budget_hours: time that was allowed; None for any.
        max_latency_ms: of a student's median; None for any.
        max_parameters: of a student; None for any.
    """

    mode: Literal["grid", "search"]
    modality: str
    label_share: float
    metric: str
    told_by: str | msgspec.UnsetType = msgspec.UNSET
    search_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    threads: int
    student_steps: int
    teacher_steps: int
    learning_rates: tuple[float, ...]
    baseline_learning_rates: tuple[float, ...]
    trials: int | None
    budget_hours: float | None
    max_latency_ms: float | None
    max_parameters: int | None


class Coverage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the work is done: trials by how they ended, and those a grid has (None of a search)."""

    complete: bool
    finished: int
    pruned: int
    failed: int
    expected: int | None


class DatasetFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the study trained on; the kind of its task, where it is not of classes; `split`, which early files lack."""

    name: str
    sha256: str
    source: str
    licence: str
    labels: tuple[str, ...]
    modalities: tuple[str, ...]
    windows: int
    groups: int
    kind: TaskKind | msgspec.UnsetType = msgspec.UNSET
    split: SplitFacts | msgspec.UnsetType = msgspec.UNSET


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latencies of an exported student and its teacher, called in turn in the same processes of this machine.

    Attributes:
        student_ms: p50, p90 and p99 of one window in milliseconds.
        teacher_ms: of the teacher.
        ratio: how many times faster the student is.
        machine: what it was measured on.
    """

    student_ms: dict[str, float]
    teacher_ms: dict[str, float]
    ratio: float
    machine: dict[str, Any]


class StudentSize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One student size.

    Attributes:
        preset: its name.
        parameters: how many.
        mflops: millions of multiplications and additions (counted as two) of one window.
        latency: measured with the first teacher; None where latencies were not measured.
        excluded: why it was left out of the study; empty where it was not.
    """

    preset: str
    parameters: int
    mflops: float
    latency: Latency | None
    excluded: str


ScoreTable = dict[str, Spread]
"""Scores on the test windows, over seeds, by the names of the task's measures."""


class TeacherRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What teaches, where it taught an entry of the table.

    Attributes:
        name: of one teacher, of out-of-fold ones, or of several with `/` between them.
        modalities: of all together.
        preset: its size; several with `+` between them.
        parameters: of all networks.
        seeds: on which it is finished.
        valid_score: on validation; None where several networks answer together.
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


class RivalRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rival without a network on the same sensor and labels: scores, or why there are none.

    `valid_score` is None where a seed was judged by an earlier release.
    """

    name: str
    seeds: tuple[int, ...]
    test: ScoreTable | None
    reason: str
    valid_score: Spread | None = None


class EntryRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the table.

    Attributes:
        student: its size.
        method: its name.
        kind: what is distilled.
        level: between which layers; empty where the method does not say.
        teacher: name; None for labels alone.
        seeds: on which it is finished.
        learning_rates: the one that validated best, for each seed.
        search_score: mean validation score on the search's seeds; None in a grid.
        valid_score: on validation.
        test: on the test windows.
        gain_points: by metric, over labels alone in the same size and on the same seeds; None for labels alone. Points
            of a share; of a measure without percent in its own unit.
        gap_recovered: share of the way from labels alone to the teacher; None where that way is not
            above 0 with its whole interval.
        parameters: of the student.
        latency_ms: p50 of the student; None where latencies were not measured.
        on_front: no other entry is better on test (by the study's metric) without being slower.
        chosen: whether validation chose it.
        guessing: whether it is better than that on the test windows, in what gains are told in.
    """

    student: str
    method: str
    kind: str
    level: str
    teacher: str | None
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    search_score: float | None
    valid_score: Spread
    test: ScoreTable
    gain_points: dict[str, PairedGain] | None
    gap_recovered: float | None
    parameters: int
    latency_ms: float | None
    on_front: bool
    chosen: bool
    guessing: Guessing | None = None


class TrialRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training of a student: what it was, how it ended, its score on validation."""

    student: str
    method: str
    teacher: str | None
    learning_rate: float
    seed: int
    state: State
    score: float | None
    best_step: int | None
    duration_s: float
    reason: str
    sha256: str | None


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What choosing by validation inside every fold gives: the figure of a grid that no choice has flattered.

    Attributes:
        chosen: name of the method (and size) that each seed's validation chose.
        test: scores of these.
        gain_points: by metric, over labels alone of the same size.
    """

    chosen: tuple[str, ...]
    test: ScoreTable
    gain_points: dict[str, PairedGain]


class Recommendation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The student that is kept.

    Attributes:
        student: its size.
        method: its name.
        teacher: name; None for labels alone.
        learning_rate: of the checkpoint.
        seed: of the checkpoint: the one that validates best among the entry's.
        checkpoint: its file; None where only figures are here, read from results of another machine.
        sha256: of that file.
        valid_score: of the checkpoint.
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
    latency: Latency | None
    within_limits: bool


class Skipped(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A combination that no training can have, and why."""

    student: str
    method: str
    teacher: str | None
    reason: str


class StudyDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file; `docs/study.md` describes it. `measures` are told where the task is not one of classes."""

    format_version: int = FORMAT_VERSION
    facts: StudyFacts
    coverage: Coverage
    dataset: DatasetFacts
    students: tuple[StudentSize, ...]
    teachers: tuple[TeacherRow, ...]
    methods: tuple[Method, ...]
    skipped: tuple[Skipped, ...]
    entries: tuple[EntryRow, ...]
    rivals: tuple[RivalRow, ...]
    selection: Selection | None
    effects: tuple[Effect, ...]
    effect_seeds: tuple[int, ...]
    recommendation: Recommendation | None
    trials: tuple[TrialRow, ...]
    versions: dict[str, str]
    duration_s: float
    command: str = ""
    measures: tuple[Measure, ...] | msgspec.UnsetType = msgspec.UNSET
