"""The plan of an export, and everything about it that can be checked before minutes are spent.

Owns `ExportPlan` and `check_plan`, which reports all problems together. Reads no checkpoint.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmkd_edge.bundle.archive import LOCAL_SIGNATURE
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import open_file, read_exactly
from mmkd_edge.bundle.manifest import MANIFEST_FILE, BatchRange, ModelEntry
from mmkd_edge.command.outputs import check_file, check_name
from mmkd_edge.errors import MmkdError, UnavailableError, UsageError
from mmkd_export.graph.calibration import CalibrationMethod
from mmkd_export.targets.litert import EXTRA, missing_libraries
from mmkd_export.targets.platforms import Platform, PlatformName, Target, choose_platform, platform_named

PrecisionChoice = Literal["fp32", "fp16", "int8", "auto"]

BUNDLE_SUFFIX = ".edge"

_FOR_CHECKPOINT = ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime")
_FOR_BUNDLE = ("onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What to export, and where to.

    Attributes:
        source: the student's checkpoint, or an earlier bundle.
        output: the bundle that is written; an earlier one is replaced.
        targets: what else than the bundle's ONNX artifacts is made or tested.
        optional: those of them that are left out, with the reason, where they cannot be made.
        precisions: artifacts to make beside fp32; `auto` keeps what proves faster.
        platform: what it is for; None chooses by the targets and this machine.
        calibration: windows to use in place of those the checkpoint carries: a dataset directory or an .npz file.
        method: how INT8 ranges are chosen; None lets the remedies choose.
        exclude: regular expression of layers that stay out of INT8.
        evaluation: windows that judge in place of half of the others: a dataset directory or an .npz file.
        max_drop_points: percentage points of the task metric that an artifact of lower precision may lose.
        accept_unjudged: whether lower precision is taken, and marked, though too few windows judge it.
        batch: how many windows the graphs take at once; None for one.
        drift_reference: a dataset directory, to measure how its groups differ from each other.
    """

    source: Path
    output: Path
    targets: tuple[Target, ...] = ("onnx",)
    optional: tuple[Target, ...] = ()
    precisions: tuple[PrecisionChoice, ...] = ()
    platform: PlatformName | None = None
    calibration: Path | None = None
    method: CalibrationMethod | None = None
    exclude: str | None = None
    evaluation: Path | None = None
    max_drop_points: float = 0.5
    accept_unjudged: bool = False
    batch: BatchRange | None = None
    drift_reference: Path | None = None

    @property
    def from_bundle(self) -> bool:
        """Whether the source is an earlier bundle; its content decides, not its name."""
        return is_bundle(self.source)

    @property
    def engines_only(self) -> bool:
        """Whether nothing is asked but engines for what an earlier bundle holds, so that it stays as it is."""
        makes = set(self.precisions) - {"fp32"}
        makes_nothing = not makes and "openvino" not in self.targets and self.drift_reference is None
        return self.from_bundle and makes_nothing and self.output == self.source

    @property
    def resolved_platform(self) -> Platform:
        """The platform, chosen where it was left open."""
        return choose_platform(self.platform, self.targets)


def export_plan(source: Path, *, output: Path | None = None, calibration: Path | None = None) -> ExportPlan:
    """Gives a plan for the fp32 bundle; without `output` it goes beside the checkpoint, or replaces the earlier bundle.

    Example:
        >>> str(export_plan(Path("runs/student.ckpt")).output)
        'runs/student.edge'
    """
    return ExportPlan(source=source, output=output or source.with_suffix(BUNDLE_SUFFIX), calibration=calibration)


def with_tflite(plan: ExportPlan) -> ExportPlan:
    """The plan with a `.tflite` for LiteRT, where one can be made for its platform and the converter is installed."""
    if not _takes_tflite(plan) or missing_libraries():
        return plan
    return replace(plan, targets=(*plan.targets, "litert"), optional=(*plan.optional, "litert"))


def tflite_gain(plan: ExportPlan) -> str:
    """What a device would gain from a `.tflite` that the missing converter cannot make; else empty."""
    if not _takes_tflite(plan) or not missing_libraries():
        return ""
    return (
        f"no .tflite: pip install '{EXTRA}' adds it, with which a tiny student took 116 us a window where "
        "OpenVINO took 288 us and onnxruntime 292 us (docs/results/runtime.md)"
    )


def _takes_tflite(plan: ExportPlan) -> bool:
    """Whether a `.tflite` could be added to what was asked for."""
    if plan.from_bundle or plan.batch is not None or {"litert", "trt"} & set(plan.targets):
        return False
    return plan.platform is None or "litert" in platform_named(plan.platform).targets


def check_plan(plan: ExportPlan) -> None:
    """Checks what can be checked in a moment.

    Raises:
        UnavailableError: a library is missing, and nothing else is wrong.
        UsageError: a path or an option does not fit; the message lists every problem.
    """
    problems = list(_problems(plan))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise UsageError(f"{len(problems)} problems; nothing was exported:\n{lines}")


def _problems(plan: ExportPlan) -> Iterator[MmkdError]:
    yield from _library_problems(plan)
    try:
        os.close(open_file(plan.source, expected="a student checkpoint of mmkd-edge or a bundle"))
    except UsageError as error:
        yield error
    for path in (plan.calibration, plan.evaluation):
        if path is not None and not path.exists():
            yield UsageError(
                f"{path}: expected a dataset directory or an .npz file of windows, found nothing there; check the path"
            )
    if plan.drift_reference is not None and not plan.drift_reference.is_dir():
        yield UsageError(
            f"{plan.drift_reference}: --drift-reference: expected a dataset directory, found none there; check the path"
        )
    try:
        choose_platform(plan.platform, plan.targets)
    except UsageError as error:
        yield error
    if not 0 <= plan.max_drop_points <= 100:
        yield UsageError(f"--max-drop-points {plan.max_drop_points:g}: expected percentage points from 0 to 100")
    if plan.from_bundle and "litert" in plan.targets:
        yield UsageError(
            f"{plan.source}: --target litert: expected a checkpoint, because the .tflite is made from the network "
            "itself, got a bundle; export the checkpoint (a .tflite that a bundle already has stays in it)"
        )
    if plan.from_bundle and plan.batch is not None:
        yield UsageError(
            f"{plan.source}: --dim: expected a checkpoint, because the graph of a bundle keeps its axes, got a bundle; "
            "export the checkpoint with --dim"
        )
    yield from _output_problems(plan.output)


def _library_problems(plan: ExportPlan) -> Iterator[UnavailableError]:
    if plan.engines_only:
        return
    source, needed = ("a bundle", _FOR_BUNDLE) if plan.from_bundle else ("a checkpoint", _FOR_CHECKPOINT)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        yield UnavailableError(
            f"an export from {source} needs {' and '.join(missing)}, which this Python lacks; "
            "run: pip install 'mmkd-edge[export]'"
        )
    if "openvino" in plan.targets and importlib.util.find_spec("openvino") is None:
        yield UnavailableError(
            "--target openvino needs openvino, which this Python lacks; run: pip install 'mmkd-edge[openvino]'"
        )
    if "litert" in plan.targets and not plan.from_bundle and missing_libraries():
        yield UnavailableError(
            f"--target litert needs {' and '.join(missing_libraries())}, which this Python lacks; "
            f"run: pip install '{EXTRA}'"
        )


def _output_problems(output: Path) -> Iterator[UsageError]:
    try:
        check_file(output)
        if output.exists() and not is_bundle(output):
            yield UsageError(f"{output}: exists and is not a bundle, so it is not overwritten; choose another -o")
        else:
            check_name(output, BUNDLE_SUFFIX)
    except UsageError as error:
        yield error


def is_bundle(path: Path) -> bool:
    """Whether a file begins as every bundle does; it may still be damaged further on."""
    try:
        descriptor = open_file(path, expected="a bundle")
    except UsageError:
        return False
    try:
        start = read_exactly(descriptor, 64, offset=0)
    finally:
        os.close(descriptor)
    return start.startswith(LOCAL_SIGNATURE) and MANIFEST_FILE.encode() in start


def only_student(bundle: Bundle) -> ModelEntry:
    """The student of a bundle that has one.

    Raises:
        UsageError: it has several.
    """
    entry, *others = bundle.manifest.models
    if others:
        raise UsageError(
            f"{bundle.path}: expected a bundle of one student, got {1 + len(others)}; "
            "export each checkpoint, and name them together to make one bundle"
        )
    return entry
