"""One export, from the plan to the verified bundle and, where they can be built, engines.

Owns the order of the stages and nothing of what happens in them. Everything is in memory until the bundle is written,
so an export that fails or is killed leaves the earlier bundle as it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_edge.backends.base import open_backend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ArtifactFormat, Manifest, Precision
from mmkd_edge.cli.outputs import held
from mmkd_edge.errors import GateError, MmkdError, UsageError
from mmkd_export.inspect.files import inspect_file
from mmkd_export.packing.contents import pack_bundle
from mmkd_export.packing.join import check_students, join_bundles
from mmkd_export.packing.seal import write_sealed
from mmkd_export.plan import ExportPlan, Seal
from mmkd_export.precision.make import make_lower_precision, wanted_precisions
from mmkd_export.precision.speed import timed, without_slow
from mmkd_export.preflight import check_plan
from mmkd_export.report import read_report
from mmkd_export.student import (
    ProvenStudent,
    fitted_temperature,
    gate_rule,
    real_windows,
    student_from_bundle,
    student_from_checkpoint,
)
from mmkd_export.targets.table import Target, keeps_bundle, settled, targets_of
from mmkd_export.verify.artifacts import ProvenArtifact, RejectedError, proven_in
from mmkd_export.verify.gate import left_out_reason
from mmkd_export.verify.latency import processor_name
from mmkd_export.verify.plausible import NAMED, RULE, with_range
from mmkd_report.schema.export import ArtifactReport, BuiltEngine, ExportReport, LeftOutArtifact

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import StudentCheckpoint


@dataclass(frozen=True, kw_only=True)
class ExportStage:
    """What an observer sees when a stage begins: its name, its number from 1, and how many there are."""

    name: str
    number: int
    of: int


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export.

    Attributes:
        sha256: of the bundle, as `sha256sum` prints it.
    """

    path: Path
    size_bytes: int
    sha256: str
    manifest: Manifest
    report: ExportReport
    engines: tuple[BuiltEngine, ...] = ()


OnStage = Callable[[ExportStage], None]
_Begin = Callable[[str], None]

_READ_BUNDLE, _READ_CHECKPOINT, _TO_ONNX, _COMPARE = (
    "read the bundle",
    "read the checkpoint",
    "convert it to ONNX",
    "compare with torch",
)
_VERIFY, _TIME, _WRITE = "verify the bundle", "time the artifacts", "write the bundle"


def export_stages(plan: ExportPlan) -> tuple[str, ...]:
    """Gives the names of the stages of a plan, in order."""
    plan = settled(plan)
    targets = targets_of(plan)
    building = tuple(target.step for target in targets if target.build)
    if keeps_bundle(plan):
        return (_VERIFY, *building)
    reading = (_READ_BUNDLE,) if plan.from_bundle else (_READ_CHECKPOINT, _TO_ONNX, _COMPARE)
    lower, _ = wanted_precisions(plan)
    return (
        *reading,
        *(target.step for target in targets if target.convert),
        *(f"make {precision}" for precision in lower),
        *(target.step for target in targets if target.backend),
        *((_TIME,) if _is_timed(plan, targets) else ()),
        _WRITE,
        *building,
    )


def _is_timed(plan: ExportPlan, targets: Sequence[Target]) -> bool:
    """Where the artifacts run on this kind of machine, and there is more than one way to run them."""
    several = bool(plan.lower_precisions) or any(target.convert or target.backend for target in targets)
    return several and not plan.platform_row.has_gpu


def export(plan: ExportPlan, *, on_stage: OnStage | None = None) -> ExportResult:
    """Exports a student to a bundle; writes nothing unless every gate passes.

    Raises:
        UsageError: a path or an option does not fit, or there are no real windows.
        UnavailableError: a library is missing. Where only an engine cannot be built here, the bundle is written.
        CheckpointError: the checkpoint cannot be used.
        BundleError: the bundle that the plan starts from cannot be used.
        GateError: an artifact does not answer as the checkpoint does.
    """
    check_plan(plan)
    names = export_stages(plan)

    def begin(name: str) -> None:
        if on_stage is not None:
            on_stage(ExportStage(name=name, number=names.index(name) + 1, of=len(names)))

    with held(plan.output):
        return _export(settled(plan), begin)


def export_several(plans: Sequence[ExportPlan], *, output: Path, on_stage: OnStage | None = None) -> list[ExportResult]:
    """Exports several students into one bundle; writes nothing unless all pass their gates.

    Args:
        plans: what to export, the best student first; where they go is not read.
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
        unsealed = [replace(plan, seal=Seal()) for plan in plans]
        parts = [replace(plan, output=Path(folder) / f"{number}.edge") for number, plan in enumerate(unsealed)]
        results = [export(part, on_stage=on_stage) for part in parts]
        join_bundles([part.output for part in parts], output, seal=plans[0].seal)
    return [replace(result, path=output) for result in results]


def several_plans(plan: ExportPlan, sources: Sequence[Path]) -> list[ExportPlan]:
    """The plan for each of several students.

    Raises:
        UsageError: engines are asked for, which are built for one student.
    """
    for target in targets_of(plan):
        if target.build is not None:
            raise UsageError(
                f"--target {target.name}: expected one student, got several; export each for its own engines"
            )
    return [replace(plan, source=source) for source in sources]


def _modality_and_labels(path: Path) -> tuple[str, str]:
    """Of a checkpoint or a bundle, without reading tensors."""
    facts = inspect_file(path)
    name = next(key for key in facts if key.endswith(".window")).removesuffix(".window")
    return name, facts.get("labels") or facts[f"{name}.labels"]


@dataclass(kw_only=True)
class _Made:
    """The artifacts of an export as they come, the fp32 graph first; what only `auto` asked for may be left out."""

    artifacts: list[ProvenArtifact]
    optional: frozenset[Precision]
    left_out: list[LeftOutArtifact] = field(default_factory=list)


def _export(plan: ExportPlan, begin: _Begin) -> ExportResult:
    targets = targets_of(plan)
    if keeps_bundle(plan):
        begin(_VERIFY)
    else:
        _write(plan, targets, begin)
    engines: list[BuiltEngine] = []
    for target in targets:
        if target.build is not None:
            begin(target.step)
            engines += target.build(plan)
    with Bundle.open(plan.output) as bundle:  # what a device will read, verified once more from the disk
        return ExportResult(
            path=plan.output,
            size_bytes=plan.output.stat().st_size,
            sha256=bundle.sha256,
            manifest=bundle.manifest,
            report=read_report(bundle),
            engines=tuple(engines),
        )


def _write(plan: ExportPlan, targets: Sequence[Target], begin: _Begin) -> None:
    """Makes, tests and times the artifacts as the plan asks, and writes the bundle."""
    student, left_out, unmade = _read(plan, targets, begin)
    targets = [target for target in targets if target.name not in unmade]
    made = _Made(
        artifacts=[student.fp32, *student.others], optional=wanted_precisions(plan)[1], left_out=list(left_out)
    )
    _make_lower_precisions(made, student, plan, targets, begin)
    for target in targets:
        if target.backend is not None:
            begin(target.step)
            _run_elsewhere(made, student, plan, target)
    machine = None
    if _is_timed(plan, targets):
        begin(_TIME)
        made.artifacts, slow = without_slow(timed(made.artifacts, student.proof_set), made.optional)
        made.left_out += slow
        machine = processor_name()
    begin(_WRITE)
    manifest, members = pack_bundle(
        student,
        made.artifacts,
        golden=plan.golden,
        platform=plan.platform_row.name,
        left_out=made.left_out,
        machine=machine,
    )
    write_sealed(plan.output, manifest=manifest, members=members, seal=_seal(plan))


def _seal(plan: ExportPlan) -> Seal:
    """What the plan says, with the release of an earlier bundle where it says nothing of that."""
    if not plan.from_bundle or plan.seal.release is not None:
        return plan.seal
    with Bundle.open(plan.source) as bundle:
        release = bundle.manifest.release
    return replace(plan.seal, release=release) if isinstance(release, int) else plan.seal


def _read(
    plan: ExportPlan, targets: Sequence[Target], begin: _Begin
) -> tuple[ProvenStudent, list[LeftOutArtifact], list[str]]:
    """The student in every format, what was left out, and the optional targets that could not be had."""
    if plan.from_bundle:
        begin(_READ_BUNDLE)
        remade, _ = wanted_precisions(plan)
        return student_from_bundle(plan, remade=remade), [], []
    begin(_READ_CHECKPOINT)
    # torch takes seconds to import: not before the plan has been checked.
    from mmkd_export.graph.onnx_from_student import onnx_from_student
    from mmkd_models.training.checkpoint import read_student

    checkpoint = read_student(plan.source)
    real = real_windows(plan, checkpoint)
    declared = checkpoint.modality.range
    checkpoint = with_range(checkpoint, real.windows, plan.value_range)
    begin(_TO_ONNX)
    temperature = fitted_temperature(checkpoint, real)
    graph = onnx_from_student(checkpoint, batch=plan.batch, temperature=temperature)
    begin(_COMPARE)
    student = student_from_checkpoint(plan, checkpoint, graph, real=real, temperature=temperature)
    if checkpoint.modality.range != declared:
        student = replace(student, range_rule=RULE if plan.value_range == "auto" else NAMED)
    return _converted(student, checkpoint, plan, targets, begin)


def _converted(
    student: ProvenStudent, checkpoint: StudentCheckpoint, plan: ExportPlan, targets: Sequence[Target], begin: _Begin
) -> tuple[ProvenStudent, list[LeftOutArtifact], list[str]]:
    left_out: list[LeftOutArtifact] = []
    unmade: list[str] = []
    for target in targets:
        if target.convert is None:
            continue
        begin(target.step)
        try:
            student = target.convert(student, checkpoint, plan)
        except MmkdError as error:
            if target.name not in plan.optional:
                raise
            left_out.append(_left_out(error, "fp32", target.format))
            unmade.append(target.name)
    return student, left_out, unmade


def _make_lower_precisions(
    made: _Made, student: ProvenStudent, plan: ExportPlan, targets: Sequence[Target], begin: _Begin
) -> None:
    """Makes what the plan asks for; a failed gate ends the export unless only `auto` or a default asked."""
    rule, (wanted, _) = gate_rule(student, plan), wanted_precisions(plan)
    for precision in wanted:
        begin(f"make {precision}")
        is_optional = precision in made.optional
        try:
            made.artifacts.append(make_lower_precision(student, plan, rule, precision=precision))
        except GateError as error:
            if not is_optional:
                raise
            made.left_out.append(_left_out(error, precision, "onnx"))
        for target in targets:
            if precision != "int8" or target.int8 is None:
                continue
            try:
                made.artifacts.append(target.int8(student, plan, rule))
            except GateError as error:
                if not is_optional and target.name not in plan.optional:
                    raise
                made.left_out.append(_left_out(error, precision, target.format))


def _run_elsewhere(made: _Made, student: ProvenStudent, plan: ExportPlan, target: Target) -> None:
    """Runs the ONNX artifacts in a target's backend; a failed gate ends the export unless only `auto` asked."""
    assert target.backend is not None
    rule = gate_rule(student, plan)
    kept: list[ProvenArtifact] = []
    for proven in made.artifacts:
        precision = proven.artifact.precision
        if proven.artifact.format != "onnx":
            kept.append(proven)
            continue
        try:
            backend = open_backend(target.backend, proven.model, threads=1)
            kept.append(proven_in(proven, backend, student.proof_set, rule))
        except GateError as error:
            if precision not in made.optional:
                raise
            reason = left_out_reason(error)
            made.left_out.append(LeftOutArtifact(precision=precision, reason=reason, artifact=proven.report))
    made.artifacts = kept


def _left_out(error: MmkdError, precision: Precision, file_format: ArtifactFormat) -> LeftOutArtifact:
    measured: ArtifactReport | None = error.report if isinstance(error, RejectedError) else None
    if measured is not None and (measured.gate is None or not measured.gate.finite):
        measured = None  # its answers are not numbers, which JSON lacks
    return LeftOutArtifact(precision=precision, format=file_format, reason=left_out_reason(error), artifact=measured)
