"""The document of `mmkd-demo --json` as typed, frozen data: what the demo page is made of.

Owns the reading and checking of that document; a page only ever sees what passed here. Keys that a run could not fill
may be absent or null: they become None, and the page leaves their place out. Unknown keys are left alone, so that the
document may grow. Fractions run from 0 to 1, gains are percentage points; of tasks that are not of classes `measures`
say what figures are.
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


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One measure over seeds: `mean` and sample `std`, and the figure of each seed in the order of `seeds`."""

    mean: float | None = None
    std: float | None = None
    per_seed: tuple[float | None, ...] = ()


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What the student is better by than the baseline, in percentage points or the first measure's own unit."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of the latency of one window in milliseconds, and from how many samples."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    samples: int | None = None


class RatioRange(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest and largest of a ratio that was measured `repeats` times in one run."""

    min: float | None = None
    max: float | None = None
    repeats: int | None = None


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One validation during training."""

    step: int
    train_loss: float | None = None
    valid_score: float | None = None


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """Figures on the test windows; which of them there are follows from the task."""

    accuracy: Spread | float | None = None
    balanced_accuracy: Spread | float | None = None
    macro_f1: Spread | float | None = None
    mean_average_precision: Spread | float | None = None
    subset_accuracy: Spread | float | None = None
    mae: Spread | float | None = None
    rmse: Spread | float | None = None
    r2: Spread | float | None = None
    pearson: Spread | float | None = None

    def score(self, measure: Measure) -> Spread | None:
        """One of them; a bare figure is a mean of which no spread is known. None where it is missing."""
        found: Spread | float | None = getattr(self, measure.name)
        return spread_of(found)


class Network(Scored, frozen=True, kw_only=True):
    """A trained network: teacher, student or baseline. `confusion` is (K, K), rows true, columns answered.

    `valid_score` is what the network was chosen by, on validation windows. `counts` is (K, 4): windows in which a label
    was rightly on, wrongly on, wrongly off, rightly off.
    """

    valid_score: Spread | None = None
    guessing: Guessing | None = None
    parameters: int | None = None
    preset: str | None = None
    modalities: tuple[str, ...] | None = None
    latency_ms: Latency | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    counts: tuple[tuple[int, int, int, int], ...] | None = None
    curve: tuple[CurvePoint, ...] | None = None
    learning_rate: tuple[float | None, ...] | None = None


class TriedSize(msgspec.Struct, frozen=True, kw_only=True):
    """One teacher size that was tried, with its score on validation."""

    preset: str
    parameters: int | None = None
    valid_score: Spread | None = None
    chosen: bool = False


class SubsetScore(Scored, frozen=True, kw_only=True):
    """The teacher with only these modalities."""

    modalities: tuple[str, ...]


class Teacher(Network, frozen=True, kw_only=True):
    """The multimodal network, the sizes tried and its answers under every subset of modalities."""

    sizes_tried: tuple[TriedSize, ...] | None = None
    missing: tuple[SubsetScore, ...] | None = None


class Rival(Scored, frozen=True, kw_only=True):
    """A classical method on the same sensor and labels, or the reason why it was not run."""

    reason: str | None = None
    valid_score: Spread | None = None
    guessing: Guessing | None = None


class Attention(msgspec.Struct, frozen=True, kw_only=True):
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


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """One modality: its student, what it is compared with, and what distillation bought.

    `gap_points` is what the teacher is better by than labels only, `over_teacher_points` the student than the teacher.
    """

    student: Network
    baseline: Network | None = None
    extra_trees: Rival | None = None
    mini_rocket: Rival | None = None
    gain_points: Gain | None = None
    over_teacher_points: Gain | None = None
    gap_points: Gain | None = None
    gap_recovered: float | None = None
    bundle: str | None = None
    reference: str | None = None
    latency_ratio: float | None = None
    latency_ratios: RatioRange | None = None
    parameters_ratio: float | None = None
    attention: Attention | None = None
    missing: MissingSamples | None = None


class Modality(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of input as it was recorded."""

    name: str
    channels: tuple[str, ...] = ()
    rate_hz: float | None = None
    samples: int | None = None
    unit: str | None = None


class WindowCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many windows each split holds."""

    train: int | None = None
    valid: int | None = None
    test: int | None = None


class DatasetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the figures come from."""

    name: str
    title: str | None = None
    source: str | None = None
    licence: str | None = None
    sha256: str | None = None
    windows: WindowCounts | None = None
    groups: int | None = None
    labels: tuple[str, ...] = ()
    modalities: tuple[Modality, ...] = ()


class BenchmarkFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The device runtime measured on one bundle: milliseconds, stages in microseconds, memory in megabytes."""

    bundle: str | None = None
    backend: str | None = None
    threads: int | None = None
    latency_ms: Latency | None = None
    stages_us: dict[str, float | None] | None = None
    load_ms: float | None = None
    first_call_ms: float | None = None
    rss_mb: float | None = None
    stable: bool | None = None
    machine: dict[str, Any] | None = None


class DemoDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    format_version: int
    dataset: DatasetFacts
    teacher: Teacher
    students: dict[str, Contest]
    command: str | None = None
    label_share: float | None = None
    split: Split | None = None
    seeds: tuple[int, ...] = ()
    mean_gain_points: Gain | None = None
    benchmark: BenchmarkFacts | None = None
    versions: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None
    duration_s: float | None = None
    kind: str = "classification"
    metric: str | None = None
    measures: tuple[Measure, ...] = OF_CLASSES

    @property
    def told_by(self) -> Measure:
        """What the page tells scores and gains in."""
        return self.measures[0]

    @property
    def chosen_by(self) -> Measure:
        """What validation maximised; of classes, whose documents do not say which, a share."""
        return next((one for one in self.measures if one.name == self.metric), self.told_by)


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


def spread_of(measure: Spread | float | None) -> Spread | None:
    """A measure as a spread: a bare figure is a mean of which no spread is known."""
    return Spread(mean=measure) if isinstance(measure, (int, float)) else measure


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


def _attention_contradictions(where: str, attention: Attention | None) -> Iterator[str]:
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
