"""One export, from the plan to the verified bundle and, if they can be built here, engines.

Everything is in memory until the bundle is written: an export that fails or is killed leaves the earlier bundle alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mmkd_edge.backends.base import open_backend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ArtifactFormat, Manifest, Precision
from mmkd_edge.cli.outputs import held
from mmkd_edge.errors import GateError, MmkdError, UsageError
from mmkd_edge.machine import this_machine
from mmkd_export.inspect.files import inspect_file
from mmkd_export.packing.contents import check_students, join_bundles, pack_bundle, write_sealed
from mmkd_export.plan import ExportPlan, Seal, read_report
from mmkd_export.precision.int8 import Int8Options
from mmkd_export.precision.make import make_lower_precision
from mmkd_export.precision.speed import with_latencies, without_slow
from mmkd_export.preflight import check_plan
from mmkd_export.student import (
    ProvenStudent,
    fitted_temperature,
    gate_rule,
    real_windows,
    student_from_bundle,
    student_from_checkpoint,
)
from mmkd_export.targets.table import ResolvedPlan, requested_targets
from mmkd_export.verify.artifacts import ProvenArtifact, RejectedError, prove_in
from mmkd_export.verify.gate import left_out_reason
from mmkd_export.verify.plausible import with_range
from mmkd_report.schema.export import BuiltEngine, ExportReport, LeftOutArtifact


@dataclass(frozen=True, kw_only=True)
class ExportStage:
    """A stage that begins: its name, its number from 1, and how many there are."""

    name: str
    number: int
    of: int


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export; `sha256` is the bundle's, as `sha256sum` prints it."""

    path: Path
    size_bytes: int
    sha256: str
    manifest: Manifest
    report: ExportReport
    engines: tuple[BuiltEngine, ...] = ()


OnStage = Callable[[ExportStage], None]
_Begin = Callable[[str], None]


@dataclass(kw_only=True)
class _Made:
    """The artifacts as they are made, the fp32 graph first, and what was left out."""

    student: ProvenStudent
    artifacts: list[ProvenArtifact]
    left_out: list[LeftOutArtifact] = field(default_factory=list)


def export_stages(resolved: ResolvedPlan) -> tuple[str, ...]:
    """Return the names of the stages of a plan, in order."""
    targets = resolved.targets
    building = tuple(target.step for target in targets if target.build)
    if resolved.keeps_bundle:
        return ("verify the bundle", *building)
    from_checkpoint = ("read the checkpoint", "convert it to ONNX", "compare with torch")
    return (
        *(("read the bundle",) if resolved.plan.from_bundle else from_checkpoint),
        *(target.step for target in targets if target.convert),
        *(f"make {precision}" for precision in resolved.precisions),
        *(target.step for target in targets if target.backend),
        *(("time the artifacts",) if resolved.is_timed else ()),
        "write the bundle",
        *building,
    )


def export(plan: ExportPlan, *, on_stage: OnStage | None = None) -> ExportResult:
    """Export a student to a bundle; write nothing unless every gate passes.

    Raises:
        UsageError: a path or an option does not fit, or there are no real windows.
        UnavailableError: a library is missing. If only an engine cannot be built here, the bundle is written.
        CheckpointError: the checkpoint cannot be used.
        BundleError: the bundle that the plan starts from cannot be used.
        GateError: an artifact does not answer as the checkpoint does.
    """
    resolved = check_plan(plan)
    names = export_stages(resolved)

    def begin(name: str) -> None:
        if on_stage is not None:
            on_stage(ExportStage(name=name, number=names.index(name) + 1, of=len(names)))

    with held(plan.output):
        if resolved.keeps_bundle:
            begin("verify the bundle")
        else:
            made = _read_bundle(resolved, begin) if plan.from_bundle else _convert_checkpoint(resolved, begin)
            _make_lower_precisions(made, resolved, begin)
            _run_in_backends(made, resolved, begin)
            if resolved.is_timed:
                begin("time the artifacts")
                timed = with_latencies(made.artifacts, made.student.proof_set)
                made.artifacts, slow = without_slow(timed, resolved.optional)
                made.left_out += slow
            begin("write the bundle")
            _write_bundle(made, resolved)
        engines: list[BuiltEngine] = []
        for target in resolved.targets:
            if target.build is not None:
                begin(target.step)
                engines += target.build(plan.output, resolved.platform, resolved.built_precisions)
        with Bundle.open(plan.output) as bundle:  # what a device will read, verified once more from the disk
            return ExportResult(
                path=plan.output,
                size_bytes=plan.output.stat().st_size,
                sha256=bundle.sha256,
                manifest=bundle.manifest,
                report=read_report(bundle),
                engines=tuple(engines),
            )


def _read_bundle(resolved: ResolvedPlan, begin: _Begin) -> _Made:
    begin("read the bundle")
    student = student_from_bundle(resolved.plan, remade=resolved.precisions)
    return _Made(student=student, artifacts=[student.fp32, *student.others])


def _convert_checkpoint(resolved: ResolvedPlan, begin: _Begin) -> _Made:
    """Convert a checkpoint to the fp32 graph, and to the fp32 files of other formats."""
    plan = resolved.plan
    begin("read the checkpoint")
    # torch takes seconds to import: not before the plan has been checked.
    from mmkd_export.graph.onnx_from_student import onnx_from_student
    from mmkd_models.training.checkpoint import read_student

    checkpoint = read_student(plan.source)
    real = real_windows(plan, checkpoint)
    declared = checkpoint.modality.range
    checkpoint = with_range(checkpoint, real.windows, plan.value_range)
    begin("convert it to ONNX")
    temperature = fitted_temperature(checkpoint, real)
    graph = onnx_from_student(checkpoint, batch=plan.batch, temperature=temperature)
    begin("compare with torch")
    has_own_range = checkpoint.modality.range == declared
    student = student_from_checkpoint(
        plan, checkpoint, graph, real=real, temperature=temperature, has_own_range=has_own_range
    )
    left_out: list[LeftOutArtifact] = []
    for target in resolved.targets:
        if target.convert is None:
            continue
        begin(target.step)
        try:
            student = target.convert(student, checkpoint, plan.source)
        except MmkdError as error:
            if target.name not in plan.optional:
                raise
            left_out.append(_left_out(error, "fp32", target.format))
    return _Made(student=student, artifacts=[student.fp32, *student.others], left_out=left_out)


def _make_lower_precisions(made: _Made, resolved: ResolvedPlan, begin: _Begin) -> None:
    """Make the lower precisions; a failed gate ends the export unless only `auto` or a default requested them."""
    plan, student = resolved.plan, made.student
    rule = gate_rule(student.facts, student.entry.task, plan)
    options = Int8Options(method=plan.method, exclude=plan.exclude, ops=resolved.platform.int8_ops)

    def add(
        make: Callable[[], ProvenArtifact], precision: Precision, file_format: ArtifactFormat, *, optional: bool
    ) -> None:
        try:
            made.artifacts.append(make())
        except GateError as error:
            if not optional:
                raise
            made.left_out.append(_left_out(error, precision, file_format))

    formats = {proven.artifact.format for proven in student.others}
    for precision in resolved.precisions:
        begin(f"make {precision}")
        optional = precision in resolved.optional
        make = partial(make_lower_precision, student, precision, options, rule)
        add(make, precision, "onnx", optional=optional)
        for target in resolved.targets:
            if precision == "int8" and target.int8 is not None and target.format in formats:
                make = partial(target.int8, student, plan.exclude, rule)
                add(make, precision, target.format, optional=optional or target.name in plan.optional)


def _run_in_backends(made: _Made, resolved: ResolvedPlan, begin: _Begin) -> None:
    """Run the ONNX artifacts in the backends of targets too; a failed gate leaves out what only `auto` requested."""
    rule = gate_rule(made.student.facts, made.student.entry.task, resolved.plan)
    for target in resolved.targets:
        if target.backend is None:
            continue
        begin(target.step)
        passed: list[ProvenArtifact] = []
        for proven in made.artifacts:
            precision = proven.artifact.precision
            try:
                if proven.artifact.format == "onnx":
                    backend = open_backend(target.backend, proven.model, threads=1)
                    proven = prove_in(proven, backend, made.student.proof_set, rule)
                passed.append(proven)
            except GateError as error:
                if precision not in resolved.optional:
                    raise
                reason = left_out_reason(error)
                made.left_out.append(LeftOutArtifact(precision=precision, reason=reason, artifact=proven.report))
        made.artifacts = passed


def _left_out(error: MmkdError, precision: Precision, file_format: ArtifactFormat) -> LeftOutArtifact:
    measured = error.report if isinstance(error, RejectedError) else None
    if measured is not None and (measured.gate is None or not measured.gate.finite):
        measured = None  # its answers are not numbers, which JSON lacks
    return LeftOutArtifact(precision=precision, format=file_format, reason=left_out_reason(error), artifact=measured)


def _write_bundle(made: _Made, resolved: ResolvedPlan) -> None:
    plan = resolved.plan
    seal = plan.seal
    if plan.from_bundle and seal.release is None:
        with Bundle.open(plan.source) as bundle:
            if isinstance(bundle.manifest.release, int):
                seal = replace(seal, release=bundle.manifest.release)
    manifest, members = pack_bundle(
        made.student,
        made.artifacts,
        golden=plan.golden,
        platform=resolved.platform.name,
        left_out=made.left_out,
        machine=this_machine().cpu if resolved.is_timed else None,
    )
    write_sealed(plan.output, manifest=manifest, members=members, seal=seal)


def export_several(plans: Sequence[ExportPlan], *, output: Path, on_stage: OnStage | None = None) -> list[ExportResult]:
    """Export several students into one bundle; write nothing unless all pass their gates.

    Args:
        plans: the best student first; their outputs are not used.
        output: the bundle.
        on_stage: called when a stage of a student begins.

    Returns:
        The export of each; its `path` is the joined bundle.

    Raises:
        UsageError: students do not belong together, or see `export`.
        MmkdError: see `export`.
    """
    for plan in plans:
        check_plan(replace(plan, output=output))
    check_students([_modality_and_labels(plan.source) for plan in plans])
    with held(output), tempfile.TemporaryDirectory(prefix="mmkd-export-") as folder:
        parts = [
            replace(plan, seal=Seal(), output=Path(folder) / f"{number}.edge") for number, plan in enumerate(plans)
        ]
        results = [export(part, on_stage=on_stage) for part in parts]
        join_bundles([part.output for part in parts], output, seal=plans[0].seal)
    return [replace(result, path=output) for result in results]


def several_plans(plan: ExportPlan, sources: Sequence[Path]) -> list[ExportPlan]:
    """Return the plan for each of several students; raise UsageError for engines, which are built for one student."""
    for target in requested_targets(plan):
        if target.build is not None:
            raise UsageError(
                f"--target {target.name}: expected one student, got several; export each for its own engines"
            )
    return [replace(plan, source=source) for source in sources]


def _modality_and_labels(path: Path) -> tuple[str, str]:
    """Read the student's modality and labels from a checkpoint or a bundle, without its tensors."""
    facts = inspect_file(path)
    name = next(key for key in facts if key.endswith(".window")).removesuffix(".window")
    return name, facts.get("labels") or facts[f"{name}.labels"]
