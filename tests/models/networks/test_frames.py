"""What a network sees of the frames of video."""

import re

import pytest
import torch

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.fronts.frames import FrameFront


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
    random = torch.Generator().manual_seed(0)
    values = torch.randint(40, 200, (2, *spec.shape), dtype=torch.uint8, generator=random)
    return values, torch.ones(2, *spec.presence_shape)


def front(spec):
    torch.manual_seed(0)
    made = FrameFront(spec, 16).eval()
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
    channels = len(spec.channels)
    views = seen[0].reshape(2, 4, 2, channels, 16, 24)
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
    says = (
        f"modality 'cam': expected frames of 8 to 1024 rows and columns, got {height} rows of {width} pixels; "
        "import them at another size"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(says)}$"):
        front(camera(height, width))


def late(spec):
    torch.manual_seed(0)
    return FrameFront(spec, 48).eval()


@pytest.mark.parametrize(
    ("height", "width", "small", "last"),
    [(64, 64, (16, 8, 8), 24 * 4 * 4), (96, 96, (24, 6, 6), 24 * 3 * 3), (67, 130, (24, 3, 5), 24 * 2 * 3)],
)
def test_of_large_frames_changes_are_seen_in_small_maps(height, width, small, last):
    network = late(camera(height, width))
    assert network.map == small
    assert network.embed.in_features == last
    values, present = frames(camera(height, width))
    assert network(values, present)[0].shape == (2, 48, 4)


@pytest.mark.parametrize("where", [(0, 0), (0, 66), (69, 0), (69, 66)])
def test_patches_reach_to_every_corner_of_a_frame(where):
    spec = camera(70, 67, samples=1)
    network = late(spec)
    values = torch.full((1, *spec.shape), 100, dtype=torch.uint8)
    values[0, 0, 30:40, 30:40] = 180
    other = values.clone()
    other[0, 0, where[0], where[1]] = 255
    present = torch.ones(1, 1, 1)
    seen, changed = (network._normalised(one, present)[0].reshape(1, 1, 70, 67) for one in (values, other))
    maps = [network.patches[0](one) for one in (seen, changed)]
    place = tuple((pixel + network.patches[0].padding[axis]) // 4 for axis, pixel in enumerate(where))
    difference = (maps[0] - maps[1]).abs().amax((0, 1))
    assert difference[place] > 2 * difference.median()
