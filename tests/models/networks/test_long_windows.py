"""Networks of long windows, of sound and video, and of every kind of task."""

import itertools

import numpy as np
import pytest
import torch

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig, student_config, teacher_config
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.fronts.series import FrontEnd, LongFrontEnd
from mmkd_models.networks.layers import EXTRA_TOKENS, MASKED
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher, hide_modalities

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


@pytest.mark.parametrize(("samples", "most_mb"), [(1025, 1), (10_000, 2), (100_000, 4)])
def test_a_window_of_more_than_four_frames_is_long_and_its_tiny_student_stays_small(samples, most_mb):
    assert isinstance(tiny(1024).encoder.front, FrontEnd)
    student = tiny(samples)
    assert isinstance(student.encoder.front, LongFrontEnd)
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


ENCODER = EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0)
ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=20)
MIC = ModalitySpec(name="mic", kind="audio", channels=("left", "right"), rate_hz=4000.0, samples=2000)
LIPS = ModalitySpec(name="lips", kind="video", channels=("r", "g", "b"), rate_hz=12.0, samples=6, height=16, width=24)
LONG = ModalitySpec(name="long", kind="video", channels=("gray",), rate_hz=25.0, samples=20, height=9, width=8)
ALL = (ACC, MIC, LIPS)


def windows(spec, *, batch=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    present = torch.ones(batch, *spec.presence_shape)
    if spec.kind == "video":
        return torch.randint(0, 256, (batch, *spec.shape), dtype=torch.uint8, generator=random), present
    return torch.randn(batch, *spec.shape, generator=random), present


def student(spec):
    torch.manual_seed(0)
    return Student(spec, 3, StudentConfig(preset="toy", encoder=ENCODER)).eval()


@pytest.mark.parametrize(("spec", "tokens"), [(MIC, 8), (LIPS, 6), (LONG, 5)])
def test_frames_become_tokens_within_the_limit(spec, tokens):
    encoder = Encoder(spec, ENCODER).eval()
    values, present = windows(spec)
    assert encoder(values, present).values.shape == (2, tokens + 2, 16)
    assert encoder.length == tokens


@pytest.mark.parametrize("spec", [MIC, LIPS, LONG])
def test_values_where_nothing_is_present_never_change_the_answer(spec):
    network, (values, present) = student(spec), windows(spec)
    present[:, : spec.samples // 2] = 0
    others = windows(spec, seed=1)[0]
    changed = torch.where((present == 0).reshape(*present.shape[:2], *[1] * (values.ndim - 3), -1), others, values)
    assert torch.equal(network(values, present).logits, network(changed, present).logits)


@pytest.mark.parametrize("spec", [MIC, LIPS, LONG])
def test_an_empty_window_is_masked_and_finite(spec):
    network, (values, present) = student(spec).train(), windows(spec)
    output = network(values, present * 0, taps=True)
    output.logits.sum().backward()
    assert bool(output.logits.isfinite().all())
    assert all(one.grad is None or bool(one.grad.isfinite().all()) for one in network.parameters())
    assert float(output.valid.sum()) == 0


def test_a_teacher_takes_series_sound_and_video_and_misses_whole_ones():
    torch.manual_seed(0)
    teacher = Teacher(ALL, 3, TeacherConfig(preset="toy", encoder=ENCODER, fusion_depth=1)).eval()
    inputs = {spec.name: windows(spec) for spec in ALL}
    output = teacher(inputs, taps=True)
    assert output.logits.shape == (2, 3)
    assert {name: maps[0].shape[-1] for name, maps in output.cross_attention.items()} == {
        "acc": 8 + 2 + 6 + 2,
        "mic": 5 + 2 + 6 + 2,
        "lips": 5 + 2 + 8 + 2,
    }
    hidden = hide_modalities(inputs, 1.0, torch.Generator().manual_seed(0))
    assert [values.dtype for values, _ in hidden.values()] == [values.dtype for values, _ in inputs.values()]
    encoder, (values, present) = Encoder(LIPS, ENCODER).eval(), windows(LIPS)
    present[0, 2:4] = 0
    assert encoder(values, present).bias[0].tolist() == [0, 0, MASKED, MASKED, 0, 0, 0, 0]
