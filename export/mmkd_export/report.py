"""What an export measured: the document in the bundle's `report.json`.

Owns the shape of the report. Times are not in it: they belong to one machine, and the same checkpoint shall give the
same bundle on every machine that computes alike.
"""

from __future__ import annotations

import msgspec
import numpy as np

from mmkd_edge.manifest import ArtifactFormat, Precision
from mmkd_edge.spec import TaskSpec
from mmkd_export.parity import Answers, ArtifactParity
from mmkd_export.windows import RealWindows

FORMAT_VERSION = 1


class WindowFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The windows that the export was judged by.

    Attributes:
        source: where they come from.
        count: how many there are.
        judging: how many of them only judge.
        labelled: how many of the judging ones have a label.
    """

    source: str
    count: int
    judging: int
    labelled: int


class JudgedScores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an artifact answers the labelled ones of the judging windows; fractions from 0 to 1."""

    accuracy: float
    balanced_accuracy: float
    macro_f1: float


class ArtifactReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One artifact.

    Attributes:
        file: in the bundle.
        format: of the file.
        precision: of its arithmetic.
        opset: of its operators.
        size_bytes: of the file.
        parity: with the checkpoint, on all windows.
        parity_with_gaps: the same on copies of the windows that miss samples.
        scores: on the judging windows; None where none of them has a label.
    """

    file: str
    format: ArtifactFormat
    precision: Precision
    opset: int
    size_bytes: int
    parity: ArtifactParity
    parity_with_gaps: ArtifactParity
    scores: JudgedScores | None


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
    metric: str
    score: float
    trained_with: dict[str, str]


class ExportReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole report; `tools` are the versions of what made the bundle."""

    format_version: int = FORMAT_VERSION
    model_id: str
    student: StudentFacts
    windows: WindowFacts
    artifacts: tuple[ArtifactReport, ...]
    tools: dict[str, str]


def window_facts(real: RealWindows) -> WindowFacts:
    """Describes the windows."""
    return WindowFacts(
        source=real.source,
        count=len(real.windows),
        judging=int(real.judge.sum()),
        labelled=int((real.judge & (real.labels >= 0)).sum()),
    )


def judged_scores(answers: Answers, real: RealWindows, task: TaskSpec) -> JudgedScores | None:
    """Scores answers for all windows on the labelled ones of the judging windows; None where there are none."""
    from mmkd_models.evaluate.metrics import scores_from_answers

    rows = np.flatnonzero(real.judge & (real.labels >= 0))
    if len(rows) == 0:
        return None
    scores = scores_from_answers(real.labels[rows], answers.logits[rows].argmax(1), len(task.labels))
    return JudgedScores(accuracy=scores.accuracy, balanced_accuracy=scores.balanced_accuracy, macro_f1=scores.macro_f1)


def encode_report(report: ExportReport) -> bytes:
    """Gives `report.json`: indented, the same report as the same bytes."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def decode_report(data: bytes) -> ExportReport:
    """Reads a `report.json`.

    Raises:
        BundleError: it is none, or was written by another version.
    """
    from mmkd_edge.errors import BundleError

    try:
        return msgspec.json.decode(data, type=ExportReport)
    except msgspec.MsgspecError as error:
        raise BundleError(f"report.json: {error}; export the bundle again") from error
