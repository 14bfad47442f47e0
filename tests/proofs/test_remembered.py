"""Remembered features are the features, and those of another student or window are others."""

from __future__ import annotations

import torch

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import RocketConfig, RocketGroup
from mmkd_models.networks.rocket import RocketFeatures
from proofs.remembered import features_remembered

SPEC = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=16)


def network(bias: float, *, dilation: int = 1) -> RocketFeatures:
    config = RocketConfig(groups=(RocketGroup(dilation=dilation, padded=True, features=3),), stride=1)
    found = RocketFeatures(SPEC, config).eval()
    drawn = {"weight": torch.full((3, 1, 9), 0.1), "bias": torch.full((3,), bias), "reads": torch.ones(3, 1)}
    found.load_state_dict(found.state_dict() | {f"groups.0.{name}": value for name, value in drawn.items()})
    return found


def test_features_of_a_batch_are_computed_once(monkeypatch) -> None:
    calls = []
    shares = RocketFeatures.shares
    monkeypatch.setattr(RocketFeatures, "shares", lambda self, *inputs: calls.append(1) or shares(self, *inputs))
    values, present = torch.linspace(0, 1, 16).reshape(1, 16, 1), torch.ones(1, 16, 1)
    first, other = network(0.2), network(0.3)
    wanted = [one(values, present) for one in (first, other)] + [first(values + 1, present)]
    calls.clear()
    with features_remembered():
        for _ in range(2):
            found = [one(values, present) for one in (first, other)] + [first(values + 1, present)]
            assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
    assert len(calls) == 3
    first(values, present)
    assert len(calls) == 4


def test_features_of_the_same_weights_that_read_otherwise_are_others() -> None:
    values, present = torch.sin(torch.arange(16.0) ** 2).reshape(1, 16, 1), torch.ones(1, 16, 1)
    near, far = network(0.2), network(0.2, dilation=2)
    assert all(torch.equal(one, far.state_dict()[name]) for name, one in near.state_dict().items())
    wanted = far(values, present)
    assert not torch.equal(near(values, present), wanted)
    with features_remembered():
        near(values, present)
        assert torch.equal(far(values, present), wanted)
