"""The document of `mmkd-export --json` as typed, frozen data: what the export page is made of.

Owns the reading and checking of that document; a page only ever sees what passed here. Unknown keys are left alone, so
that the document may grow; what is not a number is null there and None here. Fractions run from 0 to 1, latencies are
microseconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mmkd_report.documents.figures import OF_CLASSES, Measure
from mmkd_report.documents.reading import typed
from mmkd_report.errors import DocumentError

FORMAT_VERSION = 1


def called(precision: str, file_format: str) -> str:
    """What people call an artifact: its precision, and its format where that is not the usual one."""
    return precision if file_format == "onnx" else f"{precision} {file_format}"


class TensorParity(msgspec.Struct, frozen=True, kw_only=True):
    """How one output compares with the checkpoint's over all windows."""

    max_abs_error: float | None = None
    mean_abs_error: float | None = None
    cosine: float | None = None


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How an artifact compares with the checkpoint."""

    windows: int
    logits: TensorParity
    probabilities: TensorParity
    label_agreement: float | None = None

    @property
    def tensors(self) -> tuple[tuple[str, TensorParity], ...]:
        """The outputs by name."""
        return ("logits", self.logits), ("probabilities", self.probabilities)


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How an artifact answers the labelled judging windows."""

    accuracy: float | None = None
    balanced_accuracy: float | None = None
    macro_f1: float | None = None

    def metric(self, name: str) -> float | None:
        """One of them by its name; None for an unknown name."""
        known = {"accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy, "macro_f1": self.macro_f1}
        return known.get(name)


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact of lower precision lost, and what it was allowed to lose, in points of the metric."""

    windows: int
    labelled: int
    metric: str
    allowed_drop_points: float
    label_agreement: float
    least_agreement: float
    drop_points: float | None = None
    finite: bool = True
    unjudged: bool = False

    @property
    def passed(self) -> bool:
        """Whether it stayed within what was allowed."""
        drops_little = self.drop_points is None or self.drop_points <= self.allowed_drop_points
        return self.finite and drops_little and self.label_agreement >= self.least_agreement


class BackendRun(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact in one backend; `latency_us` is None where nothing was timed."""

    backend: str
    version: str | None = None
    max_abs_error: float | None = None
    label_agreement: float | None = None
    latency_us: float | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One way to quantise, and what it gave."""

    remedy: str
    method: str
    layers: int
    gate: Gate


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What INT8 in this layer alone does: divergence in nats, largest change of a logit."""

    layer: str
    rows: int
    inputs: int
    outputs: int
    divergence: float | None = None
    max_abs_error: float | None = None


class Activation(msgspec.Struct, frozen=True, kw_only=True):
    """Magnitudes of the tensor that these layers read; `represented` is None where it stays float32."""

    layers: tuple[str, ...]
    largest: float
    bin_width: float
    counts: tuple[int, ...]
    represented: float | None = None


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """How well probabilities agree with what happens; the loss in nats."""

    calibration_error: float | None = None
    log_loss: float | None = None


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """What label sets do at one error level; `low` and `high` are the 95 % interval of `coverage`."""

    error_level: float
    coverage: float | None = None
    low: float | None = None
    high: float | None = None
    mean_set_size: float | None = None
    single_share: float | None = None
    single_accuracy: float | None = None


class Confidence(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact's probabilities and label sets are worth on windows that did not calibrate them."""

    temperature: float
    calibrated_by: int
    windows: int
    before: Reliability
    after: Reliability
    coverages: tuple[Coverage, ...] = ()


class ArtifactFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact: what it is, how it answers, what was tried to make it."""

    file: str
    format: str
    precision: str
    size_bytes: int
    parity: Parity
    parity_with_gaps: Parity
    opset: int | None = None
    scores: Scores | None = None
    figures: dict[str, float] = {}
    gate: Gate | None = None
    backends: tuple[BackendRun, ...] = ()
    float_layers: dict[str, str] = {}
    attempts: tuple[Attempt, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    activations: tuple[Activation, ...] = ()
    confidence: Confidence | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return called(self.precision, self.format)

    def score(self, name: str) -> float | None:
        """A figure on the labelled judging windows, by its name; None where there is none."""
        return self.scores.metric(name) if self.scores is not None else self.figures.get(name)


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A precision that was tried and left out, with what was measured of it."""

    precision: str
    format: str = "onnx"
    reason: str
    artifact: ArtifactFacts | None = None

    @property
    def name(self) -> str:
        """What people call it, as they call an artifact."""
        return called(self.precision, self.format)


class StudentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The student and where it comes from."""

    checkpoint_sha256: str
    modality: str
    labels: tuple[str, ...]
    preset: str
    parameters: int
    mflops: float
    nodes: int
    dataset: str
    dataset_sha256: str
    metric: str
    score: float | None = None
    teacher_sha256: str | None = None
    further_teachers_sha256: tuple[str, ...] = ()
    trained_with: dict[str, str] = {}


class WindowFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The windows that the export was judged by."""

    source: str
    count: int
    judged_by: str
    judging: int
    labelled: int
    caution: str | None = None
    synthetic: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle's `report.json`."""

    format_version: int
    model_id: str
    platform: str
    student: StudentFacts
    windows: WindowFacts
    artifacts: tuple[ArtifactFacts, ...]
    left_out: tuple[LeftOut, ...] = ()
    machine: str | None = None
    tools: dict[str, str] = {}
    measures: tuple[Measure, ...] = OF_CLASSES

    @property
    def chosen_by(self) -> Measure:
        """What the student was chosen by."""
        return next((one for one in self.measures if one.name == self.student.metric), self.measures[0])

    @property
    def answered(self) -> str:
        """What a window gets, in a word."""
        return "answer" if self.measures[0].lower_is_better else "label"


class EngineSidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine was built from and with."""

    precision: str
    size_bytes: int
    library: str
    library_version: str


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that was built beside the bundle."""

    path: str
    sidecar: EngineSidecar


class ExportDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    bundle: str
    size_bytes: int
    sha256: str
    report: Report
    engines: tuple[Engine, ...] = ()


def read_export(document: Mapping[str, Any]) -> ExportDocument:
    """The typed form of a document of `mmkd-export --json`.

    Raises:
        DocumentError: A format version that this release does not know, or a missing or mistyped value.
    """
    export = typed(document, ExportDocument, name="export", version=FORMAT_VERSION, inside="report")
    if not export.report.artifacts:
        raise DocumentError("export document: report.artifacts: expected an artifact, got none; export one")
    return export
