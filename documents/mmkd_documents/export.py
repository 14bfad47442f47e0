"""The documents of `mmkd-export`: fractions run from 0 to 1, and a figure that is not a number is null."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import msgspec

from mmkd_documents.errors import DocumentError
from mmkd_documents.figures import OF_CLASSES, ClassScores, Interval, Measure, stored
from mmkd_documents.judging import ConfidenceFacts

Document = TypeVar("Document")
FORMAT_VERSION = 1
SIDECAR_FORMAT_VERSION = 2

Measures = tuple[Measure, ...]
RangeSource = Literal["minmax", "percentile"]
"""Origin of INT8 ranges."""


def artifact_name(precision: str, file_format: str) -> str:
    """Return the precision, and the format unless it is ONNX."""
    return precision if file_format == "onnx" else f"{precision} {file_format}"


class TensorParity(msgspec.Struct, frozen=True, kw_only=True):
    """One output against the checkpoint's."""

    max_abs_error: float | None
    mean_abs_error: float | None


class NoveltyParity(msgspec.Struct, frozen=True, kw_only=True):
    """Differences of novelty scores, as fractions of one more than the score."""

    max_error: float
    mean_error: float


class ArtifactParity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An artifact against the checkpoint; for a regression `probabilities` are fractions of the largest."""

    windows: int  # whose numbers are compared: trees are near no threshold on them
    logits: TensorParity
    probabilities: TensorParity
    label_agreement: float  # fraction of all windows that agree
    novelty: NoveltyParity | None = None

    @property
    def tensors(self) -> tuple[tuple[str, TensorParity], ...]:
        """Outputs by name."""
        return ("logits", self.logits), ("probabilities", self.probabilities)

    @property
    def max_abs_error(self) -> float:
        """Largest difference of any output; NaN if an answer is not a number."""
        errors = [math.nan if tensor.max_abs_error is None else tensor.max_abs_error for _, tensor in self.tensors]
        return math.nan if any(map(math.isnan, errors)) else max(errors)


class GateResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Losses of lower precision on judging windows, and limits."""

    windows: int
    labelled: int
    metric: str
    drop_points: float | None  # loss; negative if the artifact is better; None without labels
    allowed_drop_points: float
    label_agreement: float
    least_agreement: float
    finite: bool
    unjudged: bool | None = None  # too few windows judged, and that was accepted
    novelty_agreement: float | None = None  # rank correlation of novelty with the reference
    least_novelty_agreement: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the artifact may enter a bundle."""
        drops_little = self.drop_points is None or self.drop_points <= self.allowed_drop_points
        return self.finite and drops_little and self.label_agreement >= self.least_agreement and self.ranks_alike

    @property
    def ranks_alike(self) -> bool:
        """Whether novelty scores sort windows as the reference's do."""
        agreement, least = self.novelty_agreement, self.least_novelty_agreement
        return agreement is None or least is None or agreement >= least


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to quantise, and its gate."""

    remedy: str
    method: RangeSource
    layers: int
    gate: GateResult


class LayerSensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """Effect of INT8 in one layer; `divergence` is the mean Kullback-Leibler divergence in nats."""

    layer: str
    divergence: float | None


class ArtifactReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One artifact: file, answers, and attempts."""

    file: str
    format: str
    precision: str
    opset: int
    size_bytes: int
    parity: ArtifactParity
    parity_with_gaps: ArtifactParity
    scores: ClassScores | None  # on the judging windows; None without labels or classes
    figures: dict[str, float | None] | None = None  # scores of other tasks, by name
    gate: GateResult | None = stored(None)  # None for fp32, whose gate is the parity
    backend: str = stored("")  # with its version
    float_layers: dict[str, str] = stored({})  # layers or nodes in float32, with the reason
    attempts: tuple[Attempt, ...] = stored(())
    sensitivity: tuple[LayerSensitivity, ...] = stored(())  # the most sensitive layer first
    confidence: ConfidenceFacts | None = stored(None)  # on the judging windows; None without labels

    @property
    def name(self) -> str:
        """Name in text."""
        return artifact_name(self.precision, self.format)

    def score(self, name: str) -> float | None:
        """Return a figure on the labelled judging windows."""
        figures = self.figures or {}
        return getattr(self.scores, name, None) if self.scores is not None else figures.get(name)


class LeftOutArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that `auto` or a default left out; `artifact` has measurements, if any."""

    precision: str
    format: str = "onnx"
    reason: str
    artifact: ArtifactReport | None = None

    @property
    def name(self) -> str:
        """Name in text."""
        return artifact_name(self.precision, self.format)


class StudentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The student and its origin."""

    checkpoint_sha256: str
    modality: str
    labels: tuple[str, ...]
    preset: str
    parameters: int
    mflops: float  # million operations per window; a multiply-add is two
    nodes: int  # operators in the fp32 graph
    dataset: str
    dataset_sha256: str
    teacher_sha256: str | None  # None if it was trained on labels only
    further_teachers_sha256: tuple[str, ...] = ()
    metric: str  # maximised by training on the validation split
    score: float | None  # None without a known fault
    trained_with: dict[str, str]

    @property
    def teachers_sha256(self) -> tuple[str, ...]:
        """Checkpoints of all teachers."""
        return (self.teacher_sha256, *self.further_teachers_sha256) if self.teacher_sha256 else ()


class WindowFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Windows that judged the export."""

    source: str
    count: int
    judged_by: str
    judging: int  # how many judge; `labelled` of them have a label
    labelled: int
    caution: str | None  # how little they prove; None if there are enough
    synthetic: bool = stored(False)  # drawn from channel statistics, not recorded
    golden: Literal["synthetic"] | None = None  # the kind of windows in the bundle, if another
    carried: int | None = None  # how many are in the bundle, if not all: of sound, video, trees


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """A step graph: parity along `steps` of `stride` samples, and of windows."""

    file: str
    size_bytes: int
    stride: int
    steps: int
    parity: ArtifactParity
    parity_of_windows: ArtifactParity
    mflops: float


class TwinFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a student of fewer members, for engines that lack those of another, costs on labelled windows."""

    of: str  # the other's name in the manifest
    members: tuple[str, ...]
    lacking: tuple[str, ...]  # members of the other that engines lack
    metric: str
    gain: Interval | None  # over the other, in the metric's `gain_unit`; None without labels
    windows: int
    groups: int  # 0 if unknown


class ExportReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`report.json` of a bundle."""

    format_version: int = stored(FORMAT_VERSION)
    model_id: str
    platform: str
    student: StudentFacts
    windows: WindowFacts
    artifacts: tuple[ArtifactReport, ...]
    left_out: tuple[LeftOutArtifact, ...] = stored(())
    tools: dict[str, str]
    others: tuple[ExportReport, ...] = stored(())  # reports of a bundle's further students
    steps: tuple[StepReport, ...] = stored(())
    measures: Measures | None = None  # for other tasks than classification
    range_rule: str | None = None  # origin of the range, if the dataset does not declare it
    twin: TwinFacts | None = None

    @property
    def reported_metrics(self) -> Measures:
        """Figures of artifacts."""
        return self.measures or OF_CLASSES

    @property
    def chosen_by(self) -> Measure:
        """The metric that chose the student."""
        return next(
            (measure for measure in self.reported_metrics if measure.name == self.student.metric),
            self.reported_metrics[0],
        )

    @property
    def twin_text(self) -> str:
        """The role of a twin and what it costs, in a sentence; empty for other students."""
        twin = self.twin
        if not twin:
            return ""
        role = (
            f"{twin.of}-portable ({', '.join(twin.members)}) answers instead of {twin.of} in engines without "
            f"{' and '.join(twin.lacking)}"
        )
        measure = next((one for one in self.reported_metrics if one.name == twin.metric), self.reported_metrics[0])
        gain = twin.gain
        if gain is None:
            return f"{role}; without labelled windows nothing says what that costs."
        digits = 1 if measure.is_fraction else 3
        cost = f"{measure.words} {gain.mean:+.{digits}f} {measure.gain_unit}".rstrip()
        ends = "no interval: too few groups"
        if gain.low is not None and gain.high is not None:
            ends = f"95 % interval {gain.low:+.{digits}f} to {gain.high:+.{digits}f} over {twin.groups} groups"
        return f"{role}: {cost} ({ends}; {twin.windows} labelled windows, of those that chose both)."

    @property
    def answer_noun(self) -> str:
        """The word for the student's output."""
        return "answer" if self.reported_metrics[0].lower_is_better else "label"


class EngineSidecar(msgspec.Struct, frozen=True, kw_only=True):
    """`<engine>.json`: origin and purpose of an engine. Another key needs another engine."""

    format_version: int = SIDECAR_FORMAT_VERSION
    model_id: str
    bundle_sha256: str
    artifact: str
    onnx_sha256: str
    precision: str
    engine: str
    engine_sha256: str
    size_bytes: int
    library: Literal["tensorrt", "tensorrt_rtx"]
    library_version: str
    platform: str
    architecture: str
    device: dict[str, str | int] | None  # as the runtime describes the GPU; None if built without one
    workspace_bytes: int
    strongly_typed: bool  # whether the graph alone decided every precision
    tf32: bool  # whether float32 products may round to ten bits
    shapes: dict[str, tuple[int, ...]]  # by input
    key: str
    layers: str  # the builder's own list


class BuiltEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine with its sidecar `<path>.json` and build log `<path>.log`."""

    path: str
    sidecar: EngineSidecar


class ExportDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Output of `mmkd-export --json` for one student."""

    bundle: str
    size_bytes: int
    sha256: str
    report: ExportReport
    engines: tuple[BuiltEngine, ...] = ()
    folders: tuple[str, ...] = ()


class SeveralExports(msgspec.Struct, frozen=True, kw_only=True):
    """Output for several students, in fallback order."""

    bundle: str
    students: tuple[ExportDocument, ...]


def encode_document(document: msgspec.Struct) -> bytes:
    """Encode a document as indented JSON, deterministically."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def decode_report(data: bytes) -> ExportReport:
    """Read `report.json`; errors as `convert_document`."""
    report = _decode(data, ExportReport, what="report.json", advice="export the checkpoint again")
    if report.format_version != FORMAT_VERSION:
        raise DocumentError(
            f"report.json: expected format_version {FORMAT_VERSION}, got {report.format_version}; "
            "read it with the release that wrote it"
        )
    return report


def decode_sidecar(data: bytes) -> EngineSidecar:
    """Read a sidecar; raise DocumentError if damaged."""
    return _decode(data, EngineSidecar, what="expected the sidecar of an engine", advice="build the engine again")


def _decode(data: bytes, kind: type[Document], *, what: str, advice: str) -> Document:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DocumentError(f"{what}: {error}; {advice}") from error
