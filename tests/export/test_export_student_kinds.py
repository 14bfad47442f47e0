"""Students of convolutional features and hybrids: exported, and run by every engine that is here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.backends.base import open_backend
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.graph.onnx_graph import learnt_layers, select_layers
from mmkd_export.inspect.files import inspect_file
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.verify.answers import answers_from_student, with_missing_samples
from mmkd_export.verify.windows import plausible_range
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student
from tests.export.students import make_student, of_features

KINDS = pytest.mark.parametrize("kind", ["rocket", "hybrid"])


@pytest.fixture(scope="module")
def students() -> dict[str, StudentCheckpoint]:
    """By kind: features of the carried windows, half of them pruned, and heads with random weights."""
    return {kind: of_features(make_student(), kind) for kind in ("rocket", "hybrid")}


@pytest.fixture(scope="module")
def graphs(students: dict[str, StudentCheckpoint]) -> dict[str, bytes]:
    return {kind: onnx_from_student(student) for kind, student in students.items()}


@KINDS
@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_every_engine_answers_as_torch_does_also_with_gaps(
    students: dict[str, StudentCheckpoint], graphs: dict[str, bytes], kind: str, engine: str
) -> None:
    pytest.importorskip({"ort": "onnxruntime"}.get(engine, engine))
    student = students[kind]
    assert student.carried is not None
    windows = np.concatenate([student.carried.windows, with_missing_samples(student.carried.windows, seed=0)])
    windows[-1] = np.nan
    backend = open_backend(engine, graphs[kind], threads=1)  # type: ignore[arg-type]
    expected = answers_from_student(student, windows)
    for number, window in enumerate(windows):
        values, present = prepare_batch(window[None], student.modality)
        logits, _ = backend.run({"acc": values, "acc_present": present})
        np.testing.assert_allclose(logits[0], expected.logits[number], atol=2e-5)
    backend.close()


@KINDS
def test_convolutional_features_stay_float32_in_int8(graphs: dict[str, bytes], kind: str) -> None:
    model = onnx.load_from_string(graphs[kind])
    layers = learnt_layers(model)
    assert any(layer.name.startswith("rocket.") for layer in layers)
    chosen = select_layers(layers, ops=("Conv", "Gemm", "MatMul"))
    assert not any(layer.name.startswith("rocket.") for layer in chosen)
    assert bool(chosen) == (kind == "hybrid")


@KINDS
def test_a_bundle_of_the_kind_tests_itself(students: dict[str, StudentCheckpoint], kind: str, tmp_path: Path) -> None:
    write_student(tmp_path / "student.ckpt", students[kind])
    assert inspect_file(tmp_path / "student.ckpt")["student_kind"] == f"{kind}, 84 convolutional features"
    plan = ExportPlan(
        source=tmp_path / "student.ckpt",
        output=tmp_path / "student.edge",
        accept_unjudged=True,
        precisions=("fp16",) if kind == "rocket" else ("fp16", "int8"),
        platform="jp6.2",
        max_drop_points=100.0,
    )
    export(plan)
    for precision in ("fp32", *plan.precisions):
        with EdgePredictor.open(tmp_path / "student.edge", backend="ort", precision=precision) as predictor:
            assert predictor.selftest().label_agreement >= (1.0 if precision == "fp32" else 0.9)


@pytest.mark.parametrize(("value_range", "golden"), [("auto", "synthetic"), ("none", "real")])
def test_features_alone_have_a_range_and_golden_windows_by_the_statistics_of_their_training(
    students: dict[str, StudentCheckpoint],
    tmp_path: Path,
    value_range: Literal["auto", "none"],
    golden: Literal["real", "synthetic"],
) -> None:
    student = students["rocket"]
    assert student.carried is not None
    mean, std = (student.state[f"rocket.{name}"].tolist() for name in ("mean", "std"))
    write_student(tmp_path / "student.ckpt", student)
    plan = ExportPlan(
        source=tmp_path / "student.ckpt", output=tmp_path / "student.edge", value_range=value_range, golden=golden
    )
    (entry,) = export(plan).manifest.models
    expected = plausible_range(student.carried.windows, mean=mean, std=std)
    assert expected is not None
    assert entry.modality.range == (expected if value_range == "auto" else None)
    with EdgePredictor.open(plan.output, backend="ort") as predictor:
        assert predictor.selftest().label_agreement == 1.0
