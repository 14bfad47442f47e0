"""The table of thinner features, by hand, and features that step on."""

from __future__ import annotations

import numpy as np

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.rocket import features_of, fit_rocket
from proofs.thinner_features import WAYS, stepping, table

SPEC = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=40)


def test_differences_are_pooled_over_sets_alike() -> None:
    thin = list(WAYS)[1]
    first = [dict.fromkeys(WAYS, 60.0) | {thin: 58.0}, dict.fromkeys(WAYS, 50.0) | {thin: 52.0}]
    second = [dict.fromkeys(WAYS, 80.0) | {thin: 77.0}, dict.fromkeys(WAYS, 80.0) | {thin: 77.0}]
    lines = table({"a acc": first, "b acc": second}).splitlines()
    assert lines[2] == "| every position | 55.0 | 80.0 | 67.5 |  |"
    # Differences of -2 and 2 have a standard error of 2, those of -3 none: their mean is -1.5, its error 2 / 2.
    assert lines[3] == "| every second | 55.0 | 77.0 | 66.0 | -1.5 ± 1.0 |"


def test_a_kernel_that_steps_on_counts_every_second_position() -> None:
    values = np.random.default_rng(0).normal(size=(6, 40, 1)).astype(np.float32)
    present = np.ones_like(values)
    drawn = fit_rocket(SPEC, values, present, scale=(np.zeros(1, np.float32), np.ones(1, np.float32)), seed=0)
    thin = stepping(drawn, SPEC, 2)
    assert thin.config.stride == 2
    assert all(np.array_equal(one, thin.state_dict()[name]) for name, one in drawn.state_dict().items())
    assert not np.allclose(features_of(thin, values, present), features_of(drawn, values, present))
    assert np.array_equal(features_of(stepping(drawn, SPEC, 1), values, present), features_of(drawn, values, present))
