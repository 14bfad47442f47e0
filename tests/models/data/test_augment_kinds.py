"""How windows of sound and of video are varied in training."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_models.data.augment import AugmentConfig, augment_batch

PLAIN = AugmentConfig(shift=False, mixup=0.0, noise=0.0, gain=0.0, channel_dropout=0.0, span_dropout=0.0)
SOUND: NDArray[np.float32] = np.sin(np.arange(4 * 1000 * 1).reshape(4, 1000, 1) * 0.3).astype(np.float32)
THERE = np.ones_like(SOUND)
VIDEO = np.random.default_rng(0).integers(60, 200, (6, 8, 32, 48, 3), dtype=np.uint8)
FRAMES = np.ones((6, 8, 1), dtype=np.float32)


def varied(kind: str, **changes: float | bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    values, present = (SOUND, THERE) if kind == "audio" else (VIDEO, FRAMES)
    config, rng = msgspec.structs.replace(PLAIN, **changes), np.random.default_rng(1)
    return augment_batch(values, present, kind=kind, movement=None, config=config, rng=rng)  # type: ignore[arg-type]


def test_a_band_of_sound_is_silenced_and_the_rest_stays() -> None:
    noise = np.random.default_rng(0).normal(size=(4, 1000, 1)).astype(np.float32)
    config = msgspec.structs.replace(PLAIN, span_dropout=1.0)
    values, present = augment_batch(
        noise, THERE, kind="audio", movement=None, config=config, rng=np.random.default_rng(1)
    )
    for row in range(4):
        # What is hidden in time is taken out of both, so that only the band differs.
        whole = np.abs(np.fft.rfft(noise[row, :, 0]))
        difference = np.abs(np.fft.rfft((noise[row, :, 0] - values[row, :, 0]) * present[row, :, 0]))
        if bool(present[row].all()):
            gone = difference > 0.5 * whole
            assert 0 < gone.mean() <= 0.26
    assert 0 < (present == 0).mean() < 0.5


def test_contrast_brightness_and_grain_of_video_stay_within_bytes() -> None:
    values, present = varied("video", noise=0.1, gain=0.3)
    assert (values.min() >= 0, values.max() <= 255) == (True, True)
    assert bool(present.all())
    levels = values.mean((1, 2, 3, 4)) - VIDEO.mean((1, 2, 3, 4))
    assert len(np.unique(levels.round(1))) == 6


def test_all_frames_of_a_window_move_alike() -> None:
    still = np.repeat(VIDEO[:, :1], 8, axis=1)
    config = msgspec.structs.replace(PLAIN, shift=True)
    values, _ = augment_batch(still, FRAMES, kind="video", movement=None, config=config, rng=np.random.default_rng(1))
    assert np.array_equal(values, np.repeat(values[:, :1], 8, axis=1))
    assert not np.array_equal(values, still)
    # Every pixel comes from one of the same frame, at most a sixteenth of a side away and as much for the size.
    for row in range(6):
        assert set(np.unique(values[row, 0])) <= set(np.unique(still[row, 0]))


def test_frames_are_dropped_one_by_one_and_in_spans() -> None:
    values, present = varied("video", channel_dropout=0.5)
    assert 0.2 < (present == 0).mean() < 0.8
    assert not values[np.broadcast_to(present[..., None, None] == 0, values.shape)].any()
    _, spans = varied("video", span_dropout=1.0)
    assert bool((spans == 0).any(axis=(1, 2)).any())
