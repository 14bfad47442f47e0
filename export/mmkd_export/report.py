"""What an export measured: the document in the bundle's `report.json`.

Owns the shape of the report. Latencies are in it only where they decided something: they belong to one machine, and the
same checkpoint shall give the same bundle wherever nothing was timed.
"""

from __future__ import annotations

import msgspec
import numpy as np

from mmkd_edge.bundle.manifest import ArtifactFormat, Precision
from mmkd_edge.errors import BundleError
from mmkd_edge.spec import TaskSpec
from mmkd_export.graph.activations import ActivationHistogram
from mmkd_export.judge.gate import GateFacts, Judging, answer_scores, caution
from mmkd_export.judge.parity import Answers, ArtifactParity
from mmkd_export.judge.windows import RealWindows
from mmkd_export.precision.int8 import Attempt, LayerSensitivity
from mmkd_models.data.labels import is_labelled
from mmkd_models.metrics.measures import measures_of
from mmkd_models.metrics.scores import AnyMetric, of_classes
from mmkd_report.documents.evaluation import ConfidenceFacts
from mmkd_report.documents.figures import Measure

FORMAT_VERSION = 1

_SYNTHETIC = (
    "synthetic windows show that the graph computes what the network computes, and nothing of what it does on "
    "recordings; name some with --calib DATA"
)


class WindowFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The windows that the export was judged by.

    Attributes:
        source: where the golden windows come from.
        count: how many there are.
        judged_by: where the judging windows come from.
        judging: how many there are.
        labelled: how many of the judging ones have a label.
        caution: how little they prove; None where there are enough.
        synthetic: whether the golden windows were drawn from channel statistics and not recorded.
    """

    source: str
    count: int
    judged_by: str
    judging: int
    labelled: int
    caution: str | None
    synthetic: bool = False


class JudgedScores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an artifact answers the labelled ones of the judging windows; fractions from 0 to 1."""

    accuracy: float
    balanced_accuracy: float
    macro_f1: float


class BackendRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An artifact in one backend at export.

    Attributes:
        backend: its name.
        version: the library behind it.
        max_abs_error: largest difference of a logit or probability from the checkpoint on the golden windows.
        label_agreement: share of these windows with the checkpoint's label, 0 to 1.
        latency_us: median of one run on the exporting machine, one thread, all artifacts in turns; None where nothing
            was timed.
    """

    backend: str
    version: str
    max_abs_error: float
    label_agreement: float
    latency_us: float | None = None


class BatchFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many windows a graph takes at once, every size of which was run.

    Attributes:
        minimum: the fewest.
        optimum: what engines are built for.
        maximum: the most.
        max_abs_error: largest difference of a logit or a probability from the answer for the window alone.
    """

    minimum: int
    optimum: int
    maximum: int
    max_abs_error: float


class ArtifactReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One artifact.

    Attributes:
        file: in the bundle.
        format: of the file.
        precision: of its arithmetic.
        opset: of its operators.
        size_bytes: of the file.
        parity: with the checkpoint, on all golden windows.
        parity_with_gaps: the same on copies of the windows that miss samples.
        scores: on the judging windows; None where none of them has a label, and of other tasks than classes.
        figures: of other tasks, scores on the judging windows by name; errors of a regression are in its unit.
        gate: of an artifact of lower precision; None for fp32, whose gate is the parity.
        backends: where it was run.
        float_layers: layers or nodes that stay float32 though others of their kind do not, with the reason.
        attempts: what was tried to quantise it.
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
    scores: JudgedScores | None
    figures: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    gate: GateFacts | None = None
    backends: tuple[BackendRun, ...] = ()
    float_layers: dict[str, str] = {}
    attempts: tuple[Attempt, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    activations: tuple[ActivationHistogram, ...] = ()
    batch: BatchFacts | None = None
    confidence: ConfidenceFacts | None = None


class LeftOut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An artifact that `auto`, or a default, tried and left out.

    Attributes:
        precision: it.
        format: of the file that would have been.
        reason: why.
        artifact: what was measured of it; None where there was nothing to make.
    """

    precision: Precision
    format: ArtifactFormat = "onnx"
    reason: str
    artifact: ArtifactReport | None = None


class StudentFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The student and where it comes from.

    Attributes:
        checkpoint_sha256: of the checkpoint file.
        modality: what it takes.
        labels: what it answers.
        preset: its size.
        parameters: how many it has.
        mflops: millions of floating point operations for one window: two for each multiplication of a convolution or
            a matrix product.
        nodes: operators in the fp32 graph.
        dataset: what it was trained on.
        dataset_sha256: of that dataset.
        teacher_sha256: of the teacher's checkpoint; None where labels alone taught.
        further_teachers_sha256: of the other teachers' checkpoints, where several taught together.
        metric: what its training maximised on the validation split.
        score: what it reached there.
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
    metric: AnyMetric
    score: float
    trained_with: dict[str, str]


class StepReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a causal student's step graph.

    Attributes:
        file: its name in the bundle.
        size_bytes: of the file.
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


class ExportReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole report.

    Attributes:
        format_version: of this document.
        model_id: what people call the bundle.
        platform: what it was exported for.
        student: the student.
        windows: what it was judged by.
        artifacts: that entered the bundle.
        left_out: precisions that `auto` tried and left out.
        machine: the processor that latencies were measured on; None where nothing was timed.
        tools: versions of what made the bundle.
        others: of the students that follow in a bundle of several.
        steps: of a causal student, one for each of its step graphs.
        measures: what the figures of the artifacts are, where the student answers something else than classes.
    """

    format_version: int = FORMAT_VERSION
    model_id: str
    platform: str
    student: StudentFacts
    windows: WindowFacts
    artifacts: tuple[ArtifactReport, ...]
    left_out: tuple[LeftOut, ...] = ()
    machine: str | None = None
    tools: dict[str, str]
    others: tuple[ExportReport, ...] = ()
    steps: tuple[StepReport, ...] = ()
    measures: tuple[Measure, ...] | msgspec.UnsetType = msgspec.UNSET


def window_facts(real: RealWindows, judging: Judging) -> WindowFacts:
    """Describes the windows."""
    return WindowFacts(
        source=real.source,
        count=len(real.windows),
        judged_by=judging.source,
        judging=len(judging.labels),
        labelled=int(is_labelled(judging.labels).sum()),
        caution=_SYNTHETIC if real.synthetic and judging.source == real.source else caution(len(judging.labels)),
        synthetic=real.synthetic,
    )


def judged_scores(answers: Answers, judging: Judging, task: TaskSpec) -> JudgedScores | None:
    """Scores answers for the judging windows on those with a label; None where there are none."""
    rows = np.flatnonzero(is_labelled(judging.labels))
    if len(rows) == 0 or task.kind != "classification":
        return None
    scores = of_classes(answer_scores(answers, judging.labels[rows], rows, task))
    return JudgedScores(accuracy=scores.accuracy, balanced_accuracy=scores.balanced_accuracy, macro_f1=scores.macro_f1)


def judged_figures(answers: Answers, judging: Judging, task: TaskSpec) -> dict[str, float] | msgspec.UnsetType:
    """Scores answers of other tasks than classes, by the names of their measures; unset where no window is labelled."""
    rows = np.flatnonzero(is_labelled(judging.labels))
    if len(rows) == 0 or task.kind == "classification":
        return msgspec.UNSET
    scores = answer_scores(answers, judging.labels[rows], rows, task)
    return {measure.name: scores.metric(measure.name) for measure in measures_of(task)}


def encode_report(report: ExportReport) -> bytes:
    """Gives `report.json`: indented, the same report as the same bytes."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def decode_report(data: bytes) -> ExportReport:
    """Reads a `report.json`.

    Raises:
        BundleError: it is none, or was written by another version.
    """
    try:
        return msgspec.json.decode(data, type=ExportReport)
    except msgspec.MsgspecError as error:
        raise BundleError(f"report.json: {error}; export the checkpoint again") from error
