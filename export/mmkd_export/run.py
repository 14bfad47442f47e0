"""One export, from the plan to the verified bundle.

Owns the order of the steps and nothing of what happens in them. Everything is in memory until the last step, so an
export that fails or is killed leaves the earlier bundle as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mmkd_edge.bundle import Bundle, write_bundle
from mmkd_edge.manifest import Manifest
from mmkd_export.artifacts import Evidence, judge_artifact
from mmkd_export.contents import bundle_contents
from mmkd_export.parity import FP32_TOLERANCE, with_missing_samples
from mmkd_export.plan import ExportPlan, check_plan
from mmkd_export.report import ExportReport
from mmkd_export.windows import RealWindows, windows_from_checkpoint, windows_from_path

if TYPE_CHECKING:
    from mmkd_models.checkpoint import StudentCheckpoint

StepName = Literal["read the checkpoint", "convert it to ONNX", "compare with torch", "write the bundle"]

_GAPS_SEED = 0


@dataclass(frozen=True, kw_only=True)
class ExportStep:
    """What an observer sees when a step begins: its name, its number from 1, and how many there are."""

    name: StepName
    number: int
    of: int


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export.

    Attributes:
        path: the bundle.
        size_bytes: of the bundle.
        sha256: of the bundle, as `sha256sum` prints it.
        manifest: what is in it.
        report: what was measured.
    """

    path: Path
    size_bytes: int
    sha256: str
    manifest: Manifest
    report: ExportReport


OnStep = Callable[[ExportStep], None]


def export(plan: ExportPlan, *, on_step: OnStep | None = None) -> ExportResult:
    """Exports a student's checkpoint to a bundle; writes nothing unless every gate passes.

    Args:
        plan: what to export.
        on_step: called when a step begins.

    Raises:
        UsageError: a path does not fit, or there are no real windows.
        UnavailableError: a library is missing.
        CheckpointError: the checkpoint cannot be used.
        GateError: the graph does not answer as the checkpoint does.
    """
    check_plan(plan)
    begin = _announcer(on_step)
    begin("read the checkpoint")
    # torch takes seconds to import: not before the plan has been checked.
    from mmkd_export.onnx_from_student import onnx_from_student
    from mmkd_models.checkpoint import file_sha256, read_student

    checkpoint = read_student(plan.source)
    real = _real_windows(plan, checkpoint)
    begin("convert it to ONNX")
    graph = onnx_from_student(checkpoint)
    begin("compare with torch")
    evidence = _evidence(checkpoint, real)
    judged = judge_artifact(graph, evidence, precision="fp32", tolerance=FP32_TOLERANCE)
    begin("write the bundle")
    contents = bundle_contents(checkpoint, evidence, [judged], checkpoint_sha256=file_sha256(plan.source))
    write_bundle(plan.output, manifest=contents.manifest, members=contents.members)
    with Bundle.open(plan.output) as bundle:  # what a device will read, verified once more from the disk
        return ExportResult(
            path=plan.output,
            size_bytes=plan.output.stat().st_size,
            sha256=bundle.sha256,
            manifest=bundle.manifest,
            report=contents.report,
        )


def _announcer(on_step: OnStep | None) -> Callable[[StepName], None]:
    names: tuple[StepName, ...] = get_args(StepName)

    def begin(name: StepName) -> None:
        if on_step is not None:
            on_step(ExportStep(name=name, number=names.index(name) + 1, of=len(names)))

    return begin


def _real_windows(plan: ExportPlan, checkpoint: StudentCheckpoint) -> RealWindows:
    if plan.calibration is None:
        return windows_from_checkpoint(checkpoint.carried, checkpoint=plan.source)
    return windows_from_path(plan.calibration, modality=checkpoint.modality, task=checkpoint.task)


def _evidence(checkpoint: StudentCheckpoint, real: RealWindows) -> Evidence:
    from mmkd_export.onnx_from_student import answers_from_student

    gaps = with_missing_samples(real.windows, seed=_GAPS_SEED)
    return Evidence(
        modality=checkpoint.modality,
        task=checkpoint.task,
        real=real,
        answers=answers_from_student(checkpoint, real.windows),
        gaps=gaps,
        gap_answers=answers_from_student(checkpoint, gaps),
    )
