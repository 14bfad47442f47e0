"""The document of `mmkd-demo --json`: fractions run from 0 to 1, gains are percentage points, null is missing."""

from __future__ import annotations

from math import isfinite
from typing import Any

import msgspec

from mmkd_documents import figures

LABELS_ONLY = figures.MODEL_NAMES["labels_only"]


class Gain(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A gain in percentage points or the first measure's unit, with 95 % interval."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None


class LatencyPercentiles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Latency of one window in milliseconds."""

    p50: float | None = figures.NULL
    p90: float | None = figures.NULL
    p99: float | None = figures.NULL
    samples: int | None = None


_Figure = figures.Spread | None | msgspec.UnsetType


class TestScores(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Test figures by task; null for a rival that was not run."""

    accuracy: _Figure = msgspec.UNSET
    balanced_accuracy: _Figure = msgspec.UNSET
    macro_f1: _Figure = msgspec.UNSET
    mean_average_precision: _Figure = msgspec.UNSET
    subset_accuracy: _Figure = msgspec.UNSET
    mae: _Figure = msgspec.UNSET
    rmse: _Figure = msgspec.UNSET
    r2: _Figure = msgspec.UNSET
    pearson: _Figure = msgspec.UNSET

    def score(self, measure: figures.Measure) -> figures.Spread | None:
        """Return a measure's figures."""
        figure: _Figure = getattr(self, measure.name)
        return figure or None


class Network(TestScores, frozen=True, kw_only=True, omit_defaults=True):
    """A teacher, student or baseline."""

    valid_score: figures.Spread | None = None
    chance: figures.Chance | None = None
    parameters: int | None = None
    preset: str | None = None
    modalities: tuple[str, ...] | None = None
    latency_ms: LatencyPercentiles | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None  # (K, K) windows over all seeds: rows true, columns answered
    counts: tuple[tuple[int, int, int, int], ...] | None = None  # (K, 4) right on, wrong on, wrong off, right off
    learning_rate: tuple[float | None, ...] | None = None  # peak, by seed
    kinds: tuple[str, ...] = ()  # a student's members, by seed
    shipped: tuple[str, ...] = ()  # the form that validation chose, by seed


class SubsetScore(TestScores, frozen=True, kw_only=True, omit_defaults=True):
    """The teacher with only these modalities."""

    modalities: tuple[str, ...]


class DemoTeacher(Network, frozen=True, kw_only=True, omit_defaults=True):
    """The teacher, with every subset of modalities."""

    members: tuple[str, ...] = ()  # committee members; parameters and latency are the transformer's
    missing: tuple[SubsetScore, ...] | None = None


class DemoRival(TestScores, frozen=True, kw_only=True, omit_defaults=True):
    """A rival on the same sensor and labels, or why it was not run."""

    reason: str | None = None
    valid_score: figures.Spread | None = None
    chance: figures.Chance | None = None
    student_gain_points: Gain | None = None  # student minus rival


class MissingSamples(msgspec.Struct, frozen=True, kw_only=True):
    """The first measure by fraction of missing samples."""

    fractions: tuple[float, ...]
    student: tuple[figures.Spread | None, ...]
    baseline: tuple[figures.Spread | None, ...] = ()


class DemoSensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A modality's student, baseline, rivals, and gain of distillation."""

    student: Network
    baseline: Network | None = None
    extra_trees: DemoRival | None = None
    mini_rocket: DemoRival | None = None
    rocket_and_trees: DemoRival | None = None
    distilled_rocket: DemoRival | None = None  # has the student's teacher; others have labels only
    gain_points: Gain | None = None
    over_teacher_points: Gain | None = None  # student minus teacher
    gap_points: Gain | None = None  # teacher minus labels only
    gap_recovered: float | None = figures.NULL
    bundle: str | None = None
    reference: str | None = None
    latency_ratio: float | None = None
    latency_ratios: figures.RatioRange | None = None
    parameters_ratio: float | None = None
    missing: MissingSamples | None = None


class RecordedModality(msgspec.Struct, frozen=True, kw_only=True):
    """A modality of the recording."""

    name: str
    channels: tuple[str, ...] = ()
    rate_hz: float | None = None
    samples: int | None = None
    unit: str | None = None


class WindowCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Windows of the first seed; `labelled` are those of `train` with a visible label, `test` those of all seeds."""

    train: int | None = None
    labelled: int | None = None
    valid: int | None = None
    test: int | None = None


class DemoDataset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The dataset of the run."""

    name: str
    source: str | None = None
    licence: str | None = None
    sha256: str | None = None
    windows: WindowCounts | None = None
    groups: int | None = None
    labels: tuple[str, ...] = ()
    modalities: tuple[RecordedModality, ...] = ()


class DemoBenchmark(msgspec.Struct, frozen=True, kw_only=True):
    """The device runtime on one bundle."""

    bundle: str | None = None
    backend: str | None = None
    threads: int | None = None
    latency_ms: LatencyPercentiles | None = None
    load_ms: float | None = None
    first_call_ms: float | None = None
    rss_mb: float | None = None
    stable: bool | None = None


class DemoDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole document; `kind`, `metric` and `measures` are for other tasks than classes."""

    format_version: int
    dataset: DemoDataset
    teacher: DemoTeacher
    students: dict[str, DemoSensor]
    command: str | None = None
    label_fraction: float | None = None  # None if whole groups are labelled
    labelled_groups: figures.LabelledGroups | None = None
    labels_spread_in_time: figures.LabelLeak | None = None
    split: figures.Split | None = None
    seeds: tuple[int, ...] = ()
    mean_gain_points: Gain | None = None
    benchmark: DemoBenchmark | None = None
    versions: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None
    report: str | None = None
    duration_s: float | None = None
    is_first_look: bool = False  # with --quick
    kind: str = "classification"
    metric: str | None = None
    measures: tuple[figures.Measure, ...] = figures.OF_CLASSES

    @property
    def best_student(self) -> str | None:
        """The sensor whose student validates best, if any has a score."""
        valid = {name: sensor.student.valid_score for name, sensor in self.students.items()}
        means = {name: spread.mean for name, spread in valid.items() if spread is not None and isfinite(spread.mean)}
        return max(means, key=lambda name: means[name], default=None)

    @property
    def reported_metric(self) -> figures.Measure:
        """The measure of scores and gains."""
        return self.measures[0]

    @property
    def chosen_by(self) -> figures.Measure:
        """The measure that validation maximised."""
        return next((measure for measure in self.measures if measure.name == self.metric), self.reported_metric)
