"""Students of every kind with a `.tflite` that litert-torch 0.10 made, run by ai-edge-litert without that converter.

tests/export/targets/test_litert_kinds.py, which needs them, makes such bundles.
"""

from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import Bundle, EdgePredictor

FOLDER = Path(__file__).parents[2] / "files" / "litert"
# Sums of float32 in another order, as another engine adds them up: some 2**-24 each, of logits below 1.
TOLERANCE = 2e-5


@pytest.mark.usefixtures("quick_opening")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.edge")), ids=lambda path: path.stem)
def test_a_tflite_that_a_converter_made_is_taken_and_answers_as_onnxruntime_does(path):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    with Bundle.open(path) as bundle:
        entry = bundle.manifest.models[0]
        made = [one.precision for one in entry.artifacts if one.format == "tflite"]
        windows = bundle.golden(entry.name).windows
    assert made == (["fp32", "int8"] if path.stem == "transformer" else ["fp32"])
    for precision in made:
        with (
            EdgePredictor.open(path, backend="litert", precision=precision, threads=1) as ours,
            EdgePredictor.open(path, backend="ort", precision="fp32", threads=1) as reference,
        ):
            tested = ours.selftest()
            assert (tested.windows, tested.label_agreement) == (len(windows), 1.0)
            answers = [[one.predict(window).probabilities for window in windows] for one in (ours, reference)]
            np.testing.assert_allclose(*answers, rtol=0, atol=tested.tolerance + TOLERANCE)


def test_a_tflite_steps_along_a_stream_as_onnxruntime_does():
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    path, answers = FOLDER / "causal.edge", []
    for backend in ("litert", "ort"):
        with EdgePredictor.open(path, backend=backend, threads=1) as predictor:
            assert predictor.info().step_artifact == f"acc/step.fp32.{'tflite' if backend == 'litert' else 'onnx'}"
            rows = np.concatenate(list(predictor.bundle.golden("acc").windows[:4]))
            answers.append([found.probabilities for found in predictor.stream(hop=4).push(rows)])
    assert len(answers[0]) > 20
    np.testing.assert_allclose(*answers, rtol=0, atol=TOLERANCE)
