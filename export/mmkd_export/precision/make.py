"""The ONNX artifacts of lower precision of one student: made, and returned only if they pass their gates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.bundle.manifest import Precision
from mmkd_edge.cli.run import shell_line
from mmkd_edge.errors import GateError, UsageError
from mmkd_export.graph.layers import learnt_layers
from mmkd_export.graph.onnx_graph import any_batch, check_exported, graph_bytes
from mmkd_export.precision.fp16 import FP16_LIMIT, half_graph
from mmkd_export.precision.int8 import Int8Graph, Int8Options, int8_graph
from mmkd_export.student import ProvenStudent
from mmkd_export.verify.answers import NetworkAnswers, answers_from_model, graph_feeds
from mmkd_export.verify.artifacts import ProvenArtifact, RejectedError, measure_lower_precision, require_passed
from mmkd_export.verify.gate import NOTHING_WRITTEN, GateRule, gate_result, gate_summary, require_windows
from mmkd_export.verify.proof_set import check_calibration
from mmkd_report.schema.export import ArtifactReport, GateResult

if TYPE_CHECKING:
    import onnx


def make_lower_precision(
    student: ProvenStudent, precision: Precision, options: Int8Options, rule: GateRule
) -> ProvenArtifact:
    """Make the ONNX artifact of a lower precision.

    Raises:
        GateError: it does not pass its gate, or too few windows judge.
        UsageError: there are no windows to calibrate with, or `options` exclude layers that do not exist.
    """
    import onnx

    require_windows(len(student.proof_set.judging.labels), what=f"{precision} graph", rule=rule)
    model = onnx.load_from_string(student.fp32.model)
    return _make_fp16(student, model, rule) if precision == "fp16" else _make_int8(student, model, options, rule)


def _make_fp16(student: ProvenStudent, model: onnx.ModelProto, rule: GateRule) -> ProvenArtifact:
    half = half_graph(model, graph_feeds(student.proof_set.recorded, student.modality))
    proven = _measure(half.model, student, rule, precision="fp16")
    float_layers = {
        name: f"reaches {top:.3g}, above {FP16_LIMIT:g}, half of what FP16 holds"
        for name, top in half.too_large.items()
    }
    proven = replace(proven, report=msgspec.structs.replace(proven.report, float_layers=float_layers))
    return require_passed(proven, advice="Export without --precision fp16, or raise --max-drop-points")


def _make_int8(student: ProvenStudent, model: onnx.ModelProto, options: Int8Options, rule: GateRule) -> ProvenArtifact:
    proof_set, modality = student.proof_set, student.modality
    if len(proof_set.calibration) == 0:
        raise UsageError(
            f"{student.source}: --precision int8: expected real windows to calibrate with, got none beside the one "
            "that judges; name some with --calib DATA or --calib FILE.npz"
        )
    check_calibration(proof_set.calibration, model, modality)

    def answer(graph: onnx.ModelProto) -> NetworkAnswers:
        return answers_from_model(graph_bytes(graph), proof_set.calibration, modality)

    def judge(graph: onnx.ModelProto) -> GateResult:
        got = answers_from_model(graph_bytes(graph), proof_set.judging.windows, modality)
        return gate_result(got, proof_set.judging, rule, proof_set.task)

    feeds = list(graph_feeds(proof_set.calibration, modality))
    search = int8_graph(model, feeds, options, answer=answer, gate=judge)
    if not search.attempts:
        raise GateError(
            "int8 graph: expected a layer that INT8 makes faster, found none: every product has a side below 16, "
            "reads the sensor itself as convolutional features do, or was excluded; export without --precision int8"
        )
    proven = _measure(search.model, student, rule, precision="int8")
    report = msgspec.structs.replace(
        proven.report,
        float_layers=_float_layers(model, search, options),
        attempts=search.attempts,
        sensitivity=search.sensitivity,
        activations=search.activations,
    )
    if not search.passed:
        raise _no_remedy(search, report, modality=modality.name)
    return replace(proven, report=report)


def _measure(graph: onnx.ModelProto, student: ProvenStudent, rule: GateRule, *, precision: Precision) -> ProvenArtifact:
    inputs, outputs, batch = student.entry.inputs, student.entry.outputs, student.fp32.artifact.batch
    if batch is not None:
        inputs, outputs = any_batch(inputs), any_batch(outputs)
    check_exported(graph, inputs=inputs, outputs=outputs)
    return measure_lower_precision(graph_bytes(graph), student.proof_set, rule, precision=precision, batch=batch)


def _no_remedy(search: Int8Graph, report: ArtifactReport, *, modality: str) -> RejectedError:
    if any(attempt.method == "learnt" for attempt in search.attempts):
        advice = "Practise INT8 for longer (mmkd-distill --qat with more --steps)"
    else:
        options = ("--modality", modality, "--qat", "STUDENT.ckpt", "-o", "student-qat.ckpt")
        command = shell_line("mmkd-distill", "TEACHER.ckpt", "DATA", *options)
        advice = f"Let the student practise INT8 ({command}) and export that"
    tried = "\n".join(f"  - {attempt.remedy}: {gate_summary(attempt.gate)}" for attempt in search.attempts)
    return RejectedError(
        f"int8 graph: no remedy passed the gate{NOTHING_WRITTEN}. {advice}, calibrate with more windows (--calib), "
        f"allow more --max-drop-points, or export without --precision int8. Tried in this order:\n{tried}",
        report=report,
    )


def _float_layers(model: onnx.ModelProto, search: Int8Graph, options: Int8Options) -> dict[str, str]:
    """Return every layer that stays float32, with the reason."""
    reasons: dict[str, str] = {}
    candidates = {row.layer for row in search.sensitivity}
    for number, layer in enumerate(learnt_layers(model)):
        if layer.name in search.layers:
            continue
        if number == 0:
            reason = "the first layer: its range is that of the sensor's glitches"
        elif not layer.worth_quantising:
            reason = f"a product of {layer.m} x {layer.k} times {layer.k} x {layer.n} gains nothing"
        elif layer.op not in options.ops:
            reason = f"{layer.op} is no faster in INT8 on the platform"
        elif any(attempt.remedy.startswith(layer.name) for attempt in search.attempts):
            reason = "among the most sensitive"
        elif options.exclude is not None and layer.name not in candidates:
            reason = f"excluded by {options.exclude!r}"
        else:
            reason = "the last layer"
        reasons[layer.name] = reason
    return reasons
