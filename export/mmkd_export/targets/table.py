"""The table of export targets; in order they convert, make INT8, and build or write after the bundle is written."""

from __future__ import annotations

import importlib.util
import platform as host
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmkd_documents.export import BuiltEngine
from mmkd_edge.backends.base import BACKENDS, BackendName, why_absent
from mmkd_edge.bundle.manifest import ArtifactFormat, Precision
from mmkd_edge.errors import MmkdError, UnavailableError, UsageError
from mmkd_export.graph.native_from_student import int8_weights
from mmkd_export.plan import PLATFORMS, ExportPlan, Platform, PlatformName, platform_named
from mmkd_export.student import Graph, ProvenStudent
from mmkd_export.targets import litert, native, trt
from mmkd_export.targets.c_sources import write_c_sources
from mmkd_export.verify.artifacts import ProvenArtifact, prove_fp32, prove_lower_precision, require_passed
from mmkd_export.verify.gate import require_windows
from mmkd_export.verify.step_graph import prove_step


@dataclass(frozen=True, kw_only=True)
class Format:
    """A model format beside ONNX that a target puts into the bundle."""

    name: ArtifactFormat
    stage: str
    convert: Callable[[ProvenStudent, Graph], bytes]  # makes an fp32 model
    int8: Callable[[bytes, bytes], bytes]  # makes an INT8 model of the fp32 one and its ONNX graph
    advice: str  # if the INT8 model does not pass its gate
    smaller: bool = False  # INT8 is smaller, not faster: not for `auto`

    def add_fp32(self, student: ProvenStudent) -> ProvenStudent:
        """Add the fp32 model, and a causal student's step graph. Raise GateError if one differs."""
        proof_set, (graph, *others) = student.proof_set, student.artifacts
        own = prove_fp32(self.convert(student, "window"), proof_set, file_format=self.name)
        student = replace(student, artifacts=(graph, own, *others))
        if not student.steps:
            return student
        model, mflops = self.convert(student, "step"), student.steps[0].report.mflops
        step = prove_step(model, student.checkpoint, proof_set, file_format=self.name, mflops=mflops)
        return replace(student, steps=(*student.steps, step))

    def make_int8(self, student: ProvenStudent) -> ProvenArtifact:
        """Return the INT8 model. Raise GateError unless it passes."""
        if not self.smaller:  # INT8 is for speed
            student.check_has_int8()
        proof_set, fp32 = student.proof_set, student.fp32
        require_windows(len(proof_set.judging.labels), what=f"int8 .{self.name}", rule=proof_set.rule)
        made = self.int8(fp32[self.name], fp32["onnx"])
        proven = prove_lower_precision(made, proof_set, precision="int8", file_format=self.name)
        return require_passed(proven, advice=self.advice)


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Engines, for some or all precisions, or a folder of sources: what is written beside the bundle."""

    stage: str
    write: Callable[[Path, Platform, Sequence[Precision] | None], tuple[BuiltEngine, ...] | Path]
    platform_here: Callable[[], PlatformName] | None = None  # the default platform of engines


@dataclass(frozen=True, kw_only=True)
class Target:
    """One row of the table."""

    name: str
    makes: str
    platforms: tuple[PlatformName, ...]
    libraries: tuple[str, ...] = ()  # required modules; `extra` installs them
    extra: str = ""
    adds: Format | Beside | None = None  # None: only limits what the others add
    backend: BackendName = "ort"  # that runs it

    def lacking(self, members: Sequence[str]) -> list[str]:
        """Return a student's members that the target's engine lacks."""
        return [member for member in members if member in BACKENDS[self.backend].unable]

    def check_members(self, members: Sequence[str], *, has_portable: bool = False) -> None:
        """Raise UsageError if the target's engine lacks one of a student's members."""
        if not (lacking := " and ".join(self.lacking(members))):
            return
        if has_portable:
            raise UsageError(f"its engine has no {lacking}; --target {self.name} adds a twin")
        raise UsageError(
            f"--target {self.name}: its engine has no {lacking}, and this checkpoint no second student without them; "
            "train it with transformer or convolutions among its --members, or without that option"
        )

    def problems(self, plan: ExportPlan) -> Iterator[MmkdError]:
        """Yield problems that prevent a plan's export."""
        if plan.from_bundle and not isinstance(self.adds, Beside):
            yield UsageError(f"--target {self.name} has no effect without a checkpoint; leave it out")
            return
        is_own = isinstance(self.adds, Format) and not self.libraries
        if is_own and (reason := why_absent(self.backend)):
            yield UnavailableError(f"--target {self.name}: {reason}; install one and reinstall mmkd-edge")
        missing = [name.replace("_", "-") for name in self.libraries if importlib.util.find_spec(name) is None]
        if missing:
            yield UnavailableError(
                f"--target {self.name} needs {' and '.join(missing)}, which this Python lacks; "
                f"run: pip install '{self.extra}'"
            )


TARGETS: tuple[Target, ...] = (
    Target(
        name="onnx",
        makes="the ONNX artifacts alone, without the .native and .tflite that are otherwise added",
        platforms=tuple(row.name for row in PLATFORMS),
    ),
    Target(
        name="native",
        makes="a .native for the engine that mmkd-edge has itself, of the fp32 and of the INT8 artifact",
        platforms=tuple(row.name for row in PLATFORMS),  # each has a processor
        adds=Format(
            name="native",
            stage="write it for the native engine",
            # The `.native` of windows also steps.
            convert=lambda student, _: native.model_of(student.checkpoint, temperature=student.proof_set.temperature),
            int8=lambda model, _: int8_weights(model),  # smaller, not faster
            smaller=True,
            advice="Export without --precision int8, or raise --max-drop-points",
        ),
        backend="native",
    ),
    Target(
        name="litert",
        makes="a .tflite of the fp32 and of the INT8 artifact",
        platforms=litert.PLATFORMS,
        libraries=litert.LIBRARIES,
        extra=litert.EXTRA,
        adds=Format(
            name="tflite",
            stage="convert it to LiteRT",
            convert=litert.convert_tflite,
            int8=lambda model, graph: litert.int8_tflite(model, graph),
            advice="Export without --target litert or without --precision int8",
        ),
        backend="litert",
    ),
    Target(
        name="c",
        makes="a folder of C sources with the student's tensors as constants, for microcontrollers and any compiler",
        platforms=("cpu-x86", "cpu-arm", "mcu"),
        adds=Beside(stage="write C sources", write=lambda bundle, *_: write_c_sources(bundle)),
    ),
    Target(
        name="trt",
        makes="a TensorRT engine of every ONNX artifact, beside the bundle; from a bundle only of a named --precision",
        platforms=tuple(row.name for row in PLATFORMS if row.has_gpu),
        adds=Beside(stage="build engines", write=trt.build_engines_apart, platform_here=trt.platform_here),
        backend="trt",
    ),
    Target(
        name="openvino",
        makes="ONNX artifacts that OpenVINO runs: of a student with trees a second student without them too",
        platforms=("cpu-x86", "cpu-arm"),
        backend="openvino",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ResolvedPlan:
    """A plan without open choices; `optional` precisions come from `auto` alone."""

    plan: ExportPlan
    platform: Platform
    targets: tuple[Target, ...]
    precisions: tuple[Precision, ...]
    optional: frozenset[Precision]

    @property
    def built_precisions(self) -> tuple[Precision, ...] | None:
        """Precisions of engines, which a bundle may limit; None for all artifacts."""
        if not self.plan.from_bundle:
            return None
        named = tuple(name for name in self.plan.precisions if name != "auto")
        return named if named == self.plan.precisions and named else None


def resolve(plan: ExportPlan) -> ResolvedPlan:
    """Choose platform, targets and precisions; raise UsageError if the platform lacks a target."""
    targets = requested_targets(plan)
    here: PlatformName = "cpu-arm" if host.machine() in ("aarch64", "arm64") else "cpu-x86"
    for target in targets:
        if isinstance(target.adds, Beside) and target.adds.platform_here is not None:
            here = target.adds.platform_here()
    platform = platform_named(plan.platform or here)
    for target in targets:
        if platform.name not in target.platforms:
            raise UsageError(
                f"--target {target.name}: does not exist for the platform {platform.name}; "
                f"give --platform {' or '.join(target.platforms)}, or leave it out"
            )
    explicit: list[Precision] = [name for name in ("fp16", "int8") if name in plan.precisions]
    auto: list[Precision] = []
    if "auto" in plan.precisions:
        tried: tuple[Precision, ...] = ("fp16", "int8") if platform.has_gpu else ("int8",)
        auto = [name for name in tried if name not in explicit]
    return ResolvedPlan(
        plan=plan,
        platform=platform,
        targets=targets,
        precisions=() if plan.from_bundle else (*explicit, *auto),
        optional=frozenset(auto),
    )


def requested_targets(plan: ExportPlan) -> tuple[Target, ...]:
    """Return a plan's targets in order; raise UsageError for an unknown one."""
    names = [row.name for row in TARGETS]
    for name in plan.targets:
        if name not in names:
            raise UsageError(f"--target {name!r}: expected one of {', '.join(names)}; see --list-targets")
    return tuple(row for row in TARGETS if row.name in plan.targets)


def with_defaults(plan: ExportPlan) -> ExportPlan:
    """Add `native` and `litert` as optional targets if installed."""
    if plan.from_bundle or "onnx" in plan.targets:
        return plan
    names = ["native"] if not why_absent("native") else []
    if "trt" not in plan.targets and plan.platform in (None, *litert.PLATFORMS) and not litert.missing_libraries():
        names.append("litert")
    added = tuple(name for name in names if name not in plan.targets)
    return replace(plan, targets=(*plan.targets, *added), optional=(*plan.optional, *added))


def targets_on(platform: Platform) -> tuple[str, ...]:
    """Return the targets of a platform."""
    return tuple(row.name for row in TARGETS if platform.name in row.platforms)
