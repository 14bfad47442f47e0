"""The one table of export targets: what each makes, where it exists, what it needs, and how it takes part in an export.

Everybody else asks this table; a new target is a file beside it and a row in it. Steps are taken in the order of an
export: `convert`, then `int8` with the lower precisions, then `backend`, and `build` behind the written bundle.
"""

from __future__ import annotations

import importlib.util
import platform as host
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmkd_edge.backends.base import BackendName
from mmkd_edge.errors import MmkdError, UnavailableError, UsageError
from mmkd_export.plan import ExportPlan, Seal
from mmkd_export.platforms import PLATFORMS, Platform, PlatformName, platform_named
from mmkd_export.student import ProvenStudent
from mmkd_export.targets import litert, trt, trt_process
from mmkd_export.verify.artifacts import ProvenArtifact
from mmkd_export.verify.gate import GateRule
from mmkd_report.schema.export import ArtifactFormat, BuiltEngine

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import StudentCheckpoint

Convert = Callable[[ProvenStudent, "StudentCheckpoint", ExportPlan], ProvenStudent]
MakeInt8 = Callable[[ProvenStudent, ExportPlan, GateRule], ProvenArtifact]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One row of the table.

    Attributes:
        name: what `--target` takes.
        platforms: that it exists for.
        libraries: modules without which a checkpoint cannot be exported for it.
        extra: of the distribution, that brings them.
        step: name of its step; empty where it adds none.
        format: of the artifacts that it adds.
        convert: adds the fp32 artifacts of its format; needs the network, so a bundle is no source for it.
        backend: that all ONNX artifacts are also run in.
        build: makes files beside the written bundle, for one student.
        platform_here: what it chooses where no platform is named; None takes the processor's.
    """

    name: str
    makes: str
    platforms: tuple[PlatformName, ...]
    libraries: tuple[str, ...] = ()
    extra: str = ""
    step: str = ""
    format: ArtifactFormat = "onnx"
    convert: Convert | None = None
    int8: MakeInt8 | None = None
    backend: BackendName | None = None
    build: Callable[[ExportPlan], tuple[BuiltEngine, ...]] | None = None
    platform_here: Callable[[], PlatformName] | None = None

    def problems(self, plan: ExportPlan) -> Iterator[MmkdError]:
        """What keeps a plan from being exported for it, as far as can be told in a moment."""
        if self.convert is not None and plan.from_bundle:
            yield UsageError(
                f"{plan.source}: --target {self.name}: expected a checkpoint, because the .{self.format} is made from "
                f"the network itself, got a bundle; export the checkpoint (a .{self.format} that a bundle already has "
                "stays in it)"
            )
            return
        missing = [name.replace("_", "-") for name in self.libraries if importlib.util.find_spec(name) is None]
        if missing:
            yield UnavailableError(
                f"--target {self.name} needs {' and '.join(missing)}, which this Python lacks; "
                f"run: pip install '{self.extra}'"
            )


TARGETS: tuple[Target, ...] = (
    Target(
        name="onnx",
        makes="the ONNX artifacts alone, without the .tflite that is else added where its converter is installed",
        platforms=tuple(row.name for row in PLATFORMS),
    ),
    Target(
        name="openvino",
        makes="nothing more; every ONNX artifact is also run in OpenVINO and held to its gate there",
        platforms=("cpu-x86",),
        libraries=("openvino",),
        extra="mmkd-edge[openvino]",
        step="run in OpenVINO",
        backend="openvino",
    ),
    Target(
        name="litert",
        makes="a .tflite of the fp32 and of the INT8 artifact",
        platforms=litert.PLATFORMS,
        libraries=litert.LIBRARIES,
        extra=litert.EXTRA,
        step="convert it to LiteRT",
        format="tflite",
        convert=litert.add_tflite,
        int8=litert.make_int8_tflite,
    ),
    Target(
        name="trt",
        makes="a TensorRT engine of every ONNX artifact, beside the bundle",
        platforms=tuple(row.name for row in PLATFORMS if row.has_gpu),
        step="build engines",
        build=trt_process.build_planned_engines,
        platform_here=trt.platform_here,
    ),
)


def check_target(name: str) -> str:
    """The same name, where there is such a target.

    Raises:
        UsageError: there is none.
    """
    names = [row.name for row in TARGETS]
    if name not in names:
        raise UsageError(f"--target {name!r}: expected one of {', '.join(names)}; see --list-targets")
    return name


def targets_of(plan: ExportPlan) -> tuple[Target, ...]:
    """The rows of what a plan names, in the order of the table."""
    for name in plan.targets:
        check_target(name)
    return tuple(row for row in TARGETS if row.name in plan.targets)


def targets_on(platform: Platform) -> tuple[str, ...]:
    """What can be exported for a platform."""
    return tuple(row.name for row in TARGETS if platform.name in row.platforms)


def platform_of(plan: ExportPlan) -> Platform:
    """The platform that was asked for, or the one that fits the targets and this machine.

    Raises:
        UsageError: a target does not exist for the platform.
    """
    targets = targets_of(plan)
    here: PlatformName = "cpu-arm" if host.machine() in ("aarch64", "arm64") else "cpu-x86"
    for target in targets:
        here = here if target.platform_here is None else target.platform_here()
    chosen = platform_named(plan.platform or here)
    for target in targets:
        if chosen.name not in target.platforms:
            raise UsageError(
                f"--target {target.name}: does not exist for the platform {chosen.name}; "
                f"give --platform {' or '.join(target.platforms)}, or leave it out"
            )
    return chosen


def settled(plan: ExportPlan) -> ExportPlan:
    """The plan with its platform chosen; errors as `platform_of`."""
    return replace(plan, platform=platform_of(plan).name)


def keeps_bundle(plan: ExportPlan) -> bool:
    """Whether an earlier bundle stays as it is, because nothing is asked that would change it."""
    changes = any(target.convert or target.backend for target in targets_of(plan))
    judged_anew = plan.drift_reference or plan.calibration or plan.evaluation or plan.seal != Seal()
    judged_anew = judged_anew or plan.value_range != "auto"
    in_place = plan.from_bundle and plan.output == plan.source
    return in_place and not (changes or judged_anew or plan.lower_precisions)
