from __future__ import annotations

import onnx
import pytest

from mmkd_export.graph.onnx_graph import after_first_layer, learnt_layers, select_layers

ALL = ("Conv", "Gemm", "MatMul")


@pytest.fixture(scope="module")
def model(student_graph: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(student_graph)


def test_layers_are_named_and_measured_as_the_network_is_built(model: onnx.ModelProto):
    # 64 samples halve to 32 positions; width 16, so D = 16, with 2 tokens more.
    found = {layer.name: (layer.op, layer.m, layer.k, layer.n) for layer in learnt_layers(model)}
    assert found == {
        "encoder.stem.0": ("Conv", 32, 45, 16),
        "encoder.spectrum": ("Gemm", 1, 21, 16),  # 7 bands of 3 channels: the lowest two of 8 fall together
        "encoder.statistics": ("Gemm", 1, 48, 16),
        "encoder.blocks.0.attention.project": ("MatMul", 34, 16, 48),
        "encoder.blocks.0.attention.out": ("MatMul", 34, 16, 16),
        "encoder.blocks.0.feedforward.up": ("MatMul", 34, 16, 32),
        "encoder.blocks.0.feedforward.down": ("MatMul", 34, 32, 16),
        "pool.mix": ("Gemm", 1, 48, 16),
        "head": ("Gemm", 1, 16, 4),
    }


def test_the_first_layer_and_matrix_vector_products_are_not_quantised(model: onnx.ModelProto):
    worth = {layer.name for layer in select_layers(learnt_layers(model), ops=ALL)}
    # Not the stem: it is the first layer and reads the sensor itself.
    assert worth == {
        "encoder.blocks.0.attention.project",
        "encoder.blocks.0.attention.out",
        "encoder.blocks.0.feedforward.up",
        "encoder.blocks.0.feedforward.down",
    }


def test_the_front_end_is_in_front_of_the_first_layer(model: onnx.ModelProto):
    behind = after_first_layer(model)
    front = [node for index, node in enumerate(model.graph.node) if index not in behind]
    constants = {name for node in front for name in node.input if name.startswith("student.encoder")}
    assert constants == {
        "student.encoder.front.mean",
        "student.encoder.front.std",
        "student.encoder.front.spectrum_basis",
        "student.encoder.front.spectrum_bands",
        "student.encoder.front.levels",
        "student.encoder.coverage",
    }
