"""What validation chooses: the prior adjustment by hand, the rule, the usual recipe, and the race between trainings."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from mmkd_documents.demo import LABELS_ONLY
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data import write_dataset
from mmkd_models.defaults import AUGMENT
from mmkd_models.distillation.recipe import check_terms, default_recipe
from mmkd_models.metrics.likelihood import fitted_temperature, helpful_temperature
from mmkd_models.metrics.scores import DEFAULT_METRIC
from mmkd_models.networks.config import MEMBERS, student_config, teacher_config
from mmkd_models.networks.convolutions import LENGTH
from mmkd_models.networks.fronts.as_series import series_view
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import TeacherFile, read_student, write_student
from mmkd_models.training.choosing import (
    ValidationScore,
    best_validated,
    choose_tau,
    is_ahead,
    labels_win,
    log_prior,
    preferred,
    prior_bias,
    validation_score,
)
from mmkd_models.training.fitting import adjusted_fit
from mmkd_models.training.inputs import TrainingRequest, TrainingRun
from mmkd_models.training.loop import Fit
from mmkd_models.training.predict import scores_of
from mmkd_models.training.students import train_student
from mmkd_models.training.trainings import train_teacher, train_transformer
from tests.models.conftest import data_of


def test_the_prior_is_the_share_of_each_class_among_the_known_labels():
    assert np.exp(log_prior(np.array([0, 0, 0, 1, -1, -1]), 2)) == pytest.approx([0.75, 0.25])


def biased(groups):
    """Each group: ten windows of class 0, ten of class 1 that would be right but for the prior of nine to one."""
    prior = np.log([0.9, 0.1])
    labels = np.tile([0] * 10 + [1] * 10, groups)
    return np.where(labels[:, None] == np.arange(2), 1.0, 0.0) + prior, labels, np.repeat(np.arange(groups), 20)


# At tau 1/2 the evidence of 1 stands against log 3 = 1.0986, which still hides class 1.
@pytest.mark.parametrize(("metric", "tau"), [("balanced_accuracy", 1.0), ("accuracy", 0.0)])
def test_classes_that_only_their_frequency_hides_are_found_again_unless_accuracy_counts(metric, tau):
    logits, labels, groups = biased(6)
    assert (logits.argmax(1) == 0).all()  # 0 + log 9 > 1
    assert choose_tau(logits, labels, groups, prior=np.log([0.9, 0.1]), metric=metric) == tau


def test_a_gain_that_one_group_alone_has_is_not_believed():
    logits, labels, groups = biased(6)
    logits[groups > 0] = np.where(labels[groups > 0, None] == np.arange(2), 5.0, -5.0)
    assert choose_tau(logits, labels, groups, prior=np.log([0.9, 0.1]), metric="balanced_accuracy") == 0.0


def test_two_groups_are_cut_into_blocks_of_neighbouring_windows():
    logits, labels, groups = biased(2)
    order = np.random.default_rng(0).permutation(len(labels))
    assert choose_tau(logits[order], labels[order], groups, prior=np.log([0.9, 0.1]), metric="balanced_accuracy") == 1.0


@pytest.mark.parametrize("size", [1.0, 0.05])
def test_raw_answers_are_evened_out_in_their_own_unit(dataset, size):
    logits, labels, groups = biased(6)
    raw, taught = size * logits, np.array([0] * 9 + [1])
    known = replace(dataset.split("valid").subset(np.arange(120) % 16), labels=labels, groups=groups)
    bias = prior_bias(raw, taught, known, metric="balanced_accuracy")
    heat = fitted_temperature(raw, labels, kind="classification")
    assert (bias / heat).tolist() == pytest.approx((-0.5 * np.log([0.9, 0.1])).tolist())
    assert (raw.argmax(1) == 0).all()
    assert ((raw + bias).argmax(1) == labels).all()
    assert prior_bias(raw, taught, known, metric="accuracy") is None


def test_the_adjustment_is_the_bias_of_the_head(dataset):
    """A student that tells both classes apart, and is then made to favour class 0 as labels of fifty to one would."""
    data = data_of(dataset)
    run = TrainingRun(train=TrainConfig(steps=40, batch=16, eval_every=20), augment=AUGMENT)
    trained = train_transformer(TrainingRequest(data, "acc", student_config("tiny"), run))
    labels = np.where(np.arange(len(data.train)) == 0, 1, 0)
    favour = torch.from_numpy(log_prior(labels, 2)).float()
    state = {**trained.state, "head.bias": trained.state["head.bias"] + favour}
    student, data = trained.network(), replace(data, train=data.train.with_labels(labels))
    result = Fit(state=state, scores=scores_of(student, data.valid, modality="acc"), best_step=0)
    accurate = replace(run, train=msgspec.structs.replace(run.train, metric="accuracy"))
    assert adjusted_fit(student, result, data, accurate, modality="acc") == (result, 0.0)
    corrected, tau = adjusted_fit(student, result, data, run, modality="acc")
    assert tau > 0
    assert torch.allclose(corrected.state["head.bias"], state["head.bias"] - tau * favour)


def standing(score, likelihood):
    return ValidationScore(score=score, standard_error=0.05, likelihoods=np.array([likelihood - 0.1, likelihood + 0.1]))


def test_of_those_within_a_standard_error_the_likeliest_is_preferred():
    far, best = standing(0.70, -0.1), standing(0.80, -0.6)
    assert preferred([far, standing(0.76, -0.4), best]) == 1
    assert preferred([far, standing(0.74, -0.4), best]) == 2


SEVERAL = TaskSpec(kind="multi_label", labels=("hot", "loud"))
NUMBER = TaskSpec(kind="regression", labels=("rpm",), unit="rpm")


def test_scores_of_labels_and_numbers_have_their_standard_error_too():
    # Three of four windows have both labels right, of which each is one trial.
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=np.uint8)
    found = validation_score(np.array([[2.0, -2], [-2, 2], [2, 2], [2, -2]]), labels, SEVERAL, metric="subset_accuracy")
    assert (found.score, found.standard_error) == (0.75, pytest.approx(math.sqrt(0.75 * 0.25 / 4)))
    # Errors of 1 around numbers with the variance 5: R^2 = 4/5, of which 2 R (1 - R^2) / sqrt(n).
    found = validation_score(np.array([[2.0], [2], [6], [6]]), np.float32([1, 3, 5, 7]), NUMBER, metric="r2")
    assert (found.score, found.standard_error) == pytest.approx((0.8, 2 * math.sqrt(0.8) * 0.2 / 2))


@pytest.mark.parametrize(
    ("task", "terms"),
    [
        (TaskSpec(labels=("idle", "ok", "worn")), ["task", "dist"]),
        (TaskSpec(labels=("ok", "worn")), ["logit"]),
        (TaskSpec(kind="multi_label", labels=("hot", "worn", "loose")), ["logit"]),
        (TaskSpec(kind="regression", labels=("level",)), ["logit"]),
    ],
)
def test_the_usual_recipe_is_one_that_the_task_can_have(task, terms):
    recipe = default_recipe(task)
    assert [term.name for term in recipe.terms] == terms
    check_terms(recipe, kind=task.kind)


def confident(labels, by):
    """Logits that favour the label of each window by so much, or another class if below 0."""
    return np.eye(3)[labels] * np.broadcast_to(by, len(labels))[:, None]


def test_score_and_likelihood_choose_of_like_answers_the_most_even_and_of_equal_ones_the_first():
    labels, task = np.array([0, 1, 2, 1]), TaskSpec(labels=("idle", "ok", "worn"))

    def chosen(pools, unevenness=None, groups=labels, metric="balanced_accuracy"):
        return best_validated(pools, unevenness or [0.0] * len(pools), labels, groups, task, metric=metric)

    # Mean log-likelihoods -log(1 + 2 exp(-m)): -0.24 and -0.04.
    unsure, sure = confident(labels, 2.0), confident(labels, 4.0)
    no_idle, half_ok = confident(labels, [-4.0, 4.0, 4.0, 4.0]), confident(labels, [4.0, -4.0, 4.0, 4.0])
    assert [chosen(pools) for pools in ([unsure, sure], [half_ok, unsure], [sure, sure])] == [1, 1, 0]
    # A balanced accuracy of 67 and 83 %, an accuracy of 75 % of both.
    assert [chosen([no_idle, half_ok], metric=metric) for metric in ("balanced_accuracy", "accuracy")] == [1, 0]
    # 0.2 of 0.2035 nats; in two groups a squared distance of 1 from equal weights counts 0.4, in four 0.2.
    for groups, far in ((np.arange(4) // 2, 0.1018), (np.arange(4), 0.2035)):
        assert [chosen([unsure, sure], [0.0, far + more], groups) for more in (-0.01, 0.01)] == [1, 0]


def test_labels_only_win_by_three_groups_or_more():
    taught, baseline = (
        ValidationScore(score=one, standard_error=0.0, likelihoods=np.full(3, one)) for one in (0.5, 0.9)
    )
    assert [labels_win(taught, baseline, np.array(groups)) for groups in ([0, 1, 2], [0, 1, 1])] == [True, False]
    assert not labels_win(baseline, taught, np.arange(3))


def test_a_lead_counts_from_a_standard_error_over_groups_on():
    task, labels, groups = TaskSpec(labels=("idle", "ok", "worn")), np.tile([0, 1, 2, 1], 4), np.repeat(np.arange(4), 4)
    right, wrong = confident(labels, 2.0), confident(labels, -2.0)
    # Leads of the groups in accuracy: 1, 1, 1, 1; then 1, 1, -1, 0, with the mean 0.25 and the standard error 0.48.
    assert is_ahead(right, wrong, labels, groups, task, metric="accuracy")
    first, third = (np.where(mask[:, None], right, wrong) for mask in (groups < 2, groups == 2))
    assert not is_ahead(first, third, labels, groups, task, metric="accuracy")
    assert not is_ahead(right, right, labels, groups, task, metric="accuracy")


def test_a_temperature_is_used_only_where_it_makes_other_groups_likelier():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 400), np.repeat(np.arange(10), 40)
    # True log odds of 2 for the label's class, which is right as it is, and three times too much.
    z = np.where(rng.random(400) < 1 / (1 + math.exp(-2)), 1.0, -1.0)
    logits = np.stack([np.where(labels == 0, z, -z), np.where(labels == 1, z, -z)], axis=1)
    assert helpful_temperature(3 * logits, labels, groups, kind="classification") == pytest.approx(
        fitted_temperature(3 * logits, labels, kind="classification")
    )
    # Right 3, 2 and 1 times of three, with odds of two to one: two groups say the contrary of what the third needs.
    margins = math.log(2) * np.array([1, 1, 1, 1, 1, -1, 1, -1, -1])
    truth, owner = np.zeros(9, dtype=np.int64), np.repeat(np.arange(3), 3)
    unlike = np.stack([margins, -margins], axis=1) / 2
    assert fitted_temperature(unlike, truth, kind="classification") != 1.0
    assert helpful_temperature(unlike, truth, owner, kind="classification") == 1.0
    assert helpful_temperature(logits, labels.astype(float), groups, kind="regression") == 1.0
    assert helpful_temperature(logits[:0], labels[:0], groups[:0], kind="classification") == 1.0


RUN = TrainingRun(train=TrainConfig(steps=4, batch=12, eval_every=2, seed=3), augment=AUGMENT)


@pytest.fixture(scope="module")
def data(dataset):
    return data_of(dataset)


def test_labels_only_are_shipped_where_the_teacher_knows_nothing_and_validation_is_sure(data, monkeypatch):
    """The teacher's answers are those of other windows, so what it teaches is wrong half of the time."""
    wrong = 1 - data.train.labels
    fooled = replace(data, train=data.train.with_labels(wrong), valid=data.valid.with_labels(1 - data.valid.labels))
    strong = replace(RUN, train=msgspec.structs.replace(RUN.train, steps=16))
    teacher = train_teacher(fooled, teacher_config("tiny"), strong)
    config = student_config("tiny", members=("transformer", "convolutions"))
    few = config.members
    alone = train_student(TrainingRequest(data.with_modalities(("acc",)), "acc", config, strong, candidates=few))
    unlabelled = replace(data, train=data.train.with_labels(np.where(np.arange(len(wrong)) < 4, data.train.labels, -1)))
    taught_by, recipe = [TeacherFile(checkpoint=teacher, sha256="cd" * 32)], default_recipe(data.train.spec.task)
    training = TrainingRequest(unlabelled, "acc", config, strong, taught_by, recipe, few)
    student = train_student(training, baseline=alone)
    assert student.facts.shipped == LABELS_ONLY
    assert student.facts.teacher_sha256 is None
    assert [one.name for one in student.facts.tried or ()][-1] == LABELS_ONLY
    assert all((student.state[name] == alone.state[name]).all() for name in alone.state)
    asked = []
    monkeypatch.setattr("mmkd_models.training.students.labels_win", lambda *given: bool(asked.extend(given)))
    monkeypatch.setattr("mmkd_models.training.students.is_ahead", lambda *given, metric: False)
    unsure = train_student(training, baseline=alone)
    assert unsure.facts.shipped != LABELS_ONLY
    assert unsure.facts.teacher_sha256 == "cd" * 32
    assert unsure.facts.tried == student.facts.tried
    everything = train_student(replace(training, data=data), baseline=alone)
    assert everything.facts.shipped == LABELS_ONLY  # with few labels a tie is the taught student's
    scores = scores_of(teacher.network(), data.valid, modality=None)
    assert student.facts.teacher_score == scores.metric("balanced_accuracy")
    taught, labels_only, groups = asked[:3]
    assert labels_only.log_likelihood > taught.log_likelihood
    np.testing.assert_array_equal(groups, data.valid.groups)


def test_a_causal_student_races_as_a_transformer_alone(data):
    run = replace(RUN, train=msgspec.structs.replace(RUN.train, steps=2))
    config = student_config("tiny", causal=True)
    student = train_student(TrainingRequest(data.with_modalities(("acc",)), "acc", config, run, candidates=MEMBERS))
    assert [one.name for one in student.facts.tried] == ["transformer"]
    assert student.config.causal


def test_sound_of_fewer_frames_than_a_kernel_races_as_a_transformer_alone(tmp_path):
    rng = np.random.default_rng(0)
    sound = ModalitySpec(name="mic", kind="audio", channels=("m",), rate_hz=16000.0, samples=1600)
    assert series_view(sound).spec.samples < LENGTH < sound.samples
    splits = {
        name: {"mic": rng.normal(0, 0.1, (8, 1600, 1)).astype(np.float32), "labels": np.arange(8) % 2}
        for name in ("train", "valid", "test")
    }
    brief = write_dataset(tmp_path / "brief", name="brief", labels=("a", "b"), modalities=(sound,), splits=splits)
    run = replace(RUN, train=msgspec.structs.replace(RUN.train, steps=1, batch=4))
    student = train_student(TrainingRequest(data_of(brief), "mic", student_config("tiny"), run, candidates=MEMBERS))
    assert [one.name for one in student.facts.tried] == ["transformer"]


@pytest.mark.parametrize(
    "kind", ["classification", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("multi_label", "regression"))]
)
def test_every_way_is_in_the_facts_and_the_shipped_one_is_among_them(dataset, rigs, kind, tmp_path):
    rig = rigs.get(kind, dataset)
    run = replace(RUN, train=msgspec.structs.replace(RUN.train, steps=2, metric=DEFAULT_METRIC[rig.spec.task.kind]))
    seen = data_of(rig).with_modalities(("acc",))
    student = train_student(TrainingRequest(seen, "acc", student_config("tiny"), run, candidates=MEMBERS))
    race = {one.name: one for one in student.facts.tried}
    assert list(race)[:4] == ["transformer", "convolutions", "intervals", "trees"]
    assert race[student.facts.shipped].valid_score == student.facts.score
    write_student(tmp_path / "student.ckpt", student)
    assert read_student(tmp_path / "student.ckpt").facts == student.facts
