"""Sound and video as series, for networks that look at series alone."""

from __future__ import annotations

import numpy as np
import torch

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.fronts.as_series import series_view
from mmkd_models.networks.fronts.log_mel import LogMels

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
