"""The document of `mmkd-demo --json`: a teacher, and for every sensor a student and its rivals.

Owns its reading and checking; a page only ever sees what passed here. Keys that a run could not fill are absent, or
null: they become None, and the page leaves their place out. Unknown keys are left alone, so that the document may grow.
Fractions run from 0 to 1, gains are percentage points; of tasks that are not of classes `measures` say what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mmkd_report.errors import DocumentError
from mmkd_report.schema.figures import (
    CONTESTANTS,
    NULL,
    OF_CLASSES,
    Guessing,
    LabelLeak,
    LabelledGroups,
    Measure,
    Split,
    Spread,
)
from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1


class Gain(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one is better by than another, in percentage points or the first measure's own unit, with its interval."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None


class LatencyPercentiles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Percentiles of the latency of one window in milliseconds, and from how many samples."""

    p50: float | None = NULL
    p90: float | None = NULL
    p99: float | None = NULL
    samples: int | None = None


class RatioRange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ratio that was measured `repeats` times in one run."""

    median: float | None = None
    min: float | None = None
    max: float | None = None
    std: float | None = NULL
    repeats: int | None = None


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One validation during training; `terms` are the parts of the loss."""

    step: int
    train_loss: float | None = None
    valid_score: float | None = None
    terms: dict[str, float] | None = None


LABELS_ONLY = CONTESTANTS["labels_only"]
"""The way of training that nobody taught, among those that validation chooses from."""

_Figure = Spread | None | msgspec.UnsetType


class Scored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Figures on the test windows; which of them there are follows from the task.

    Those of a rival that was not run are null.
    """

    accuracy: _Figure = msgspec.UNSET
    balanced_accuracy: _Figure = msgspec.UNSET
    macro_f1: _Figure = msgspec.UNSET
    mean_average_precision: _Figure = msgspec.UNSET
    subset_accuracy: _Figure = msgspec.UNSET
    mae: _Figure = msgspec.UNSET
    rmse: _Figure = msgspec.UNSET
    r2: _Figure = msgspec.UNSET
    pearson: _Figure = msgspec.UNSET

    def score(self, measure: Measure) -> Spread | None:
        """One of them; None where it is missing."""
        found: _Figure = getattr(self, measure.name)
        return found or None


class Network(Scored, frozen=True, kw_only=True, omit_defaults=True):
    """A trained network: teacher, student or baseline.

    Attributes:
        valid_score: what the network was chosen by, on validation windows.
        confusion: (K, K) windows over all seeds, rows true, columns answered.
        counts: (K, 4): windows in which a label was rightly on, wrongly on, wrongly off, rightly off.
        curve: of the first seed's training.
        learning_rate: the peak of each seed's training.
        kinds: what each seed's student is made of: transformer, rocket or hybrid; empty of a teacher.
        shipped: which way of training validation chose for each seed; empty where there was no race.
    """

    valid_score: Spread | None = None
    guessing: Guessing | None = None
    parameters: int | None = None
    preset: str | None = None
    modalities: tuple[str, ...] | None = None
    latency_ms: LatencyPercentiles | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    counts: tuple[tuple[int, int, int, int], ...] | None = None
    curve: tuple[CurvePoint, ...] | None = None
    learning_rate: tuple[float | None, ...] | None = None
    kinds: tuple[str, ...] = ()
    shipped: tuple[str, ...] = ()


class SubsetScore(Scored, frozen=True, kw_only=True, omit_defaults=True):
    """The teacher with only these modalities."""

    modalities: tuple[str, ...]


class DemoTeacher(Network, frozen=True, kw_only=True, omit_defaults=True):
    """The multimodal teacher, and its answers under every subset of modalities.

    Attributes:
        members: of a committee, whose scores these are; parameters and latency are the first's, a transformer. Empty
            where the teacher is that network alone.
    """

    members: tuple[str, ...] = ()
    missing: tuple[SubsetScore, ...] | None = None


class DemoRival(Scored, frozen=True, kw_only=True, omit_defaults=True):
    """A classical method on the same sensor and labels, or the reason why it was not run."""

    reason: str | None = None
    valid_score: Spread | None = None
    guessing: Guessing | None = None


class AttentionMaps(msgspec.Struct, frozen=True, kw_only=True):
    """Attention of teacher and student on one window: (queries, keys) each, over the same stretch of time."""

    teacher: tuple[tuple[float, ...], ...]
    student: tuple[tuple[float, ...], ...]
    teacher_layer: str | None = None
    student_layer: str | None = None
    window_label: str | None = None
    seconds: float | None = None


class MissingSamples(msgspec.Struct, frozen=True, kw_only=True):
    """The first measure when a share of the samples is missing; `student` and `baseline` follow `shares`."""

    shares: tuple[float, ...]
    student: tuple[Spread | None, ...]
    baseline: tuple[Spread | None, ...] = ()


class Contest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One modality: its student, what it is compared with, and what distillation bought.

    `gap_points` is what the teacher is better by than labels only, `over_teacher_points` the student than the teacher.
    `taught_rocket` learns from the same teacher as the student; the other rivals from labels only.
    """

    student: Network
    baseline: Network | None = None
    extra_trees: DemoRival | None = None
    mini_rocket: DemoRival | None = None
    rocket_and_trees: DemoRival | None = None
    multi_rocket_hydra: DemoRival | None = None
    taught_rocket: DemoRival | None = None
    gain_points: Gain | None = None
    over_teacher_points: Gain | None = None
    gap_points: Gain | None = None
    gap_recovered: float | None = NULL
    bundle: str | None = None
    reference: str | None = None
    latency_ratio: float | None = None
    latency_ratios: RatioRange | None = None
    parameters_ratio: float | None = None
    attention: AttentionMaps | None = None
    missing: MissingSamples | None = None


class RecordedModality(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of input as it was recorded."""

    name: str
    channels: tuple[str, ...] = ()
    rate_hz: float | None = None
    samples: int | None = None
    unit: str | None = None


class WindowCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many windows each split holds, and how many of `train` show their label."""

    train: int | None = None
    labelled: int | None = None
    valid: int | None = None
    test: int | None = None


class DemoDataset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the figures come from."""

    name: str
    title: str | None = None
    source: str | None = None
    licence: str | None = None
    sha256: str | None = None
    windows: WindowCounts | None = None
    groups: int | None = None
    labels: tuple[str, ...] = ()
    modalities: tuple[RecordedModality, ...] = ()


class DemoBenchmark(msgspec.Struct, frozen=True, kw_only=True):
    """The device runtime measured on one bundle: milliseconds, stages in microseconds, memory in megabytes."""

    bundle: str | None = None
    backend: str | None = None
    precision: str | None = None
    threads: int | None = None
    launches: int | None = None
    latency_ms: LatencyPercentiles | None = None
    stages_us: dict[str, float | None] | None = None
    load_ms: float | None = None
    first_call_ms: float | None = None
    rss_mb: float | None = None
    stable: bool | None = None
    machine: dict[str, Any] | None = None


class DemoDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole document; `kind`, `metric` and `measures` are written where the task is not one of classes.

    Attributes:
        label_share: of the training windows; None where whole groups are labelled.
        labelled_groups: these; None where a share is labelled.
        labels_spread_in_time: what a share of the labels tells of the others.
    """

    format_version: int
    dataset: DemoDataset
    teacher: DemoTeacher
    students: dict[str, Contest]
    command: str | None = None
    label_share: float | None = None
    labelled_groups: LabelledGroups | None = None
    labels_spread_in_time: LabelLeak | None = None
    split: Split | None = None
    seeds: tuple[int, ...] = ()
    mean_gain_points: Gain | None = None
    benchmark: DemoBenchmark | None = None
    versions: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None
    report: str | None = None
    duration_s: float | None = None
    kind: str = "classification"
    metric: str | None = None
    measures: tuple[Measure, ...] = OF_CLASSES

    @property
    def reported_metric(self) -> Measure:
        """What the page tells scores and gains in."""
        return self.measures[0]

    @property
    def chosen_by(self) -> Measure:
        """What validation maximised; of classes, whose documents do not say which, a share."""
        return next((one for one in self.measures if one.name == self.metric), self.reported_metric)


def read_demo(document: Mapping[str, Any]) -> DemoDocument:
    """The typed form of a document of `mmkd-demo --json`.

    Raises:
        DocumentError: A format version that this release does not know, a missing or mistyped value, or parts whose
            sizes contradict each other.
    """
    demo = typed(document, DemoDocument, name="demo", version=FORMAT_VERSION)
    known = Scored.__struct_fields__
    if not demo.measures or any(one.name not in known for one in demo.measures):
        names = ", ".join(one.name for one in demo.measures) or "none"
        raise DocumentError(f"demo document: measures: expected some of {', '.join(known)}, got {names}; correct them")
    for problem in _contradictions(demo):
        raise DocumentError(f"demo document: {problem}")
    return demo


def _contradictions(demo: DemoDocument) -> Iterator[str]:
    """Sizes that do not fit together, each as the text of an error."""
    classes = len(demo.dataset.labels)
    networks: list[tuple[str, Network]] = [("teacher", demo.teacher)]
    for name, contest in demo.students.items():
        networks.append((f"students.{name}.student", contest.student))
        if contest.baseline is not None:
            networks.append((f"students.{name}.baseline", contest.baseline))
        yield from _attention_contradictions(f"students.{name}.attention", contest.attention)
        yield from _missing_contradictions(f"students.{name}.missing", contest.missing)
    for where, network in networks:
        rows = [len(row) for row in network.confusion or ()]
        if network.confusion is not None and rows != [classes] * classes:
            yield (
                f"{where}.confusion: expected {classes} rows of {classes} (one per label), got rows of {rows}; "
                "count every label, also one that never occurs"
            )


def _attention_contradictions(where: str, attention: AttentionMaps | None) -> Iterator[str]:
    for network in ("teacher", "student"):
        rows = getattr(attention, network, None)
        if rows is not None and (not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows)):
            lengths = [len(row) for row in rows]
            yield f"{where}.{network}: expected rows of one length, got lengths {lengths}; give a rectangular map"


def _missing_contradictions(where: str, missing: MissingSamples | None) -> Iterator[str]:
    if missing is None:
        return
    for network, scores in (("student", missing.student), ("baseline", missing.baseline)):
        if scores and len(scores) != len(missing.shares):
            yield (
                f"{where}.{network}: expected {len(missing.shares)} figures (one per share), got {len(scores)}; "
                "write null for a share that was not tested"
            )
