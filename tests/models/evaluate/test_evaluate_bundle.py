"""`mmkd-evaluate BUNDLE DATA`: every artifact on the test split, its coverage by group, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge import Bundle, EdgePredictor
from mmkd_edge.bundle.calibration import Confidence
from mmkd_edge.predict.confidence import least_probability
from mmkd_export.plan import export_plan
from mmkd_export.run import export
from mmkd_models.carried import carried_windows
from mmkd_models.commands.evaluate import main as evaluate_main
from mmkd_models.data import Dataset
from mmkd_models.networks.student import Student
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student

Ran = tuple[object, str, str]


@pytest.fixture
def run(ran: Callable[..., Ran]) -> Callable[..., Ran]:
    return partial(ran, evaluate_main, "mmkd-evaluate")


@pytest.fixture(scope="module")
def bundle(machines: Dataset, student_checkpoint: StudentCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of `acc` with random weights, exported with the validation windows of two machines."""
    spec = machines.spec.modality("acc")
    torch.manual_seed(0)
    made = replace(
        student_checkpoint,
        modality=spec,
        task=machines.spec.task,
        facts=msgspec.structs.replace(student_checkpoint.facts, dataset_sha256=machines.sha256),
        state=Student(spec, 3, student_checkpoint.config).state_dict(),
        carried=carried_windows(machines.split("valid"), "acc", seed=0),
    )
    path = tmp_path_factory.mktemp("bundle") / "acc.ckpt"
    write_student(path, made)
    return export(export_plan(path)).path


def confidence_of(path: Path) -> Confidence:
    with Bundle.open(path) as bundle:
        found = bundle.manifest.models[0].artifacts[0].confidence
    assert found is not None
    return found


def test_coverage_on_the_test_split_is_that_of_the_runtime(
    run: Callable[..., Ran], bundle: Path, machines: Dataset
) -> None:
    code, out, err = run(bundle, machines.path, "--error-level", "0.5", "--error-level", "0.2", "--json")
    assert (code, err) == (0, "acc/model.fp32.onnx\n")
    document = json.loads(out)
    assert document["data"]["part"] == "test windows"
    (artifact,) = document["artifacts"]
    test = machines.split("test")
    windows = test.take(np.arange(len(test)))["acc"]
    for coverage, level in zip(artifact["confidence"]["coverages"], (0.2, 0.5), strict=True):
        assert coverage["error_level"] == level
        assert coverage["least_probability"] == least_probability(confidence_of(bundle), level)
        with EdgePredictor.open(bundle, backend="ort", error_level=level) as predictor:
            found = predictor.predict_batch(windows)
            labels = [predictor.task.labels[label] for label in test.labels]
        right = np.array([label in one.label_set for one, label in zip(found, labels, strict=True)])
        assert coverage["covered"] == right.sum()
        assert coverage["by_group"] == {"8": right[:6].mean(), "9": right[6:].mean()}
        assert coverage["mean_set_size"] == np.mean([len(one.label_set) for one in found])
        assert coverage["single_share"] == np.mean([not one.abstained for one in found])
    assert artifact["scores"]["accuracy"] == np.mean(
        [one.label == label for one, label in zip(found, labels, strict=True)]
    )


def test_the_table_names_the_group_that_is_covered_least(
    run: Callable[..., Ran], bundle: Path, machines: Dataset
) -> None:
    code, out, _ = run(bundle, machines.path)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith(f"{bundle}: machines-acc-") or "12 test windows of machines (2 groups)" in lines[0]
    assert lines[1] == f"caution: {bundle} does not say which windows trained it: some of these may have"
    lines = [line for line in lines if not line.startswith("caution: ")]
    assert lines[1].startswith("acc/model.fp32.onnx in onnxruntime")
    assert lines[2].startswith(("better than chance: balanced accuracy ", "no better than chance, so no "))
    assert lines[3].startswith("temperature 1.00 from 6 windows; on 12 others the calibration error is ")
    assert lines[4].split("  ")[0].startswith("error level")
    assert lines[5].split()[0] == "0.2"  # six windows support no smaller one that is shown
    assert lines[6].startswith("error level 0.2: of 2 groups, group ")
    assert lines[7] == f"next: mmkd-bench run {bundle}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--missing"], "--missing: expected a checkpoint, got a bundle; judge the checkpoint it was exported from"),
        (["--metric", "accuracy"], "--metric: expected a checkpoint, got a bundle; judge the checkpoint it was"),
        (["--error-level", "1"], "--error-level 1: expected a share above 0 and below 1"),
    ],
)
def test_options_that_do_not_fit_a_bundle_are_refused(
    run: Callable[..., Ran], bundle: Path, machines: Dataset, options: list[str], expected: str
) -> None:
    code, out, err = run(bundle, machines.path, *options)
    assert (code, out) == (2, "")
    assert expected in err


def test_a_checkpoint_has_no_label_sets(run: Callable[..., Ran], bundle: Path, machines: Dataset) -> None:
    checkpoint = bundle.with_suffix(".ckpt")
    code, _, err = run(checkpoint, machines.path, "--error-level", "0.1")
    assert code == 2
    assert f"{checkpoint}: --error-level: expected a bundle, whose label sets it checks; export one first" in err


def test_a_bundle_of_another_task_is_refused(run: Callable[..., Ran], bundle: Path, dataset: Dataset) -> None:
    code, _, err = run(bundle, dataset.path)
    assert code == 2
    assert f"{bundle}: student: expected the classes {', '.join(dataset.spec.task.labels)} of the dataset, got" in err
