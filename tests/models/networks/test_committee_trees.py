"""Trees as arrays: the answers of scikit-learn to the last bit of a float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from mmkd_edge.errors import CheckpointError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.networks import members as module
from mmkd_models.networks.committee import MemberFacts
from mmkd_models.networks.members import Trees, check_member, grow_trees

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40)
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(80, 6)).astype(np.float32)
CLASSES = (FEATURES[:, 0] + FEATURES[:, 1] * FEATURES[:, 2] > 0).astype(np.int64) + (FEATURES[:, 3] > 0.8)
ASKED = np.concatenate([FEATURES[:10], RNG.normal(size=(200, 6)).astype(np.float32)])


def windows(missing: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and presence (7, 40, 2); the last window has no sample in its second channel."""
    rng = np.random.default_rng(1)
    present = (rng.uniform(size=(7, 40, 2)) >= missing).astype(np.float32)
    present[-1, :, 1] = 0
    values = rng.normal(3.0, 2.0, size=(7, 40, 2)).astype(np.float32) * present
    return torch.from_numpy(values), torch.from_numpy(present)


@pytest.mark.parametrize("depth", [1, 3, None])
def test_trees_answer_as_scikit_learn_does(depth: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    forest = ExtraTreesClassifier(n_estimators=20, max_depth=depth, random_state=4).fit(FEATURES, CLASSES)
    monkeypatch.setattr("sklearn.ensemble.ExtraTreesClassifier", lambda **_: forest)
    grown = grow_trees(FEATURES, CLASSES, [ACC], classes=3, kind="classification", seed=4)
    votes = grown.votes(torch.from_numpy(ASKED))
    # The same leaf each time; the fractions in it are float32.
    np.testing.assert_allclose(votes.numpy(), forest.predict_proba(ASKED), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "labels", "classes"),
    [
        ("multi_label", np.stack([CLASSES > 0, FEATURES[:, 4] > 0], axis=1).astype(np.uint8), 2),
        ("regression", FEATURES[:, 1] * 100, 1),
    ],
)
def test_shares_of_labels_and_numbers_are_means_of_leaves(kind: str, labels: np.ndarray, classes: int) -> None:
    forest = ExtraTreesRegressor(n_estimators=module.TREES, random_state=4).fit(FEATURES, labels)
    grown = grow_trees(FEATURES, labels, [ACC], classes=classes, kind=kind, seed=4)
    votes = grown.votes(torch.from_numpy(ASKED)).numpy()
    np.testing.assert_allclose(votes, forest.predict(ASKED).reshape(-1, classes), rtol=1e-6, atol=1e-7)


def test_a_statistic_at_a_threshold_goes_left_and_the_next_float_right() -> None:
    asked = torch.tensor([[0.5], [np.nextafter(np.float32(0.5), np.float32(1))]])
    tree = Trees([ACC], stump(), kind="classification")
    assert tree.votes(asked).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def stump() -> dict[str, torch.Tensor]:
    """One tree of one question: is the first statistic at most a half?"""
    return {
        "roots": torch.tensor([0], dtype=torch.int32),
        "feature": torch.tensor([0, -1, -1], dtype=torch.int32),
        "threshold": torch.tensor([0.5, 0.0, 0.0]),
        "left": torch.tensor([1, 0, 1], dtype=torch.int32),
        "right": torch.tensor([2, 0, 0], dtype=torch.int32),
        "fractions": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    }


def test_the_votes_are_smoothed_by_one_that_is_spread_evenly() -> None:
    inputs = {"acc": (torch.ones(1, 40, 2), torch.ones(1, 40, 2))}  # its mean, the first statistic, is above a half
    classes = Trees([ACC], stump(), kind="classification")(inputs).exp()
    labels = Trees([ACC], stump(), kind="multi_label")(inputs).sigmoid()
    numbers = Trees([ACC], {**stump(), "fractions": torch.tensor([[3.0], [7.0]])}, kind="regression")(inputs)
    assert classes[0].tolist() == pytest.approx([0.25, 0.75])  # (0 + 1/2) / 2, (1 + 1/2) / 2
    assert labels[0].tolist() == pytest.approx([0.25, 0.75])
    assert numbers.tolist() == [[7.0]]


def test_the_same_seed_grows_the_same_trees() -> None:
    one, same, other = (
        grow_trees(FEATURES, CLASSES, [ACC], classes=3, kind="classification", seed=seed).state_dict()
        for seed in (4, 4, 5)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["threshold"][:50], other["threshold"][:50])


def check_trees(arrays: dict[str, torch.Tensor]) -> None:
    facts = MemberFacts(kind="trees", seed=0, temperature=1.0, weight=1.0, score=0.0, log_likelihood=0.0)
    check_member(facts, arrays, [ACC], TaskSpec(labels=("a", "b")), path="member 1")


def fault_of(arrays: dict[str, torch.Tensor]) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_trees(arrays)
    return str(caught.value)


def test_grown_trees_are_sound() -> None:
    statistics = module.window_figures(
        {"acc": windows(0.2)}, Trees([ACC], stump(), kind="classification").views
    ).numpy()
    assert statistics.shape == (7, 2 * (3 + 7 + 20))
    assert np.isfinite(statistics).all()
    grown = grow_trees(statistics, np.arange(7) % 2, [ACC], classes=2, kind="classification", seed=0)
    check_trees(grown.state_dict())


def test_a_class_without_a_window_gets_the_spread_vote_alone() -> None:
    grown = grow_trees(FEATURES, CLASSES * 2, [ACC], classes=5, kind="classification", seed=4)
    assert grown.fractions.shape[1] == 5
    assert not grown.fractions[:, [1, 3]].any()


LINKS = "expected every node to lead onwards inside its tree and every leaf to its row, got other links"


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("left", [0, 0, 1], LINKS),  # a circle
        ("left", [1, 0, 2], LINKS),  # fractions that are not there
        ("right", [3, 0, 0], LINKS),
        ("right", [2, 1, 0], LINKS),
        ("feature", [84, -1, -1], LINKS),  # acc has 84 statistics, from 0
        ("feature", [0, -2, -1], LINKS),
        ("roots", [1], LINKS),
        ("roots", [0, 0], LINKS),
        ("roots", [0, 2], LINKS),
        (
            "threshold",
            [float("nan"), 0, 0],
            "tensor 'threshold': expected finite values, got NaN or infinity",
        ),
    ],
)
def test_trees_that_were_altered_are_refused(name: str, value: list[float], fault: str) -> None:
    arrays = stump()
    arrays[name] = torch.tensor(value, dtype=arrays[name].dtype)
    assert fault_of(arrays).startswith(f"member 1: {fault};")


def test_arrays_of_other_kinds_and_shapes_are_refused() -> None:
    assert "got missing ['feature', 'fractions', 'left'] and unknown []" in fault_of({"roots": torch.zeros(1)})
    assert "tensor 'threshold': expected shape (3,) of float32, got shape (2,) of float32" in fault_of(
        {**stump(), "threshold": torch.zeros(2)}
    )
    assert "tensor 'roots': expected shape (1,) of int32" in fault_of({**stump(), "roots": torch.zeros(1)})
