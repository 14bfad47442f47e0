"""A committee from training to file and back, and everybody who takes teachers."""

import math
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.data.labels import hide_labels
from mmkd_models.distillation.answers import ask_teachers
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.term import constant
from mmkd_models.metrics.likelihood import fitted_temperature, log_likelihood
from mmkd_models.metrics.scores import DEFAULT_METRIC
from mmkd_models.networks.committee import Committee, CommitteeFacts, FixedViews, MemberFacts
from mmkd_models.networks.convolutions import LENGTH
from mmkd_models.networks.members import Convolutions
from mmkd_models.networks.teacher import TeacherOutput
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import TeacherFile, file_sha256, read_teacher, write_teacher
from mmkd_models.training.choosing import log_prior
from mmkd_models.training.closed_form import interval_features, measure_intervals
from mmkd_models.training.committee import default_members, grow_member, joining_sensor, members_named, train_committee
from mmkd_models.training.inputs import TrainingData, TrainingRequest, TrainingRun
from mmkd_models.training.predict import answers_to, inputs_of, logits_of, scores_of
from mmkd_models.training.trainings import train_teacher, train_transformer
from tests.edge.said import said
from tests.models.conftest import STUDENT, TEACHER, data_of
from tests.models.training.looping import rewrite

RUN = TrainingRun(train=TrainConfig(steps=4, batch=8, eval_every=2, seed=3), augment=AugmentConfig())
LONG = (ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=LENGTH),)
SHORT = (ModalitySpec(name="temp", channels=("t",), rate_hz=1.0, samples=LENGTH - 1),)
MEMBERS = members_named(["transformer", "trees"], SHORT)


@pytest.fixture(scope="module", autouse=True)
def _no_single_sensors():
    """Of the machines one sensor is as good as two; its members join where a test wants them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmkd_models.training.committee.joining_sensor", lambda *given, **named: None)
        yield


@pytest.fixture(scope="module")
def data(machines):
    """The machines, half of their labels seen."""
    train = machines.split("train")
    train = train.with_labels(hide_labels(train.labels, np.arange(len(train)) % 4 < 2))
    return TrainingData(train=train, valid=machines.split("valid"), sha256=machines.sha256)


def trained(data, run=RUN, **options):
    options = {"members": MEMBERS, **options}
    return train_committee(data, TEACHER, run, **options)


@pytest.fixture(scope="module")
def checkpoint(data):
    return trained(data)


def test_a_committees_first_transformer_is_the_teacher_that_is_trained_alone(checkpoint, data):
    batch = BatchSource(data.train, AugmentConfig(), batch=8, labelled_fraction=0.5, seed=0).at(1)
    output = checkpoint.network()(batch.inputs, taps=True)
    inside = checkpoint.transformer()(batch.inputs, taps=True)
    for name in ("embedding", "hidden", "cross_attention", "valid"):
        torch.testing.assert_close(getattr(output, name), getattr(inside, name))
    alone = train_teacher(data, TEACHER, RUN)
    assert all(torch.equal(tensor, checkpoint.state[name]) for name, tensor in alone.state.items())
    plain = trained(data, members=("transformer",))
    assert (plain.committee, plain.further, plain.facts) == (None, (), alone.facts)
    assert checkpoint.committee.members[0].score == alone.facts.score
    known = data.valid
    assert checkpoint.facts.score == scores_of(checkpoint.network(), known, modality=None).metric("balanced_accuracy")


def test_the_same_seed_gives_the_same_bytes_and_another_other_trees(checkpoint, data, tmp_path):
    write_teacher(tmp_path / "one.ckpt", checkpoint)
    write_teacher(tmp_path / "same.ckpt", trained(data))
    assert (tmp_path / "one.ckpt").read_bytes() == (tmp_path / "same.ckpt").read_bytes()
    back = read_teacher(tmp_path / "one.ckpt")
    assert (back.committee, back.facts) == (checkpoint.committee, checkpoint.facts)
    answers = [logits_of(one.network(), data.valid, modality=None) for one in (back, checkpoint)]
    np.testing.assert_array_equal(*answers)


@pytest.mark.slow
def test_a_committee_that_was_interrupted_trains_no_finished_transformer_again(data, checkpoint, tmp_path):
    run, steps = replace(RUN, run_dir=tmp_path, resume=True), list[str]()

    @contextmanager
    def watch(name):
        yield lambda progress: steps.append(name)

    members = members_named(["trees", "transformer", "transformer"], SHORT)
    first = trained(data, run, members=members, watch=watch)
    assert (steps.count("teacher"), steps.count("transformer 2")) == (4, 4)
    assert [member.seed for member in first.committee.members] == [3, 1003, 3] if first.committee else False
    steps.clear()
    again = trained(data, run, members=members, watch=watch)
    assert steps == []
    assert again.committee == first.committee
    assert all(torch.equal(again.state[name], checkpoint.state[name]) for name in again.state)


def test_members_that_are_no_transformer_are_evened_out_where_validation_wants_it(data, monkeypatch, tmp_path):
    monkeypatch.setattr("mmkd_models.training.choosing.choose_tau", lambda *given, **named: 0.5)
    made = trained(data)
    facts = made.committee
    trees, asked = facts.members[1], data.valid
    raw = answers_to(made.network().members[1], asked).numpy()
    prior = log_prior(data.train.labels, 3)
    assert facts.members[0].bias is None
    assert trees.bias == pytest.approx(-0.5 * fitted_temperature(raw, asked.labels, kind="classification") * prior)
    assert trees.temperature == pytest.approx(
        fitted_temperature(raw + np.array(trees.bias), asked.labels, kind="classification"), rel=1e-4
    )
    write_teacher(tmp_path / "teacher.ckpt", made)
    calibrated = read_teacher(tmp_path / "teacher.ckpt").network().calibrated(1, torch.from_numpy(raw))
    np.testing.assert_allclose(calibrated, (raw + np.array(trees.bias)) / trees.temperature, rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    {
        "oracle": "expected one of transformer, convolutions, trees, got 'oracle'; choose one of them",
        "trees": "expected a transformer, which losses look into, got trees; add transformer",
        "transformer,trees,trees": "expected trees once, got it twice; only transformers differ by their seed",
        "transformer,convolutions": (
            "convolutions: expected windows of at least 9 samples, got 8 of 'temp'; leave convolutions out, or take "
            "longer windows"
        ),
    }.items(),
)
def test_members_that_make_no_committee_are_refused(names, message):
    assert said(UsageError, members_named, names.split(","), (*LONG, *SHORT)) == f"--members: {message}"
    assert members_named(["convolutions", "transformer"], LONG) == ("transformer", "convolutions")


@pytest.mark.parametrize("joins", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["multi_label", pytest.param("regression", marks=pytest.mark.slow)])
def test_labels_and_numbers_have_committees_too(rigs, kind, joins, monkeypatch, tmp_path):
    joining = "mmkd_models.training.committee.joining_sensor"
    monkeypatch.setattr(joining, lambda members, alone, *given, **named: min(alone) if joins else None)
    rig = rigs[kind]
    rig_data = data_of(rig)
    metric = DEFAULT_METRIC[rig.spec.task.kind]
    made = trained(rig_data, replace(RUN, train=msgspec.structs.replace(RUN.train, metric=metric)))
    write_teacher(tmp_path / "teacher.ckpt", made)
    back = read_teacher(tmp_path / "teacher.ckpt")
    facts = back.committee
    assert len(facts.members) == (3 if joins else 2)
    best = max(member.score for member in facts.members)
    assert scores_of(back.network(), rig_data.valid, modality=None).metric(metric) == made.facts.score
    assert made.facts.score >= best - 0.1


def test_a_students_checkpoint_is_the_same_with_answers_that_were_kept(checkpoint, data, tmp_path):
    recipe, path = Recipe(terms=(LogitTerm(weight=constant(1.0)),)), tmp_path / "teacher.ckpt"
    write_teacher(path, checkpoint)
    taught = TeacherFile(checkpoint=read_teacher(path), sha256=file_sha256(path))
    students = [
        train_transformer(TrainingRequest(data, "acc", STUDENT, run, [taught], recipe))
        for run in (RUN, replace(RUN, answers=tmp_path / "answers"), replace(RUN, answers=tmp_path / "answers"))
    ]
    assert len(list((tmp_path / "answers").iterdir())) == 1
    states = [student.state for student in students]
    assert all(torch.equal(states[0][name], other[name]) for other in states[1:] for name in other)


@pytest.fixture(scope="module")
def whole(data):
    """A committee of every kind of member."""
    return trained(data, members=members_named(["trees", "convolutions", "transformer"], LONG))


def test_convolutions_answer_by_the_ridge_on_all_their_features(whole, data):
    member = whole.network().members[1]
    assert isinstance(member, Convolutions)
    inputs = inputs_of(data.valid.take(np.arange(12)), data.valid)
    features = np.concatenate([member.features[name](*inputs[name]).numpy() for name in ("acc", "gyro")], axis=1)
    expected = features @ member.weight.numpy() + member.bias.numpy()
    np.testing.assert_allclose(answers_to(member, data.valid).numpy(), expected, rtol=1e-5, atol=1e-5)
    # Labels of the few windows that it was fitted to are told apart.
    known = data.train.only_labelled()
    assert (answers_to(member, known).argmax(1).numpy() == known.labels).mean() > 0.9


def test_trees_are_those_of_scikit_learn_on_the_intervals_that_students_read(data):
    names = "acc", "gyro"
    train, known, rows = data.train, data.valid, np.flatnonzero(data.train.labelled)
    assert len(rows) < len(train)
    measured = [measure_intervals(train, name, seed=3) for name in names]  # unlabelled windows scale too

    def features(windows, rows):
        parts = [interval_features(each, windows, name, rows) for each, name in zip(measured, names, strict=True)]
        return np.concatenate(parts, axis=1)

    forest = ExtraTreesClassifier(n_estimators=300, random_state=3)
    forest.fit(np.round(features(train, rows) * 2**16) / 2**16, train.labels[rows])
    # One more vote, spread over the three classes.
    expected = np.log((300 * forest.predict_proba(features(known, np.arange(len(known)))) + 1 / 3) / 301)
    np.testing.assert_allclose(answers_to(grow_member(train, "trees", seed=3), known).numpy(), expected, atol=1e-5)


def test_a_mixed_window_is_answered_by_the_mixture_of_what_is_known_of_both(whole, data):
    source = BatchSource(data.train, AugmentConfig(mixup=1.0), batch=8, labelled_fraction=0.5, seed=0)
    batch, network, facts = source.at(2), whole.network(), whole.committee
    assert batch.partner is not None
    (found,) = ask_teachers([FixedViews(network, lambda member: answers_to(member, data.train))], batch, taps=False)
    mean = 0.0
    for member, one in zip(network.members, facts.members, strict=True):
        if one.kind == "transformer":
            shares = torch.softmax(member(batch.inputs).logits.double() / one.temperature, -1)
        else:
            known = torch.softmax(answers_to(member, data.train).double() / one.temperature, -1)
            share = batch.fraction[:, None].double()
            shares = share * known[batch.index] + (1 - share) * known[batch.partner]
        mean = mean + one.weight * shares
    torch.testing.assert_close(found.logits, mean.log().float())


def test_a_window_that_is_not_mixed_is_answered_as_it_was_recorded(whole, data):
    augment = AugmentConfig(mixup=0.0, noise=0.0, gain=0.0)
    batch = BatchSource(data.train, augment, batch=8, labelled_fraction=0.5, seed=0).at(0)
    assert batch.partner is None
    asked = []

    def ask(member):
        asked.append(member)
        return answers_to(member, data.train)

    views = FixedViews(whole.network(), ask)
    for _ in range(2):
        ask_teachers([views], batch, taps=True)
    assert [type(member).__name__ for member in asked] == ["Convolutions", "Trees"]


class Says(torch.nn.Module):
    """A member that says the same of every window."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, inputs, *, taps=False):
        return TeacherOutput(logits=self.logits, embedding=self.logits)


@pytest.mark.parametrize(
    ("kind", "one", "other", "expected"),
    [
        ("classification", [math.log(0.8), math.log(0.2)], [math.log(0.4), math.log(0.6)], [math.log(0.5)] * 2),
        ("multi_label", [math.log(4)], [math.log(2 / 3)], [0.0]),  # 0.25 x 0.8 + 0.75 x 0.4 is a half
        ("regression", [10.0], [20.0], [17.5]),
    ],
)
def test_the_pool_of_two_by_hand(kind, one, other, expected):
    member = MemberFacts(kind="transformer", seed=0, temperature=1.0, weight=0.25, score=0.5, log_likelihood=-1.0)
    facts = CommitteeFacts(members=(member, msgspec.structs.replace(member, weight=0.75)))
    first = Says(one)
    first.names = ("acc",)  # type: ignore[assignment]
    inputs = {"acc": (torch.ones(1, 4, 1), torch.ones(1, 4, 1))}
    found = Committee([first, Says(other)], facts, kind=kind)(inputs).logits[0].tolist()
    assert found == pytest.approx(expected, abs=1e-6)  # logits are float32


@pytest.fixture(scope="module")
def single(data, _no_single_sensors):
    """A committee that has members of its best sensor, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmkd_models.training.committee.joining_sensor", joining_sensor)
        return trained(data, members=members_named(["trees", "convolutions", "transformer"], LONG))


def test_members_of_the_sensor_that_tells_most_join_where_validation_wants_them(single, whole, data):
    members = single.committee.members
    names = ["transformer", "convolutions", "trees"]
    assert [one.named for one in members] == [*names, "convolutions of acc", "trees of acc"]
    assert [one.kind for one in whole.committee.members] == names
    known = data.valid
    of_acc = [answers_to(one, known).numpy() for one in single.network().members[3:]]
    for found, facts in zip(of_acc, members[3:], strict=True):
        alone = grow_member(data.train.with_modalities(("acc",)), facts.kind, seed=facts.seed)
        np.testing.assert_allclose(found, answers_to(alone, known.with_modalities(("acc",))).numpy(), atol=1e-5)
    told = [
        log_likelihood(logits_of(one.network(), known, modality=None), known.labels, kind="classification").mean()
        for one in (single, whole)
    ]
    assert told[0] > told[1]


def test_a_window_without_a_modality_is_answered_by_all_that_do_not_need_it(single, data):
    batch = BatchSource(data.train, AugmentConfig(), batch=8, labelled_fraction=0.5, seed=0).at(0)
    inputs = {name: (values.clone(), present.clone()) for name, (values, present) in batch.inputs.items()}
    inputs["gyro"][1][:4] = 0
    inputs["acc"][1][4:] = 0
    network, facts = single.network(), single.committee
    mean, total = torch.zeros(4, 3, dtype=torch.float64), 0.0
    for number in (0, 3, 4):
        output = network.members[number](inputs)
        logits = output.logits if isinstance(output, TeacherOutput) else output
        weight = facts.members[number].weight
        mean += weight * torch.softmax(network.calibrated(number, logits), -1)[:4]
        total += weight
    found = network(inputs).logits
    torch.testing.assert_close(found[:4], (mean / total).log().float())
    alone = network.calibrated(0, network.members[0](inputs).logits)[4:]
    torch.testing.assert_close(found[4:], torch.log_softmax(alone, -1).float())


def test_windows_shorter_than_kernels_have_a_committee_without_convolutions():
    assert default_members(SHORT) == ("transformer", "trees")
    assert default_members(LONG) == ("transformer", "convolutions", "trees")


def alter_member(number, **changes):
    return lambda found: found["committee"]["members"][number].update(changes)


def alter_features(sensor, **changes):
    """Alter the first group of convolutions, or their stride."""

    def alter(found):
        features = found["committee"]["members"][1]["features"][sensor]
        (features if "stride" in changes else features["groups"][0]).update(changes)

    return alter


ALTERED = {
    ("checkpoint", "document"): {
        "committee: expected two members or more and a transformer first, got trees, transformer": (
            lambda found: found["committee"]["members"].reverse()
        ),
        "committee: expected weights from 0 with the sum 1, got 0.75, 0.75": (
            lambda found: [one.update(weight=0.75) for one in found["committee"]["members"]]
        ),
        "committee: expected temperatures above 0, got 0, {heat:g}": alter_member(0, temperature=0.0),
        "committee: expected no bias of a transformer, whose head has it, got one": alter_member(0, bias=[0.0] * 3),
        "member 1 (trees): expected a finite bias of 3 logits, got 0, 1": alter_member(1, bias=[0.0, 1.0]),
    },
    ("single", "document"): {
        "member 4 (trees): expected a modality of the teacher, got heat": alter_member(4, modality="heat"),
        "member 3 (convolutions): expected features of gyro, got of acc": alter_member(3, modality="gyro"),
        "committee: expected transformers of all modalities, got one of a single modality": (
            alter_member(0, modality="acc")
        ),
    },
    ("whole", "document"): {
        "member 1 (convolutions): expected features of acc, gyro, got of none": (
            lambda found: found["committee"]["members"][1].pop("features")
        ),
        "member 1 (convolutions): tensor 'weight': expected shape ({more}, 3) of float32, got shape ({now}, 3) of "
        "float32": alter_features("acc", features=10**12),
        "member 1 (convolutions): acc: dilation: expected at most 4, got 5": alter_features("acc", dilation=5),
        "member 1 (convolutions): gyro: stride: expected at most 20, got 81": alter_features("gyro", stride=81),
    },
    ("checkpoint", "tensors"): {
        "member 1 (trees): expected every node to lead onwards inside its tree and every leaf to its row, got other "
        "links": lambda parts: parts["member1/left"].zero_(),
        "expected only tensors named teacher/ or member1/..., got ['member2/roots']": (
            lambda parts: parts.update({"member2/roots": torch.zeros(1)})
        ),
    },
    ("whole", "tensors"): {
        "member 1 (convolutions): expected exactly the tensors of its network, got missing ['features.acc.mean'] and "
        "unknown []": lambda parts: parts.pop("member1/features.acc.mean"),
        "member 1 (convolutions): tensor 'bias': expected finite values, got NaN or infinity": (
            lambda parts: parts["member1/bias"].fill_(torch.nan)
        ),
    },
}


@pytest.mark.parametrize(
    ("name", "what", "message", "change"),
    [(*key, message, change) for key, cases in ALTERED.items() for message, change in cases.items()],
)
def test_an_altered_committee_is_refused(name, what, message, change, request, tmp_path):
    made, path = request.getfixturevalue(name), tmp_path / "teacher.ckpt"
    write_teacher(path, made)
    rewrite(path, kind="teacher", **{what: change})
    refusal = said(CheckpointError, read_teacher, path)
    facts, figures = made.committee.members, {}
    figures["heat"] = facts[1].temperature
    if facts[1].kind == "convolutions":
        now = sum(config.features for config in facts[1].features.values())
        figures |= {"now": now, "more": now - facts[1].features["acc"].groups[0].features + 10**12}
    assert refusal.startswith(f"{path}: {message.format(**figures)}; ")
