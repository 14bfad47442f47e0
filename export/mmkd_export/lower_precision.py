"""The artifacts of lower precision of one student: made, judged, and kept only where they are worth it.

Owns what `--precision` means. Making FP16 and INT8 graphs is `fp16.py`'s and `int8.py`'s, the rule is `gate.py`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.manifest import ArtifactFormat, Precision
from mmkd_edge.command.run import shell_line
from mmkd_edge.errors import GateError, UsageError
from mmkd_export.graph.layers import learnt_layers
from mmkd_export.graph.onnx_graph import any_batch, check_graph, graph_bytes
from mmkd_export.judge.artifacts import JudgedArtifact, RejectedError, TaskGate, judge_lower, task_gate, task_gate_facts
from mmkd_export.judge.gate import NOTHING_WRITTEN, GateFacts, require_gate, require_judging
from mmkd_export.judge.parity import Answers, answers_from_backend
from mmkd_export.judge.reference_answers import check_calibration
from mmkd_export.plan import ExportPlan
from mmkd_export.precision.fp16 import FP16_LIMIT, half_graph
from mmkd_export.precision.int8 import Int8Graph, Int8Options, int8_graph
from mmkd_export.report import ArtifactReport, LeftOut
from mmkd_export.student import Subject
from mmkd_export.targets.litert_int8 import int8_tflite

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


LEAST_SPEEDUP = 1.1
"""What an artifact must gain in speed for `auto` to keep it on a CPU: below, it costs size and accuracy for nothing."""


@dataclass(frozen=True, kw_only=True)
class LowerPrecisions:
    """What became of the precisions that a plan asks for.

    Attributes:
        made: artifacts that passed their gates.
        optional: precisions among them that only `auto` asked for.
        left_out: precisions that `auto` tried and that failed.
    """

    made: tuple[JudgedArtifact, ...] = ()
    optional: frozenset[Precision] = frozenset()
    left_out: tuple[LeftOut, ...] = ()


def wanted_precisions(plan: ExportPlan) -> tuple[tuple[Precision, ...], frozenset[Precision]]:
    """Gives the lower precisions to make, and those among them that only `auto` asks for.

    On a CPU `auto` tries INT8; FP16 has no arithmetic of its own there. On a GPU it tries both.
    """
    explicit: list[Precision] = [name for name in ("fp16", "int8") if name in plan.precisions]
    auto: list[Precision] = []
    if "auto" in plan.precisions:
        tried: tuple[Precision, ...] = ("fp16", "int8") if plan.resolved_platform.has_gpu else ("int8",)
        auto = [name for name in tried if name not in explicit]
    return (*explicit, *auto), frozenset(auto)


def wanted_formats(plan: ExportPlan, precision: Precision) -> tuple[ArtifactFormat, ...]:
    """Gives the formats in which a lower precision is made.

    FP16 has no `.tflite`: LiteRT's kernels for a CPU compute it in float32, after a cast of the weights at every run.
    """
    return ("onnx", "tflite") if precision == "int8" and "litert" in plan.targets else ("onnx",)


def make_lower(
    subject: Subject,
    plan: ExportPlan,
    precision: Precision,
    *,
    format: ArtifactFormat = "onnx",  # noqa: A002 - the manifest's word
) -> JudgedArtifact:
    """Makes one artifact of lower precision.

    Raises:
        GateError: it does not pass its gate, or too few windows judge.
        UsageError: there are no windows to calibrate with, or the plan excludes layers that do not exist.
        BackendError: the backend of its format does not run it.
    """
    gate = task_gate(subject.facts.metric, plan)
    what = f"{precision} {'graph' if format == 'onnx' else f'.{format}'}"
    require_judging(len(subject.evidence.judging.labels), what=what, accept_unjudged=gate.accept_unjudged)
    if format == "tflite":
        return _make_int8_tflite(subject, plan, gate)
    if precision == "fp16":
        return _make_fp16(subject, gate)
    return _make_int8(subject, plan, gate)


def without_slow(
    timed: Sequence[JudgedArtifact], optional: Collection[Precision]
) -> tuple[list[JudgedArtifact], list[LeftOut]]:
    """Gives the artifacts without those that are too slow to be kept, and what is left out; see `too_slow`.

    A device runs files of one format, so every artifact is compared with the fp32 artifact of its own format.
    """
    kept: list[JudgedArtifact] = []
    left_out: list[LeftOut] = []
    for judged in timed:
        precision, kind = judged.artifact.precision, judged.artifact.format
        latencies = {
            (run.backend, other.artifact.precision): run.latency_us
            for other in timed
            for run in other.report.backends
            if other.artifact.format == kind and run.latency_us is not None
        }
        reason = too_slow(optional, latencies).get(precision)
        if reason is None:
            kept.append(judged)
        else:
            left_out.append(LeftOut(precision=precision, format=kind, reason=reason, artifact=judged.report))
    return kept, left_out


def too_slow(
    optional: Collection[Precision], latencies_us: Mapping[tuple[str, Precision], float]
) -> dict[Precision, str]:
    """Gives those of the optional precisions that are not `LEAST_SPEEDUP` times as fast as fp32, with the reason.

    Args:
        optional: precisions that only `auto` asked for.
        latencies_us: median latency of every precision in every backend that runs files of one format; the best backend
            of each precision counts.
    """
    best: dict[Precision, float] = {}
    for (_, precision), latency_us in latencies_us.items():
        best[precision] = min(latency_us, best.get(precision, latency_us))
    speedups = {precision: best["fp32"] / best[precision] for precision in best if precision in optional}
    return {
        precision: f"{speedup:.2f} times as fast as fp32 on this machine; auto keeps it from {LEAST_SPEEDUP} times"
        for precision, speedup in speedups.items()
        if speedup < LEAST_SPEEDUP
    }


def _make_fp16(subject: Subject, gate: TaskGate) -> JudgedArtifact:
    import onnx

    from mmkd_export.judge.reference_answers import feeds_of

    model = onnx.load_from_string(subject.fp32.model)
    half = half_graph(model, feeds_of(subject.evidence.recorded, subject.modality))
    judged = judge_lower(
        _checked_bytes(half.model, subject), subject.evidence, gate, precision="fp16", batch=subject.batch
    )
    kept = {
        name: f"reaches {top:.3g}, above {FP16_LIMIT:g}, half of what FP16 holds"
        for name, top in half.too_large.items()
    }
    report = msgspec.structs.replace(judged.report, float_layers=kept)
    assert report.gate is not None
    try:
        require_gate(
            report.gate, what="fp16 graph", advice="Export without --precision fp16, or raise --max-drop-points"
        )
    except GateError as error:
        raise RejectedError(str(error), report=report) from error
    return replace(judged, report=report)


def _make_int8(subject: Subject, plan: ExportPlan, gate: TaskGate) -> JudgedArtifact:
    import onnx

    evidence = subject.evidence
    if len(evidence.calibration) == 0:
        raise UsageError(
            f"{plan.source}: --precision int8: expected real windows to calibrate with, got none beside the one that "
            "judges; name some with --calib DATA or --calib FILE.npz"
        )
    model = onnx.load_from_string(subject.fp32.model)
    check_calibration(evidence.calibration, model, subject.modality)
    feeds = evidence.calibration_feeds()

    def answer(graph: onnx.ModelProto) -> Answers:
        return _answers(graph, evidence.calibration, subject)

    def judge(graph: onnx.ModelProto) -> GateFacts:
        return task_gate_facts(_answers(graph, evidence.judging.windows, subject), evidence, gate)

    options = Int8Options(method=plan.method, exclude=plan.exclude, ops=plan.resolved_platform.int8_ops)
    found = int8_graph(model, feeds, options, answer=answer, gate=judge)
    _require_layers(found)
    judged = judge_lower(_checked_bytes(found.model, subject), evidence, gate, precision="int8", batch=subject.batch)
    report = msgspec.structs.replace(
        judged.report,
        float_layers=_float_layers(model, found, options),
        attempts=found.attempts,
        sensitivity=found.sensitivity,
        activations=found.activations,
    )
    _require_passed(found, report, modality=subject.modality.name)
    return replace(judged, report=report)


def _make_int8_tflite(subject: Subject, plan: ExportPlan, gate: TaskGate) -> JudgedArtifact:
    import onnx

    model = next(judged.model for judged in subject.others if judged.artifact.format == "tflite")
    made = int8_tflite(model, onnx.load_from_string(subject.fp32.model), exclude=plan.exclude)
    judged = judge_lower(made, subject.evidence, gate, precision="int8", format="tflite")
    assert judged.report.gate is not None
    advice = "Leave layers out with --exclude, or export without --target litert or without --precision int8"
    try:
        require_gate(judged.report.gate, what="int8 .tflite", advice=advice)
    except GateError as error:
        raise RejectedError(str(error), report=judged.report) from error
    return judged


def _require_layers(found: Int8Graph) -> None:
    if not found.attempts:
        raise GateError(
            "int8 graph: expected a layer that INT8 makes faster, found none: every product has a side below 16, or "
            "was excluded; export without --precision int8"
        )


def _last_remedy(found: Int8Graph, modality: str) -> str:
    """What is left to do where every remedy at export failed: let the student practise INT8, or practise longer."""
    if any(attempt.method == "learnt" for attempt in found.attempts):
        return "Practise INT8 for longer (mmkd-distill --qat with more --steps)"
    options = ("--modality", modality, "--qat", "STUDENT.ckpt", "-o", "student-qat.ckpt")
    command = shell_line("mmkd-distill", "TEACHER.ckpt", "DATA", *options)
    return f"Let the student practise INT8 ({command}) and export that"


def _require_passed(found: Int8Graph, report: ArtifactReport, *, modality: str) -> None:
    if not found.passed:
        tried = "\n".join(f"  - {attempt.remedy}: {attempt.gate.summary}" for attempt in found.attempts)
        raise RejectedError(
            f"int8 graph: no remedy passed the gate{NOTHING_WRITTEN}. {_last_remedy(found, modality)}, "
            "calibrate with more windows (--calib), allow more --max-drop-points, or export without --precision int8. "
            f"Tried in this order:\n{tried}",
            report=report,
        )


def _float_layers(model: onnx.ModelProto, found: Int8Graph, options: Int8Options) -> dict[str, str]:
    """Every layer that stays float32, with the reason."""
    reasons: dict[str, str] = {}
    for number, layer in enumerate(learnt_layers(model)):
        if layer.name in found.layers:
            continue
        if number == 0:
            reasons[layer.name] = "the first layer: its range is that of the sensor's glitches"
        elif not layer.worth_quantising:
            reasons[layer.name] = f"a product of {layer.m} x {layer.k} times {layer.k} x {layer.n} gains nothing"
        elif layer.op not in options.ops:
            reasons[layer.name] = f"{layer.op} is no faster in INT8 on the platform"
        elif any(attempt.remedy.startswith(layer.name) for attempt in found.attempts):
            reasons[layer.name] = "among the most sensitive"
        elif options.exclude is not None and not any(row.layer == layer.name for row in found.sensitivity):
            reasons[layer.name] = f"excluded by {options.exclude!r}"
        else:
            reasons[layer.name] = "the last layer"
    return reasons


def _answers(graph: onnx.ModelProto, windows: NDArray[np.float32], subject: Subject) -> Answers:
    backend = OrtBackend(graph_bytes(graph))
    try:
        return answers_from_backend(backend, windows, subject.modality)
    finally:
        backend.close()


def _checked_bytes(graph: onnx.ModelProto, subject: Subject) -> bytes:
    from mmkd_edge.bundle.manifest import graph_inputs, graph_outputs

    inputs, outputs = graph_inputs(subject.modality), graph_outputs(subject.task)
    if subject.batch is not None:
        inputs, outputs = any_batch(inputs), any_batch(outputs)
    check_graph(graph, inputs=inputs, outputs=outputs)
    return graph_bytes(graph)
