"""One export, from plan to bundle and engines; the bundle comes last, so a failure leaves an earlier one intact."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmkd_documents.export import BuiltEngine, ExportReport, TwinFacts
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ArtifactFormat, Manifest, Precision
from mmkd_edge.errors import GateError, MmkdError, UsageError
from mmkd_edge.outputs import lock_output
from mmkd_export.inspect.files import inspect_file
from mmkd_export.packing import contents
from mmkd_export.plan import ExportPlan, Seal, read_report
from mmkd_export.precision.make import make_lower_precision
from mmkd_export.preflight import check_plan
from mmkd_export.student import ProvenStudent, choose_temperature, compare_twin, prove_student, read_checkpoint
from mmkd_export.targets.table import Beside, Format, ResolvedPlan, Target, requested_targets
from mmkd_export.verify.artifacts import ProvenArtifact

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import StudentCheckpoint


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export; `sha256` is of the bundle."""

    path: Path
    size_bytes: int
    sha256: str
    manifest: Manifest
    report: ExportReport
    engines: tuple[BuiltEngine, ...] = ()
    folders: tuple[str, ...] = ()


OnStage = Callable[[str], None]  # called with each stage, such as `2/4 convert it to ONNX`


class _Attempt(NamedTuple):
    """A lower precision in a format; one that fails its gate may be left out if it is optional."""

    format: ArtifactFormat
    make: Callable[[], ProvenArtifact]
    is_optional: bool


def export_stages(resolved: ResolvedPlan) -> tuple[str, ...]:
    """Return a plan's stages in order."""
    targets = resolved.targets
    building = tuple(target.adds.stage for target in targets if isinstance(target.adds, Beside))
    if resolved.plan.from_bundle:
        return ("verify the bundle", *building)
    return (
        *("read the checkpoint", "convert it to ONNX", "compare with torch"),
        *(target.adds.stage for target in targets if isinstance(target.adds, Format)),
        *(f"make {precision}" for precision in resolved.precisions),
        "write the bundle",
        *building,
    )


def export(plan: ExportPlan, *, on_stage: OnStage | None = None) -> ExportResult:
    """Export a student to a bundle; write nothing unless every gate passes, engines aside.

    Raises UsageError for a plan that does not fit or has no real windows; UnavailableError for a missing library.
    """
    resolved = check_plan(plan)
    names = export_stages(resolved)

    def begin(name: str) -> None:
        if on_stage is not None:
            on_stage(f"{names.index(name) + 1}/{len(names)} {name}")

    with lock_output(plan.output):
        if plan.from_bundle:
            begin("verify the bundle")
            if plan.output != plan.source or plan.seal != Seal():
                contents.join_bundles([plan.source], plan.output, seal=plan.seal)
        else:
            students = _convert_checkpoint(resolved, begin)
            for precision in resolved.precisions:
                begin(f"make {precision}")
                students = [_with_precision(student, precision, resolved) for student in students]
            begin("write the bundle")
            parts = [contents.pack_bundle(student, platform=resolved.platform.name) for student in students]
            manifest, members = contents.join_parts(parts)
            contents.write_sealed(plan.output, manifest=manifest, members=members, seal=plan.seal)
        beside: list[tuple[BuiltEngine, ...] | Path] = []
        for added in (target.adds for target in resolved.targets):
            if isinstance(added, Beside):
                begin(added.stage)
                beside.append(added.write(plan.output, resolved.platform, resolved.built_precisions))
        with Bundle.open(plan.output) as bundle:  # verify what a device will read
            return ExportResult(
                path=plan.output,
                size_bytes=plan.output.stat().st_size,
                sha256=bundle.sha256,
                manifest=bundle.manifest,
                report=read_report(bundle),
                engines=tuple(engine for made in beside if not isinstance(made, Path) for engine in made),
                folders=tuple(str(made) for made in beside if isinstance(made, Path)),
            )


def _convert_checkpoint(resolved: ResolvedPlan, begin: OnStage) -> list[ProvenStudent]:
    """Return the student, and its portable twin if a target's engine lacks one of its members."""
    # After checking the plan: torch takes seconds to import.
    from mmkd_export.graph.onnx_from_student import onnx_from_student

    plan = resolved.plan
    begin("read the checkpoint")
    checkpoint, real, range_rule = read_checkpoint(plan)
    members = checkpoint.config.members
    lacking: list[str] = []
    for target in resolved.targets:
        if target.name not in plan.optional and target.lacking(members):
            if checkpoint.portable is None:
                target.check_members(members)
            lacking += target.lacking(members)
    twins: list[tuple[StudentCheckpoint, TwinFacts | None]] = [(checkpoint, None)]
    if lacking and checkpoint.portable is not None:
        portable = replace(checkpoint.portable, modality=checkpoint.modality)
        cost = compare_twin(checkpoint, portable, real, lacking=[name for name in members if name in lacking])
        twins.append((portable, cost))
    begin("convert it to ONNX")
    temperatures = [choose_temperature(student, real) for student, _ in twins]
    graphs = [onnx_from_student(twin[0], temperature=each) for twin, each in zip(twins, temperatures, strict=True)]
    begin("compare with torch")
    students = [
        prove_student(plan, student, graph, real=real, temperature=temperature, range_rule=range_rule, twin=twin)
        for (student, twin), temperature, graph in zip(twins, temperatures, graphs, strict=True)
    ]
    for target in resolved.targets:
        if isinstance(target.adds, Format):
            begin(target.adds.stage)
            number = next((n for n, student in enumerate(students) if not target.lacking(student.members)), 0)
            students[number] = _with_format(students[number], target, target.adds, plan)
    return students


def _with_format(student: ProvenStudent, target: Target, added: Format, plan: ExportPlan) -> ProvenStudent:
    try:
        target.check_members(student.members, has_portable=student.checkpoint.portable is not None)
        return added.add_fp32(student)
    except MmkdError as error:
        if target.name not in plan.optional:
            raise
        return student.without(error, "fp32", added.name)


def _with_precision(student: ProvenStudent, precision: Precision, resolved: ResolvedPlan) -> ProvenStudent:
    """A failed gate ends the export unless the artifact is optional."""
    for attempt in _attempts(student, precision, resolved):
        try:
            student = replace(student, artifacts=(*student.artifacts, attempt.make()))
        except GateError as error:
            if not attempt.is_optional:
                raise
            student = student.without(error, precision, attempt.format)
    return student


def _attempts(student: ProvenStudent, precision: Precision, resolved: ResolvedPlan) -> Iterator[_Attempt]:
    is_optional, formats = precision in resolved.optional, student.fp32
    if not (resolved.platform.name == "mcu" and "native" in formats):  # a microcontroller runs no graph
        graph = partial(make_lower_precision, student, precision, ops=resolved.platform.int8_ops)
        no_graph = precision == "int8" and bool(student.entry.normal) and "native" in formats
        yield _Attempt("onnx", graph, is_optional or no_graph)
    for target in resolved.targets:
        added = target.adds
        if precision != "int8" or not isinstance(added, Format) or added.name not in formats:
            continue
        if not (is_optional and added.smaller):
            make = partial(added.make_int8, student)
            yield _Attempt(added.name, make, is_optional or target.name in resolved.plan.optional)


def export_several(plans: Sequence[ExportPlan], *, output: Path, on_stage: OnStage | None = None) -> list[ExportResult]:
    """Export students, the best first, into one bundle; ignore the plans' outputs. Errors as `export`."""
    for target in requested_targets(plans[0]):
        if isinstance(target.adds, Beside):
            raise UsageError(f"--target {target.name}: expected one student, got several; export each on its own")
    for plan in plans:
        check_plan(replace(plan, output=output))
    students = []
    for facts in (inspect_file(plan.source) for plan in plans):
        name = next(key for key in facts if key.endswith(".window")).removesuffix(".window")
        students.append((name, facts.get("labels") or facts[f"{name}.labels"]))
    contents.check_students(students)
    with lock_output(output), tempfile.TemporaryDirectory(prefix="mmkd-export-") as folder:
        parts = [
            replace(plan, seal=Seal(), output=Path(folder) / f"{number}.edge") for number, plan in enumerate(plans)
        ]
        results = [export(part, on_stage=on_stage) for part in parts]
        contents.join_bundles([part.output for part in parts], output, seal=plans[0].seal)
    return [replace(result, path=output) for result in results]
