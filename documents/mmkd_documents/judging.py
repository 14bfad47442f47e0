"""The documents of `mmkd-evaluate`. Fractions run from 0 to 1."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

import msgspec

from mmkd_documents.cost import CostFacts
from mmkd_documents.figures import MODEL_NAMES, OF_CLASSES, Chance, Interval, Measure, Split, Spread

_Facts = TypeVar("_Facts")

ModelRole = Literal["teacher", "distilled", "labels only", "normal", "rival"]
STUDENT, TEACHER = "student", "teacher"
"""Models of `ShiftFacts`, with `LABELS_ONLY` and the rivals."""


class JudgedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model with a unique name."""

    name: str
    path: str
    sha256: str
    role: ModelRole  # a rival has no file
    modalities: tuple[str, ...]
    parameters: int | None  # None for a rival
    artifact: str = ""  # file in a bundle; empty for a checkpoint


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of an evaluation."""

    name: str
    sha256: str
    part: str  # the split, or the fold with these test windows
    windows: int  # labelled ones
    groups: int  # 0 if unknown
    split: Split | None = None  # how they were separated from training
    labels: tuple[str, ...]

    @property
    def apart(self) -> str:
        """Number of groups, or how windows without groups are split."""
        if self.split is not None and self.split.by != "groups":
            return self.split.judged_on
        return f"{self.groups} group{'' if self.groups == 1 else 's'}"


class FaultFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One fault."""

    name: str
    effect: str  # at severity 1
    errors: dict[str, tuple[float, ...]]  # by model, at each severity
    relative: dict[str, float]  # by model, summed error divided by the baseline's


class FaultsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All faults, the worst of the first model first."""

    sensors: tuple[str, ...]
    severities: tuple[float, ...]
    measure: str  # the error is 1 minus this metric; for regression `rmse` itself
    intact: dict[str, float]  # error by model with intact sensors
    faults: tuple[FaultFigures, ...]
    relative: dict[str, Interval | None]  # by model, error over the baseline's; empty without a baseline


class DomainFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures by contestant on a domain left out of training."""

    name: str
    windows: int
    shared_groups: int  # groups with windows of other domains in training
    figures: dict[str, float]


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """Agreement of probabilities with labels.

    The expected calibration error (ECE) is the mean distance between probability and accuracy, over 15 bins of equal
    width, weighted by windows. Few windows inflate it.
    """

    calibration_error: float
    log_loss: float  # mean of -ln of the probability of the true label, in nats


class LabelSetCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """Label sets at one error level."""

    error_level: float
    least_probability: float
    covered: int  # windows whose set has the true label; `coverage` is their fraction
    coverage: float
    low: float  # lower end of the 95 % interval, for independent windows
    high: float
    mean_set_size: float
    single_fraction: float  # windows with one label; on others the predictor abstains
    single_accuracy: float | None  # fraction of these whose label is right; None without any


class ConfidenceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Calibration of an artifact."""

    temperature: float  # divides the logits in the graph
    calibrated_by: int  # how many windows calibrated it
    windows: int  # labelled windows that measured it
    before: Reliability  # plain softmax of the logits
    after: Reliability  # the artifact's probabilities
    coverages: tuple[LabelSetCoverage, ...]  # at supported error levels, rising


class ShiftFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Figures by model, trained again without one domain at a time."""

    by: str  # `group` or the metadata column
    sensor: str
    teacher: str  # its size, as `student` is
    student: str
    labels: str  # in words
    steps: tuple[int, int]  # teacher's and each student's
    measure: Measure
    domains: tuple[DomainFigures, ...]
    models: dict[str, Interval]  # over domains; `student` is the distilled one
    worst: dict[str, str]  # domain
    gains: dict[str, Interval]  # student minus this model
    teacher_gain: Interval  # over labels only
    absent: dict[str, str]  # by rival that could not run, the reason
    unknown: int = 0  # windows without a value of the column
    has_groups: bool = True  # groups choose, not the dataset's validation windows


class SuiteTable(msgspec.Struct, frozen=True, kw_only=True):
    """Texts; the first column names the rows."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class SuiteChart(msgspec.Struct, frozen=True, kw_only=True):
    """A line per model; `is_fraction` draws percent."""

    title: str
    x_label: str
    x: tuple[float, ...]
    lines: dict[str, tuple[float, ...]]
    is_fraction: bool = True


class SuiteResult(msgspec.Struct, frozen=True, kw_only=True):
    """A suite's figures, and their presentation."""

    title: str
    lead: str
    facts: Any  # the suite's own struct
    verdict: tuple[str, ...] = ()  # sentences on the first model, without a full stop
    record: tuple[str, ...] = ()  # recordings that would help most
    tables: tuple[SuiteTable, ...] = ()
    charts: tuple[SuiteChart, ...] = ()
    notes: tuple[str, ...] = ()


class JudgingDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Models side by side; the first is judged."""

    format_version: int = 1
    data: DataFacts
    kind: str
    seed: int
    models: tuple[JudgedModel, ...]
    baseline: str | None  # the name of the model trained on labels only
    cautions: tuple[str, ...]  # limits of the scores, a sentence each
    verdict: tuple[str, ...]
    suites: dict[str, SuiteResult] = {}

    @property
    def faults(self) -> FaultsFacts | None:
        """Facts of the suite `faults`."""
        return self._facts("faults", FaultsFacts)

    @property
    def cost(self) -> CostFacts | None:
        """Facts of the suite `cost`."""
        return self._facts("cost", CostFacts)

    def _facts(self, suite: str, kind: type[_Facts]) -> _Facts | None:
        facts = self.suites[suite].facts if suite in self.suites else None
        return facts if facts is None or isinstance(facts, kind) else msgspec.convert(facts, kind)


SensorModel = Literal["extra_trees", "mini_rocket", "labels_only", "distilled", "teacher"]
SENSOR_MODELS: dict[SensorModel, str] = {key: MODEL_NAMES[key] for key in get_args(SensorModel)}
"""In the order of the table, with its heads."""


class SensorRow(msgspec.Struct, frozen=True, kw_only=True):
    """A sensor."""

    sensors: tuple[str, ...]  # one
    scores: dict[SensorModel, Spread]  # `teacher` uses all sensors
    parameters: int  # the student's
    gain: Interval | None = None  # over labels only
    valid_score: float | None = None  # the distilled student's; chooses sensors
    chance: Chance | None = None  # the student's
    is_distilled: bool = True  # whether validation shipped a distilled student for any seed
    ahead: tuple[SensorModel, ...] = ()  # that validate better than the student
    under_faults: float | None = None  # the student's error, mean over faults and severities
    worst_fault: str = ""
    latency_ms: float | None = None  # median of the exported student on this machine
    worth: dict[str, float] = {}  # net present value by option


class PairScore(msgspec.Struct, frozen=True, kw_only=True):
    """One student of two sensors, beside the student of one that answers in its place."""

    missing: str  # empty if both are there
    pair: Interval
    single: str  # the sensor that validates better, or is left
    alone: Interval  # its student
    gain: Interval  # of the pair


class PairRow(msgspec.Struct, frozen=True, kw_only=True):
    """Two sensors together."""

    sensors: tuple[str, ...]
    valid_score: float  # with both
    scores: tuple[PairScore, ...]  # with both, without the first, without the second


class SensorsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `mmkd-evaluate --sensors --json`."""

    format_version: int = 1
    name: str
    sha256: str
    judged_on: str  # in words
    labelled: str
    seeds: tuple[int, ...]
    measure: Measure
    faults_measure: str  # as `FaultsFacts.measure`
    rows: tuple[SensorRow, ...]  # in the order of validation
    pairs: tuple[PairRow, ...] = ()  # in the order of validation
    pairs_measure: Measure = OF_CLASSES[1]  # the one that validation maximised
    currency: str = ""
    costs_to_enter: tuple[str, ...] = ()  # as `CostFacts.to_enter`, of all sensors
    pages: dict[str, str] = {}  # file of each sensor's page
    command: str = ""


class MonitorRow(msgspec.Struct, frozen=True, kw_only=True):
    """Alarms of a score of normal running at 5 %; None without such windows."""

    window_rate: float | None  # of normal test windows
    groups_above: float  # of the validation groups, fraction with more than 10 %, judged by the others
    auroc: float | None
    detection: float | None


class NormalSensorRow(msgspec.Struct, frozen=True, kw_only=True):
    """A sensor of normal running."""

    sensor: str
    explained: float  # fraction of its movement that all others predict
    alike: dict[str, float]  # by other sensor, the fraction that it alone predicts
    synthetic: dict[str, float]  # by synthetic fault at full severity, AUROC against intact windows; no accuracy
    own: MonitorRow


class NormalSensorsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `mmkd-evaluate --sensors --json` on a dataset of normal running."""

    format_version: int = 1
    name: str
    sha256: str
    groups: int  # of the normal validation windows
    normal: int
    faults: int  # test windows with a known fault
    rows: tuple[NormalSensorRow, ...]
    monitor: MonitorRow  # errors of all sensors, each predicted from the others
