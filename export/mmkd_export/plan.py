"""The plan of an export: what to export, for what, and where to. Reads no checkpoint and checks nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmkd_edge.bundle.archive import LOCAL_SIGNATURE
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import open_file, read_exactly
from mmkd_edge.bundle.manifest import MANIFEST_FILE, BatchRange, ModelEntry
from mmkd_edge.errors import UsageError
from mmkd_export.graph.calibration import CalibrationMethod
from mmkd_export.platforms import Platform, PlatformName, platform_named
from mmkd_export.verify.plausible import RangeChoice

PrecisionChoice = Literal["fp32", "fp16", "int8", "auto"]

GoldenChoice = Literal["real", "synthetic", "none"]

BUNDLE_SUFFIX = ".edge"


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Which of its releases a bundle is, and who answers for it.

    Attributes:
        release: its number; None gives it that of the bundle that it is made of, if any.
        keys: private keys that sign it.
    """

    release: int | None = None
    keys: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What to export, and where to.

    Attributes:
        source: the student's checkpoint, or an earlier bundle.
        output: the bundle that is written; an earlier one is replaced.
        targets: what is made or tested beside the bundle's ONNX artifacts, by the names of `targets/table.py`.
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
        value_range: which values of the sensor are plausible; see `judge/plausible.py`.
        golden: what the golden windows of the bundle are.
        seal: the number of the release, and who signs it.
        from_bundle: whether the source is an earlier bundle; its content decides when the plan is made, not its name.
    """

    source: Path
    output: Path
    targets: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
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
    value_range: RangeChoice = "auto"
    golden: GoldenChoice = "real"
    seal: Seal = Seal()
    from_bundle: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "from_bundle", is_bundle(self.source))

    @property
    def lower_precisions(self) -> tuple[PrecisionChoice, ...]:
        """What is asked for beside fp32."""
        return tuple(precision for precision in self.precisions if precision != "fp32")

    @property
    def platform_row(self) -> Platform:
        """What is known of the platform; of a plan that names it, or that `targets.table.settled` gave."""
        assert self.platform is not None
        return platform_named(self.platform)


def export_plan(source: Path, *, output: Path | None = None, calibration: Path | None = None) -> ExportPlan:
    """Gives a plan for the fp32 bundle; without `output` it goes beside the checkpoint, or replaces the earlier bundle.

    Example:
        >>> str(export_plan(Path("runs/student.ckpt")).output)
        'runs/student.edge'
    """
    return ExportPlan(source=source, output=output or source.with_suffix(BUNDLE_SUFFIX), calibration=calibration)


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
