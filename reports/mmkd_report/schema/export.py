"""The documents of `mmkd-export`: a bundle's `report.json`, what `--json` prints, and the sidecar of an engine.

Owns their schema, their reading and their writing. An unknown key is left alone, so that a document may grow; a figure
that is not a number is null there and None here. Fractions run from 0 to 1, latencies are microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mmkd_report.errors import DocumentError
from mmkd_report.schema.confidence import ConfidenceFacts
from mmkd_report.schema.figures import OF_CLASSES, ClassScores, Measure
from mmkd_report.schema.reading import Document, typed

FORMAT_VERSION = 1
SIDECAR_FORMAT_VERSION = 2

Precision = Literal["fp32", "fp16", "int8"]
ArtifactFormat = Literal["onnx", "tflite"]
Measures = tuple[Measure, ...]
RangeSource = Literal["minmax", "percentile", "learnt"]
"""Where INT8 ranges come from: calibration by one of two methods, or the training of a student that practised."""


def artifact_name(precision: str, file_format: str) -> str:
    """What people call an artifact: its precision, and its format where that is not the usual one."""
    return precision if file_format == "onnx" else f"{precision} {file_format}"


class TensorParity(msgspec.Struct, frozen=True, kw_only=True):
    """How one output compares with the checkpoint's over all windows.

    Attributes:
        cosine: smallest cosine between the two answers for one window; 1 where both are zero.
    """

    max_abs_error: float | None
    mean_abs_error: float | None
    cosine: float | None


class NoveltyParity(msgspec.Struct, frozen=True, kw_only=True):
    """How the novelty scores compare with the checkpoint's: differences as shares of one more than the score."""

    max_error: float
    mean_error: float


class ArtifactParity(msgspec.Struct, frozen=True, kw_only=True):
    """How an artifact compares with the checkpoint.

    Attributes:
        probabilities: of a regression the values, as shares of the largest one.
        label_agreement: share of windows with the same label; of other tasks with the same answer.
        novelty: of the novelty scores; absent where the graph gives none.
    """

    windows: int
    logits: TensorParity
    probabilities: TensorParity
    label_agreement: float
    novelty: NoveltyParity | msgspec.UnsetType = msgspec.UNSET

    @property
    def tensors(self) -> tuple[tuple[str, TensorParity], ...]:
        """The outputs by name."""
        return ("logits", self.logits), ("probabilities", self.probabilities)

    @property
    def max_abs_error(self) -> float:
        """The largest difference of any output; NaN where an answer was not a number."""
        errors = [math.nan if one.max_abs_error is None else one.max_abs_error for _, one in self.tensors]
        return math.nan if any(map(math.isnan, errors)) else max(errors)


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact of lower precision lost, and what it might lose.

    Attributes:
        windows: how many judged.
        metric: what `drop_points` is a drop of.
        drop_points: percentage points of the metric lost against the reference on the same windows; negative where the
            artifact is better; None without labels.
        allowed_drop_points: the largest drop that passes.
        label_agreement: share of windows with the reference's label; of other tasks with its answer.
        unjudged: true where too few windows judged, and that was accepted; else absent.
        novelty_agreement: rank correlation of its novelty scores with the reference's; absent where it gives none.
        least_novelty_agreement: the smallest that passes; absent likewise.
    """

    windows: int
    labelled: int
    metric: str
    drop_points: float | None
    allowed_drop_points: float
    label_agreement: float
    least_agreement: float
    finite: bool
    unjudged: bool | msgspec.UnsetType = msgspec.UNSET
    novelty_agreement: float | msgspec.UnsetType = msgspec.UNSET
    least_novelty_agreement: float | msgspec.UnsetType = msgspec.UNSET

    @property
    def passed(self) -> bool:
        """Whether the artifact may enter a bundle."""
        drops_little = self.drop_points is None or self.drop_points <= self.allowed_drop_points
        return self.finite and drops_little and self.label_agreement >= self.least_agreement and self.ranks_alike

    @property
    def ranks_alike(self) -> bool:
        """Whether its novelty scores put windows in the reference's order."""
        agreement, least = self.novelty_agreement, self.least_novelty_agreement
        return agreement is msgspec.UNSET or least is msgspec.UNSET or agreement >= least


class BackendRun(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact in one backend at export.

    Attributes:
        max_abs_error: largest difference of a logit or probability from the checkpoint on the golden windows.
        label_agreement: share of these windows with the checkpoint's label.
        latency_us: median of one run on the exporting machine, one thread, all artifacts in turns; None where nothing
            was timed.
    """

    backend: str
    version: str
    max_abs_error: float | None
    label_agreement: float
    latency_us: float | None = None


class BatchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How many windows a graph takes at once, every size of which was run.

    Attributes:
        max_abs_error: largest difference of a logit or a probability from the answer for the window alone.
    """

    minimum: int
    optimum: int
    maximum: int
    max_abs_error: float


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One way to quantise, and what it gave."""

    remedy: str
    method: RangeSource
    layers: int
    gate: GateResult


class LayerSensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What INT8 does to the answers when only this layer has it: a product rows x inputs times inputs x outputs.

    Attributes:
        divergence: mean Kullback-Leibler divergence of the probabilities from those in float32, in nats.
        max_abs_error: largest difference of a logit.
    """

    layer: str
    rows: int
    inputs: int
    outputs: int
    divergence: float | None
    max_abs_error: float | None


class ActivationHistogram(msgspec.Struct, frozen=True, kw_only=True):
    """Magnitudes of one tensor over all calibration windows.

    Attributes:
        represented: the largest magnitude that INT8 represents, larger ones are clipped to it; None where no layer that
            reads the tensor computes in INT8.
        bin_width: in units of the tensor; 0 where every value was 0.
        counts: values in each bin, the first of which begins at 0.
    """

    layers: tuple[str, ...]
    largest: float
    represented: float | None
    bin_width: float
    counts: tuple[int, ...]


class ArtifactReport(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact: what it is, how it answers, what was tried to make it.

    Attributes:
        parity: with the checkpoint, on all golden windows.
        parity_with_gaps: the same on copies of the windows that miss samples.
        scores: on the judging windows; None where none of them has a label, and of other tasks than classes.
        figures: of other tasks, scores on the judging windows by name; errors of a regression are in its unit.
        gate: of an artifact of lower precision; None for fp32, whose gate is the parity.
        float_layers: layers or nodes that stay float32 though others of their kind do not, with the reason.
        sensitivity: of its layers, the most sensitive first.
        activations: what its layers read on the calibration windows; of an INT8 artifact.
        batch: how many windows it takes at once; None where it takes one.
        confidence: what its probabilities are worth on the judging windows; None where no label is known.
    """

    file: str
    format: ArtifactFormat
    precision: Precision
    opset: int
    size_bytes: int
    parity: ArtifactParity
    parity_with_gaps: ArtifactParity
    scores: ClassScores | None
    figures: dict[str, float | None] | msgspec.UnsetType = msgspec.UNSET
    gate: GateResult | None = None
    backends: tuple[BackendRun, ...] = ()
    float_layers: dict[str, str] = {}
    attempts: tuple[Attempt, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    activations: tuple[ActivationHistogram, ...] = ()
    batch: BatchFacts | None = None
    confidence: ConfidenceFacts | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return artifact_name(self.precision, self.format)

    def score(self, name: str) -> float | None:
        """A figure on the labelled judging windows, by its name; None where there is none."""
        figures = self.figures or {}
        return getattr(self.scores, name, None) if self.scores is not None else figures.get(name)


class LeftOutArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that `auto`, or a default, tried and left out.

    Attributes:
        artifact: what was measured of it; None where there was nothing to make.
    """

    precision: Precision
    format: ArtifactFormat = "onnx"
    reason: str
    artifact: ArtifactReport | None = None

    @property
    def name(self) -> str:
        """What people call it, as they call an artifact."""
        return artifact_name(self.precision, self.format)


class StudentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The student and where it comes from.

    Attributes:
        mflops: millions of floating point operations for one window: two for each multiplication of a convolution or
            a matrix product.
        nodes: operators in the fp32 graph.
        teacher_sha256: of the teacher's checkpoint; None where labels alone taught.
        further_teachers_sha256: of the other teachers' checkpoints, where several taught together.
        metric: what its training maximised on the validation split.
        trained_with: versions of Python and the libraries.
    """

    checkpoint_sha256: str
    modality: str
    labels: tuple[str, ...]
    preset: str
    parameters: int
    mflops: float
    nodes: int
    dataset: str
    dataset_sha256: str
    teacher_sha256: str | None
    further_teachers_sha256: tuple[str, ...] = ()
    metric: str
    score: float
    trained_with: dict[str, str]

    @property
    def teachers_sha256(self) -> tuple[str, ...]:
        """The checkpoints of all that taught it."""
        return (self.teacher_sha256, *self.further_teachers_sha256) if self.teacher_sha256 else ()


class WindowFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The windows that the export was judged by.

    Attributes:
        judged_by: where the judging windows come from.
        labelled: how many of the judging ones have a label.
        caution: how little they prove; None where there are enough.
        synthetic: whether these windows were drawn from channel statistics and not recorded.
        golden: what the bundle carries in place of them, where they stay at home.
        carried: how many of them the bundle carries, where not all: of sound and video.
    """

    source: str
    count: int
    judged_by: str
    judging: int
    labelled: int
    caution: str | None
    synthetic: bool = False
    golden: Literal["synthetic", "none"] | msgspec.UnsetType = msgspec.UNSET
    carried: int | msgspec.UnsetType = msgspec.UNSET


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a causal student's step graph.

    Attributes:
        stride: samples of one step.
        steps: how many were compared along a recording.
        parity: against one pass of the network over that recording, where a window has samples.
        parity_of_windows: golden windows, stepped through, against the answers for them.
        mflops: millions of floating point operations of one step.
    """

    file: str
    size_bytes: int
    stride: int
    steps: int
    parity: ArtifactParity
    parity_of_windows: ArtifactParity
    mflops: float


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle's `report.json`. Latencies are in it only where they decided something: they belong to one machine.

    Attributes:
        platform: what it was exported for.
        machine: the processor that latencies were measured on; None where nothing was timed.
        tools: versions of what made the bundle.
        others: of the students that follow in a bundle of several.
        steps: of a causal student, one for each of its step graphs.
        measures: what the figures of the artifacts are, where the student answers something else than classes.
        range_rule: where the range of the sensor's values comes from, where the dataset does not declare it.
    """

    format_version: int = FORMAT_VERSION
    model_id: str
    platform: str
    student: StudentFacts
    windows: WindowFacts
    artifacts: tuple[ArtifactReport, ...]
    left_out: tuple[LeftOutArtifact, ...] = ()
    machine: str | None = None
    tools: dict[str, str]
    others: tuple[ExportReport, ...] = ()
    steps: tuple[StepReport, ...] = ()
    measures: Measures | msgspec.UnsetType = msgspec.UNSET
    range_rule: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def reported_metrics(self) -> Measures:
        """What the figures of the artifacts are."""
        return self.measures or OF_CLASSES

    @property
    def chosen_by(self) -> Measure:
        """What the student was chosen by."""
        return next((one for one in self.reported_metrics if one.name == self.student.metric), self.reported_metrics[0])

    @property
    def answered(self) -> str:
        """What a window gets, in a word."""
        return "answer" if self.reported_metrics[0].lower_is_better else "label"


class EngineSidecar(msgspec.Struct, frozen=True, kw_only=True):
    """`<engine>.json`: what an engine was built from, with and for. Another key needs another engine.

    Attributes:
        artifact: the model file in the bundle.
        engine: the engine's file name.
        library_version: in full; another version may refuse the engine.
        device: the GPU, as the runtime describes it; None where it was built ahead of time, without one.
        workspace_bytes: that the builder might use.
        strongly_typed: whether the graph alone decided every precision.
        tf32: whether float32 products may be rounded to ten bits.
        shapes: of every input; -1 where the batch may vary.
        profiles: smallest, optimal and largest shape of every input whose batch may vary; empty where none does.
        key: SHA-256 of everything that another engine would be needed for.
        layers: the builder's own list of layers; empty where it gives none.
    """

    format_version: int = SIDECAR_FORMAT_VERSION
    model_id: str
    bundle_sha256: str
    artifact: str
    onnx_sha256: str
    precision: Precision
    engine: str
    engine_sha256: str
    size_bytes: int
    library: Literal["tensorrt", "tensorrt_rtx"]
    library_version: str
    platform: str
    architecture: str
    device: dict[str, str | int] | None
    workspace_bytes: int
    strongly_typed: bool
    tf32: bool
    shapes: dict[str, tuple[int, ...]]
    profiles: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    key: str
    layers: str


class BuiltEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that was built beside the bundle, with its sidecar `<path>.json` and its build log `<path>.log`."""

    path: str
    sidecar: EngineSidecar


class ExportDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What `mmkd-export --json` prints of one student."""

    bundle: str
    size_bytes: int
    sha256: str
    report: ExportReport
    engines: tuple[BuiltEngine, ...] = ()


class SeveralExports(msgspec.Struct, frozen=True, kw_only=True):
    """What `mmkd-export --json` prints of several students in one bundle, in the order in which they are asked."""

    bundle: str
    students: tuple[ExportDocument, ...]


class ExportPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What `mmkd-export --dry-run --json` prints."""

    output: str
    platform: str
    steps: tuple[str, ...]


def encode_document(document: msgspec.Struct) -> bytes:
    """The file: indented, the same document as the same bytes."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def decode_report(data: bytes) -> ExportReport:
    """Reads a `report.json`.

    Raises:
        DocumentError: it is none, or was written by another version.
    """
    report = _decoded(data, ExportReport, what="report.json", advice="export the checkpoint again")
    if report.format_version != FORMAT_VERSION:
        raise DocumentError(
            f"report.json: expected format_version {FORMAT_VERSION}, got {report.format_version}; "
            "read it with the release that wrote it"
        )
    return report


def decode_sidecar(data: bytes) -> EngineSidecar:
    """Reads the sidecar of an engine.

    Raises:
        DocumentError: it is none, or was written by another version.
    """
    return _decoded(data, EngineSidecar, what="expected the sidecar of an engine", advice="build the engine again")


def _decoded(data: bytes, kind: type[Document], *, what: str, advice: str) -> Document:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DocumentError(f"{what}: {error}; {advice}") from error


def read_export(document: Mapping[str, Any]) -> ExportDocument:
    """The typed form of what `mmkd-export --json` printed.

    Raises:
        DocumentError: A format version that this release does not know, or a missing or mistyped value.
    """
    export = typed(document, ExportDocument, name="export", version=FORMAT_VERSION, inside="report")
    if not export.report.artifacts:
        raise DocumentError("export document: report.artifacts: expected an artifact, got none; export one")
    return export
