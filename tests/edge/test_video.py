"""A window of video from the caller's hands to the engine, and what is said of missing frames."""

import sys

import msgspec
import numpy as np
import pytest

from mmkd_edge import InputError, ModalitySpec, SensorChecks, UnavailableError, check_window, prepare
from mmkd_edge.frames import cut_out, is_inside, mask_missing, opencv, parse_region
from mmkd_edge.health.running import RunningStatistics, measure_statistics
from mmkd_edge.predict.preprocess import channel_rows, prepare_batch
from mmkd_edge.spec import TaskSpec, frames_fault
from mmkd_edge.testing import fake_entry, fake_predictor
from tests.edge.said import said

GRAY = ModalitySpec(name="lips", kind="video", channels=("gray",), rate_hz=25.0, samples=4, height=2, width=3)
COLOUR = msgspec.structs.replace(GRAY, channels=("r", "g", "b"))
FRAMES = np.arange(24, dtype=np.uint8).reshape(4, 2, 3, 1)
SHARES = [0.25, 0.75]


def message(window, modality=GRAY):
    return said(InputError, lambda: check_window(window, modality))


def test_a_window_of_bytes_is_kept_as_it_is_with_missing_frames_masked():
    checked = check_window({"lips": FRAMES}, GRAY)
    values, present = prepare(checked, GRAY)
    assert checked is FRAMES
    assert (values.dtype, values.shape, present.shape) == (np.dtype(np.uint8), (1, 4, 2, 3, 1), (1, 4, 1))
    assert np.shares_memory(values, FRAMES)
    assert present.tolist() == [[[1.0]] * 4]
    assert check_window(FRAMES[..., 0], GRAY).shape == (4, 2, 3, 1)
    masked = np.ma.array(FRAMES, mask=np.zeros(FRAMES.shape, dtype=bool))
    masked[2, 1, 0, 0] = np.ma.masked
    for window in ([FRAMES[0], FRAMES[1, :, :, 0], None, FRAMES[3]], masked):
        values, present = prepare(check_window(window, GRAY), GRAY)
        assert present[0, :, 0].tolist() == [1, 1, 0, 1]
        np.testing.assert_array_equal(values[0], np.where(np.arange(4)[:, None, None, None] == 2, 0, FRAMES))


def test_a_batch_is_prepared_as_its_windows_are():
    batch = mask_missing(np.stack([FRAMES, FRAMES + 1]), np.array([[False] * 4, [True, False, False, True]]))
    values, present = prepare_batch(batch, GRAY)
    assert values.dtype == np.uint8
    assert present[:, :, 0].tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]
    for window, one, there in zip(batch, values, present, strict=True):
        alone = prepare(window, GRAY)
        np.testing.assert_array_equal(alone[0][0], one)
        np.testing.assert_array_equal(alone[1][0], there)


@pytest.mark.parametrize(
    ("window", "modality", "says"),
    [
        (FRAMES.astype(np.float32) / 255, GRAY, "(n, 2, 3, 1), got float32 (4, 2, 3, 1)"),
        (np.zeros((4, 5, 3, 1), np.uint8), GRAY, "(n, 2, 3, 1), got uint8 (4, 5, 3, 1)"),
        (np.zeros((4, 2, 3), np.uint8), COLOUR, "(n, 2, 3, 3), got uint8 (4, 2, 3)"),
        (FRAMES[None], GRAY, "(n, 2, 3, 1), got uint8 (1, 4, 2, 3, 1)"),
        ([FRAMES[0], FRAMES[1][:1], None, None], GRAY, "(n, 2, 3, 1), got uint8 (1, 3, 1)"),
    ],
)
def test_what_is_no_window_of_frames_is_refused(window, modality, says):
    start = "modality 'lips': expected frames of uint8 (n, H, W, C)="
    assert message(window, modality) == f"{start}{says}; resize each frame and pass its bytes as they are"
    told = "modality 'lips': expected 4 frames, 0.16 s at 25 Hz, got 3; pass None for a missing frame"
    assert message(FRAMES[:3]) == message([FRAMES[0], None, FRAMES[1]]) == told


def test_a_predictor_says_which_frames_are_missing_in_batches_too():
    predictor = fake_predictor(SHARES, modality=GRAY, labels=("still", "moving"))
    whole = predictor.predict(FRAMES)
    part = predictor.predict([FRAMES[0], None, None, FRAMES[3]])
    none = predictor.predict([None] * 4)
    assert (whole.status, whole.label, whole.missing_fraction) == ("ok", "moving", 0.0)
    assert (part.status, part.reason) == ("degraded", "50.0% of the frames are missing")
    assert (none.status, none.reason, none.label) == ("invalid", "all frames are missing", "")
    both = np.stack([FRAMES, FRAMES])
    assert [len(predictor.predict_batch(given)) for given in (both, both[..., 0], [FRAMES, [None] * 4])] == [2, 2, 2]
    told = "predict_batch: expected an array (N, T, C) or a list of windows, got ndarray; predict takes a single window"
    assert said(InputError, lambda: predictor.predict_batch(FRAMES)) == told


def test_a_camera_that_repeats_its_picture_is_seen():
    checks = SensorChecks(stuck_s=0.1)
    predictor = fake_predictor(SHARES, modality=COLOUR, labels=("still", "moving"), checks=checks)
    moving = np.arange(72, dtype=np.uint8).reshape(4, 2, 3, 3)
    frozen = np.repeat(moving[:1], 4, axis=0)
    assert predictor.predict(moving).status == "ok"
    assert predictor.predict(frozen).reason == "channel 'r', 'g', 'b' repeated one value for 0.16 s"
    gone = predictor.predict([moving[0], None, None, moving[3]])
    assert gone.reason == "50.0% of the frames are missing"


def test_statistics_look_at_the_brightness_of_frames():
    values, present = prepare_batch(np.stack([FRAMES, FRAMES]), GRAY)
    rows, there = channel_rows(values, present)
    assert rows[0, :, 0].tolist() == [2.5, 8.5, 14.5, 20.5]
    assert there.shape == (2, 4, 1)
    task = TaskSpec(labels=("still", "moving"))
    statistics = measure_statistics(values, present, np.array([SHARES, SHARES], np.float32), task=task)
    assert statistics.channels[0].mean == 11.5
    entry = fake_entry(modality=GRAY, labels=task.labels)
    running = RunningStatistics(msgspec.structs.replace(entry, statistics=statistics))
    running.observe(*prepare(FRAMES, GRAY))
    assert running.health(running.watch.verdict(None)).channels[0].missing_fraction == 0


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"height": 0}, ("height", "expected the pixels of a frame, got 0")),
        ({"channels": ("b", "g", "r")}, ("channels", "expected gray, or r, g, b, for video, got b, g, r")),
        ({"range": (0.0, 255.0)}, ("range", "expected none for video, whose values are bytes, got [0.0, 255.0]")),
        ({"normalise": "per_group"}, ("normalise", "expected 'none' for video, got 'per_group'")),
        ({"kind": "audio"}, ("height", "expected none for audio, got 2")),
    ],
)
def test_a_modality_whose_kind_and_keys_contradict_is_named(changes, fault):
    assert frames_fault(msgspec.structs.replace(GRAY, **changes)) == fault


def test_a_region_inside_the_frame_is_brought_to_the_students_size_by_opencv(monkeypatch):
    pytest.importorskip("cv2", reason="needs pip install 'mmkd-edge[video]'")
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[2:6, 4:10, 2] = 200  # red, which OpenCV puts last
    red = cut_out(picture, (4, 2, 6, 4), height=2, width=3, is_gray=False)
    assert (red.shape, red[0, 0].tolist()) == ((2, 3, 3), [200, 0, 0])
    assert cut_out(picture, None, height=16, width=24, is_gray=True).shape == (16, 24, 1)
    assert parse_region("4,2,6,4") == (4, 2, 6, 4)
    assert parse_region("4,2,6") is parse_region("a,b,c,d") is None
    assert is_inside(None, FRAMES[0])
    assert [is_inside((0, 0, 3, high), FRAMES[0]) for high in (2, 3)] == [True, False]
    monkeypatch.setitem(sys.modules, "cv2", None)
    told = "a camera needs OpenCV, which this Python lacks; run: pip install 'mmkd-edge[video]'"
    assert said(UnavailableError, lambda: opencv("a camera needs")) == told
