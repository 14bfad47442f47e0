"""Students computed in closed form: the algebra against brute force, and what validation chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import Dataset, write_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.distillation.recipe import taught_by
from mmkd_models.metrics.likelihood import fitted_temperature
from mmkd_models.metrics.scores import default_metric
from mmkd_models.networks.config import (
    EncoderConfig,
    RocketConfig,
    RocketGroup,
    StudentConfig,
    TeacherConfig,
    student_config,
)
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherFile, read_student, write_student
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.rocket import (
    PENALTIES,
    class_weights,
    eliminations,
    fit_ridge,
    fit_ridges,
    fit_rocket_student,
    training_targets,
)
from mmkd_models.training.students import fit_hybrid, train_student
from mmkd_models.training.trainings import train_teacher
from tests.models.training.looping import rewrite

Floats = NDArray[np.float64]
ENCODER = EncoderConfig(width=8, heads=2, depth=1, spectrum_bands=4, dropout=0.0)
SMALL = StudentConfig(preset="tiny", encoder=ENCODER)


def data_of(dataset: Dataset) -> TrainingData:
    return TrainingData(train=dataset.split("train"), valid=dataset.split("valid"), sha256="d" * 64)


def run_of(dataset: Dataset, *, steps: int = 4) -> TrainingRun:
    train = TrainConfig(steps=steps, batch=16, metric=default_metric(dataset.spec.task.kind))
    return TrainingRun(train=train, augment=AugmentConfig())


def problem(count: int, features: int) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(count)
    return rng.normal(size=(count, features)) + 1, rng.normal(size=(count, 2)), rng.uniform(0.5, 2, count)


def solved(features: Floats, targets: Floats, weights: Floats, penalty: float) -> tuple[Floats, Floats]:
    """Normal equations with a column of ones that has no penalty."""
    inputs = np.column_stack([features, np.ones(len(features))])
    penalties = penalty * np.diag([1.0] * features.shape[1] + [0.0])
    found = np.linalg.solve((inputs.T * weights) @ inputs + penalties, (inputs.T * weights) @ targets)
    return found[:-1], found[-1]


@pytest.mark.parametrize(("count", "features"), [(12, 5), (9, 20)])
def test_ridges_solve_the_normal_equations_and_the_penalty_is_that_of_leaving_each_out(count, features):
    inputs, targets, weights = problem(count, features)
    ridges = fit_ridges(inputs, targets, weights, penalties=PENALTIES)
    for penalty, ridge in ridges.items():
        weight, bias = solved(inputs, targets, weights, penalty)
        assert ridge.weight == pytest.approx(weight, abs=1e-9)
        assert ridge.bias == pytest.approx(bias, abs=1e-9)
        total = 0.0
        for row in range(count):
            rest = np.arange(count) != row
            weight, bias = solved(inputs[rest], targets[rest], weights[rest], penalty)
            total += weights[row] * np.square(targets[row] - inputs[row] @ weight - bias).sum()
        assert ridge.loss == pytest.approx(total / (weights.sum() * 2), rel=1e-8)
    assert fit_ridge(inputs, targets, weights).penalty == min(PENALTIES, key=lambda penalty: ridges[penalty].loss)


@pytest.mark.parametrize("count", [60, 12])
def test_elimination_keeps_the_features_that_tell(count):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 30))
    targets = features[:, [3, 17]] @ np.array([[3.0], [-3.0]])
    steps = list(eliminations(features, targets, np.ones(count), penalty=0.1, most=8, fewest=2))
    assert [len(rows) for rows, _ in steps] == [8, 7, 6, 5, 4, 3, 2]
    assert steps[-1][0].tolist() == [3, 17]
    weight, bias = solved(features[:, [3, 17]], targets, np.ones(count), 0.1)
    assert steps[-1][1].weight == pytest.approx(weight, abs=1e-9)
    assert steps[-1][1].bias == pytest.approx(bias, abs=1e-9)


def test_targets_are_half_the_teacher_and_half_the_label_where_there_is_one(machines):
    train = machines.split("train")
    labels = train.labels.copy()
    labels[1] = -1
    answers = np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])
    rows = np.array([0, 1])  # of the classes 0 and, hidden, 1
    found = training_targets(train.with_labels(labels), rows, answers)
    assert found == pytest.approx(np.array([[0.2, -0.5, -0.7], [0.2, -0.6, -0.6]]))
    alone = training_targets(train, np.array([0, 2]), None)
    assert alone.tolist() == [[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]]


def test_every_class_counts_alike():
    targets = np.array([[1.0, -1.0]] * 3 + [[-1.0, 1.0]])
    assert class_weights("classification", targets) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert class_weights("multi_label", targets).tolist() == [1.0] * 4


@pytest.fixture(scope="module")
def rocket(machines: Dataset) -> StudentCheckpoint:
    return fit_rocket_student(data_of(machines), "acc", student_config("tiny", kind="rocket"), run_of(machines))


def test_a_rocket_student_learns_from_labels_and_keeps_a_few_features(rocket, machines):
    test = machines.split("test").with_modalities(["acc"])
    assert scores_of(rocket.network(), test, modality="acc").metric("accuracy") >= 0.9
    assert rocket.config.kind == "rocket"
    assert 84 <= rocket.config.rocket.features <= 336
    assert (rocket.facts.teacher_sha256, rocket.facts.best_step, rocket.facts.recipe) == (None, 0, None)


@pytest.mark.parametrize(("preset", "stride"), [("tiny", 3), ("small", 1)])
def test_a_tiny_student_of_long_windows_looks_at_every_third_position(preset, stride, tmp_path):
    def split(groups: range) -> dict[str, NDArray[Any]]:
        labels = np.arange(12) % 2
        noise = np.random.default_rng(groups.start).normal(size=(12, 200))
        swings = np.sin(np.arange(200) * (0.2 + 0.3 * labels[:, None])) + noise / 4
        return {"acc": swings[..., None], "labels": labels, "groups": np.repeat(np.array(groups), 6)}

    spec = ModalitySpec(name="acc", channels=("x",), rate_hz=50.0, samples=200)
    splits = {name: split(range(first, first + 2)) for name, first in (("train", 0), ("valid", 2), ("test", 4))}
    names = {"name": "long", "labels": ["slow", "fast"], "source": "a test rig", "licence": "CC0-1.0"}
    dataset = write_dataset(tmp_path / "long", modalities=(spec,), splits=splits, **names)
    student = fit_rocket_student(data_of(dataset), "acc", student_config(preset, kind="rocket"), run_of(dataset))
    assert student.config.rocket.stride == stride


def test_a_rocket_student_survives_its_file(rocket, machines, tmp_path):
    path = tmp_path / "student.ckpt"
    write_student(path, rocket)
    read, test = read_student(path), machines.split("test")
    assert (read.config, read.facts) == (rocket.config, rocket.facts)
    answers = [logits_of(one.network(), test, modality="acc") for one in (read, rocket)]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert read.normalisation["mean"] == rocket.state["rocket.mean"].tolist()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        # Windows of 40 samples: eight dilations of 5 would reach over all of them.
        (lambda found, _: found["groups"][0].update(dilation=5), "dilation: expected at most 4, got 5"),
        (lambda found, _: found["groups"][0].update(dilation=10**9), "dilation: expected at most 4, got 1000000000"),
        (lambda found, _: found.update(stride=41), "stride: expected at most 40, got 41"),
        (lambda found, _: found["groups"][0].update(features=10**9), "features: expected at most "),
        (lambda found, _: found.update(groups=found["groups"][:1] * 17), "groups: expected at most 16, got 17"),
        (
            lambda _, document: document["modality"].update(samples=(1 << 16) + 1),
            "positions: expected at most 65536, got 65537; the file was altered",
        ),
        (
            lambda _, document: document["config"].pop("rocket"),
            "expected the features of a rocket, got none; the file was altered",
        ),
    ],
)
def test_features_that_no_window_has_are_refused(change, told, rocket, tmp_path):
    path = tmp_path / "student.ckpt"
    write_student(path, rocket)

    def alter(document: dict[str, Any]) -> None:
        change(document["config"]["rocket"], document)

    rewrite(path, kind="student", document=alter)
    with pytest.raises(CheckpointError) as error:
        read_student(path)
    assert str(error.value).startswith(f"{path}: metadata: {told}")
    assert str(error.value).endswith("; the file was altered")


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_several_labels_and_numbers_are_learnt_too(rigs, kind):
    rig = rigs[kind]
    student = fit_rocket_student(data_of(rig), "acc", student_config("tiny", kind="rocket"), run_of(rig))
    found = scores_of(student.network(), rig.split("test").with_modalities(["acc"]), modality="acc")
    if kind == "regression":
        assert found.metric("r2") > 0.8
    else:
        labels, test = logits_of(student.network(), rig.split("test"), modality="acc"), rig.split("test").labels
        assert ((labels[:, 0] > 0) == (test[:, 0] == 1)).mean() > 0.9  # what acc knows nothing of is the other


@pytest.fixture(scope="module")
def teacher(machines: Dataset) -> TeacherFile:
    config = TeacherConfig(preset="toy", encoder=ENCODER, fusion_depth=1)
    checkpoint = train_teacher(data_of(machines), config, run_of(machines, steps=60))
    return TeacherFile(checkpoint=checkpoint, sha256="7" * 64)


def test_a_teacher_teaches_windows_without_labels(machines, teacher):
    data = data_of(machines)
    labels = np.full_like(data.train.labels, -1)
    data = replace(data, train=data.train.with_labels(labels))
    student = train_student(
        data,
        "acc",
        student_config("tiny", kind="rocket"),
        run_of(machines),
        teachers=[teacher],
        recipe=taught_by("logit"),
    )
    test = machines.split("test")
    ours = logits_of(student.network(), test, modality="acc").argmax(1)
    theirs = logits_of(teacher.checkpoint.network(), test, modality=None).argmax(1)  # type: ignore[union-attr]
    assert (ours == theirs).mean() > 0.7
    assert student.facts.teacher_sha256 == "7" * 64


@pytest.fixture(scope="module")
def transformer(machines: Dataset) -> StudentCheckpoint:
    return train_student(data_of(machines), "acc", SMALL, run_of(machines, steps=30))


def test_a_hybrid_is_the_weighted_sum_of_both_in_one_head(rocket, transformer, machines, monkeypatch):
    monkeypatch.setattr("mmkd_models.training.students.WEIGHTS", (0.75,))
    joined = fit_hybrid(data_of(machines), transformer, rocket, run_of(machines))
    assert joined.facts.hybrid_weight == 0.75
    test, valid = machines.split("test"), machines.split("valid")
    first, second, both = (logits_of(one.network(), test, modality="acc") for one in (transformer, rocket, joined))
    hot, cold = (
        fitted_temperature(logits_of(one.network(), valid, modality="acc"), valid.labels, kind="classification")
        for one in (transformer, rocket)
    )
    assert both == pytest.approx(0.75 * first / hot + 0.25 * second / cold, abs=1e-4)
    assert joined.config.kind == "hybrid"
    assert joined.normalisation == transformer.normalisation


def test_the_part_that_validates_better_alone_is_shipped_alone(rocket, transformer, machines, monkeypatch):
    for weight, alone in ((0.0, rocket), (1.0, transformer)):
        monkeypatch.setattr("mmkd_models.training.students.WEIGHTS", (weight,))
        found = fit_hybrid(data_of(machines), transformer, rocket, run_of(machines))
        assert (found.config, found.state) == (alone.config, alone.state)
        assert found.facts.hybrid_weight == weight
        assert msgspec.structs.replace(found.facts, hybrid_weight=msgspec.UNSET) == alone.facts


@pytest.mark.parametrize(
    ("taus", "weight", "tau"),
    [
        ((1.0, msgspec.UNSET), 0.0, msgspec.UNSET),
        ((msgspec.UNSET, 0.5), 0.0, 0.5),
        ((0.5, 0.5), 0.5, 0.5),
        ((1.0, 0.5), 0.5, msgspec.UNSET),
    ],
)
def test_a_hybrid_has_the_prior_adjustment_of_what_is_in_it(
    rocket, transformer, machines, monkeypatch, taus, weight, tau
):
    monkeypatch.setattr("mmkd_models.training.students.WEIGHTS", (weight,))
    parts = [
        replace(part, facts=msgspec.structs.replace(part.facts, prior_tau=own))
        for part, own in zip((transformer, rocket), taus, strict=True)
    ]
    found = fit_hybrid(data_of(machines), parts[0], parts[1], run_of(machines))
    assert found.facts.prior_tau == tau


def test_steps_and_int8_practice_are_refused_to_other_kinds(rocket):
    with pytest.raises(UsageError) as error:
        rocket.transformer(asked_by="practising INT8")
    assert str(error.value) == (
        "practising INT8: expected a student of the kind transformer, got a rocket; train one with --kind transformer"
    )


def test_parts_that_a_kind_does_not_have_are_refused():
    features = RocketConfig(groups=(RocketGroup(dilation=1, padded=True, features=3),))
    with pytest.raises(ValueError, match="expected no convolutional features in a transformer"):
        StudentConfig(preset="tiny", encoder=ENCODER, rocket=features)
    with pytest.raises(ValueError, match="expected a windowed student of the kind rocket"):
        StudentConfig(preset="tiny", encoder=ENCODER, kind="rocket", causal=True)
