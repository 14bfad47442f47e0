"""The document of `mmkd-evaluate --suite ... --json`: models side by side, suite by suite.

Shares run from 0 to 1. What was not asked for is None. Models are known by their names.
"""

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

ModelRole = Literal["teacher", "distilled", "labels alone", "rival"]


class JudgedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is judged.

    Attributes:
        name: unique in the document.
        sha256: of the file.
        role: `labels alone` of a student that no teacher taught; a `rival` learnt beside it and has no file.
        artifact: of a bundle, its file there; empty of a checkpoint.
        modalities: that it sees.
        parameters: None of a rival.
    """

    name: str
    path: str
    sha256: str
    role: ModelRole
    modalities: tuple[str, ...]
    parameters: int | None
    artifact: str = ""


class RelativeError(msgspec.Struct, frozen=True, kw_only=True):
    """Error as a share of the baseline's: below 1 is better; without an interval where groups are few."""

    mean: float
    low: float | None
    high: float | None


class FaultFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One fault.

    Attributes:
        what: it does at severity 1.
        practised: by model, whether its training practised faults of the kind; None where nobody knows.
        errors: by model, at each severity.
        relative: by model, summed error over that of the baseline; empty without one, or where it makes none.
    """

    name: str
    what: str
    practised: dict[str, bool | None]
    errors: dict[str, tuple[float, ...]]
    relative: dict[str, float]


class FaultsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All faults, the worst of the first model first.

    Attributes:
        sensors: that break, at most half of the channels of each (a single one whole).
        measure: whose distance from 1 the error is; of numbers `rmse`, the error itself.
        sound: error by model with sound sensors.
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
    """A figure or a gain over domains, with the 95 % interval of its mean; without one where there is no second."""

    mean: float
    low: float | None
    high: float | None


class DomainFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One domain that was left out: figures by contestant, that never saw it.

    Attributes:
        windows: that judge.
        shared_groups: groups of the domain that have windows in training too, in other domains.
    """

    name: str
    windows: int
    shared_groups: int
    figures: dict[str, float]


class TimeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the campaign left out.

    Attributes:
        measure: of all figures here.
        windows: to train on, to choose by and to judge with.
        gain: of the student over labels alone; its interval resamples groups.
    """

    measure: Measure
    windows: tuple[int, int, int]
    figures: dict[str, float]
    gain: WindowGain


STUDENT, TEACHER = "student", "teacher"
"""Contestants of `ShiftFacts` beside `LABELS_ALONE` and the rivals."""


class ShiftFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything trained anew without one domain at a time, and judged on it.

    Attributes:
        by: `group` or the column whose values are the domains.
        sensor: that students and rivals see.
        teacher: its size, and `student` that of the students.
        labels: what of the training windows was labelled, in words.
        steps: of training, of the teacher and of each student.
        models: by contestant, over domains; `student` is the one that the teacher taught.
        worst: by contestant, the domain that it serves worst.
        gains: by contestant, what the student is better by, domain by domain.
        teacher_gain: what the teacher is better by than labels alone.
        absent: by rival that could not be run, why.
        time: None where nobody asked.
        unknown: windows whose value of the column is missing; they neither train, choose nor judge.
        has_groups: whether whole groups choose; else the dataset's own validation windows do.
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


class SuiteResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a suite found, as figures and for readers.

    Attributes:
        facts: the suite's own struct: `FaultsFacts`, `ShiftFacts`, `CostFacts`, or one beside the suite.
        verdict: what follows for the first model, a sentence each without a full stop.
        record: recordings that would help most.
    """

    title: str
    lead: str
    facts: Any
    verdict: tuple[str, ...] = ()
    record: tuple[str, ...] = ()
    tables: tuple[SuiteTable, ...] = ()
    notes: tuple[str, ...] = ()


class JudgingDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Models side by side.

    Attributes:
        models: the first is the one that is judged, the others stand beside it.
        baseline: the name of the model that labels alone taught; None without one.
        cautions: what has to be said of the scores, a sentence each.
        verdict: what follows, a sentence each.
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
    """The typed form of a document of `mmkd-evaluate --suite ... --json`.

    Raises:
        DocumentError: A format version that this release does not know, or a missing or mistyped value.
    """
    advice = "make it again with mmkd-evaluate --suite"
    return typed(document, JudgingDocument, name="judging", version=FORMAT_VERSION, advice=advice)


Competitor = Literal["extra_trees", "mini_rocket", "labels_alone", "distilled", "teacher"]
COMPETITORS: dict[Competitor, str] = {key: CONTESTANTS[key] for key in get_args(Competitor)}
"""In the order of the table, by the words of its heading."""


class SensorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One sensor, or several that a teacher answers with together.

    Attributes:
        scores: of who was judged; `teacher` is of all sensors, and in a row of several of these alone.
        gain: distilled beside labels alone, with its 95 % interval; None of several, and no interval of few groups.
        valid_score: of the distilled student, by which sensors are chosen.
        guessing: the student beside guessing.
        is_taught: whether validation shipped a student that the teacher taught, of one seed or more.
        ahead: the competitors of one sensor that validate better than the student.
        under_faults: the student's error, mean over faults and severities; of a number the RMSE.
        relative: that error as a share of that of labels alone.
        worst_fault: the name of the fault that costs the student most.
        parameters: of the student; in a row of several those of the teacher.
        latency_ms: median of a window of the exported student on this machine.
        teacher_latency_ms: of the teacher, in turn with it.
        worth: net present value of each way to equip, in the currency.
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
        judged_on: what the windows that judged are.
        labelled: which labels were seen, in words.
        measure: of the scores and gains.
        faults_measure: whose distance from 1 the error under faults is; `rmse` is the error itself.
        rows: one a sensor, that which validation prefers first.
        pairs: what the teacher knows of two sensors, in the dataset's order; empty where nobody asked.
        currency: empty without costs.
        costs_to_enter: as `CostFacts.to_enter`, of all sensors.
        pages: by sensor the file of its own page.
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
    """The typed form of a document of `mmkd-evaluate --sensors --json`; raises DocumentError as `read_judging`."""
    advice = "make it again with mmkd-evaluate --sensors"
    return typed(document, SensorsDocument, name="sensors", version=FORMAT_VERSION, advice=advice)
