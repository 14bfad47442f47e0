"""ONNX artifacts of lower precision that pass their gates; INT8 searches over remedies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_documents.export import Attempt, GateResult, LayerSensitivity, RangeSource
from mmkd_edge.bundle.manifest import Precision
from mmkd_edge.errors import GateError, UsageError
from mmkd_export.graph.calibration import Feeds, clipping_range, tensor_magnitudes
from mmkd_export.graph.onnx_graph import (
    Layer,
    check_exported,
    graph_bytes,
    is_worth_quantising,
    learnt_layers,
    select_layers,
)
from mmkd_export.precision.rewrite import FP16_LIMIT, half_graph, quantised_graph
from mmkd_export.student import ProvenStudent
from mmkd_export.verify.answers import NetworkAnswers, answers_from_model, graph_feeds
from mmkd_export.verify.artifacts import ProvenArtifact, RejectedError, prove_lower_precision, require_passed
from mmkd_export.verify.gate import NOTHING_WRITTEN, gate_result, gate_summary, require_windows
from mmkd_export.verify.proof_set import check_calibration

if TYPE_CHECKING:
    import onnx

_MAX_REVERTED = 0.5  # with more layers back in float32 INT8 gains nothing


def make_lower_precision(student: ProvenStudent, precision: Precision, *, ops: Sequence[str]) -> ProvenArtifact:
    """Make the ONNX artifact; GateError if it fails or too few windows judge, UsageError without calibration ones."""
    import onnx

    proof_set = student.proof_set
    require_windows(len(proof_set.judging.labels), what=f"{precision} graph", rule=proof_set.rule)
    model = onnx.load_from_string(student.fp32["onnx"])
    if precision == "fp16":
        half = half_graph(model, graph_feeds(proof_set.recorded, student.modality))
        proven = _prove(half.model, student, precision=precision)
        float_layers = {
            name: f"reaches {top:.3g}, above {FP16_LIMIT:g}, half of what FP16 holds"
            for name, top in half.too_large.items()
        }
        proven = replace(proven, report=msgspec.structs.replace(proven.report, float_layers=float_layers))
        return require_passed(proven, advice="Export without --precision fp16, or raise --max-drop-points")
    return _make_int8(student, model, ops=ops)


def _make_int8(student: ProvenStudent, model: onnx.ModelProto, *, ops: Sequence[str]) -> ProvenArtifact:
    proof_set, modality = student.proof_set, student.modality
    if len(proof_set.calibration) == 0:
        raise UsageError(
            f"{student.source}: --precision int8: expected real windows to calibrate with, got none beside the one "
            "that judges; name some with --calib DATA"
        )
    check_calibration(proof_set.calibration, model, modality)
    layers = select_layers(learnt_layers(model), ops=ops)
    student.check_has_int8()
    if not layers:
        raise GateError(
            "int8 graph: expected a layer that INT8 makes faster, found none: every product has a side below 16, "
            "or reads the sensor itself as convolutional features do; export without --precision int8"
        )

    def answer(graph: onnx.ModelProto) -> NetworkAnswers:
        return answers_from_model(graph_bytes(graph), proof_set.calibration, modality)

    def judge(graph: onnx.ModelProto) -> GateResult:
        got = answers_from_model(graph_bytes(graph), proof_set.judging.windows, modality)
        return gate_result(got, proof_set.judging, proof_set.rule, proof_set.task)

    feeds = list(graph_feeds(proof_set.calibration, modality))
    search = int8_graph(model, layers, feeds, answer=answer, gate=judge)
    proven = _prove(search.model, student, precision="int8")
    report = msgspec.structs.replace(
        proven.report,
        float_layers=_float_layers(learnt_layers(model), search, ops=ops),
        attempts=search.attempts,
        sensitivity=search.sensitivity,
    )
    if not search.attempts[-1].gate.passed:
        tried = "\n".join(f"  - {attempt.remedy}: {gate_summary(attempt.gate)}" for attempt in search.attempts)
        raise RejectedError(
            f"int8 graph: no remedy passed the gate{NOTHING_WRITTEN}. Calibrate with more windows (--calib), allow "
            f"more --max-drop-points, or export with --precision fp16 or fp32 alone. Tried in this order:\n{tried}",
            report=report,
        )
    return replace(proven, report=report)


def _prove(graph: onnx.ModelProto, student: ProvenStudent, *, precision: Precision) -> ProvenArtifact:
    check_exported(graph, inputs=student.entry.inputs, outputs=student.entry.outputs)
    return prove_lower_precision(graph_bytes(graph), student.proof_set, precision=precision)


def _float_layers(layers: Sequence[Layer], search: Int8Graph, *, ops: Sequence[str]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for layer in layers:
        if layer.name in search.layers:
            continue
        if layer is layers[0]:
            reason = "the first layer: its range is that of the sensor's glitches"
        elif not is_worth_quantising(layer.m, layer.k, layer.n):
            reason = f"a product of {layer.m} x {layer.k} times {layer.k} x {layer.n} gains nothing"
        elif layer.op not in ops:
            reason = f"{layer.op} is no faster in INT8 on the platform"
        elif any(attempt.remedy.startswith(layer.name) for attempt in search.attempts):
            reason = "among the most sensitive"
        else:
            reason = "the last layer"
        reasons[layer.name] = reason
    return reasons


@dataclass(frozen=True, kw_only=True)
class Int8Graph:
    """The last attempt and its INT8 layers; `sensitivity` has all layers, the most sensitive first."""

    model: onnx.ModelProto
    attempts: tuple[Attempt, ...]
    sensitivity: tuple[LayerSensitivity, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Variant:
    remedy: str
    method: RangeSource = "minmax"
    layers: tuple[Layer, ...]


def int8_graph(
    model: onnx.ModelProto,
    layers: tuple[Layer, ...],
    feeds: Sequence[Feeds],
    *,
    answer: Callable[[onnx.ModelProto], NetworkAnswers],
    gate: Callable[[onnx.ModelProto], GateResult],
) -> Int8Graph:
    """Quantise layers, with remedies until `gate` passes; `answer` runs a graph over the calibrating `feeds`."""
    magnitudes = tensor_magnitudes(model, sorted({layer.source for layer in layers}), feeds)
    expected = answer(model)

    def quantise(variant: _Variant) -> onnx.ModelProto:
        ranges = {layer.source: clipping_range(magnitudes[layer.source], variant.method) for layer in variant.layers}
        return quantised_graph(model, variant.layers, ranges)

    rows = []
    for layer in layers:
        got = answer(quantise(_Variant(remedy="", layers=(layer,))))
        p, q = (np.maximum(answers.probabilities.astype(np.float64), 1e-12) for answers in (expected, got))
        divergence = float((expected.probabilities * (np.log(p) - np.log(q))).sum(1).mean())
        rows.append(LayerSensitivity(layer=layer.name, divergence=divergence))
    sensitivity = sorted(rows, key=lambda row: -(row.divergence or 0.0))
    attempts: list[Attempt] = []
    for variant in _variants(layers, sensitivity):
        graph = quantise(variant)
        result = gate(graph)
        attempts.append(Attempt(remedy=variant.remedy, method=variant.method, layers=len(variant.layers), gate=result))
        if result.passed:
            break
    return Int8Graph(
        model=graph,
        attempts=tuple(attempts),
        sensitivity=tuple(sensitivity),
        layers=tuple(layer.name for layer in variant.layers),
    )


def _variants(layers: tuple[Layer, ...], sensitivity: Sequence[LayerSensitivity]) -> Iterator[_Variant]:
    variant = _Variant(remedy="all but the first layer", layers=layers)
    yield variant
    variant = replace(variant, remedy="ranges by percentile", method="percentile")
    yield variant
    if len(layers) > 1:
        variant = replace(variant, remedy="last layer in float32", layers=layers[:-1])
        yield variant
    for worst in sensitivity:
        rest = tuple(layer for layer in variant.layers if layer.name != worst.layer)
        if rest and len(rest) < len(variant.layers) and len(rest) >= len(layers) * (1 - _MAX_REVERTED):
            variant = replace(variant, remedy=f"{worst.layer} in float32", layers=rest)
            yield variant
