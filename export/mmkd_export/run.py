"""One export, from the plan to the verified bundle and, where they can be built, engines.

Owns the order of the steps and nothing of what happens in them. Everything is in memory until the bundle is written, so
an export that fails or is killed leaves the earlier bundle as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import msgspec

from mmkd_edge.backends.base import BackendName, is_installed, open_backend
from mmkd_edge.backends.openvino import OpenVinoBackend
from mmkd_edge.bundle.bundle import Bundle, write_bundle
from mmkd_edge.bundle.manifest import REPORT_FILE, Manifest, Precision
from mmkd_edge.command.outputs import held
from mmkd_edge.errors import GateError, MmkdError
from mmkd_export.judge.artifacts import JudgedArtifact, RejectedError, judge_fp32, task_gate, with_backend
from mmkd_export.judge.gate import left_out_reason
from mmkd_export.judge.latency import paired_latency_us, processor_name
from mmkd_export.judge.reference_answers import feeds_of
from mmkd_export.lower_precision import LowerPrecisions, make_lower, wanted_formats, wanted_precisions, without_slow
from mmkd_export.members import bundle_contents
from mmkd_export.plan import ExportPlan, check_plan
from mmkd_export.report import ArtifactReport, ExportReport, LeftOut, decode_report
from mmkd_export.step import judge_step
from mmkd_export.student import Subject, require_windows, subject_from_bundle, subject_from_checkpoint, temperature_of
from mmkd_export.targets.litert import tflite_from_checkpoint, tflite_step_from_checkpoint
from mmkd_export.targets.trt import EngineFile, build_engines


@dataclass(frozen=True, kw_only=True)
class ExportStep:
    """What an observer sees when a step begins: its name, its number from 1, and how many there are."""

    name: str
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
        engines: that were built beside it.
    """

    path: Path
    size_bytes: int
    sha256: str
    manifest: Manifest
    report: ExportReport
    engines: tuple[EngineFile, ...] = ()


OnStep = Callable[[ExportStep], None]


def export_steps(plan: ExportPlan) -> tuple[str, ...]:
    """Gives the names of the steps of a plan, in order."""
    if plan.engines_only:
        return ("verify the bundle", *_engine_steps(plan))
    reading = (
        ("read the bundle",)
        if plan.from_bundle
        else ("read the checkpoint", "convert it to ONNX", "compare with torch")
    )
    lower, _ = wanted_precisions(plan)
    converting = ("convert it to LiteRT",) if "litert" in plan.targets else ()
    making = tuple(f"make {precision}" for precision in lower)
    testing = ("run in OpenVINO",) if "openvino" in plan.targets else ()
    timing = ("time the artifacts",) if _is_timed(plan) else ()
    return (*reading, *converting, *making, *testing, *timing, "write the bundle", *_engine_steps(plan))


def _engine_steps(plan: ExportPlan) -> tuple[str, ...]:
    return ("build engines",) if "trt" in plan.targets else ()


def _is_timed(plan: ExportPlan) -> bool:
    """Where the artifacts run on this kind of machine, and there is more than one way to run them."""
    lower, _ = wanted_precisions(plan)
    several = bool(lower) or bool({"openvino", "litert"} & set(plan.targets))
    return several and not plan.resolved_platform.has_gpu


def export(plan: ExportPlan, *, on_step: OnStep | None = None) -> ExportResult:
    """Exports a student to a bundle; writes nothing unless every gate passes.

    Args:
        plan: what to export.
        on_step: called when a step begins.

    Raises:
        UsageError: a path or an option does not fit, or there are no real windows.
        UnavailableError: a library is missing. Where only an engine cannot be built here, the bundle is written.
        CheckpointError: the checkpoint cannot be used.
        BundleError: the bundle that the plan starts from cannot be used.
        GateError: an artifact does not answer as the checkpoint does.
    """
    check_plan(plan)
    with held(plan.output):
        return _export(plan, _announcer(plan, on_step))


def _export(plan: ExportPlan, begin: Callable[[str], None]) -> ExportResult:
    if plan.engines_only:
        begin("verify the bundle")
    else:
        subject, left_out = _with_tflite(_subject(plan, begin), plan, begin)
        if left_out:
            plan = replace(plan, targets=tuple(target for target in plan.targets if target != "litert"))
        lower = _lower_precisions(subject, plan, begin)
        _write(subject, replace(lower, left_out=(*left_out, *lower.left_out)), plan, begin)
    engines: tuple[EngineFile, ...] = ()
    if "trt" in plan.targets:
        begin("build engines")
        engines = build_engines(plan.output, plan.resolved_platform, precisions=_engine_precisions(plan))
    return replace(_result(plan.output), engines=engines)


def _announcer(plan: ExportPlan, on_step: OnStep | None) -> Callable[[str], None]:
    names = export_steps(plan)

    def begin(name: str) -> None:
        if on_step is not None:
            on_step(ExportStep(name=name, number=names.index(name) + 1, of=len(names)))

    return begin


def _result(path: Path) -> ExportResult:
    with Bundle.open(path) as bundle:  # what a device will read, verified once more from the disk
        return ExportResult(
            path=path,
            size_bytes=path.stat().st_size,
            sha256=bundle.sha256,
            manifest=bundle.manifest,
            report=decode_report(bundle.read(REPORT_FILE)),
        )


def _subject(plan: ExportPlan, begin: Callable[[str], None]) -> Subject:
    if plan.from_bundle:
        begin("read the bundle")
        remade, _ = wanted_precisions(plan)
        return subject_from_bundle(plan, remade=remade)
    begin("read the checkpoint")
    # torch takes seconds to import: not before the plan has been checked.
    from mmkd_export.graph.onnx_from_student import onnx_from_student
    from mmkd_models.training.checkpoint import read_student

    checkpoint = read_student(plan.source)
    require_windows(plan, checkpoint)
    begin("convert it to ONNX")
    temperature = temperature_of(plan, checkpoint)
    graph = onnx_from_student(checkpoint, batch=plan.batch, temperature=temperature)
    begin("compare with torch")
    return subject_from_checkpoint(plan, checkpoint, graph, temperature=temperature)


def _with_tflite(
    subject: Subject, plan: ExportPlan, begin: Callable[[str], None]
) -> tuple[Subject, tuple[LeftOut, ...]]:
    """Adds the `.tflite` that the plan asks for, or says why there is none where the plan can do without."""
    try:
        return _with_litert(subject, plan, begin), ()
    except MmkdError as error:
        if "litert" not in plan.optional:
            raise
        measured = _measured(error) if isinstance(error, GateError) else None
        return subject, (LeftOut(precision="fp32", format="tflite", reason=left_out_reason(error), artifact=measured),)


def _with_litert(subject: Subject, plan: ExportPlan, begin: Callable[[str], None]) -> Subject:
    """Adds the `.tflite` of a checkpoint where the plan asks for it."""
    if "litert" not in plan.targets:
        return subject
    begin("convert it to LiteRT")
    from mmkd_models.training.checkpoint import read_student

    evidence = subject.evidence
    model = tflite_from_checkpoint(plan.source, temperature=evidence.temperature)
    subject = replace(subject, others=(judge_fp32(model, evidence, format="tflite"), *subject.others))
    if not subject.steps:
        return subject
    model = tflite_step_from_checkpoint(plan.source, temperature=evidence.temperature)
    mflops = subject.steps[0].report.mflops
    step = judge_step(model, read_student(plan.source), evidence, format="tflite", mflops=mflops)
    return replace(subject, steps=(*subject.steps, step))


def _lower_precisions(subject: Subject, plan: ExportPlan, begin: Callable[[str], None]) -> LowerPrecisions:
    """Makes what the plan asks for; a failed gate ends the export unless only `auto` or a default asked."""
    wanted, optional = wanted_precisions(plan)
    made: list[JudgedArtifact] = []
    left_out: list[LeftOut] = []
    for precision in wanted:
        begin(f"make {precision}")
        for kind in wanted_formats(plan, precision):
            try:
                made.append(make_lower(subject, plan, precision, format=kind))
            except GateError as error:
                if precision not in optional and not (kind == "tflite" and "litert" in plan.optional):
                    raise
                reason, measured = left_out_reason(error), _measured(error)
                left_out.append(LeftOut(precision=precision, format=kind, reason=reason, artifact=measured))
    return LowerPrecisions(made=tuple(made), optional=optional, left_out=tuple(left_out))


def _measured(error: GateError) -> ArtifactReport | None:
    """What is known of an artifact that was rejected; nothing where its answers were not numbers, which JSON lacks."""
    if isinstance(error, RejectedError) and error.report.gate is not None and error.report.gate.finite:
        return error.report
    return None


def _write(subject: Subject, lower: LowerPrecisions, plan: ExportPlan, begin: Callable[[str], None]) -> None:
    """Tests and times the artifacts as the plan asks, and writes the bundle."""
    artifacts, machine = [subject.fp32, *subject.others, *lower.made], None
    left_out = list(lower.left_out)
    if "openvino" in plan.targets:
        begin("run in OpenVINO")
        artifacts, unfit = _run_in_openvino(artifacts, lower.optional, subject, plan)
        left_out += unfit
    if _is_timed(plan):
        begin("time the artifacts")
        latencies = _latencies_us(artifacts, subject)
        timed = [_with_latencies(judged, latencies) for judged in artifacts]
        artifacts, slow = without_slow(timed, lower.optional)
        left_out += slow
        machine = processor_name()
    begin("write the bundle")
    contents = bundle_contents(
        subject,
        artifacts,
        platform=plan.resolved_platform.name,
        left_out=left_out,
        machine=machine,
    )
    write_bundle(plan.output, manifest=contents.manifest, members=contents.members)


def _run_in_openvino(
    artifacts: Sequence[JudgedArtifact], optional: Collection[Precision], subject: Subject, plan: ExportPlan
) -> tuple[list[JudgedArtifact], list[LeftOut]]:
    """Tests the ONNX artifacts in OpenVINO; a failed gate ends the export unless only `auto` asked."""
    gate = task_gate(subject.facts.metric, plan)
    kept: list[JudgedArtifact] = []
    left_out: list[LeftOut] = []
    for judged in artifacts:
        if judged.artifact.format != "onnx":
            kept.append(judged)
            continue
        precision = judged.artifact.precision
        try:
            kept.append(with_backend(judged, subject.evidence, gate, open_backend=OpenVinoBackend))
        except GateError as error:
            if precision not in optional:
                raise
            left_out.append(LeftOut(precision=precision, reason=left_out_reason(error), artifact=judged.report))
    return kept, left_out


def _latencies_us(artifacts: Sequence[JudgedArtifact], subject: Subject) -> dict[tuple[str, Precision], float]:
    """Median latency of every artifact in every backend that it was run in and that is here, measured in turns."""
    opened = {
        (run.backend, judged.artifact.precision): open_backend(cast(BackendName, run.backend), judged.model, threads=1)
        for judged in artifacts
        for run in judged.report.backends
        if is_installed(cast(BackendName, run.backend))  # an earlier bundle may have more
    }
    try:
        return paired_latency_us(opened, list(feeds_of(subject.evidence.real.windows, subject.modality)))
    finally:
        for backend in opened.values():
            backend.close()


def _with_latencies(judged: JudgedArtifact, latencies: dict[tuple[str, Precision], float]) -> JudgedArtifact:
    runs = tuple(
        msgspec.structs.replace(run, latency_us=_rounded(latencies.get((run.backend, judged.artifact.precision))))
        for run in judged.report.backends
    )
    return replace(judged, report=msgspec.structs.replace(judged.report, backends=runs))


def _rounded(latency_us: float | None) -> float | None:
    return None if latency_us is None else round(latency_us, 1)


def _engine_precisions(plan: ExportPlan) -> tuple[Precision, ...] | None:
    """Those that were asked for; all that the bundle holds where none was."""
    named: list[Precision] = [name for name in ("fp32", "fp16", "int8") if name in plan.precisions]
    return tuple(named) if named and "auto" not in plan.precisions else None
