"""Students computed in closed form: the algebra against brute force, and what validation chooses."""

from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import channel_statistics
from mmkd_models.metrics.likelihood import helpful_temperature
from mmkd_models.metrics.scores import DEFAULT_METRIC
from mmkd_models.networks.config import (
    MEMBERS,
    ConvolutionGroup,
    ConvolutionsConfig,
    EncoderConfig,
    StudentConfig,
    TeacherConfig,
    TreesConfig,
    student_config,
)
from mmkd_models.networks.intervals import apply_intervals
from mmkd_models.train_config import TrainConfig
from mmkd_models.training import closed_form, students
from mmkd_models.training.checkpoint import TeacherFile, read_student, write_student
from mmkd_models.training.fitting import with_references
from mmkd_models.training.inputs import LatencyLimit, TrainingRequest, TrainingRun
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.students import fit_average, list_weights, train_student
from mmkd_models.training.trainings import train_teacher
from tests.edge.said import said
from tests.models.conftest import data_of
from tests.models.training.looping import rewrite

Floats = NDArray[np.float64]
ENCODER = EncoderConfig(width=8, heads=2, depth=1, spectrum_bands=4, dropout=0.0)
SMALL = StudentConfig(preset="tiny", encoder=ENCODER)


def run_of(dataset, *, steps=4):
    train = TrainConfig(steps=steps, batch=16, metric=DEFAULT_METRIC[dataset.spec.task.kind])
    return TrainingRun(train=train, augment=AugmentConfig())


def problem(count, features):
    rng = np.random.default_rng(count)
    return rng.normal(size=(count, features)) + 1, rng.normal(size=(count, 2)), rng.uniform(0.5, 2, count)


def solved(features, targets, weights, penalty):
    """Normal equations with a column of ones that has no penalty."""
    inputs = np.column_stack([features, np.ones(len(features))])
    penalties = penalty * np.diag([1.0] * features.shape[1] + [0.0])
    found = np.linalg.solve((inputs.T * weights) @ inputs + penalties, (inputs.T * weights) @ targets)
    return found[:-1], found[-1]


@pytest.mark.parametrize(("count", "features"), [(12, 5), (9, 20)])
def test_ridges_solve_the_normal_equations_and_the_penalty_is_that_of_leaving_each_out(count, features):
    inputs, targets, weights = problem(count, features)
    ridges = closed_form.fit_ridges(inputs, targets, weights, penalties=closed_form.PENALTIES)
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
    assert closed_form.fit_ridge(inputs, targets, weights).penalty == min(
        closed_form.PENALTIES, key=lambda penalty: ridges[penalty].loss
    )


@pytest.mark.parametrize("count", [60, 12])
def test_elimination_keeps_the_features_that_tell(count):
    features = np.random.default_rng(0).normal(size=(count, 30))
    targets = features[:, [3, 17]] @ np.array([[3.0], [-3.0]])
    steps = list(closed_form.eliminations(features, targets, np.ones(count), penalties=(0.1,), most=8, fewest=2))
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
    seen = train.with_labels(labels)
    found = closed_form.ridge_targets(seen, closed_form.mix_answers(seen, rows, answers))
    assert found == pytest.approx(np.array([[0.2, -0.5, -0.7], [0.2, -0.6, -0.6]]))
    alone = closed_form.ridge_targets(train, closed_form.label_answers(train.spec.task, train.labels[[0, 2]]))
    assert alone.tolist() == [[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]]


def test_every_class_counts_alike():
    targets = np.array([[1.0, -1.0]] * 3 + [[-1.0, 1.0]])
    assert closed_form.class_weights("classification", targets) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert closed_form.class_weights("multi_label", targets).tolist() == [1.0] * 4


@pytest.fixture(scope="module")
def convolutions(machines):
    return train_student(
        TrainingRequest(data_of(machines), "acc", student_config("tiny", members=("convolutions",)), run_of(machines))
    )


def test_convolutions_keep_a_few_features(convolutions):
    assert convolutions.config.members == ("convolutions",)
    assert 84 <= convolutions.config.convolutions.features <= 336
    facts = convolutions.facts
    assert (facts.teacher_sha256, facts.best_step, facts.recipe) == (None, 0, None)


def of_two_classes(path, count, make):
    """Write a dataset of so many windows in each split, of two groups each, with one channel of these values (N, T)."""
    splits = {}
    for number, name in enumerate(("train", "valid", "test")):
        labels = np.arange(count) % 2
        values = make(labels, np.random.default_rng(2 * number)).astype(np.float32)
        splits[name] = {
            "acc": values[..., None],
            "labels": labels,
            "groups": np.arange(count) // (count // 2) + 2 * number,
        }
    spec = ModalitySpec(name="acc", channels=("x",), rate_hz=50.0, samples=values.shape[1])
    return write_dataset(path, name=path.name, labels=["a", "b"], modalities=(spec,), splits=splits)


@pytest.mark.parametrize(("preset", "stride"), [("tiny", 3), ("small", 1)])
def test_a_tiny_student_of_long_windows_looks_at_every_third_position(preset, stride, tmp_path):
    def swings(labels, rng):
        return np.sin(np.arange(200) * (0.2 + 0.3 * labels[:, None])) + rng.normal(size=(12, 200)) / 4

    dataset = of_two_classes(tmp_path / "long", 12, swings)
    student = train_student(
        TrainingRequest(data_of(dataset), "acc", student_config(preset, members=("convolutions",)), run_of(dataset))
    )
    assert student.config.convolutions.stride == stride


@pytest.mark.parametrize(
    ("told", "change"),
    {
        # Windows of 40 samples: eight dilations of 5 would reach over all of them.
        "dilation: expected at most 4, got 5": lambda found: found["convolutions"]["groups"][0].update(dilation=5),
        "stride: expected at most 40, got 41": lambda found: found["convolutions"].update(stride=41),
        "features: expected at most ": lambda found: found["convolutions"]["groups"][0].update(features=10**9),
        "groups: expected at most 16, got 17": (
            lambda found: found["convolutions"].update(groups=found["convolutions"]["groups"][:1] * 17)
        ),
        "expected the sizes of its convolutions, got none": lambda found: found.pop("convolutions"),
    }.items(),
)
def test_features_that_no_window_has_are_refused(told, change, convolutions, tmp_path):
    path = tmp_path / "student.ckpt"
    write_student(path, convolutions)
    rewrite(path, kind="student", document=lambda document: change(document["config"]))
    refusal = said(CheckpointError, read_student, path)
    assert (refusal.startswith(f"{path}: metadata: {told}"), refusal.endswith("; the file was altered")) == (True, True)


def test_windows_longer_than_convolutions_are_computed_along_are_refused(convolutions, tmp_path):
    path = tmp_path / "student.ckpt"
    write_student(path, convolutions)
    rewrite(path, kind="student", document=lambda document: document["modality"].update(samples=(1 << 16) + 1))
    assert said(CheckpointError, read_student, path) == (
        f"{path}: metadata: positions: expected at most 65536, got 65537; the file was altered"
    )


@pytest.fixture(scope="module")
def teacher(machines):
    config = TeacherConfig(preset="toy", encoder=ENCODER, fusion_depth=1)
    return TeacherFile(checkpoint=train_teacher(data_of(machines), config, run_of(machines, steps=60)), sha256="7" * 64)


@pytest.fixture(scope="module")
def transformer(machines):
    return train_student(TrainingRequest(data_of(machines), "acc", SMALL, run_of(machines, steps=30)))


@pytest.fixture(scope="module")
def members(machines, transformer, convolutions):
    data, run = data_of(machines), run_of(machines)
    closed = {
        kind: train_student(TrainingRequest(data, "acc", student_config("tiny", members=(kind,)), run))
        for kind in ("intervals", "trees")
    }
    return {"transformer": transformer, "convolutions": convolutions, **closed}


def only(monkeypatch, weights):
    """Offer these weights alone, of the members that there are."""

    def offered(members):
        total = sum(weights.get(member, 0.0) for member in members)
        return [{member: weights[member] / total for member in members if member in weights}]

    monkeypatch.setattr("mmkd_models.training.students.list_weights", offered)


def temperature_of(part, valid):
    logits = logits_of(part.network(), valid, modality="acc")
    return helpful_temperature(logits, valid.labels, valid.groups, kind="classification")


def test_an_average_is_the_weighted_sum_of_both_in_one_head(convolutions, transformer, machines, monkeypatch):
    only(monkeypatch, {"transformer": 0.75, "convolutions": 0.25})
    joined = fit_average(data_of(machines), [transformer, convolutions], run_of(machines))
    assert joined.facts.weights == {"transformer": 0.75, "convolutions": 0.25}
    test, valid = machines.split("test"), machines.split("valid")
    first, second, both = (
        logits_of(one.network(), test, modality="acc") for one in (transformer, convolutions, joined)
    )
    hot, cold = (temperature_of(one, valid) for one in (transformer, convolutions))
    assert both == pytest.approx(0.75 * first / hot + 0.25 * second / cold, abs=1e-4)
    assert joined.config.members == ("transformer", "convolutions")
    assert joined.normalisation == transformer.normalisation


def test_all_four_members_are_one_network(members, machines, monkeypatch, tmp_path):
    only(monkeypatch, dict.fromkeys(MEMBERS, 0.25))
    average = fit_average(data_of(machines), list(members.values()), run_of(machines))
    assert (average.config.members, average.embeddings) == (MEMBERS, None)
    joined = with_references(average, data_of(machines))
    write_student(tmp_path / "student.ckpt", joined)
    read, test, valid = read_student(tmp_path / "student.ckpt"), machines.split("test"), machines.split("valid")
    expected, parts = np.zeros((len(test), 3)), {}
    for member, part in members.items():
        parts[member] = logits_of(part.network(), test, modality="acc") / temperature_of(part, valid)
        expected += 0.25 * parts[member]
    np.testing.assert_allclose(logits_of(read.network(), test, modality="acc"), expected, atol=2e-4)
    # For engines without trees and intervals: an average of the others, with its own score and novelty.
    portable = read.portable
    assert portable.config.members == ("transformer", "convolutions")
    assert portable.facts.weights == {"transformer": 0.5, "convolutions": 0.5}
    assert portable.facts.score == scores_of(portable.network(), valid, modality="acc").metric("balanced_accuracy")
    assert len(portable.embeddings.scale) == portable.network().head.in_features
    answers = logits_of(portable.network(), test, modality="acc")
    np.testing.assert_allclose(answers, (parts["transformer"] + parts["convolutions"]) / 2, atol=2e-4)


@pytest.mark.parametrize(
    ("names", "portable"),
    [
        (("transformer", "convolutions"), None),
        (("intervals", "trees"), None),
        (("convolutions", "trees"), ("convolutions",)),
        (("transformer", "intervals"), ("transformer",)),
    ],
)
def test_a_portable_student_is_there_if_an_engine_lacks_a_member(members, machines, monkeypatch, names, portable):
    # Also if validation ships one member alone, here the last.
    monkeypatch.setattr(students, "best_validated", lambda pools, *_, **__: len(pools) - 1)
    monkeypatch.setattr(students, "list_weights", lambda kinds: [{kind: 1.0} for kind in kinds])
    student = fit_average(data_of(machines), [members[name] for name in names], run_of(machines))
    assert student.config.members == names[-1:]
    assert (None if student.portable is None else student.portable.config.members) == portable


def test_the_part_that_validates_better_alone_is_shipped_alone(convolutions, transformer, machines, monkeypatch):
    for member, alone in (("convolutions", convolutions), ("transformer", transformer)):
        only(monkeypatch, {member: 1.0})
        found = fit_average(data_of(machines), [transformer, convolutions], run_of(machines))
        assert (found.config, found.state) == (alone.config, alone.state)
        assert found.facts.weights == {"transformer": 0.0, "convolutions": 0.0, member: 1.0}
        assert msgspec.structs.replace(found.facts, weights=None) == alone.facts


def test_an_average_takes_as_long_as_its_members_together(members, machines, monkeypatch):
    times = {"transformer": 4.0, "convolutions": 3.0, "intervals": 2.0, "trees": 1.0}
    parts, offered = list(members.values()), []

    def limit(ms):
        return LatencyLimit(ms=ms, measure=lambda part: times[part.config.members[0]])

    kept = limit(5.0).keep(parts, list_weights(MEMBERS))
    pairs = [*[(one, "trees") for one in MEMBERS[:3]], ("convolutions", "intervals")]
    assert Counter(tuple(one) for one in kept) == Counter([*[(one,) for one in MEMBERS], *3 * pairs])
    monkeypatch.setattr(students, "best_validated", lambda pools, far, *_, **__: offered.append(far) or len(pools) - 1)
    student = fit_average(data_of(machines), parts, run_of(machines), limit=limit(2.0))
    assert (student.config.members, offered[0]) == (("trees",), [0.75, 0.75])  # of intervals or trees alone
    assert said(UsageError, fit_average, data_of(machines), parts, run_of(machines), limit=limit(0.5)) == (
        "--max-latency-ms 0.5: expected a member that keeps it, got transformer 4 ms, convolutions 3 ms, intervals 2 "
        "ms, trees 1 ms per window in the native engine here; raise it, or choose a smaller size"
    )


def test_weights_are_quarters_and_those_of_fewest_members_come_first():
    pair = [(1.0, 0.0), (0.0, 1.0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75)]
    assert [
        (one.get("transformer", 0.0), one.get("trees", 0.0)) for one in list_weights(("transformer", "trees"))
    ] == pair
    every = list_weights(MEMBERS)
    assert (len(every), every[0], every[-1]) == (35, {"transformer": 1.0}, dict.fromkeys(MEMBERS, 0.25))


@pytest.mark.parametrize(
    ("taus", "weights", "tau"),
    [
        ((1.0, None), {"convolutions": 1.0}, None),
        ((None, 0.5), {"convolutions": 1.0}, 0.5),
        ((0.5, 0.5), {"transformer": 0.5, "convolutions": 0.5}, 0.5),
        ((1.0, 0.5), {"transformer": 0.5, "convolutions": 0.5}, None),
    ],
)
def test_an_average_has_the_tau_of_its_parts(convolutions, transformer, machines, monkeypatch, taus, weights, tau):
    only(monkeypatch, weights)
    parts = [
        replace(part, facts=msgspec.structs.replace(part.facts, prior_tau=own))
        for part, own in zip((transformer, convolutions), taus, strict=True)
    ]
    assert fit_average(data_of(machines), parts, run_of(machines)).facts.prior_tau == tau


def test_parts_that_a_student_does_not_have_are_refused():
    features = ConvolutionsConfig(groups=(ConvolutionGroup(dilation=1, padded=True, features=3),))
    trees = TreesConfig(trees=1, nodes=1, leaves=1)
    for fault, options in (
        ("expected no convolutions in a student of transformer", {"convolutions": features}),
        ("expected no trees in a student of intervals", {"members": ("intervals",), "trees": trees}),
        ("expected a windowed student of trees", {"members": ("trees",), "causal": True}),
        ("expected members among transformer, convolutions, intervals, trees, in this order", {"members": ()}),
        ("expected members among", {"members": ("trees", "transformer")}),
    ):
        with pytest.raises(ValueError, match=fault):
            StudentConfig(preset="tiny", encoder=ENCODER, **options)
    for sizes in ((0, 1, 1), (1025, 2000, 1), (2, 1, 1), (1, (1 << 18) + 1, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="expected 1 to 1024 trees"):
            TreesConfig(**dict(zip(("trees", "nodes", "leaves"), sizes, strict=True)))


@pytest.mark.parametrize("member", MEMBERS[1:])
def test_members_learn_from_labels_and_survive_their_file(member, members, machines, tmp_path):
    student, test = members[member], machines.split("test").with_modalities(["acc"])
    assert scores_of(student.network(), test, modality="acc").metric("accuracy") >= 0.9
    write_student(tmp_path / "student.ckpt", student)
    read = read_student(tmp_path / "student.ckpt")
    assert (read.config, read.facts) == (student.config, student.facts)
    answers = [logits_of(one.network(), test, modality="acc") for one in (read, student)]
    np.testing.assert_array_equal(answers[0], answers[1])
    mean, std = channel_statistics(machines.split("train").with_modalities(["acc"]), "acc")
    assert read.normalisation["mean"] == pytest.approx(mean.tolist())
    assert read.normalisation["std"] == pytest.approx(std.tolist())


def test_trees_of_a_student_answer_as_scikit_learn_does(members, machines):
    student = members["trees"].network()
    windows = machines.split("train").with_modalities(["acc"])
    values, present = prepare_batch(windows.take(np.arange(len(windows)))["acc"], windows.spec.modality("acc"))
    features = apply_intervals(student.intervals, values, present)
    grid = (np.round(features * 2**16) / 2**16).astype(np.float32)
    forest = ExtraTreesClassifier(n_estimators=200, max_depth=48, random_state=0).fit(grid, windows.labels)
    votes = student.trees.votes(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(votes, forest.predict_proba(features), atol=1e-7)
    expected = float(student.trees.scale) * np.log((200 * votes + 1 / 3) / 201) + student.head.bias.detach().numpy()
    np.testing.assert_allclose(logits_of(student, windows, modality="acc"), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
@pytest.mark.parametrize("member", MEMBERS[1:])
def test_members_learn_several_labels_and_numbers(rigs, kind, member):
    rig = rigs[kind]
    student = train_student(
        TrainingRequest(data_of(rig), "acc", student_config("tiny", members=(member,)), run_of(rig))
    )
    test = rig.split("test")
    if kind == "regression":
        assert scores_of(student.network(), test.with_modalities(["acc"]), modality="acc").metric("r2") > 0.8
    else:
        labels = logits_of(student.network(), test, modality="acc")
        assert ((labels[:, 0] > 0) == (test.labels[:, 0] == 1)).mean() > 0.9  # what acc knows nothing of is the other


def test_no_tree_splits_the_rounding_of_a_constant_channel(tmp_path):
    """Its spread is 0 in one engine and 1e-8 in another."""
    still = of_two_classes(tmp_path / "still", 24, lambda labels, rng: rng.normal(size=(24, 1)).repeat(50, axis=1))
    student = train_student(
        TrainingRequest(data_of(still), "acc", student_config("tiny", members=("trees",)), run_of(still))
    ).network()
    read = set(student.trees.feature[student.trees.feature >= 0].tolist())
    of_interval = {feature % 8 for feature in read if feature < 56}
    assert of_interval
    assert of_interval <= {0, 3, 4, 5, 6, 7}  # levels, and neither spread nor slope
    assert max(read) < 56  # no difference, no spectrum


def test_trees_learn_the_hard_answers_of_teacher_and_label(machines, teacher):
    data = data_of(machines)
    data = replace(data, train=data.train.with_labels(np.where(np.arange(len(data.train)) % 2, -1, data.train.labels)))
    training = TrainingRequest(data, "acc", student_config("tiny"), run_of(machines), [teacher])
    lesson = closed_form.lesson_of(training)
    answers = closed_form.teachers_answers([teacher], data.train, lesson.rows)
    assert lesson.answers == pytest.approx(closed_form.mix_answers(data.train, lesson.rows, answers))
    student = closed_form.grow_trees_student(training, lesson)
    # Each tree knows every training window by heart, so that its vote is the hard answer.
    network = student.network()
    features = closed_form.interval_features(network.intervals, data.train, "acc", lesson.rows)
    assert (network.trees.votes(torch.from_numpy(features)).numpy().argmax(1) == lesson.answers.argmax(1)).all()
    assert student.facts.teacher_sha256 == "7" * 64


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda parts: parts["student/trees.feature"].fill_(10**6), "every node to lead onwards inside its tree"),
        (lambda parts: parts["student/trees.left"].zero_(), "every node to lead onwards inside its tree"),
        (lambda parts: parts.pop("student/trees.scale"), "exactly the tensors of its network"),
    ],
)
def test_altered_trees_are_refused(change, told, members, tmp_path):
    path = tmp_path / "student.ckpt"
    write_student(path, members["trees"])
    rewrite(path, kind="student", tensors=change)
    with pytest.raises(CheckpointError, match=f"expected {told}"):
        read_student(path)
