"""The artifacts of lower precision of one student: made, and kept only where they pass their gates.

Owns what `--precision` means. Making FP16 and INT8 graphs is `fp16.py`'s and `int8.py`'s, the rule is `gate.py`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.manifest import Precision, graph_inputs, graph_outputs
from mmkd_edge.cli.run import shell_line
from mmkd_edge.errors import GateError, UsageError
from mmkd_export.graph.layers import learnt_layers
from mmkd_export.graph.onnx_graph import any_batch, check_exported, graph_bytes
from mmkd_export.plan import ExportPlan
from mmkd_export.precision.fp16 import FP16_LIMIT, half_graph
from mmkd_export.precision.int8 import Int8Graph, Int8Options, int8_graph
from mmkd_export.student import ProvenStudent
from mmkd_export.verify.artifacts import ProvenArtifact, RejectedError, measure_lower_precision, require_passed
from mmkd_export.verify.gate import NOTHING_WRITTEN, GateRule, gate_result, gate_summary, require_windows
from mmkd_export.verify.parity import NetworkAnswers, answers_from_backend
from mmkd_export.verify.proof_set import check_calibration, feeds_of
from mmkd_report.schema.export import ArtifactReport, GateResult

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


def wanted_precisions(plan: ExportPlan) -> tuple[tuple[Precision, ...], frozenset[Precision]]:
    """Gives the lower precisions to make, and those among them that only `auto` asks for.

    On a CPU `auto` tries INT8; FP16 has no arithmetic of its own there. On a GPU it tries both.
    """
    explicit: list[Precision] = [name for name in ("fp16", "int8") if name in plan.precisions]
    auto: list[Precision] = []
    if "auto" in plan.precisions:
        tried: tuple[Precision, ...] = ("fp16", "int8") if plan.platform_row.has_gpu else ("int8",)
        auto = [name for name in tried if name not in explicit]
    return (*explicit, *auto), frozenset(auto)


def make_lower_precision(
    student: ProvenStudent, plan: ExportPlan, rule: GateRule, *, precision: Precision
) -> ProvenArtifact:
    """Makes the ONNX artifact of a lower precision.

    Raises:
        GateError: it does not pass its gate, or too few windows judge.
        UsageError: there are no windows to calibrate with, or the plan excludes layers that do not exist.
    """
    require_windows(len(student.proof_set.judging.labels), what=f"{precision} graph", rule=rule)
    return _make_fp16(student, rule) if precision == "fp16" else _make_int8(student, plan, rule)


def _make_fp16(student: ProvenStudent, rule: GateRule) -> ProvenArtifact:
    import onnx

    model = onnx.load_from_string(student.fp32.model)
    half = half_graph(model, feeds_of(student.proof_set.recorded, student.modality))
    proven = measure_lower_precision(
        _checked_bytes(half.model, student), student.proof_set, rule, precision="fp16", batch=student.batch
    )
    kept = {
        name: f"reaches {top:.3g}, above {FP16_LIMIT:g}, half of what FP16 holds"
        for name, top in half.too_large.items()
    }
    proven = replace(proven, report=msgspec.structs.replace(proven.report, float_layers=kept))
    advice = "Export without --precision fp16, or raise --max-drop-points"
    return require_passed(proven, what="fp16 graph", advice=advice)


def _make_int8(student: ProvenStudent, plan: ExportPlan, rule: GateRule) -> ProvenArtifact:
    import onnx

    proof_set = student.proof_set
    if len(proof_set.calibration) == 0:
        raise UsageError(
            f"{plan.source}: --precision int8: expected real windows to calibrate with, got none beside the one that "
            "judges; name some with --calib DATA or --calib FILE.npz"
        )
    model = onnx.load_from_string(student.fp32.model)
    check_calibration(proof_set.calibration, model, student.modality)
    feeds = list(feeds_of(proof_set.calibration, student.modality))

    def answer(graph: onnx.ModelProto) -> NetworkAnswers:
        return _answers(graph, proof_set.calibration, student)

    def judge(graph: onnx.ModelProto) -> GateResult:
        got = _answers(graph, proof_set.judging.windows, student)
        return gate_result(got, proof_set.judging, rule, proof_set.task)

    options = Int8Options(method=plan.method, exclude=plan.exclude, ops=plan.platform_row.int8_ops)
    found = int8_graph(model, feeds, options, answer=answer, gate=judge)
    _require_layers(found)
    proven = measure_lower_precision(
        _checked_bytes(found.model, student), proof_set, rule, precision="int8", batch=student.batch
    )
    report = msgspec.structs.replace(
        proven.report,
        float_layers=_float_layers(model, found, options),
        attempts=found.attempts,
        sensitivity=found.sensitivity,
        activations=found.activations,
    )
    _require_passed(found, report, modality=student.modality.name)
    return replace(proven, report=report)


def _require_layers(found: Int8Graph) -> None:
    if not found.attempts:
        raise GateError(
            "int8 graph: expected a layer that INT8 makes faster, found none: every product has a side below 16, "
            "reads the sensor itself as convolutional features do, or was excluded; export without --precision int8"
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
        tried = "\n".join(f"  - {attempt.remedy}: {gate_summary(attempt.gate)}" for attempt in found.attempts)
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


def _answers(graph: onnx.ModelProto, windows: NDArray[Any], student: ProvenStudent) -> NetworkAnswers:
    backend = OrtBackend(graph_bytes(graph))
    try:
        return answers_from_backend(backend, windows, student.modality)
    finally:
        backend.close()


def _checked_bytes(graph: onnx.ModelProto, student: ProvenStudent) -> bytes:
    inputs, outputs = graph_inputs(student.modality), graph_outputs(student.task, novelty=student.has_novelty)
    if student.batch is not None:
        inputs, outputs = any_batch(inputs), any_batch(outputs)
    check_exported(graph, inputs=inputs, outputs=outputs)
    return graph_bytes(graph)
