"""The `.tflite` of a student with INT8 products, through ai-edge-quantizer, which comes with litert-torch.

Owns which products those are: the ones that the ONNX artifact quantises as well, found in the same way. Weights are
INT8 with one scale for each output; what a product reads is quantised where it runs, with a range of its own for every
row of every window, so that nothing is calibrated and nothing clips. LiteRT's kernels take this form on x86 and ARM.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmkd_edge.errors import GateError
from mmkd_export.graph.layers import SMALLEST_PRODUCT, learnt_layers, select_layers

if TYPE_CHECKING:
    import onnx

_BITS = 8


@dataclass(frozen=True, kw_only=True)
class _Product:
    """One fully connected operator: m x k values times k x n weights."""

    output: str
    m: int
    k: int
    n: int

    @property
    def worth_quantising(self) -> bool:
        """The rule of `Layer.worth_quantising`."""
        return self.m > 1 and min(self.k, self.n) >= SMALLEST_PRODUCT


def int8_tflite(model: bytes, graph: onnx.ModelProto, *, exclude: str | None = None) -> bytes:
    """Quantises the fp32 `.tflite` of a student; the same model and library versions give the same bytes.

    Args:
        model: the fp32 `.tflite`.
        graph: the fp32 ONNX graph of the same student, whose layers have names.
        exclude: regular expression of layers that stay float32.

    Raises:
        UsageError: `exclude` matches no layer.
        GateError: no layer is left that INT8 makes faster.
    """
    from ai_edge_quantizer import qtyping, quantizer

    chosen = _chosen(model, graph, exclude=exclude)
    if not chosen:
        raise GateError(
            "int8 .tflite: expected a product that INT8 makes faster, found none: every one has a side below "
            f"{SMALLEST_PRODUCT}, or was excluded; export without --precision int8"
        )
    quantise = quantizer.Quantizer(bytearray(model))
    names = "|".join(re.escape(product.output) for product in chosen)
    # The library searches the expression in the name of every operator's output, behind which it writes a semicolon.
    quantise.add_dynamic_config(
        regex=f"^({names})(;|$)", operation_name=qtyping.TFLOperationName.FULLY_CONNECTED, num_bits=_BITS
    )
    with contextlib.redirect_stderr(io.StringIO()):  # version 0.10 shows one of its bars whatever it is asked
        result = quantise.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _chosen(model: bytes, graph: onnx.ModelProto, *, exclude: str | None) -> list[_Product]:
    """The products of the `.tflite` that are not excluded, by the names of the layers of the ONNX graph."""
    products = [product for product in _learnt_products(model) if product.worth_quantising]
    layers = learnt_layers(graph)
    named = select_layers(layers, exclude=None, ops=("Gemm", "MatMul"))
    if [(layer.m, layer.k, layer.n) for layer in named] != [(one.m, one.k, one.n) for one in products]:
        raise GateError(
            f"int8 .tflite: expected the {len(named)} products of the fp32 graph in its order, got {len(products)} "
            "others: the converter reordered them; export without --target litert or without --precision int8"
        )
    kept = {layer.name for layer in select_layers(layers, exclude=exclude, ops=("Gemm", "MatMul"))}
    return [product for product, layer in zip(products, named, strict=True) if layer.name in kept]


def _learnt_products(model: bytes) -> Iterator[_Product]:
    """The products behind the first convolution, in order: before it is the front-end, whose weights are constants."""
    from ai_edge_litert import schema_py_generated as schema

    content: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    (graph,) = content.subgraphs
    learnt: set[int] = set()
    for operator in graph.operators:
        code = content.operatorCodes[operator.opcodeIndex].builtinCode
        if code == schema.BuiltinOperator.CONV_2D or learnt.intersection(operator.inputs):
            learnt.update(operator.outputs)
            if code == schema.BuiltinOperator.FULLY_CONNECTED:
                yield _product(graph, operator)


def _product(graph: Any, operator: Any) -> _Product:
    output, weights = graph.tensors[operator.outputs[0]], graph.tensors[operator.inputs[1]]
    n, k = (int(size) for size in weights.shape)
    return _Product(output=output.name.decode(), m=_size(output.shape) // n, k=k, n=n)


def _size(shape: Sequence[int]) -> int:
    return math.prod(int(size) for size in shape)
