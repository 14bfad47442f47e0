"""The causal student of a camera: one network in three forms, and frames that a stream sees one by one."""

from __future__ import annotations

import msgspec
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.networks.fronts.causal import CausalFrames
from mmkd_models.networks.step import StepStudent, causal_encoder
from mmkd_models.networks.student import Student
from tests.models.networks.stepping import answers_along, stepped

ENCODER = EncoderConfig(width=16, heads=2, depth=2, most_tokens=8, dropout=0.0)
CONFIG = StudentConfig(preset="test", encoder=ENCODER, causal=True)
TOLERANCE = 2e-5  # two orders of the same float32 sums, over windows of some ten tokens; measured below 2e-6


def camera(samples: int = 8, *, channels: int = 1) -> ModalitySpec:
    colours = ("gray",) if channels == 1 else ("r", "g", "b")
    return ModalitySpec(name="cam", kind="video", channels=colours, rate_hz=25.0, samples=samples, height=12, width=10)


def student(spec: ModalitySpec, *, seed: int = 0) -> Student:
    """With weights and position codes that differ everywhere, and statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    network = Student(spec, 3, CONFIG).eval()
    encoder = causal_encoder(network)
    assert isinstance(encoder.front, CausalFrames)
    with torch.no_grad():
        encoder.relative += torch.randn_like(encoder.relative)
        encoder.front.mean.fill_(100.0)
        encoder.front.std.fill_(40.0)
    return network


def film(
    frames: int, *, channels: int = 1, missing: float = 0.0, seed: int = 0, shape: tuple[int, int] = (12, 10)
) -> tuple[Tensor, Tensor]:
    """Bytes (1, N, H, W, C) and presence (1, N, 1): noise whose brightness rises and falls."""
    generator = torch.Generator().manual_seed(seed)
    bright = 60 + 100 * torch.sin(torch.arange(frames) / 5).square()[:, None, None, None]
    values = (bright + 90 * torch.rand(1, frames, *shape, channels, generator=generator)).to(torch.uint8)
    present = (torch.rand(1, frames, 1, generator=generator) >= missing).float()
    return values * present[..., None, None].to(torch.uint8), present


@settings(max_examples=5, deadline=None)
@example(samples=11, channels=3, missing=0.3, seed=3)
@given(
    samples=st.integers(2, 20),
    channels=st.sampled_from([1, 3]),
    missing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_stepping_through_a_film_equals_one_pass_over_it(
    samples: int, channels: int, missing: float, seed: int
) -> None:
    network = student(camera(samples, channels=channels), seed=seed)
    values, present = film(4 * samples, channels=channels, missing=missing, seed=seed)
    present[:, samples : samples + samples // 2] = 0  # a gap of half a window
    present[:, 0] = 1  # where a whole window is missing, logits mean nothing
    values = values * present[..., None, None].to(torch.uint8)
    one_pass = answers_along(network, values, present)
    length, stride = causal_encoder(network).length, causal_encoder(network).stride
    there = torch.nn.functional.pad(present[0, :, 0], (-present.shape[1] % stride, 0)).reshape(-1, stride).amax(1)
    heard = torch.stack([there[max(0, end - length + 1) : end + 1].amax() for end in range(len(there))]) > 0
    torch.testing.assert_close(stepped(network, values, present)[:, heard], one_pass[:, heard], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("samples", [2, 7, 16])
def test_the_answer_for_a_window_of_video_is_that_of_its_last_step(samples: int) -> None:
    network = student(camera(samples))
    values, present = film(samples, missing=0.2, seed=1)
    with torch.no_grad():
        window = network(values, present).logits
    torch.testing.assert_close(stepped(network, values, present)[:, -1], window, atol=TOLERANCE, rtol=0)


def test_an_answer_depends_on_the_frames_of_its_memory_and_on_no_later_ones() -> None:
    network = student(camera(12))
    encoder = causal_encoder(network)
    assert encoder.stride == 2
    blocks = encoder.memory // encoder.stride + 6
    values, present = film(blocks * encoder.stride)
    last = blocks - 3  # two blocks follow it
    end = (last + 1) * encoder.stride
    before = answers_along(network, values, present)[:, last]
    for outside in (slice(0, end - encoder.memory), slice(end, None)):
        changed = values.clone()
        changed[:, outside] = 255 - changed[:, outside]
        torch.testing.assert_close(answers_along(network, changed, present)[:, last], before, atol=1e-6, rtol=0)
    changed = values.clone()
    changed[:, end - 1] = 255 - changed[:, end - 1]
    assert not torch.allclose(answers_along(network, changed, present)[:, last], before, atol=1e-4)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_frames_whose_changes_are_seen_in_small_maps_are_followed_alike(missing: float) -> None:
    spec = msgspec.structs.replace(camera(5), height=64, width=70)
    torch.manual_seed(0)
    network = Student(spec, 3, StudentConfig(preset="test", encoder=ENCODER, causal=True)).eval()
    assert StepStudent(network).state_shapes()["picture"] == ((1, 1, 8 * 4 * 5 + 1), None)
    values, present = film(20, missing=missing, shape=(64, 70))
    present[:, ::4] = 1
    one_pass = answers_along(network, values, present)
    torch.testing.assert_close(stepped(network, values, present), one_pass, atol=TOLERANCE, rtol=0)


def test_a_missing_frame_is_absent_whatever_its_bytes_are() -> None:
    network = student(camera())
    values, present = film(16)
    present[:, 5] = present[:, 9:11] = 0
    noisy = values.clone()
    noisy[:, present[0, :, 0] == 0] = 211
    for answers in (answers_along, stepped):
        torch.testing.assert_close(answers(network, noisy, present), answers(network, values, present))


def test_the_state_of_video_is_the_last_frame_and_what_every_causal_student_keeps() -> None:
    step = StepStudent(student(camera(channels=3)))
    shapes = step.state_shapes()
    assert shapes["picture"] == ((1, 1, 12 * 10 * 3 + 1), None)
    assert list(shapes)[:6] == ["history", "moments", "sums", "peaks", "series", "picture"]
