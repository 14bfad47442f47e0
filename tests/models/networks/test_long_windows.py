"""Windows of more than 1,024 samples: networks that grow with the window and not with its square."""

import itertools

import numpy as np
import pytest
import torch

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig, student_config, teacher_config
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.fronts.series import FrontEnd, LongFrontEnd
from mmkd_models.networks.layers import EXTRA_TOKENS, MASKED
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher

LEVELS = np.array([-1.5, -0.75, -0.25, 0.25, 0.75, 1.5])


def vibration(samples, *, channels=3):
    return ModalitySpec(name="vib", channels=tuple("xyz"[:channels]), rate_hz=10_000.0, samples=samples)


def window(spec, *, batch=2):
    values = torch.randn(batch, *spec.shape, generator=torch.Generator().manual_seed(0))
    return values, torch.ones_like(values)


def constants(network):
    """Bytes of everything that a graph carries: parameters and buffers."""
    return 4 * sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))


def tiny(samples):
    torch.manual_seed(0)
    return Student(vibration(samples), 4, student_config("tiny")).eval()


@pytest.mark.parametrize(("samples", "kind"), [(1024, FrontEnd), (1025, LongFrontEnd)])
def test_a_window_of_more_than_four_frames_is_long(samples, kind):
    assert isinstance(tiny(samples).encoder.front, kind)


@pytest.mark.parametrize(("samples", "most_mb"), [(1025, 1), (10_000, 2), (100_000, 4)])
def test_a_tiny_student_of_a_long_window_stays_small(samples, most_mb):
    student = tiny(samples)
    assert constants(student) < most_mb * 1e6
    assert student.encoder.length <= 32


def test_a_teacher_learns_from_windows_of_ten_thousand_samples():
    spec = vibration(10_000)
    teacher = Teacher([spec], 4, teacher_config("tiny"))
    assert constants(teacher) < 4e6
    teacher({"vib": window(spec)}).logits.sum().backward()
    gradients = [parameter.grad for parameter in teacher.encoders["vib"].stem.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


def normalised(values):
    return (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-4)


def bands_of_frames(signal, length, bands):
    """Log of the mean power of Hann-windowed frames, in bands of geometric width; by numpy's FFT."""
    frames = signal.reshape(-1, length)
    hann = np.hanning(length + 2)[1:-1]
    power = (np.abs(np.fft.rfft(frames * hann)) ** 2).mean(0)[1 : length // 2 + 1] / (hann**2).sum()
    edges = np.unique(np.round(np.geomspace(1, len(power) + 1, bands + 1)).astype(int))
    return np.log([power[a - 1 : b - 1].mean() + 1e-3 for a, b in itertools.pairwise(edges)])


def test_the_spectrum_of_a_long_window_is_numpys_mean_over_what_is_there():
    spec = vibration(200, channels=1)
    values, present = window(spec, batch=1)
    found = LongFrontEnd(spec, 6, frame=20)(values, present)[1][0].numpy()
    local = normalised(values[0].double().numpy() * 1.0)[:, 0]  # nothing of this window is beyond 8
    means = local.reshape(20, 10).sum(1) / np.sqrt(10)
    expected = np.concatenate([bands_of_frames(local, 20, 6), bands_of_frames(means, 20, 2)])
    np.testing.assert_allclose(found, expected, atol=1e-4)  # float32 against float64, in a logarithm
    spec = vibration(400, channels=1)
    values, present = window(spec, batch=1)
    values[:, 200:], present[:, 200:] = 0, 0
    half = LongFrontEnd(vibration(200, channels=1), 6, frame=20)(values[:, :200], present[:, :200])[1]
    found = LongFrontEnd(spec, 6, frame=20)(values, present)[1]
    bands = len(bands_of_frames(np.ones(20), 20, 6))
    torch.testing.assert_close(found[:, :bands], half[:, :bands], atol=1e-4, rtol=0)


def test_the_statistics_equal_numpys():
    spec = vibration(203)
    values, present = window(spec, batch=1)
    values[0, 50], present[0, 50] = 0, 0
    front = LongFrontEnd(spec, 6, frame=20)
    front.mean.fill_(0.5)
    front.std.fill_(2.0)
    there = np.delete(np.arange(203), 50)
    scaled = (values[0].double().numpy() - 0.5) / 2
    local = normalised(scaled[there])
    steps = np.abs(np.diff(scaled, axis=0))
    below = 1 / (1 + np.exp(-4 * (LEVELS - scaled[there][:, :, None])))  # every frame is short enough to be taken whole
    expected = [
        scaled[there].mean(0),
        np.log(np.sqrt(scaled[there].var(0) + 1e-4)),
        scaled[there].min(0),
        scaled[there].max(0),
        np.delete(steps, [49, 50], axis=0).mean(0),
        (local**3).mean(0),
        np.log((local**4).mean(0) + 1e-2),
        (local.T @ local / 203).ravel(),
        below.mean(0).ravel(),
    ]
    found = front(values, present)[2][0].numpy()
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-4)  # float32 against float64


def test_the_distribution_of_a_very_long_window_is_made_of_a_stretch_of_each_frame():
    spec = vibration(100_000, channels=1)
    front = LongFrontEnd(spec, 6, frame=256)
    assert (front.cuts[0], front.stretch) == ((391, 256), 16)
    values, present = window(spec, batch=1)
    found = front(values, present)[2][0, -len(LEVELS) :].numpy()
    whole = (1 / (1 + np.exp(-4 * (LEVELS - values.numpy().reshape(-1, 1))))).mean(0)
    # A mean of 6,256 values of a spread below a half: four standard errors.
    np.testing.assert_allclose(found, whole, atol=4 * 0.5 / np.sqrt(6256))


def test_what_is_missing_of_a_long_window_is_masked_and_does_not_matter():
    config = EncoderConfig(width=16, heads=2, depth=1, most_tokens=4, frame=16)
    spec = vibration(100, channels=2)
    encoder = Encoder(spec, config)
    present = torch.zeros(3, *spec.shape)
    present[0, 99, 1] = 1  # one channel of one sample is enough for its token
    present[1, :32] = 1
    assert encoder.key_bias(present).tolist() == [
        [MASKED, MASKED, MASKED, 0, 0, 0],
        [0, MASKED, MASKED, MASKED, 0, 0],
        [MASKED] * 6,
    ]
    tokens = encoder(torch.zeros_like(present), present)
    assert tokens.values.shape == (3, 4 + EXTRA_TOKENS, 16)
    assert bool(tokens.values.isfinite().all())
    student = tiny(1200)
    values, present = window(vibration(1200))
    present[:, 300:700, 1] = 0
    other = torch.where(present > 0, values, 50.0)
    torch.testing.assert_close(student(values * present, present).logits, student(other * present, present).logits)
