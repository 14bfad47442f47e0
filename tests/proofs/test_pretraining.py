"""Pre-training on windows alone: what is hidden, what stands for it, and that no label is read."""

from __future__ import annotations

import msgspec
import torch

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.data.dataset import Dataset
from mmkd_models.networks.config import EncoderConfig, TeacherConfig
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.teacher import Teacher
from proofs.pretraining import PretrainLearner, hide_spans, summaries

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8, dropout=0.0)


def test_a_fifth_to_half_of_each_window_is_hidden_in_one_piece() -> None:
    whole = {"acc": (torch.ones(50, 40, 2), torch.ones(50, 40, 2))}
    values, present = hide_spans(whole, torch.Generator().manual_seed(0))["acc"]
    assert torch.equal(values, present)
    gone = (present[..., 0] == 0).float()
    assert torch.equal(present[..., 0], present[..., 1])
    assert float(gone.mean(1).min()) >= 0.2 - 1 / 40
    assert float(gone.mean(1).max()) <= 0.5 + 1 / 40
    assert int((gone.diff(dim=1) > 0).sum(1).max()) <= 1
    assert bool((whole["acc"][1] == 1).all())  # the caller's are not changed


def test_a_token_stands_for_mean_and_spread_of_its_samples() -> None:
    encoder = Encoder(ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=16), ENCODER)
    values, present = torch.randn(1, 16, 1), torch.ones(1, 16, 1)
    found = summaries(encoder, values, present)
    views = encoder.front(values, present)[0]  # (1, T, W)
    width, stride = views.shape[-1], encoder.stride
    assert found.shape == (1, 8, 2 * width)
    blocks = views.reshape(1, 8, stride, width)
    torch.testing.assert_close(found[..., :width], blocks.mean(2))
    torch.testing.assert_close(found[..., width:], (blocks.var(2, unbiased=False) + 1e-4).sqrt())


def test_no_label_is_read_and_the_head_stays(machines: Dataset) -> None:
    torch.manual_seed(0)
    config = TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1)
    learner = PretrainLearner(Teacher(machines.spec.modalities, 3, config), ("hidden", "found"))
    windows = machines.split("train")
    batch = BatchSource(windows, AugmentConfig(mixup=0.0), batch=8, labelled_share=0.0, seed=0).at(0)
    blind = msgspec.structs.replace(batch, targets=batch.targets * 0, labelled=batch.labelled * 0)
    losses = []
    for one in (batch, blind):
        torch.manual_seed(1)
        losses.append(learner(one, 0.0))
    assert losses[0].keys() == {"hidden", "found", "loss"}
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    losses[0]["loss"].backward()
    assert learner.network.head.weight.grad is None
    assert learner.network.fusion[0].blocks["acc"].cross.project.weight.grad is not None
