"""A student of a derived sensor, from its checkpoint to answers for the recorded sensor's windows."""

import numpy as np

from mmkd_edge import EdgePredictor
from mmkd_edge.derive import derive, derived_modality
from mmkd_export.inspect.files import inspect_file
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_models.training.checkpoint import read_student, write_student
from tests.export.students import ACC, make_student


def test_a_bundle_says_its_derivation_and_answers_for_both_sensors(tmp_path):
    modality = derived_modality("acc[x,z]@25Hz,8bit,-9..9", [ACC])
    assert modality is not None
    write_student(tmp_path / "student.ckpt", make_student(modality=modality))
    assert read_student(tmp_path / "student.ckpt").modality == modality
    plan = ExportPlan(source=tmp_path / "student.ckpt", output=tmp_path / "student.edge")
    export(plan)
    stated = "acc[x,z]@25Hz,8bit,-9..9, from acc: 64 samples x x, y, z at 50 Hz"
    assert inspect_file(tmp_path / "student.ckpt")[f"{modality.name}.derived"] == stated
    assert inspect_file(tmp_path / "student.edge")[f"{modality.name}.derived"] == stated
    windows = np.random.default_rng(5).normal(size=(4, *ACC.shape)).astype(np.float32)
    windows[1, 10:14] = np.nan
    with EdgePredictor.open(tmp_path / "student.edge") as predictor:
        assert predictor.modality.derived == modality.derived
        for window, answer in zip(windows, predictor.predict_batch(windows), strict=True):
            cheap = predictor.predict({modality.name: derive(window, modality)})
            np.testing.assert_array_equal(answer.probabilities, cheap.probabilities)
        bundle = predictor.bundle
        assert bundle is not None
        card = bundle.read("README.md").decode()
    assert (
        "This sensor is `acc[x,z]@25Hz,8bit,-9..9`, derived from `acc`. A device may have it, or derive it from "
        '`{"acc": window}`, (64, 3) at 50 Hz, as training did.'
    ) in card
