from __future__ import annotations

import numpy as np
import pytest

from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.errors import BackendError
from mmkd_export.verify.answers import graph_feeds
from mmkd_models.training.checkpoint import StudentCheckpoint

pytest.importorskip("openvino", reason="needs pip install 'mmkd-edge[openvino]'")

from mmkd_edge.backends.openvino import OpenVinoBackend


def test_it_answers_as_onnxruntime_does(student_graph: bytes, student: StudentCheckpoint):
    ours, reference = OpenVinoBackend(student_graph), OrtBackend(student_graph)
    assert ours.inputs == reference.inputs
    assert ours.outputs == reference.outputs
    kept = []
    for window in graph_feeds(student.carried.windows, student.modality):
        logits, probabilities = ours.run(window)
        kept.append((logits, logits.copy()))
        expected = reference.run(window)
        # float32 in another order; in BF16, OpenVINO's own default, it would be 1e-2.
        np.testing.assert_allclose(logits, expected[0], atol=2e-6)
        np.testing.assert_allclose(probabilities, expected[1], atol=2e-6)
    assert all((answer == copy).all() for answer, copy in kept)  # answers belong to the caller


def test_a_closed_one_and_a_damaged_graph_give_errors(student_graph: bytes, student: StudentCheckpoint):
    backend = OpenVinoBackend(student_graph)
    backend.close()
    with pytest.raises(BackendError) as error:
        backend.run({})
    assert str(error.value) == "backend 'openvino' is closed; open it again"
    with pytest.raises(BackendError, match=r"^backend 'openvino' \(openvino .*\) cannot open the artifact: "):
        OpenVinoBackend(student_graph[:100])
