"""Interval features: by plain NumPy, by hand, with gaps, and alike in float32 and ONNX."""

import numpy as np
import pytest
import torch

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.intervals import (
    IntervalFeatures,
    apply_intervals,
    fit_intervals,
    fits_intervals,
    interval_sizes,
)

RNG = np.random.default_rng(0)


def imu(samples, channels=3):
    return ModalitySpec(name="imu", channels=tuple("abcdefgh"[:channels]), rate_hz=50.0, samples=samples)


def reference(x, mean, std):
    """The features of one window (T, C) with NaN, one at a time, in float64."""
    samples, channels = x.shape
    series = []
    for channel in range(channels):
        u = np.clip((x[:, channel] - mean[channel]) / std[channel], -8, 8)
        known = u[np.isfinite(u)]
        series.append(np.where(np.isfinite(u), u, known.mean() if len(known) else 0.0))
    depth, bins, _ = interval_sizes(imu(samples, channels))
    features = []
    for u in series:
        for part in (u, np.diff(u)):
            used = part[len(part) - ((len(part) >> depth) << depth) :]
            for halvings in range(depth + 1):
                for interval in np.split(used, 2**halvings):
                    slope = np.polyfit(np.arange(len(interval)), interval, 1)[0]
                    quantiles = np.quantile(interval, [0, 0.25, 0.5, 0.75, 1])
                    features += [interval.mean(), interval.std(), slope, *quantiles]
        power = np.abs(np.fft.rfft(u - u.mean())[1 : bins + 1]) ** 2 / samples
        features += np.log(power + 1e-6).tolist()
    return features


@pytest.mark.parametrize(("samples", "channels"), [(200, 3), (61, 1), (64, 2), (8, 2), (9, 1), (3, 2)])
def test_features_are_those_of_plain_numpy(samples, channels):
    modality = imu(samples, channels)
    mean, std = np.linspace(1, 2, channels).astype(np.float32), np.linspace(2, 1, channels).astype(np.float32)
    windows = RNG.normal(1.0, 2.0, size=(6, samples, channels)).cumsum(1).astype(np.float32)
    windows[1, 2:5] = np.nan
    windows[2, :, 0] = np.nan
    windows[3] = np.nan
    present = np.isfinite(windows).astype(np.float32)
    network = fit_intervals(modality, np.nan_to_num(windows), present, scale=(mean, std))
    expected = np.array([reference(window.astype(np.float64), mean, std) for window in windows])
    got = apply_intervals(network, np.nan_to_num(windows), present)
    assert got.shape == (6, interval_sizes(modality)[2])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-4)
    standard = network.standardised(torch.from_numpy(got)).numpy()
    varies = expected.std(0) > 1e-3
    np.testing.assert_allclose(standard[:, varies].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(standard[:, varies].std(0), 1, atol=1e-3)


def test_statistics_of_a_ramp_and_of_a_single_sample_by_hand_in_bounded_sizes():
    network = IntervalFeatures(imu(8, 1)).eval()
    features = network(torch.arange(8.0)[None, :, None], torch.ones(1, 8, 1))[0].tolist()
    assert features[:8] == pytest.approx([3.5, 5.25**0.5, 1.0, 0.0, 1.75, 3.5, 5.25, 7.0])
    assert features[8:16] == pytest.approx([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # seven differences of one
    assert len(features) == 16 + 4
    network = IntervalFeatures(imu(1, 2)).eval()
    features = network(torch.tensor([[[2.0, -3.0]]]), torch.tensor([[[1.0, 0.0]]]))[0].tolist()
    assert features == [2.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0, *[0.0] * 8]
    assert interval_sizes(imu(1, 2)) == (0, 0, 16)
    assert interval_sizes(imu(200)) == (2, 32, 3 * (16 * 7 + 32))
    assert interval_sizes(imu(31, 1)) == (1, 15, 16 * 3 + 15)  # a quarter would have 7 samples
    many = ModalitySpec(name="m", channels=tuple(map(str, range(40))), rate_hz=1.0, samples=64)
    assert interval_sizes(many) == (1, 32, 40 * (16 * 3 + 32))
    assert fits_intervals(imu(8))
    assert not fits_intervals(imu(7))


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_sound_and_video_are_read_as_series(kind):
    size = {"height": 16, "width": 16} if kind == "video" else {}
    rate, samples = (16000.0, 16000) if kind == "audio" else (10.0, 20)
    channels = ("red", "green", "blue") if kind == "video" else ("left",)
    modality = ModalitySpec(name="m", kind=kind, channels=channels, rate_hz=rate, samples=samples, **size)
    values = RNG.integers(0, 256, size=(5, *modality.shape)).astype(np.uint8 if kind == "video" else np.float32)
    present = np.ones((5, samples, 1), dtype=np.float32)
    scale = np.full(len(channels), 120, np.float32), np.full(len(channels), 60, np.float32)
    network = fit_intervals(modality, values, present, scale=scale)
    features = apply_intervals(network, values, present)
    assert features.shape == (5, interval_sizes(modality)[2])
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 0
