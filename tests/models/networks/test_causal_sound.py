"""The causal student of sound: one network in three forms, and log-mels that a stream makes hop by hop."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.networks.fronts.causal import CausalSound
from mmkd_models.networks.fronts.log_mel import LogMels
from mmkd_models.networks.step import causal_encoder
from mmkd_models.networks.student import Student
from tests.models.networks.stepping import answers_along, stepped

ENCODER = EncoderConfig(width=16, heads=2, depth=2, most_tokens=8, dropout=0.0)
CONFIG = StudentConfig(preset="test", encoder=ENCODER, causal=True)
TOLERANCE = 2e-5  # two orders of the same float32 sums, over spectra of some ten samples; measured below 2e-6


def sound(samples=400, *, channels=1):
    names = tuple(f"c{number}" for number in range(channels))
    return ModalitySpec(name="mic", kind="audio", channels=names, rate_hz=1000.0, samples=samples)


def student(spec, *, seed=0):
    """With weights and position codes that differ everywhere, and statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    network = Student(spec, 3, CONFIG).eval()
    encoder = causal_encoder(network)
    assert isinstance(encoder.front, CausalSound)
    with torch.no_grad():
        encoder.relative += torch.randn_like(encoder.relative)
        encoder.front.mean.fill_(0.01)
        encoder.front.std.fill_(0.3)
        encoder.front.mel_mean.fill_(-5.0)
        encoder.front.mel_std.fill_(2.5)
    return network


def recording(samples, *, channels=1, missing=0.0, seed=0):
    """(1, T, C): noise whose loudness rises and falls."""
    generator = torch.Generator().manual_seed(seed)
    loud = 0.05 + 0.4 * torch.sin(torch.arange(samples) / 90).square()[:, None]
    values = torch.randn(1, samples, channels, generator=generator) * loud
    present = (torch.rand(values.shape, generator=generator) >= missing).float()
    return values * present, present


@settings(max_examples=5, deadline=None)
@example(samples=130, channels=2, missing=0.3, seed=3)
@example(samples=117, channels=1, missing=0.3, seed=1)  # two frames are missing
@given(
    samples=st.integers(64, 500),
    channels=st.sampled_from([1, 2]),
    missing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_stepping_through_sound_equals_one_pass_over_it(samples, channels, missing, seed):
    spec = sound(samples, channels=channels)
    network = student(spec, seed=seed)
    values, present = recording(4 * samples, channels=channels, missing=missing, seed=seed)
    present[:, samples : samples + samples // 2] = 0  # a gap of half a window
    values = values * present
    encoder = causal_encoder(network)
    there = encoder.along(encoder.padded(values), encoder.padded(present)).there[0]
    first = int(there.argmax())  # before it no frame is there, and an embedding means nothing
    assert first < 5
    one_pass = answers_along(network, values, present)
    found = stepped(network, values, present)
    torch.testing.assert_close(found[:, first:], one_pass[:, first:], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("samples", [64, 250, 400, 1000])
def test_the_answer_for_a_window_of_sound_is_that_of_its_last_step(samples):
    network = student(sound(samples))
    values, present = recording(samples, missing=0.1)
    with torch.no_grad():
        window = network(values, present).logits
    torch.testing.assert_close(stepped(network, values, present)[:, -1], window, atol=TOLERANCE, rtol=0)


def test_an_answer_depends_on_the_samples_of_its_memory_and_on_no_later_ones():
    network = student(sound(160))
    encoder = causal_encoder(network)
    blocks = encoder.memory // encoder.stride + 6
    values, present = recording(blocks * encoder.stride)
    last = blocks - 3  # two blocks follow it
    end = (last + 1) * encoder.stride
    before = answers_along(network, values, present)[:, last]
    for outside in (slice(0, end - encoder.memory), slice(end, None)):
        changed = values.clone()
        changed[:, outside] += 1.0
        torch.testing.assert_close(answers_along(network, changed, present)[:, last], before, atol=1e-6, rtol=0)
    changed = values.clone()
    changed[:, end - 1] += 1.0
    assert not torch.allclose(answers_along(network, changed, present)[:, last], before, atol=1e-4)


def test_frames_along_a_stream_are_those_of_the_log_mels_of_a_window():
    spec = sound(400)
    front = causal_encoder(student(spec)).front
    assert isinstance(front, CausalSound)
    values, present = recording(400, missing=0.2)
    found, there = front(values[:, : 25 * 16], present[:, : 25 * 16])
    mels, wanted = LogMels(spec)(((values - 0.01) / 0.3 * present).transpose(1, 2), present.transpose(1, 2))
    expected = (mels[:, 0] + 5.0) / 2.5 * wanted[:, 0, :, None]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(there[..., 0], wanted[:, 0])
