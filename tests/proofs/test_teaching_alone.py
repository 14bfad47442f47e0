"""Answers that are joined along a recording, against the sum over all its paths, and when they are joined at all."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.data.windows import Windows
from proofs.teaching_alone import (
    Joining,
    chosen,
    joining_sensors,
    member_logits,
    order_of,
    pooled,
    smoothed,
    teacher_answers,
    written,
)

SPLITS = ("train", "valid", "test")


def by_all_paths(told: np.ndarray, stay: float) -> np.ndarray:
    """Every sequence of classes weighed by its probability: what the recursions compute in less time."""
    windows, classes = told.shape
    found = np.zeros_like(told)
    for path in product(range(classes), repeat=windows):
        steps = [stay if a == b else (1 - stay) / (classes - 1) for a, b in pairwise(path)]
        found[np.arange(windows), path] += np.prod(told[np.arange(windows), path]) * np.prod(steps)
    return found / found.sum(1, keepdims=True)


def windows_of(path, labels: list[int], **columns) -> Windows:
    count = len(labels)
    split = {
        "acc": np.zeros((count, 10, 1), np.float32),
        "labels": np.array(labels),
        "groups": np.repeat(np.arange(4), count // 4),
        **columns,
    }
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=10)
    splits = {"train": split, "valid": split | {"groups": split["groups"] + 4}}
    splits["test"] = split | {"groups": split["groups"] + 8}
    return write_dataset(path, name="runs", labels=["a", "b"], modalities=[acc], splits=splits).split("valid")


def test_every_path_through_a_recording_counts() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(3), size=9)
    order = [np.array([3, 0, 1, 2]), np.array([4, 5, 6, 8, 7])]
    found = smoothed(shares, order, Joining(stay=0.8, power=0.5))
    for rows in order:
        np.testing.assert_allclose(found[rows], by_all_paths(shares[rows] ** 0.5, 0.8), rtol=1e-9)


def test_a_chain_without_memory_leaves_answers_as_they_are() -> None:
    shares = np.random.default_rng(1).dirichlet(np.ones(2), size=6)
    found = smoothed(shares, [np.arange(6)], Joining(stay=0.5, power=1.0))
    np.testing.assert_allclose(found, shares, rtol=1e-9)


def test_windows_come_in_the_order_of_time_where_the_dataset_knows_it(tmp_path) -> None:
    rows = windows_of(tmp_path / "rows", [0, 1] * 6)
    assert [part.tolist() for part in order_of(rows)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    timed = windows_of(tmp_path / "timed", [0, 1] * 6, times=np.arange(12.0)[::-1])
    assert [part.tolist() for part in order_of(timed)] == [[2, 1, 0], [5, 4, 3], [8, 7, 6], [11, 10, 9]]


@pytest.mark.parametrize(("labels", "is_joined"), [([0] * 20 + [1] * 20, True), ([0, 1] * 20, False)])
def test_answers_are_joined_only_where_labels_stand_for_a_while(tmp_path, labels: list[int], is_joined: bool) -> None:
    valid = windows_of(tmp_path / "runs", labels)
    right = np.where(np.random.default_rng(2).uniform(size=40) < 0.75, valid.labels, 1 - valid.labels)
    shares = np.full((40, 2), 0.25)
    shares[np.arange(40), right] = 0.75
    assert (chosen(shares, valid) is not None) == is_joined


def test_where_every_label_is_seen_nothing_is_told_of_hidden_ones() -> None:
    assert written([12.34, float("nan")]) == ["12.3", "none"]


@pytest.mark.parametrize("joins", [True, False])
def test_the_sensor_that_tells_most_joins_where_validation_wants_it(
    tmp_path, joins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, labels = np.random.default_rng(3), np.arange(40) % 2
    splits = {
        name: {
            "acc": rng.normal(labels[:, None, None], 0.5, (40, 10, 1)).astype(np.float32),
            "heat": rng.normal(size=(40, 10, 1)).astype(np.float32),
            "labels": labels,
            "groups": 4 * number + labels + 2 * (np.arange(40) // 20),
        }
        for number, name in enumerate(SPLITS)
    }
    sensors = [ModalitySpec(name=name, channels=("x",), rate_hz=10.0, samples=10) for name in ("heat", "acc")]
    dataset = write_dataset(tmp_path / "two", name="two", labels=["a", "b"], modalities=sensors, splits=splits)
    parts = [dataset.split(name) for name in SPLITS]
    monkeypatch.setattr("proofs.teaching_alone.joining_sensor", lambda *given, **named: "acc" if joins else None)
    rocket, trees, both, committee, best = teacher_answers(parts, parts[1], seed=0)
    assert best == ("acc" if joins else None)
    members = member_logits(parts, parts[1], seed=0)
    if joins:
        members += member_logits([one.with_modalities(("acc",)) for one in parts], parts[1], seed=0)
    np.testing.assert_allclose(committee[2], pooled(members, parts[1])[2])
    for shares in (rocket, trees, both, committee):
        assert [one.shape for one in shares] == [(40, 2)] * 3
        np.testing.assert_allclose(shares[2].sum(1), 1)


def test_sensors_that_join_are_counted_over_the_folds() -> None:
    class Fold:
        def __init__(self, best: str | None) -> None:
            self.best = best

    assert joining_sensors([Fold("acc"), Fold(None), Fold("acc"), Fold("gyro")]) == "acc on 2 of 4, gyro on 1 of 4"  # type: ignore[list-item]
    assert joining_sensors([Fold(None)]) == "none"  # type: ignore[list-item]
