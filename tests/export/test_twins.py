"""A student with trees, and its twin of fewer members in the same bundle for engines that have no trees."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.inspect import selftest_facts
from mmkd_bench.tune import configs_for, tune_bundle
from mmkd_edge import Bundle, EdgePredictor, UsageError
from mmkd_edge.bundle.manifest import fallback_order
from mmkd_edge.opening import choice
from mmkd_edge.opening.choice import choose_configs
from mmkd_edge.opening.options import OpenOptions
from mmkd_export.inspect.files import inspect_file
from mmkd_export.packing.contents import join_bundles
from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan, only_student
from mmkd_export.verify.answers import answers_from_student
from mmkd_models.training.checkpoint import read_student, write_student
from tests.edge.said import said
from tests.export.students import export_student, make_student, of_features
from tests.export.test_export_student_kinds import AVERAGE, of_members

UNJUDGED = {"accept_unjudged": True, "max_drop_points": 100.0}


@pytest.fixture(scope="module")
def student():
    """Trees and a random transformer; the portable student has the transformer, convolutions and a head of its own."""
    found = of_members("transformer,trees")
    portable = of_features(make_student(windows=120), AVERAGE)
    facts = msgspec.structs.replace(found.facts, score=0.25)
    groups = np.arange(len(found.carried.labels)) // 20
    portable = replace(portable, facts=facts, carried=None)
    return replace(found, carried=replace(found.carried, groups=groups), portable=portable)


@pytest.fixture(scope="module")
def made(student, tmp_path_factory, native_engine):
    options = {"targets": ("native", "openvino"), "platform": "cpu-x86", "precisions": ("int8",), **UNJUDGED}
    return export_student(tmp_path_factory.mktemp("twins"), student, **options)


def test_a_portable_student_shares_its_tensors_in_the_file(student, made):
    path = made.path.with_suffix(".ckpt")
    read = read_student(path)
    assert (read.portable.config, read.portable.facts) == (student.portable.config, student.portable.facts)
    assert read.portable.carried is None
    assert read.carried.groups.tolist() == [number // 20 for number in range(120)]
    windows = read.carried.windows
    for pair in ((read, student), (read.portable, student.portable)):
        np.testing.assert_array_equal(*(answers_from_student(one, windows).logits for one in pair))
    own = [name for name in read.portable.state if name not in read.state or name.startswith("head.")]
    stored = sum(read.portable.state[name].numel() * 4 for name in own)
    write_student(path.with_name("alone.ckpt"), replace(student, portable=None))
    assert 0 < path.stat().st_size - path.with_name("alone.ckpt").stat().st_size < stored + 8000  # and names
    assert inspect_file(path)["portable"] == "transformer, convolutions, validation 0.2500"


def test_a_bundle_has_both_students_and_the_cost_of_the_twin(student, made):
    first, twin = made.manifest.models
    assert (first.name, first.members, first.twin_of) == ("acc", ("transformer", "trees"), None)
    assert (twin.name, twin.members, twin.twin_of) == ("acc-portable", ("transformer", "convolutions"), "acc")
    forms = ("fp32.onnx", "fp32.native", "int8.onnx", "int8.native")
    assert [artifact.file for artifact in first.artifacts] == [f"acc/model.{form}" for form in forms]
    assert [artifact.file for artifact in twin.artifacts] == [f"acc-portable/model.{form}" for form in forms[::2]]
    main_id, twin_id = made.manifest.model_id.split("+")
    assert (main_id[:-8], twin_id[:-8]) == ("toy_set-acc-toy-", "toy_set-acc-portable-toy-")
    assert [report.model_id for report in (made.report, *made.report.others)] == [main_id, twin_id]
    with Bundle.open(made.path) as bundle:
        golden = bundle.golden("acc-portable")
        expected = answers_from_student(student.portable, golden.windows).logits
        np.testing.assert_allclose(golden.logits, expected, atol=1e-5)
        card = bundle.read("README.md").decode()
    twin_facts = made.report.others[0].twin
    truth = golden.labels
    hits = [answers_from_student(one, golden.windows).logits.argmax(1) == truth for one in (student, student.portable)]
    balanced = [np.mean([hit[truth == label].mean() for label in range(4)]) for hit in hits]
    assert twin_facts.gain.mean == pytest.approx(100 * (balanced[1] - balanced[0]))
    assert twin_facts.gain.low <= twin_facts.gain.mean <= twin_facts.gain.high < 0
    assert (twin_facts.windows, twin_facts.groups) == (len(truth), 6)
    sentence = (
        "acc-portable (transformer, convolutions) answers instead of acc in engines without trees: balanced accuracy "
        f"{twin_facts.gain.mean:+.1f} points (95 % interval {twin_facts.gain.low:+.1f} to {twin_facts.gain.high:+.1f} "
        f"over 6 groups; {len(truth)} labelled windows, of those that chose both)."
    )
    assert made.report.others[0].twin_text == sentence
    assert made.report.twin_text == ""
    assert sentence in card
    facts = inspect_file(made.path)
    assert facts["acc.members"] == "transformer, trees"
    assert facts["acc-portable.twin_of"] == "acc"
    assert facts["acc-portable.twin"] == sentence


def test_the_student_answers_where_it_can_and_its_twin_where_an_engine_has_no_trees(made, native_engine):
    pytest.importorskip("openvino")
    with Bundle.open(made.path) as bundle:
        windows = bundle.golden("acc").windows[:5]
        expected = {name: bundle.golden(name).probabilities[:5] for name in ("acc", "acc-portable")}
    for backend, model in (("auto", "acc"), ("ort", "acc"), ("openvino", "acc-portable")):
        with EdgePredictor.open(made.path, backend=backend, threads=1) as predictor:
            assert [entry.name for entry in predictor.entries] == [model]
            assert predictor.info().model == model
            assert predictor.selftest().label_agreement == 1.0
            got = [predictor.predict(window) for window in windows]
        assert {answer.modality for answer in got} == {"acc"}
        np.testing.assert_allclose([answer.probabilities for answer in got], expected[model], atol=2e-4)
    with EdgePredictor.open(made.path, backend="openvino", precision="int8") as predictor:
        assert predictor.info().artifact == "acc-portable/model.int8.onnx"
        assert predictor.info().reason.endswith("; 'acc-portable' is the twin of 'acc', which it cannot run")
    assert selftest_facts(made.path).keys() == {
        *("selftest.fp32", "selftest.fp32.native", "selftest.int8", "selftest.int8.native"),
        *("acc-portable.selftest.fp32.openvino", "acc-portable.selftest.int8.openvino"),
    }


def _chosen(path, backend="auto", precision="fp32"):
    options = OpenOptions(backend=backend, precision=precision, threads=1)
    with Bundle.open(path) as bundle:
        (sensor,) = choose_configs(bundle, options)
    assert sensor.entry.name == "acc"
    return [(entry.name, config.backend) for entry, config in sensor.configs]


def test_a_twin_comes_after_everything_that_runs_the_student(made, monkeypatch, native_engine):
    pytest.importorskip("openvino")
    installed = {"native", "ort", "openvino"}
    monkeypatch.setattr(choice, "why_absent", lambda name: "" if name in installed else "absent")
    monkeypatch.setattr(choice, "is_installed", lambda name: name in installed)
    of_twin = [("acc-portable", "openvino"), ("acc-portable", "ort")]
    assert _chosen(made.path) == [("acc", "native"), ("acc", "ort"), *of_twin]
    installed -= {"native", "ort"}
    assert _chosen(made.path) == [("acc-portable", "openvino")]
    with EdgePredictor.open(made.path, threads=1) as predictor:
        info = predictor.info()
    assert info.model == "acc-portable"
    assert info.reason.endswith("; openvino is installed; no backend opens 'acc' here, whose twin this is")
    assert "backend 'openvino': it has no trees" in info.rejected
    assert said(UsageError, _chosen, made.path, "litert") == (
        "model 'acc' has no artifact of precision 'fp32' for backend 'litert': 'acc/model.fp32.onnx' has the format "
        "onnx, the backend runs tflite; 'acc/model.fp32.native' has the format native, the backend runs tflite; "
        "'acc/model.int8.onnx' has the format onnx, the backend runs tflite; 'acc/model.int8.native' has the format "
        "native, the backend runs tflite; take the backend native or ort, or export the student with --target litert"
    )


def test_tuning_times_each_student_in_the_engines_that_run_it(made):
    profile = tune_bundle(made.path, duration_s=0.5, threads=(1,), max_drop_points=100.0)
    timed = {(trial.model, trial.backend) for trial in profile.trials}
    first, twin = made.manifest.models
    assert ("acc", "openvino") not in timed
    assert timed == {(entry.name, config.backend) for entry in (first, twin) for config in configs_for(entry, (1,))}


def test_a_bundle_of_two_sensors_keeps_a_twin_beside_its_student(made, tmp_path):
    gyro = make_student(modality=msgspec.structs.replace(make_student().modality, name="gyro"))
    join_bundles([made.path, export_student(tmp_path, gyro).path], tmp_path / "both.edge")
    with Bundle.open(tmp_path / "both.edge") as bundle:
        order = [[entry.name for entry in students] for students in fallback_order(bundle.manifest)]
        card = bundle.read("README.md").decode()
    assert order == [["acc", "acc-portable"], ["gyro"]]
    assert card.startswith(
        "# 2 students, asked in this order\n\nThe first whose sensor works answers:\n\n1. `acc`\n2. "
    )
    with EdgePredictor.open(tmp_path / "both.edge", backend="ort") as predictor:
        assert [entry.name for entry in predictor.entries] == ["acc", "gyro"]
        empty, whole = np.full((64, 3), np.nan), np.ones((64, 3))
        assert predictor.predict({"acc": empty, "gyro": whole}).modality == "gyro"


@pytest.mark.slow
def test_tensorrt_builds_engines_of_the_twin(student, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs pip install 'mmkd-edge[trt-rtx]'")
    options = {"targets": ("trt",), "platform": "trt-rtx", "precisions": ("fp16",), **UNJUDGED}
    made = export_student(tmp_path, student, **options)
    assert [engine.sidecar.artifact for engine in made.engines] == ["acc-portable/model.fp16.onnx"]
    again = export(replace(export_plan(made.path), targets=("trt",), platform="trt-rtx"))
    assert [engine.sidecar.artifact for engine in again.engines] == [
        "acc-portable/model.fp32.onnx",
        "acc-portable/model.fp16.onnx",
    ]


def test_a_bundle_without_a_twin_says_how_to_get_one(student, tmp_path):
    made = export_student(tmp_path, student)
    assert [entry.name for entry in made.manifest.models] == ["acc"]
    with Bundle.open(made.path) as bundle:
        assert only_student(bundle).name == "acc"
        with pytest.raises(UsageError) as error:
            only_student(bundle, "trt")
    assert str(error.value) == (
        f"{made.path}: expected a student without trees, which trt lacks, got none; export the checkpoint with "
        "--target trt"
    )
    with pytest.raises(UsageError, match="has trees, which the backend lacks; take the backend native or ort, or exp"):
        EdgePredictor.open(made.path, backend="openvino")
