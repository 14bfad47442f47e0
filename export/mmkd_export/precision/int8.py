"""INT8 from real windows: the search for a graph that passes its gate, with a remedy for every way it can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmkd_export.graph.calibration import BINS, CalibrationMethod, Feeds, Magnitudes, clipping_range, tensor_magnitudes
from mmkd_export.graph.layers import Layer, layers_by_source, learnt_layers, learnt_ranges, select_layers
from mmkd_export.precision.qdq import quantised_graph, smoothed_graph
from mmkd_export.verify.answers import NetworkAnswers
from mmkd_report.schema.export import ActivationHistogram, Attempt, GateResult, LayerSensitivity, RangeSource

if TYPE_CHECKING:
    import onnx

REPORTED_BINS = 64
MOST_REVERTED = 0.5
"""If more than this fraction of the layers went back to float32, INT8 would gain nothing."""


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How to quantise.

    Attributes:
        method: how ranges are chosen; None starts with those that training learnt, if it did, then tries minmax and
            percentile.
        exclude: regular expression of layers that stay float32.
        ops: operators that the platform runs faster in INT8.
    """

    method: CalibrationMethod | None = None
    exclude: str | None = None
    ops: tuple[str, ...] = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class Int8Graph:
    """The end of the search.

    Attributes:
        model: the graph of the last attempt.
        sensitivity: every layer, the most sensitive first.
        layers: names of the layers in INT8.
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
    model: onnx.ModelProto, feeds: Sequence[Feeds], options: Int8Options, *, answer: AnswerFunction, gate: GateFunction
) -> Int8Graph:
    """Quantise a float32 graph; try the remedies until one passes the gate.

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
    search = _Search(model, feeds)
    expected = answer(model)
    sensitivity = sorted(
        (
            _sensitivity(layer, expected, answer(search.graph(_Variant(remedy="", method=method, layers=(layer,)))))
            for method in [options.method or "minmax"]
            for layer in layers
        ),
        key=lambda row: -(row.divergence or 0.0),
    )
    attempts: list[Attempt] = []
    variant, graph = _Variant(remedy="", method="minmax", layers=()), model
    for variant in _variants(layers, sensitivity, options, learnt=search.learnt):
        graph = search.graph(variant)
        result = gate(graph)
        attempts.append(Attempt(remedy=variant.remedy, method=variant.method, layers=len(variant.layers), gate=result))
        if result.passed:
            break
    return Int8Graph(
        model=graph,
        passed=bool(attempts) and attempts[-1].gate.passed,
        attempts=tuple(attempts),
        sensitivity=tuple(sensitivity),
        layers=tuple(layer.name for layer in variant.layers),
        activations=search.activations(variant),
    )


class _Search:
    """Graphs for variants; the magnitudes are measured once for each of the two float32 graphs."""

    def __init__(self, model: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
        self._model, self._feeds = model, feeds
        self.learnt = learnt_ranges(model)
        self._measured: dict[bool, tuple[onnx.ModelProto, tuple[Layer, ...], dict[str, Magnitudes]]] = {}

    def graph(self, variant: _Variant) -> onnx.ModelProto:
        model, layers, magnitudes = self._measure(variant)
        return quantised_graph(model, layers, self._ranges(magnitudes, layers, variant.method))

    def activations(self, variant: _Variant) -> tuple[ActivationHistogram, ...]:
        model, quantised, magnitudes = self._measure(variant)
        return activation_histograms(
            magnitudes, learnt_layers(model), self._ranges(magnitudes, quantised, variant.method)
        )

    def _measure(self, variant: _Variant) -> tuple[onnx.ModelProto, tuple[Layer, ...], dict[str, Magnitudes]]:
        """Return the float32 graph of a variant, its layers in that graph, and the magnitudes that all layers read."""
        if variant.smooth not in self._measured:
            model = smoothed_graph(self._model, self._feeds) if variant.smooth else self._model
            layers = learnt_layers(model)
            magnitudes = tensor_magnitudes(model, sorted({layer.source for layer in layers}), self._feeds)
            self._measured[variant.smooth] = model, layers, magnitudes
        model, layers, magnitudes = self._measured[variant.smooth]
        names = {layer.name for layer in variant.layers}
        return model, tuple(layer for layer in layers if layer.name in names), magnitudes

    def _ranges(
        self, magnitudes: Mapping[str, Magnitudes], layers: Sequence[Layer], method: RangeSource
    ) -> dict[str, float]:
        if method == "learnt":
            return {layer.source: self.learnt[layer.name] for layer in layers}
        return {layer.source: clipping_range(magnitudes[layer.source], method) for layer in layers}


def _variants(
    layers: tuple[Layer, ...],
    sensitivity: Sequence[LayerSensitivity],
    options: Int8Options,
    *,
    learnt: Mapping[str, float],
) -> Iterator[_Variant]:
    """Yield the remedies in order; each keeps those before it, except that calibration follows learnt ranges."""
    if not layers:
        return
    if options.method is None and all(layer.name in learnt for layer in layers):
        yield _Variant(remedy="quantisation-aware distillation", method="learnt", layers=layers)
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
    for worst in sensitivity:
        rest = tuple(layer for layer in variant.layers if layer.name != worst.layer)
        if rest and len(rest) < len(variant.layers) and len(rest) >= len(layers) * (1 - MOST_REVERTED):
            variant = replace(variant, remedy=f"{worst.layer} in float32", layers=rest)
            yield variant


def _sensitivity(layer: Layer, expected: NetworkAnswers, got: NetworkAnswers) -> LayerSensitivity:
    p, q = (np.maximum(answers.probabilities.astype(np.float64), 1e-12) for answers in (expected, got))
    return LayerSensitivity(
        layer=layer.name,
        rows=layer.m,
        inputs=layer.k,
        outputs=layer.n,
        divergence=float((expected.probabilities * (np.log(p) - np.log(q))).sum(1).mean()),
        max_abs_error=float(np.abs(expected.logits - got.logits).max()),
    )


def activation_histograms(
    magnitudes: Mapping[str, Magnitudes], layers: Sequence[Layer], ranges: Mapping[str, float]
) -> tuple[ActivationHistogram, ...]:
    """Return a histogram of a few dozen bins for every measured tensor, in the order in which the layers read them.

    Args:
        magnitudes: of each tensor.
        layers: of the graph, in order.
        ranges: the largest magnitude that is represented, for each quantised tensor.
    """
    return tuple(
        _histogram(magnitudes[tensor], names, ranges.get(tensor))
        for tensor, names in layers_by_source(layers).items()
        if tensor in magnitudes
    )


def _histogram(magnitudes: Magnitudes, layers: tuple[str, ...], represented: float | None) -> ActivationHistogram:
    top = magnitudes.top
    used = 1 if top == 0 else min(BINS, int(magnitudes.largest * BINS / top) + 1)
    merged = -(-used // REPORTED_BINS)
    counts = np.add.reduceat(magnitudes.counts[:used], np.arange(0, used, merged))
    return ActivationHistogram(
        layers=layers,
        largest=magnitudes.largest,
        represented=represented,
        bin_width=merged * top / BINS,
        counts=tuple(counts.tolist()),
    )
