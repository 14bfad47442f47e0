"""INT8 from real windows, with a remedy for every way it can go wrong before it is given up.

Owns the order of the remedies and what speaks for each: what was tried, what it gave, which layers are sensitive. The
form of the graph is `qdq.py`'s, the rule is `gate.py`'s. Never calibrates on anything but real windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmkd_export.graph.calibration import CalibrationMethod, Feeds, Magnitudes, clipping_range, tensor_magnitudes
from mmkd_export.graph.layers import Layer, learnt_layers, learnt_ranges, select_layers
from mmkd_export.precision.activations import activation_histograms
from mmkd_export.precision.qdq import quantised_graph
from mmkd_export.precision.smooth import smoothed_graph
from mmkd_export.verify.parity import NetworkAnswers
from mmkd_report.schema.export import ActivationHistogram, Attempt, GateResult, LayerSensitivity, RangeSource

if TYPE_CHECKING:
    import onnx

MOST_REVERTED_SHARE = 0.5
"""Above this share of layers back in float32, INT8 has nothing left to give."""

LEARNT_REMEDY = "quantisation-aware distillation"


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How to quantise.

    Attributes:
        method: how ranges are chosen; None starts with those that training learnt, if it did, then takes minmax and may
            go on to percentile.
    """

    method: CalibrationMethod | None = None
    exclude: str | None = None
    ops: tuple[str, ...] = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class Int8Graph:
    """The end of the search.

    Attributes:
        model: the graph of the last attempt; it passed unless every remedy failed.
        sensitivity: of every layer, the most sensitive first.
        activations: what the layers read on the calibration windows, in the graph of the last attempt.
    """

    model: onnx.ModelProto
    passed: bool
    attempts: tuple[Attempt, ...]
    sensitivity: tuple[LayerSensitivity, ...]
    layers: tuple[str, ...]
    activations: tuple[ActivationHistogram, ...]


@dataclass(frozen=True, kw_only=True)
class _Variant:
    remedy: str
    method: RangeSource
    layers: tuple[Layer, ...]
    smooth: bool = False


AnswerFunction = Callable[["onnx.ModelProto"], NetworkAnswers]
GateFunction = Callable[["onnx.ModelProto"], GateResult]


def int8_graph(
    model: onnx.ModelProto,
    feeds: Sequence[Feeds],
    options: Int8Options,
    *,
    answer: AnswerFunction,
    gate: GateFunction,
) -> Int8Graph:
    """Quantises a float32 graph; goes through the remedies until one passes the gate.

    Args:
        model: the float32 graph; not changed.
        feeds: the graph's inputs for the calibration windows.
        options: how.
        answer: runs a graph over the calibration windows.
        gate: judges a graph, on other windows.

    Raises:
        UsageError: `options.exclude` matches no layer.
    """
    layers = select_layers(learnt_layers(model), exclude=options.exclude, ops=options.ops)
    search = _Search(model=model, feeds=feeds)
    sensitivity = _sensitivity(search, layers, options.method or "minmax", answer=answer)
    attempts: list[Attempt] = []
    variant, graph = _Variant(remedy="", method="minmax", layers=()), model
    learnt = learnt_ranges(model)
    for variant in _variants(layers, sensitivity, options, learnt=learnt):
        graph = search.graph(variant)
        facts = gate(graph)
        attempts.append(Attempt(remedy=variant.remedy, method=variant.method, layers=len(variant.layers), gate=facts))
        if facts.passed:
            break
    return Int8Graph(
        model=graph,
        passed=bool(attempts) and attempts[-1].gate.passed,
        attempts=tuple(attempts),
        sensitivity=sensitivity,
        layers=tuple(layer.name for layer in variant.layers),
        activations=search.activations(variant),
    )


class _Search:
    """Graphs for variants; the magnitudes are measured once for each of the two float32 graphs."""

    def __init__(self, *, model: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
        self._model = model
        self._feeds = feeds
        self._learnt = learnt_ranges(model)
        self._measured: dict[bool, tuple[onnx.ModelProto, dict[str, Magnitudes]]] = {}

    def graph(self, variant: _Variant) -> onnx.ModelProto:
        """Gives the quantised graph of a variant."""
        model, magnitudes = self._measure(smooth=variant.smooth)
        layers = variant.layers
        if variant.smooth:  # the same layers, found in the smoothed graph
            names = {layer.name for layer in layers}
            layers = tuple(layer for layer in learnt_layers(model) if layer.name in names)
        return quantised_graph(model, layers, self._ranges(magnitudes, layers, variant.method))

    def activations(self, variant: _Variant) -> tuple[ActivationHistogram, ...]:
        """Gives what the layers of a variant's graph read, and how much of it INT8 represents."""
        model, magnitudes = self._measure(smooth=variant.smooth)
        layers = learnt_layers(model)
        names = {layer.name for layer in variant.layers}
        quantised = [layer for layer in layers if layer.name in names]
        return activation_histograms(magnitudes, layers, self._ranges(magnitudes, quantised, variant.method))

    def _measure(self, *, smooth: bool) -> tuple[onnx.ModelProto, dict[str, Magnitudes]]:
        if smooth not in self._measured:
            model = smoothed_graph(self._model, self._feeds) if smooth else self._model
            sources = sorted({layer.source for layer in learnt_layers(model)})
            self._measured[smooth] = model, tensor_magnitudes(model, sources, self._feeds)
        return self._measured[smooth]

    def _ranges(
        self, magnitudes: Mapping[str, Magnitudes], layers: Sequence[Layer], method: RangeSource
    ) -> dict[str, float]:
        if method == "learnt":
            return {layer.source: self._learnt[layer.name] for layer in layers}
        return {layer.source: clipping_range(magnitudes[layer.source], method) for layer in layers}

    @property
    def model(self) -> onnx.ModelProto:
        """The float32 graph."""
        return self._model


def _variants(
    layers: tuple[Layer, ...],
    sensitivity: Sequence[LayerSensitivity],
    options: Int8Options,
    *,
    learnt: Mapping[str, float],
) -> Iterator[_Variant]:
    """The remedies in order; each keeps those before it, except that calibration begins anew after learnt ranges."""
    if not layers:
        return
    if options.method is None and all(layer.name in learnt for layer in layers):
        yield _Variant(remedy=LEARNT_REMEDY, method="learnt", layers=layers)
    variant = _Variant(remedy="all but the first layer", method=options.method or "minmax", layers=layers)
    yield variant
    if options.method is None:
        variant = replace(variant, remedy="ranges by percentile", method="percentile")
        yield variant
    if len(layers) > 1:
        variant = replace(variant, remedy="last layer in float32", layers=layers[:-1])
        yield variant
    variant = replace(variant, remedy="SmoothQuant", smooth=True)
    yield variant
    least = len(layers) * (1 - MOST_REVERTED_SHARE)
    for worst in sensitivity:
        kept = tuple(layer for layer in variant.layers if layer.name != worst.layer)
        if len(kept) < len(variant.layers) and kept and len(kept) >= least:
            variant = replace(variant, remedy=f"{worst.layer} in float32", layers=kept)
            yield variant


def _sensitivity(
    search: _Search, layers: Sequence[Layer], method: CalibrationMethod, *, answer: AnswerFunction
) -> tuple[LayerSensitivity, ...]:
    expected = answer(search.model)
    rows: list[tuple[float, LayerSensitivity]] = []
    for layer in layers:
        got = answer(search.graph(_Variant(remedy="", method=method, layers=(layer,))))
        divergence = _divergence(expected, got)
        row = LayerSensitivity(
            layer=layer.name,
            rows=layer.m,
            inputs=layer.k,
            outputs=layer.n,
            divergence=divergence,
            max_abs_error=float(np.abs(expected.logits - got.logits).max()),
        )
        rows.append((divergence, row))
    return tuple(row for _, row in sorted(rows, key=lambda found: -found[0]))


def _divergence(expected: NetworkAnswers, got: NetworkAnswers) -> float:
    p, q = expected.probabilities.astype(np.float64), got.probabilities.astype(np.float64)
    tiny = 1e-12
    return float((p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny)))).sum(1).mean())
