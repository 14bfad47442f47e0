"""Front-ends of video and of sound."""

import numpy as np
import pytest
import torch

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.fronts.as_series import series_view
from mmkd_models.networks.fronts.frames import FrameFront
from mmkd_models.networks.fronts.log_mel import FLOOR, LogMelFront, LogMels
from tests.edge.said import said


def camera(height, width, *, colour=False, samples=4):
    return ModalitySpec(
        name="cam",
        kind="video",
        channels=("r", "g", "b") if colour else ("gray",),
        rate_hz=25.0,
        samples=samples,
        height=height,
        width=width,
    )


def frames(spec):
    values = torch.randint(40, 200, (2, *spec.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return values, torch.ones(2, *spec.presence_shape)


def front(spec, width=16):
    torch.manual_seed(0)
    made = FrameFront(spec, width).eval()
    made.mean.fill_(120.0)
    made.std.fill_(50.0)
    return made


@pytest.mark.parametrize("colour", [False, True])
def test_what_the_stem_sees_is_each_frame_about_itself_and_what_changed(colour):
    spec = camera(16, 24, colour=colour)
    network, (values, present) = front(spec), frames(spec)
    present[0, 2] = 0
    seen = []
    network.stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(values, present)
    views = seen[0].reshape(2, 4, 2, len(spec.channels), 16, 24)
    scaled = (values.float() - 120) / 50
    for window in range(2):
        for time in range(4):
            frame = scaled[window, time]
            wanted = (frame - frame.mean()) / (frame.var(correction=0) + 1e-2).sqrt()
            wanted = wanted.permute(2, 0, 1) * present[window, time, 0]
            torch.testing.assert_close(views[window, time, 0], wanted, atol=1e-5, rtol=0)
            both = time > 0 and bool(present[window, time, 0] * present[window, time - 1, 0])
            step = views[window, time, 0] - views[window, time - 1, 0] if both else torch.zeros_like(wanted)
            torch.testing.assert_close(views[window, time, 1], step, atol=1e-5, rtol=0)


def test_another_lamp_changes_the_brightness_and_hardly_the_picture():
    spec = camera(16, 24)
    network, (values, present) = front(spec), frames(spec)
    brighter = values.float() * 1.2 + 10
    (series, _, statistics), (lit, _, of_lit) = network(values, present), network(brighter, present)
    torch.testing.assert_close(series, lit, atol=0.02, rtol=0)
    level = (values.float().mean((1, 2, 3, 4)) - 120) / 50
    torch.testing.assert_close(statistics[:, -2], level, atol=1e-4, rtol=0)
    torch.testing.assert_close(of_lit[:, -2], level * 1.2 + (0.2 * 120 + 10) / 50, atol=1e-4, rtol=0)


def test_summaries_are_means_and_steps_of_the_frames_that_are_there():
    spec = camera(8, 8)
    network, (values, present) = front(spec), frames(spec)
    present[0, 1] = 0
    series, mean, statistics = network(values, present)
    kept = series[0][:, [0, 2, 3]]
    torch.testing.assert_close(mean[0], kept.mean(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(statistics[0, :16], (kept[:, 2] - kept[:, 1]).abs(), atol=1e-6, rtol=0)
    torch.testing.assert_close(statistics[1, :16], series[1].diff(dim=1).abs().mean(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("height", "width", "last"),
    [(8, 8, 4 * 4 * 4), (96, 96, 8 * 3 * 3), (48, 64, 8 * 3 * 4), (64, 48, 8 * 4 * 3), (240, 320, 8 * 2 * 3)],
)
def test_the_stem_ends_with_a_few_pixels(height, width, last):
    spec = camera(height, width, samples=2)
    network = front(spec)
    values, present = frames(spec)
    assert network(values, present)[0].shape == (2, 16, 2)
    assert network.embed.in_features == last


@pytest.mark.parametrize(("height", "width"), [(7, 96), (96, 1025)])
def test_frames_too_small_or_too_large_are_refused(height, width):
    assert said(UsageError, front, camera(height, width)) == (
        f"modality 'cam': expected frames of 8 to 1024 rows and columns, got {height} rows of {width} pixels; "
        "import them at another size"
    )


@pytest.mark.parametrize(
    ("height", "width", "small", "last"),
    [(64, 64, (16, 8, 8), 24 * 4 * 4), (96, 96, (24, 6, 6), 24 * 3 * 3), (67, 130, (24, 3, 5), 24 * 2 * 3)],
)
def test_of_large_frames_changes_are_seen_in_small_maps(height, width, small, last):
    network = front(camera(height, width), 48)
    assert network.map == small
    assert network.embed.in_features == last
    values, present = frames(camera(height, width))
    assert network(values, present)[0].shape == (2, 48, 4)


@pytest.mark.parametrize("where", [(0, 0), (0, 66), (69, 0), (69, 66)])
def test_patches_reach_to_every_corner_of_a_frame(where):
    spec = camera(70, 67, samples=1)
    network = front(spec, 48)
    values = torch.full((1, *spec.shape), 100, dtype=torch.uint8)
    values[0, 0, 30:40, 30:40] = 180
    other = values.clone()
    other[0, 0, where[0], where[1]] = 255
    present = torch.ones(1, 1, 1)
    seen, changed = (network._normalise(one, present)[0].reshape(1, 1, 70, 67) for one in (values, other))
    maps = [network.patches[0](one) for one in (seen, changed)]
    place = tuple((pixel + network.patches[0].padding[axis]) // 4 for axis, pixel in enumerate(where))
    difference = (maps[0] - maps[1]).abs().amax((0, 1))
    assert difference[place] > 2 * difference.median()


# float32 products of up to 1,024 terms, relative to a frame's power, in a mel 60 dB below it: 1e-5 of its logarithm.
TOLERANCE = 1e-4


def sound(rate_hz, samples, *, channels=1):
    names = ("left", "right")[:channels]
    return ModalitySpec(name="mic", kind="audio", channels=names, rate_hz=rate_hz, samples=samples)


def tone(rate_hz, samples):
    rng = np.random.default_rng(0)
    wave = 0.3 * np.sin(2 * np.pi * 0.11 * np.arange(samples)) + 0.05 * rng.normal(size=samples)
    return wave.astype(np.float32)


def log_mels(front, wave):
    values = torch.from_numpy(wave)[None, :, None]
    return front.log_mels(values, torch.ones_like(values))[0][0, 0].numpy()


def test_a_frame_is_a_plain_transform_pooled_by_plain_triangles():
    front = LogMelFront(sound(1600.0, 64))  # frames of 32 samples, bins of 50 Hz
    wave = tone(1600.0, 64)
    frame = wave[16:48] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / 32))
    power = np.abs(np.fft.rfft(frame.astype(np.float64))) ** 2
    # Below 1 kHz Slaney's scale is linear: triangles between equally spaced edges, of area 1.
    mels = front.mels.filters.shape[1]
    edges = np.linspace(0, 12, mels + 2) * 200 / 3
    wanted = [
        sum(
            max(0.0, min((50 * k - low) / (mid - low), (high - 50 * k) / (high - mid))) * 2 / (high - low) * power[k]
            for k in range(17)
        )
        for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False)
    ]
    np.testing.assert_allclose(log_mels(front, wave)[1], np.log(np.maximum(wanted, FLOOR)), atol=TOLERANCE)


@pytest.mark.parametrize("rate_hz", [500.0, 1000.0, 16_000.0, 192_000.0])
def test_every_triangle_has_a_bin(rate_hz):
    front = LogMelFront(sound(rate_hz, int(rate_hz)))
    assert bool((front.mels.filters.sum(0) > 0).all())
    assert front.mels.filters.shape[1] <= 40
    assert front.mels.hop <= 512


def test_a_frame_counts_what_is_there_and_is_missing_below_a_half():
    front = LogMelFront(sound(16_000.0, 16_000))
    torch.manual_seed(0)
    wave, present = torch.randn(1, 16_000, 1), torch.ones(1, 16_000, 1)
    present[:, ::4] = 0
    whole, _ = front.log_mels(wave, torch.ones_like(present))
    part, there = front.log_mels(wave, present)
    assert bool((there == 1).all())
    assert float((part - whole).mean().abs()) < 0.1
    front = LogMelFront(sound(1000.0, 160))  # ten blocks of 16 samples
    present = torch.ones(1, 160, 1)
    present[:, 16:32] = 0  # block 1: half of frames 0 and 1 is there
    present[:, 64:100] = 0  # blocks 4 and 5, and a quarter of 6: none of frame 4, less than half of 5
    assert front.presence(present)[0].tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 1]
    assert front.log_mels(torch.zeros(1, 160, 1), present)[1][0, 0].tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 1]


def test_views_are_normalised_by_training_data_and_by_window():
    front = LogMelFront(sound(16_000.0, 16_000, channels=2))
    torch.manual_seed(0)
    values = torch.randn(1, 16_000, 2)
    present = torch.ones_like(values)
    mels, _ = front.log_mels(values, present)  # (1, 2, N, M)
    front.mel_mean.copy_(mels[0].mean(1))
    front.mel_std.copy_(mels[0].std(1, correction=0))
    series, spectrum, statistics = front(values, present)
    views = series.reshape(2, 81, 61)
    torch.testing.assert_close(views[:, :40].mean(-1), torch.zeros(2, 40), atol=1e-4, rtol=0)
    torch.testing.assert_close(views[:, :40].std(-1, correction=0), torch.ones(2, 40), atol=1e-3, rtol=0)
    torch.testing.assert_close(views[:, 40:80], views[:, :40] - spectrum.reshape(2, 40, 1), atol=1e-5, rtol=0)
    assert bool((views[:, 80] == 1).all())
    spread, high, step = statistics.reshape(2, 3, 40).unbind(1)
    torch.testing.assert_close(high, views[:, :40].amax(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(spread, torch.full((2, 40), 0.5 * float(np.log(1.01))), atol=1e-3, rtol=0)
    torch.testing.assert_close(step, views[:, :40].diff(dim=-1).abs().mean(-1), atol=1e-5, rtol=0)


def test_windows_without_a_spectrum_are_refused():
    assert said(UsageError, LogMelFront, sound(16_000.0, 63)) == (
        "modality 'mic': expected windows of at least 64 samples of sound, got 63; take longer windows, or the kind "
        "series"
    )


MIC = ModalitySpec(name="mic", kind="audio", channels=("left", "right"), rate_hz=2000.0, samples=800)
CAM = ModalitySpec(name="cam", kind="video", channels=("r", "g", "b"), rate_hz=25.0, samples=12, height=16, width=4)


def test_video_is_the_brightness_of_a_grid_of_cells():
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


def test_sound_is_its_log_mels_frame_by_frame():
    view, mels = series_view(MIC), LogMels(MIC)
    torch.manual_seed(0)
    values, present = torch.randn(2, *MIC.shape), torch.ones(2, *MIC.shape)
    present[0, :200, 1] = 0
    found, there = view(values, present)
    wanted, known = mels((values * present).transpose(1, 2), present.transpose(1, 2))  # (B, C, N, M)
    assert found.shape == (2, mels.positions, 2 * mels.count) == (2, *view.spec.shape)
    assert torch.equal(there.reshape(2, mels.positions, 2, mels.count)[..., 0].transpose(1, 2), known)
    assert torch.equal(found.reshape(2, mels.positions, 2, mels.count).transpose(1, 2), wanted * known[..., None])
