"""The rivals of a camera and a microphone: what they see, how large they are, and what students have over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmkd_models.compare.one_fold import FoldData, fold_data
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from mmkd_models.data.labelled import Labelled
from proofs.pixel_rivals import Convolutions, Found, flat, points, ridge, table, width_for


@pytest.fixture(scope="module")
def words() -> FoldData:
    return fold_data(open_dataset(shipped_dataset("grid_words")), seed=0, labelled=Labelled(groups=96))


def test_a_ridge_on_log_mels_hears_the_digits(words: FoldData) -> None:
    found = ridge(words, words.test.spec.modality("voice"))
    assert found.test["accuracy"] > 0.9
    assert found.parameters == 10 * (flat(words.test, words.test.spec.modality("voice")).shape[1] + 1)


def test_a_ridge_sees_every_pixel(words: FoldData) -> None:
    lips = words.test.spec.modality("lips")
    assert flat(words.test, lips).shape == (96, 10 * 20 * 30)


def test_the_network_is_as_large_as_asked_and_does_not_see_missing_frames(words: FoldData) -> None:
    lips = words.test.spec.modality("lips")
    width = width_for(183_086, lips, 10)
    torch.manual_seed(0)
    network = Convolutions(1, width, 10, mean=torch.full((1,), 90.0), std=torch.full((1,), 30.0)).eval()
    assert abs(sum(one.numel() for one in network.parameters()) - 183_086) < 0.05 * 183_086
    frames, present = torch.randint(0, 256, (2, *lips.shape), dtype=torch.uint8), torch.ones(2, lips.samples, 1)
    present[:, 3] = 0
    others = frames.clone()
    others[:, 3] = 7
    torch.testing.assert_close(network(frames, present).logits, network(others, present).logits)


def test_a_student_is_held_against_a_rival_fold_by_fold() -> None:
    tests = [{"accuracy": one, "balanced_accuracy": one} for one in (0.5, 0.6)]
    judged = [Found(valid_score=0.5, test=test, parameters=7, chosen="") for test in tests]
    contest = {
        "student": {"accuracy": {"per_seed": [0.7, 0.6, 0.9]}},
        "baseline": {"accuracy": {"per_seed": [0.5, 0.0, 0.6]}},
    }
    last = table({"ridge": judged}, [0, 2], contest).splitlines()[-1]
    assert last.split(" | ")[2:6] == ["55.0 ± 7.1", "55.0 ± 7.1", "50.0, 60.0", "+25.0 (-38.5 to +88.5)"]
    assert last.endswith(" | +0.0 (+0.0 to +0.0) |")


def test_an_interval_is_that_of_students_t() -> None:
    # Mean 2, standard deviation 1, three folds: 4.3027 / sqrt(3) = 2.4841.
    assert points(np.array([0.01, 0.02, 0.03])) == "+2.0 (-0.5 to +4.5)"
    assert points(np.array([0.01])) == "+1.0"
