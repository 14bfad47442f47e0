"""What a training says of later windows: limits of drift, and distances."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge.errors import CheckpointError
from mmkd_edge.health.drift import ROWS, DriftWatch, window_features
from mmkd_edge.predict.novelty import channel_magnitudes, magnitude
from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.networks.config import student_members
from mmkd_models.novelty import MAX_CENTRES, NoveltyScore, embedding_tensors, embeddings_from_tensors
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import read_student, write_student
from mmkd_models.training.inputs import TrainingRequest, TrainingRun
from mmkd_models.training.references import embeddings_summary, fit_reference, group_reference, magnitude_limits
from mmkd_models.training.students import train_student
from tests.models.conftest import STUDENT, data_of

NAMES = ("ax", "ay", "az")


@pytest.fixture(scope="module")
def people():
    """The accelerometer's windows of each of ten people."""
    everything = open_dataset(shipped_dataset()).everything()
    rows = {int(person): np.flatnonzero(everything.groups == person) for person in np.unique(everything.groups)}
    return {person: everything.take(found)["acc"] for person, found in rows.items()}


@pytest.fixture(scope="module")
def references(people):
    """Each from eight people, and the two whom it does not know."""
    features = {person: features_of(windows) for person, windows in people.items()}
    found = []
    for out in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10)):
        known = [features[person] for person in people if person not in out]
        found.append((fit_reference(known, channels=3, between="groups"), out))
    return found


def features_of(windows):
    step = max(1, windows.shape[1] // ROWS)
    rows, there = windows[:, ::step], np.isfinite(windows[:, ::step])
    return np.array([window_features(one, present) for one, present in zip(rows, there, strict=True)])


def judged(reference, windows):
    return DriftWatch(reference, names=NAMES, unit="g").judge(features_of(windows))


def test_people_never_seen_are_as_trained_whatever_they_do(people, references):
    verdicts = [judged(reference, people[person]).verdict for reference, out in references for person in out]
    assert verdicts.count("as_trained") >= 9  # of ten, at a rate of one in nine
    # A hundred windows in a row are three of the seven exercises.
    rows = [judged(reference, people[person][:100]).verdict for reference, out in references for person in out]
    assert rows.count("as_trained") >= 9


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (lambda x: x[:, :, [1, 0, 2]], "axes"),
        (lambda x: x[:, :, [2, 1, 0]], "axes"),
        (lambda x: x[:, :, [0, 2, 1]], "axes"),
        (lambda x: x * np.array([1, 0, 1], np.float32), "dead"),
        (lambda x: x + np.array([0, 0, 1], np.float32), "offset"),
        (lambda x: x * np.float32(9.81), "gain"),
    ],
    ids=["x and y swapped", "x and z swapped", "y and z swapped", "y dead", "offset of z", "another unit"],
)
def test_what_is_wrong_is_found_and_named(people, references, fault, cause):
    found = [judged(reference, fault(people[person])) for reference, out in references for person in out]
    assert [drift.verdict for drift in found] == ["drifting"] * 10
    assert sum(cause == drift.cause for drift in found) >= 8


def test_without_groups_blocks_take_their_place_and_the_reference_says_so():
    everything = open_dataset(shipped_dataset()).everything()
    lonely = everything.subset(everything.groups <= 2)
    reference = group_reference(lonely, lonely.subset(np.arange(0)), "acc")
    assert (reference.between, reference.groups) == ("blocks", 10)


def test_a_channel_without_values_or_signal_is_never_far():
    rng = np.random.default_rng(0)
    groups = [np.concatenate([rng.normal(size=(20, 1)), np.full((20, 1), np.nan)], axis=1) for _ in range(6)]
    features = [np.concatenate([one, one, np.full((20, 1), np.nan)], axis=1) for one in groups]
    watch = DriftWatch(fit_reference(features, channels=2, between="groups"), names=("a", "b"), unit="")
    assert watch.judge(np.concatenate(features)).verdict == "as_trained"
    limits = magnitude_limits([np.array([[np.nan, 3.0, 0.0]] * 5)] * 4)
    assert limits.usual == (1.0, 3.0, 1.0)
    assert magnitude((np.nan, 3.0, 0.0), limits.usual) == np.sqrt(0.5)


def test_people_never_seen_are_within_the_limits_and_a_wrong_unit_is_not(people):
    of_people = {person: channel_magnitudes(one, np.ones_like(one)) for person, one in people.items()}
    for person, found in of_people.items():
        limits = magnitude_limits([one for other, one in of_people.items() if other != person])

        def outside(factor):
            sizes = np.array([magnitude(factor * row, limits.usual) for row in found])  # noqa: B023 - called here alone
            return float(((sizes < limits.lowest) | (sizes > limits.highest)).mean())  # noqa: B023

        assert outside(1) <= 0.02
        assert [outside(factor) for factor in (8, 1 / 8, 1000 / 9.81)] == [1, 1, 1]
        assert limits.outside_rate <= 0.02


def test_the_limits_are_those_of_groups_twice_as_far_out_and_the_rate_is_that_of_groups_left_out():
    usual = [np.full((10, 1), 1.0) for _ in range(9)]
    limits = magnitude_limits([*usual, np.array([[1.0]] * 9 + [[80.0]])])
    # Of the tenth group 1 in 100 is above 1 + 0.91 x 79 = 72.89; of groups 5 in 100 above 1 + 0.55 x 71.89.
    assert (limits.usual, limits.lowest) == ((1.0,), 0.5)
    assert limits.highest == pytest.approx(2 * (1 + 0.55 * 71.89))
    assert limits.outside_rate == 0.01  # without the tenth group its one window is outside


WIDTH = 6
RUN = TrainingRun(train=TrainConfig(steps=2, batch=8), augment=AugmentConfig())


def config_of(members):
    return msgspec.structs.replace(STUDENT, preset="tiny", members=student_members(members))


def embeddings(count, *, seed=0):
    """Two clouds that are far apart, in features of unlike scales."""
    cloud = np.random.default_rng(seed).normal(size=(count, WIDTH)) + 20.0 * (np.arange(count) % 2)[:, None]
    return (cloud * np.logspace(-2, 2, WIDTH)).astype(np.float32)


def test_the_score_is_the_square_distance_to_the_nearest_of_few_centres_and_never_below_zero():
    seen, rows = embeddings_summary(embeddings(200), embeddings(50, seed=1)), embeddings(7, seed=2)
    scaled = rows * seen.scale.numpy() + seen.shift.numpy()
    expected = [min(float(((x - c) ** 2).sum()) for c in seen.centres.numpy()) for x in scaled]
    found = NoveltyScore(seen)(torch.from_numpy(rows))
    assert found.shape == (7, 1)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=1e-3, atol=1e-3)  # float32, squares of up to 100
    seen = embeddings_summary(embeddings(3000), embeddings(99, seed=1))
    assert len(seen.centres) <= MAX_CENTRES
    assert len(seen.scores) == 99
    assert bool((seen.scores.diff() >= 0).all())
    rows = embeddings(100)
    rows[:, 2] = 5.0
    seen = embeddings_summary(rows, rows)
    assert all(bool(torch.isfinite(one).all()) for one in embedding_tensors(seen).values())
    seen = embeddings_summary(embeddings(100), embeddings(50, seed=1))
    back = embeddings_from_tensors(embedding_tensors(seen), width=WIDTH, path=Path("a.ckpt"))
    assert all(torch.equal(getattr(back, name), tensor) for name, tensor in embedding_tensors(seen).items())
    centre = (seen.centres - seen.shift) / seen.scale
    assert bool((NoveltyScore(seen)(centre) >= 0).all())


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("scale"),
        lambda tensors: tensors.update(centres=tensors["centres"][:, :-1].contiguous()),
        lambda tensors: tensors.update(shift=tensors["shift"] * float("nan")),
        lambda tensors: tensors.update(scores=tensors["scores"].flip(0)),
        lambda tensors: tensors.update(centres=tensors["centres"][:1].repeat(MAX_CENTRES + 1, 1)),
        lambda tensors: tensors.update(scale=tensors["scale"].double()),
    ],
    ids=["missing", "width", "nan", "falling", "many", "double"],
)
def test_an_altered_file_is_refused(change):
    tensors = embedding_tensors(embeddings_summary(embeddings(100), embeddings(50, seed=1)))
    change(tensors)
    with pytest.raises(CheckpointError, match=r"\Aa.ckpt: novelty: expected finite float32 scale and shift \(6,\)"):
        embeddings_from_tensors(tensors, width=WIDTH, path=Path("a.ckpt"))


@pytest.mark.parametrize("kind", ["transformer", "convolutions", "trees", "transformer,intervals"])
def test_every_training_of_a_windowed_student_measures_it(machines, tmp_path, kind):
    student = train_student(TrainingRequest(data_of(machines), "acc", config_of(kind), RUN))
    assert student.embeddings.centres.shape[1] == student.network().head.in_features
    assert len(student.embeddings.scores) == len(machines.split("valid"))
    write_student(tmp_path / "a.ckpt", student)
    assert torch.equal(read_student(tmp_path / "a.ckpt").embeddings.centres, student.embeddings.centres)
