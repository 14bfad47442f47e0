"""Sound and video as series, for networks that look at series alone."""

from __future__ import annotations

import numpy as np
import torch

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.fronts.as_series import series_view
from mmkd_models.networks.fronts.log_mel import LogMels
from mmkd_models.networks.rocket import apply_rocket, fit_rocket, prune_rocket

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=20)
MIC = ModalitySpec(name="mic", kind="audio", channels=("left", "right"), rate_hz=2000.0, samples=800)
CAM = ModalitySpec(name="cam", kind="video", channels=("r", "g", "b"), rate_hz=25.0, samples=12, height=16, width=4)


def test_video_is_the_brightness_of_a_grid_of_cells() -> None:
    view = series_view(CAM)
    values = np.random.default_rng(0).integers(0, 256, (2, *CAM.shape), dtype=np.uint8)
    present = np.ones((2, 12, 1), dtype=np.float32)
    present[1, 3] = 0
    found, there = view(torch.from_numpy(values), torch.from_numpy(present))
    gray = values.astype(np.float64).mean(-1)  # 16 x 4 pixels: 8 x 4 cells of two pixels
    wanted = gray.reshape(2, 12, 8, 2, 4).mean(3).reshape(2, 12, 32)
    wanted[1, 3] = 0
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-3)
    assert np.array_equal(there.numpy(), np.broadcast_to(present, (2, 12, 32)))
    spec = view.spec
    assert (spec.kind, spec.shape, spec.rate_hz, spec.duration_s) == ("series", (12, 32), 25.0, CAM.duration_s)


def test_sound_is_its_log_mels_frame_by_frame() -> None:
    view, mels = series_view(MIC), LogMels(MIC)
    torch.manual_seed(0)
    values, present = torch.randn(2, *MIC.shape), torch.ones(2, *MIC.shape)
    present[0, :200, 1] = 0
    found, there = view(values, present)
    wanted, known = mels((values * present).transpose(1, 2), present.transpose(1, 2))  # (B, C, N, M)
    assert found.shape == (2, mels.positions, 2 * mels.count) == (2, *view.spec.shape)
    kept = there.reshape(2, mels.positions, 2, mels.count)[..., 0].transpose(1, 2)
    assert torch.equal(kept, known)
    by_channel = found.reshape(2, mels.positions, 2, mels.count).transpose(1, 2)
    assert torch.equal(by_channel, wanted * known[..., None])


def test_a_series_is_one_already() -> None:
    view, values, present = series_view(ACC), torch.zeros(1, 20, 2), torch.ones(1, 20, 2)
    assert view.spec is ACC
    assert view(values, present)[0] is values


def test_convolutional_features_of_a_camera_do_not_hang_on_the_lamp() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 120, (8, *CAM.shape), dtype=np.uint8)
    present = np.ones((8, 12, 1), dtype=np.float32)
    scale = (np.full(3, 60, np.float32), np.full(3, 35, np.float32))
    network = fit_rocket(CAM, values, present, scale=scale, seed=0, features=84)
    found = apply_rocket(network, values, present)
    assert np.abs(found.mean(0)).max() < 1e-4
    doubled = fit_rocket(CAM, 2 * values, present, scale=(2 * scale[0], 2 * scale[1]), seed=0, features=84)
    np.testing.assert_allclose(apply_rocket(doubled, 2 * values, present), found, atol=1e-4)
    few = prune_rocket(network, CAM, [3, 5])
    np.testing.assert_allclose(apply_rocket(few, values, present), found[:, [3, 5]], atol=1e-5)
