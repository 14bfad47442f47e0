"""How windows of sound and of video are varied in training."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmkd_edge.frames import mask_missing
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.data.augment import AugmentConfig, augment_batch
from mmkd_models.data.batches import BatchSource

PLAIN = AugmentConfig(shift=False, mixup=0.0, noise=0.0, gain=0.0, channel_dropout=0.0, span_dropout=0.0)
SOUND: NDArray[np.float32] = np.sin(np.arange(4 * 1000 * 1).reshape(4, 1000, 1) * 0.3).astype(np.float32)
THERE = np.ones_like(SOUND)
VIDEO = np.random.default_rng(0).integers(60, 200, (6, 8, 32, 48, 3), dtype=np.uint8)
FRAMES = np.ones((6, 8, 1), dtype=np.float32)


def varied(kind: str, **changes: float | bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    values, present = (SOUND, THERE) if kind == "audio" else (VIDEO, FRAMES)
    config, rng = msgspec.structs.replace(PLAIN, **changes), np.random.default_rng(1)
    return augment_batch(values, present, kind=kind, movement=None, config=config, rng=rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_without_augmentation_nothing_changes(kind: str) -> None:
    values, present = varied(kind)
    np.testing.assert_allclose(values, SOUND if kind == "audio" else VIDEO, atol=1e-5)
    assert values.dtype == np.float32
    assert bool(present.all())


def test_noise_of_sound_follows_its_level_at_a_drawn_ratio() -> None:
    values, _ = varied("audio", noise=0.05)
    noise = values - SOUND
    ratios_db = 20 * np.log10(SOUND.std((1, 2)) / noise.std((1, 2)))
    assert ratios_db.min() > 13.5
    assert ratios_db.max() < 38.5
    assert len(np.unique(ratios_db.round(1))) == 4
    quiet, _ = augment_batch(
        SOUND / 100,
        THERE,
        kind="audio",
        movement=None,
        config=msgspec.structs.replace(PLAIN, noise=0.05),
        rng=np.random.default_rng(1),
    )
    np.testing.assert_allclose(quiet, values / 100, atol=1e-6)


def test_the_level_of_sound_changes_by_decibels() -> None:
    values, _ = varied("audio", gain=0.1)
    changes_db = 20 * np.log10((values[:, 1] / SOUND[:, 1])[:, 0])
    assert np.abs(changes_db).max() <= 6
    assert np.abs(changes_db).max() > 1


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


def test_one_lambda_mixes_sound_and_video_and_missing_stays_missing(tmp_path: Path) -> None:
    specs = [
        ModalitySpec(name="mic", kind="audio", channels=("m",), rate_hz=100.0, samples=80),
        ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=10.0, samples=4, height=8, width=8),
    ]
    count = 8
    level = np.arange(count, dtype=np.float32)
    mic = np.broadcast_to(level[:, None, None] / 10, (count, 80, 1)).copy()
    mic[0, 10] = np.nan
    cam = np.broadcast_to((level[:, None, None, None, None] * 10).astype(np.uint8), (count, 4, 8, 8, 1)).copy()
    missing = np.zeros((count, 4), dtype=bool)
    missing[3, 2] = True
    split = {"mic": mic, "cam": mask_missing(cam, missing), "labels": np.arange(count) % 2}
    others = [
        {"mic": mic * 0 + 0.9 + 0.01 * n, "cam": cam + np.uint8(100 + n), "labels": np.arange(count) % 2}
        for n in (1, 2)
    ]
    windows = write_dataset(
        tmp_path / "data",
        name="mixed",
        labels=["even", "odd"],
        modalities=specs,
        splits={"train": split, "valid": others[0], "test": others[1]},
    ).split("train")
    config = msgspec.structs.replace(PLAIN, mixup=1.0)
    batch = BatchSource(windows, config, batch=count, labelled_fraction=0.0, seed=0).at(0)
    assert batch.partner is not None
    assert batch.share is not None
    (mic_values, mic_there), (cam_values, cam_there) = batch.inputs["mic"], batch.inputs["cam"]
    wanted = batch.share * batch.index + (1 - batch.share) * batch.partner
    torch.testing.assert_close(mic_values[:, 40, 0], wanted.float() / 10, atol=1e-5, rtol=0)
    torch.testing.assert_close(cam_values[:, 0, 4, 4, 0], wanted.float() * 10, atol=1e-3, rtol=0)
    assert (cam_values.dtype, cam_values.shape, cam_there.shape) == (torch.float32, (8, 4, 8, 8, 1), (8, 4, 1))
    for row in range(count):
        has = {int(batch.index[row]), int(batch.partner[row])}
        assert bool(mic_there[row, 10, 0]) == (0 not in has)
        assert bool(cam_there[row, 2, 0]) == (3 not in has)
    assert not bool(cam_values[cam_there[..., 0] == 0].any())
