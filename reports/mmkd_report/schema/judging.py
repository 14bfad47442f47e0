"""The documents of `mmkd-evaluate`: models side by side, and sensors. Fractions run from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

import msgspec

from mmkd_report.schema.cost import CostFacts
from mmkd_report.schema.evaluation import DataFacts, WindowGain
from mmkd_report.schema.figures import CONTESTANTS, Guessing, Measure, Spread
from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1
_Facts = TypeVar("_Facts")

ModelRole = Literal["teacher", "distilled", "labels only", "rival"]


class JudgedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model; its name is unique in the document.

    Attributes:
        role: `labels only` for a student without a teacher; a `rival` has no file.
        artifact: file in a bundle; empty for a checkpoint.
        parameters: None for a rival.
    """

    name: str
    path: str
    sha256: str
    role: ModelRole
    modalities: tuple[str, ...]
    parameters: int | None
    artifact: str = ""


class RelativeError(msgspec.Struct, frozen=True, kw_only=True):
    """Error divided by the baseline's: below 1 is better; without an interval if groups are few."""

    mean: float
    low: float | None
    high: float | None


class FaultFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One fault.

    Attributes:
        what: its effect at severity 1.
        practised: by model, whether its training practised this kind of fault; None if unknown.
        errors: by model, at each severity.
        relative: by model, summed error divided by the baseline's.
    """

    name: str
    what: str
    practised: dict[str, bool | None]
    errors: dict[str, tuple[float, ...]]
    relative: dict[str, float]


class FaultsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All faults, the worst of the first model first.

    Attributes:
        measure: the error is 1 minus this metric; for regression `rmse` itself.
        sound: error by model with intact sensors.
        left_out: faults that these sensors cannot have.
        relative: by model, mean over faults; empty without a baseline.
    """

    sensors: tuple[str, ...]
    severities: tuple[float, ...]
    measure: str
    sound: dict[str, float]
    faults: tuple[FaultFigures, ...]
    left_out: tuple[str, ...]
    relative: dict[str, RelativeError | None]


class DomainSpread(msgspec.Struct, frozen=True, kw_only=True):
    """A figure or a gain over domains, with the 95 % interval of its mean; None with one domain."""

    mean: float
    low: float | None
    high: float | None


class DomainFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures by contestant on a domain that was left out of training.

    Attributes:
        shared_groups: groups of the domain with windows in training too, in other domains.
    """

    name: str
    windows: int
    shared_groups: int
    figures: dict[str, float]


class TimeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures on the end of the campaign.

    Attributes:
        windows: number to train on, to choose by and to judge with.
        gain: of the student over labels only.
    """

    measure: Measure
    windows: tuple[int, int, int]
    figures: dict[str, float]
    gain: WindowGain


STUDENT, TEACHER = "student", "teacher"
"""Contestants of `ShiftFacts` beside `LABELS_ONLY` and the rivals."""


class ShiftFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of models trained again without one domain at a time.

    Attributes:
        by: `group` or the metadata column.
        teacher: its size, as `student` is.
        labels: the labels that were used, in words.
        steps: of the teacher and of each student.
        models: by contestant, over domains; `student` is the distilled one.
        worst: by contestant, its worst domain.
        gains: by contestant, of the student over it.
        teacher_gain: over labels only.
        absent: by rival that could not run, the reason.
        unknown: windows without a value of the column.
        has_groups: whether whole groups choose; otherwise the dataset's own validation windows do.
    """

    by: str
    sensor: str
    teacher: str
    student: str
    labels: str
    steps: tuple[int, int]
    measure: Measure
    domains: tuple[DomainFigures, ...]
    models: dict[str, DomainSpread]
    worst: dict[str, str]
    gains: dict[str, DomainSpread]
    teacher_gain: DomainSpread
    absent: dict[str, str]
    time: TimeFigures | None
    unknown: int = 0
    has_groups: bool = True


class SuiteTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table of texts; the first column names the rows."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class SuiteChart(msgspec.Struct, frozen=True, kw_only=True):
    """A line for each model; `is_fraction` draws the figures in percent."""

    title: str
    x_label: str
    x: tuple[float, ...]
    lines: dict[str, tuple[float, ...]]
    is_fraction: bool = True


class SuiteResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a suite, as figures and for readers.

    Attributes:
        facts: the suite's own struct.
        verdict: sentences on the first model, without a full stop.
        record: recordings that would help most.
    """

    title: str
    lead: str
    facts: Any
    verdict: tuple[str, ...] = ()
    record: tuple[str, ...] = ()
    tables: tuple[SuiteTable, ...] = ()
    charts: tuple[SuiteChart, ...] = ()
    notes: tuple[str, ...] = ()


class JudgingDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Models side by side; the first is judged.

    Attributes:
        baseline: the name of the model trained on labels only.
        cautions: limits of the scores, a sentence each.
    """

    format_version: int = FORMAT_VERSION
    data: DataFacts
    kind: str
    seed: int
    models: tuple[JudgedModel, ...]
    baseline: str | None
    cautions: tuple[str, ...]
    verdict: tuple[str, ...]
    suites: dict[str, SuiteResult] = {}

    @property
    def faults(self) -> FaultsFacts | None:
        """The facts of the suite `faults`."""
        return self._facts("faults", FaultsFacts)

    @property
    def cost(self) -> CostFacts | None:
        """The facts of the suite `cost`."""
        return self._facts("cost", CostFacts)

    def _facts(self, suite: str, kind: type[_Facts]) -> _Facts | None:
        """Return facts, which are a mapping in a document that was read."""
        facts = self.suites[suite].facts if suite in self.suites else None
        return facts if facts is None or isinstance(facts, kind) else msgspec.convert(facts, kind)


def read_judging(document: Mapping[str, Any]) -> JudgingDocument:
    """Return the typed form of a document of `mmkd-evaluate --json`; raise DocumentError as `typed`."""
    advice = "make it again with mmkd-evaluate"
    return typed(document, JudgingDocument, name="judging", version=FORMAT_VERSION, advice=advice)


Competitor = Literal["extra_trees", "mini_rocket", "labels_only", "distilled", "teacher"]
COMPETITORS: dict[Competitor, str] = {key: CONTESTANTS[key] for key in get_args(Competitor)}
"""In the order of the table, by the words of its heading."""


class SensorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One sensor, or a pair that a teacher uses.

    Attributes:
        scores: `teacher` is of all sensors, and in a row of a pair of these alone.
        gain: of the distilled student over labels only, with its 95 % interval.
        valid_score: of the distilled student; chooses sensors.
        guessing: the student compared with chance.
        is_taught: whether validation shipped a distilled student, for one seed or more.
        ahead: competitors of one sensor that validate better than the student.
        under_faults: the student's error, mean over faults and severities.
        relative: that error divided by that of labels only.
        parameters: of the student; in a row of a pair of the teacher.
        latency_ms: median of the exported student on this machine.
        worth: net present value by option.
    """

    sensors: tuple[str, ...]
    scores: dict[Competitor, Spread]
    parameters: int
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    valid_score: float | None = None
    guessing: Guessing | None = None
    is_taught: bool = True
    ahead: tuple[Competitor, ...] = ()
    under_faults: float | None = None
    relative: RelativeError | None = None
    worst_fault: str = ""
    latency_ms: float | None = None
    teacher_latency_ms: float | None = None
    worth: dict[str, float] = {}


class SensorsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Which sensor is enough: the document of `mmkd-evaluate --sensors --json`.

    Attributes:
        judged_on: the windows that judged, in words.
        faults_measure: as `FaultsFacts.measure`.
        rows: one per sensor, in the order of validation.
        pairs: the teacher with two sensors, in the dataset's order.
        costs_to_enter: as `CostFacts.to_enter`, of all sensors.
        pages: by sensor the file of its page.
    """

    format_version: int = FORMAT_VERSION
    name: str
    sha256: str
    judged_on: str
    labelled: str
    seeds: tuple[int, ...]
    measure: Measure
    faults_measure: str
    rows: tuple[SensorRow, ...]
    pairs: tuple[SensorRow, ...]
    currency: str = ""
    costs_to_enter: tuple[str, ...] = ()
    pages: dict[str, str] = {}
    command: str = ""


def read_sensors(document: Mapping[str, Any]) -> SensorsDocument:
    """Return the typed form of a document of `mmkd-evaluate --sensors --json`; raise DocumentError as `typed`."""
    advice = "make it again with mmkd-evaluate --sensors"
    return typed(document, SensorsDocument, name="sensors", version=FORMAT_VERSION, advice=advice)
