"""Streams of sound and of video: windows of what was pushed, however it was pushed."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge import ModalitySpec
from mmkd_edge.frames import frame_bytes, missing_frames
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.spec import TaskSpec
from mmkd_edge.stream.stream import Stream
from mmkd_edge.testing import fake_predictor

CAM = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=10.0, samples=4, height=2, width=3)
MIC = ModalitySpec(name="mic", kind="audio", channels=("left", "right"), rate_hz=100.0, samples=20)


def frames(count):
    return np.broadcast_to((np.arange(count) % 256).astype(np.uint8)[:, None, None, None], (count, 2, 3, 1)).copy()


def watched(modality=CAM, *, hop=2, **options):
    """A stream, and the windows it asks about: the number of each frame, None where it is missing."""
    seen = []

    def ask(window, _conditions, _stepped):
        missing = missing_frames(window)
        values = frame_bytes(window)[:, 0, 0, 0].tolist()
        seen.append([None if gone else value for gone, value in zip(missing, values, strict=True)])
        return Prediction(label="", index=-1, probability=0.0, probabilities=np.zeros(2, np.float32), modality="cam")

    arguments = {"gap_s": None, "stale_s": None, **options}
    task = TaskSpec(labels=("still", "moving"))
    return Stream(modality=modality, task=task, ask=ask, deliver=list, hop=hop, **arguments), seen


def test_windows_of_frames_follow_each_other_by_hops():
    stream, seen = watched()
    warming = stream.push(frames(3))
    stream.push(frames(9)[3:])
    assert [one.status for one in warming] == ["warming_up"]
    assert seen == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    stream.flush()
    assert seen[-1] == [5, 6, 7, 8]


def test_frames_come_in_any_form_singly_and_with_missing_ones():
    first, second, *rest = frames(4)
    for pushed in (frames(4)[..., 0], list(frames(4)), [first, second[..., 0], *rest], {"cam": frames(4)}):
        stream, seen = watched(hop=4)
        stream.push(pushed)
        assert seen == [[0, 1, 2, 3]]
    stream, seen = watched(hop=4)
    memory = np.zeros((2, 3, 1), dtype=np.uint8)  # a camera may reuse it
    for number in range(3):
        memory[:] = number
        stream.push(memory)
    stream.push([None])
    stream.push([frames(6)[4], None, frames(6)[5][..., 0], None])
    assert seen == [[0, 1, 2, None], [4, None, 5, None]]


def test_a_frame_is_the_nearest_and_never_a_mixture_and_a_lost_one_is_missing():
    stream, seen = watched(hop=4)
    times = np.arange(9) / 10 + np.array([0, 0.03, -0.03, 0.02, 0.04, -0.04, 0, 0.01, 0])
    stream.push(frames(9), times)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7]]
    stream, seen = watched(hop=4)
    kept = np.array([0, 1, 3, 4, 5, 6, 7, 8])
    stream.push(frames(9)[kept], kept / 10)
    assert seen == [[0, 1, None, 3], [4, 5, 6, 7]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.booleans())
@settings(max_examples=15, deadline=None)
def test_predictions_do_not_depend_on_how_frames_were_divided(sizes, timed):
    count = sum(sizes)
    rng = np.random.default_rng(count)
    times = np.arange(count) / 10 + rng.uniform(-0.04, 0.04, count) if timed else None
    whole, at_once = watched(hop=3)
    whole.push(frames(count), times)
    parted, in_parts = watched(hop=3)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        parted.push(frames(count)[part], None if times is None else times[part])
        start += size
    assert in_parts == at_once
    whole.flush()
    parted.flush()
    assert in_parts == at_once


def test_memory_stays_flat_over_minutes_of_frames():
    stream, seen = watched(hop=100)
    block = frames(250)
    stream.push(block)
    tracemalloc.start()
    for _ in range(12):  # five minutes at 10 Hz
        stream.push(block)
        seen.clear()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


def test_sound_is_followed_as_a_series_is():
    fed = []

    def answer(feeds):
        fed.append(feeds["mic"][0].copy())
        return [0.25, 0.75]

    predictor = fake_predictor(answer, modality=MIC, labels=("still", "moving"))
    stream = predictor.stream(hop=10)
    wave = np.random.default_rng(0).uniform(-1, 1, (45, 2)).astype(np.float32)
    found = [one for start in range(0, 45, 7) for one in stream.push(wave[start : start + 7])]
    assert [one.status for one in found] == ["warming_up", "ok", "ok", "ok"]
    for number, window in enumerate(fed):
        assert np.array_equal(window, wave[10 * number : 10 * number + 20])


@pytest.mark.parametrize(("rate_hz", "batch"), [(11.0, 1), (20.0, 16), (25.0, 3), (95.0, 16)])
def test_a_faster_camera_gives_the_frames_nearest_in_time(rate_hz, batch):
    stream, seen = watched(hop=2)
    times, pushed = np.arange(200) / rate_hz, frames(200)
    for start in range(0, 200, batch):
        stream.push(pushed[start : start + batch], time_s=times[start : start + batch])
    assert len(seen) > 5
    for number, window in enumerate(seen):
        points = (np.arange(4) + 2 * number) / CAM.rate_hz
        for point, frame in zip(points, window, strict=True):
            assert frame is not None
            assert abs(times[frame] - point) <= 0.5 / CAM.rate_hz + 1e-9
