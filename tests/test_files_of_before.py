"""Files that earlier code wrote still open, and answer as they did.

`tests/before` is never written anew. `logits.npz` holds what the networks of its checkpoints answered to the test split
of its dataset, by the code that wrote them. `litert` holds students of every kind with a `.tflite`, as litert-torch and
ai-edge-quantizer 0.10 made it; tests/export/targets/test_litert_kinds.py, which needs these converters, makes such.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from checks.study.files import read_seeds, read_sizes
from mmkd_edge import Bundle, EdgePredictor
from mmkd_models.data import open_dataset
from mmkd_models.data.checking.check import check_dataset
from mmkd_models.data.labelled import ALL
from mmkd_models.data.windows import Windows
from mmkd_models.study.results import seed_file
from mmkd_models.training.checkpoint import read_student, read_teacher
from mmkd_models.training.predict import logits_of
from mmkd_models.training.teacher_set import OutOfFoldCheckpoint, read_teachers
from mmkd_models.trials.space import StudyConditions

ROOT = Path(__file__).parents[1]
BEFORE = ROOT / "tests" / "before"
TFLITES = sorted((BEFORE / "litert").glob("*.edge"))
# Sums of float32 in another order, as another release of torch, another processor or another engine adds them up:
# some 2**-24 each, of logits below 1 in networks of a few layers. What changed its meaning differs by far more.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def logits() -> dict[str, NDArray[np.float32]]:
    with np.load(BEFORE / "logits.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def windows() -> Windows:
    return open_dataset(BEFORE / "two").split("test")


def test_the_dataset_is_sound() -> None:
    report = check_dataset(BEFORE / "two")
    assert report.warnings == ()
    assert report.facts[:3] == (
        "56 windows: train 32, valid 16, test 8",
        "14 groups, none in two splits",
        "2 classes, all in train; 0 unlabelled windows",
    )


@pytest.mark.parametrize("name", ["student", "causal"])
def test_a_student_answers_as_it_did(name: str, windows: Windows, logits: dict[str, NDArray[np.float32]]) -> None:
    checkpoint = read_student(BEFORE / f"{name}.ckpt")
    assert checkpoint.carried is not None
    answers = logits_of(checkpoint.network(), windows, modality="acc")
    np.testing.assert_allclose(answers, logits[name], rtol=0, atol=TOLERANCE)


def test_a_teacher_answers_as_it_did(windows: Windows, logits: dict[str, NDArray[np.float32]]) -> None:
    answers = logits_of(read_teacher(BEFORE / "teacher.ckpt").network(), windows, modality=None)
    np.testing.assert_allclose(answers, logits["teacher"], rtol=0, atol=TOLERANCE)


def test_teachers_of_folds_open() -> None:
    found = read_teachers(BEFORE / "teachers.ckpt")
    assert isinstance(found, OutOfFoldCheckpoint)
    assert len(found.states) == 2
    assert len(found.groups) == len(found.parts) == 8


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize("name", ["student", "causal"])
def test_a_bundle_passes_its_own_test_and_answers_as_its_checkpoint_did(
    name: str, backend: str, windows: Windows, logits: dict[str, NDArray[np.float32]]
) -> None:
    pytest.importorskip({"ort": "onnxruntime"}.get(backend, backend))
    with EdgePredictor.open(BEFORE / f"{name}.edge", backend=backend, threads=1) as predictor:
        tested = predictor.selftest()
        assert tested.windows == 16
        assert tested.label_agreement == 1.0
        shares = [one.probabilities for one in predictor.predict_batch(list(windows.take(np.arange(8))["acc"]))]
    expected = np.exp(logits[name]) / np.exp(logits[name]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=TOLERANCE)


def test_a_causal_bundle_steps_to_the_answer_for_the_whole_window(windows: Windows) -> None:
    window = windows.take(np.arange(1))["acc"][0]
    with EdgePredictor.open(BEFORE / "causal.edge", backend="ort", threads=1) as predictor:
        assert predictor.entry.streaming is not None
        whole = predictor.predict(window)
        (stepped,) = predictor.stream(hop=predictor.modality.samples).push(window)
    np.testing.assert_allclose(stepped.probabilities, whole.probabilities, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("path", TFLITES, ids=lambda path: path.stem)
def test_a_tflite_that_a_converter_made_is_taken_and_answers_as_onnxruntime_does(path: Path) -> None:
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


def test_a_tflite_steps_along_a_stream_as_onnxruntime_does() -> None:
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    path, answers = BEFORE / "litert" / "causal.edge", []
    for backend in ("litert", "ort"):
        with EdgePredictor.open(path, backend=backend, threads=1) as predictor:
            assert predictor.info().step_artifact == f"acc/step.fp32.{'tflite' if backend == 'litert' else 'onnx'}"
            rows = np.concatenate(list(predictor.bundle.golden("acc").windows[:4]))
            answers.append([found.probabilities for found in predictor.stream(hop=4).push(rows)])
    assert len(answers[0]) > 20
    np.testing.assert_allclose(*answers, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("folder", "seeds", "sizes"), [(BEFORE / "results", 2, 0), (ROOT / "docs" / "results" / "study", 50, 5)]
)
def test_results_of_studies_are_read(folder: Path, seeds: int, sizes: int) -> None:
    found = read_seeds(folder)
    assert len(found) == seeds
    assert all(one.trials and one.teachers for one in found)
    assert len(read_sizes(folder)) == sizes


def test_conditions_of_finished_studies_say_what_they_said_and_so_name_the_same_trials() -> None:
    for path in sorted((BEFORE / "results").glob("*-seed*.json")):
        written = json.loads(path.read_bytes())["conditions"]
        found = msgspec.json.decode(json.dumps(written), type=StudyConditions)
        again = json.loads(msgspec.json.encode(found))
        assert set(again) == set(written)
        assert (again["label_share"], found.labelled) == (1.0, ALL)
        assert seed_file(path.parent, "two", found, int(path.stem[-1])) == path
