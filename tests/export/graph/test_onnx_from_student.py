import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import mmkd_models
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_from_student import onnx_from_student, onnx_from_teacher
from mmkd_export.verify.answers import answers_from_student
from mmkd_models.networks.config import EncoderConfig, TeacherConfig
from mmkd_models.networks.teacher import Teacher
from tests.export.students import make_student


def test_the_graph_has_the_promised_signature_and_says_nothing_of_its_maker(student_graph, student):
    model = onnx.load_from_string(student_graph)
    tensors = [*model.graph.input, *model.graph.output]
    shapes = {t.name: [axis.dim_value for axis in t.type.tensor_type.shape.dim] for t in tensors}
    assert shapes == {"acc": [1, 64, 3], "acc_present": [1, 64, 3], "logits": [1, 4], "probabilities": [1, 4]}
    assert {t.type.tensor_type.elem_type for t in tensors} == {onnx.TensorProto.FLOAT}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version == 10
    root = str(Path(mmkd_models.__file__).parents[2])
    for trace in (root, sys.prefix, ".py", "line ", "pkg.torch", "namespace", "mmkd_models", torch.__version__):
        assert trace.encode() not in student_graph, trace
    found = onnxruntime.InferenceSession(student_graph).get_modelmeta().custom_metadata_map
    assert found["mmkd_edge.labels"] == '["rest","walk","run","fall"]'
    assert '"channels":["x","y","z"]' in found["mmkd_edge.modality.acc"]


def test_an_export_of_another_window_size_leaves_the_network_and_the_terminal_alone():
    modality = ModalitySpec(name="m", channels=("c",), rate_hz=1.0, samples=31)  # one that nothing has converted before
    student = make_student(modality=modality, task=TaskSpec(labels=("a", "b")), windows=2)
    before = {name: tensor.clone() for name, tensor in student.state.items()}
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        graph = onnx_from_student(student)
    assert (out.getvalue(), err.getvalue()) == ("", "")
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state.items())
    values, present = prepare_batch(student.carried.windows[:1], modality)
    logits, _ = onnxruntime.InferenceSession(graph).run(None, {"m": values, "m_present": present})
    np.testing.assert_allclose(logits, answers_from_student(student, student.carried.windows).logits[:1], atol=5e-6)


def _teacher():
    modalities = (
        ModalitySpec(name="acc", channels=("x", "y"), rate_hz=50.0, samples=40),
        ModalitySpec(name="heat", channels=("t",), rate_hz=4.0, samples=12),
    )
    encoder = EncoderConfig(width=16, heads=2, depth=1, spectrum_bands=4)
    return Teacher(modalities, 3, TeacherConfig(preset="toy", encoder=encoder, fusion_depth=1)).eval(), modalities


def test_a_teacher_graph_takes_every_modality_and_answers_as_torch_does():
    teacher, modalities = _teacher()
    session = onnxruntime.InferenceSession(onnx_from_teacher(teacher, modalities))
    assert [tensor.name for tensor in session.get_inputs()] == ["acc", "acc_present", "heat", "heat_present"]
    rng = np.random.default_rng(0)
    feeds = {}
    for modality in modalities:
        feeds[modality.name] = rng.standard_normal((1, *modality.shape)).astype(np.float32)
        feeds[f"{modality.name}_present"] = np.ones((1, *modality.shape), dtype=np.float32)
    logits, probabilities = session.run(["logits", "probabilities"], feeds)
    parts = {name: torch.from_numpy(value) for name, value in feeds.items()}
    with torch.no_grad():
        expected = teacher({m.name: (parts[m.name], parts[f"{m.name}_present"]) for m in modalities}).logits
    np.testing.assert_allclose(logits, expected.numpy(), atol=5e-6)
    np.testing.assert_allclose(probabilities, torch.softmax(expected, -1).numpy(), atol=5e-6)


def test_modalities_in_another_order_than_the_teachers_are_refused():
    teacher, modalities = _teacher()
    with pytest.raises(UsageError) as error:
        onnx_from_teacher(teacher, modalities[::-1])
    assert str(error.value) == "teacher: expected the modalities acc, heat, got heat, acc"
