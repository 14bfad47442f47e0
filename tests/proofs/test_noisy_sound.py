"""The script that puts a microphone into noise: as loud as asked, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from proofs.noisy_sound import noisy, with_noise


def test_noise_is_as_loud_as_asked_and_missing_stays_missing() -> None:
    rng = np.random.default_rng(0)
    sound = (0.01 * rng.standard_normal((3, 40_000, 1))).astype(np.float32)
    sound[1] *= 10
    sound[2, :100] = np.nan
    added = noisy(sound, snr_db=6.0, rng=np.random.default_rng(1)) - sound
    ratio = 10 * np.log10(np.nanmean(sound**2, axis=(1, 2)) / np.nanmean(added**2, axis=(1, 2)))
    np.testing.assert_allclose(ratio, 6.0, atol=0.1)  # 40,000 draws: the power of noise is known within 0.7 %
    assert np.isnan(added[2, :100]).all()
    assert not np.isnan(added[2, 100:]).any()


def test_a_loud_window_is_made_quieter_as_a_whole() -> None:
    sound = np.full((1, 1000, 1), 0.9, dtype=np.float32)
    found = noisy(sound, snr_db=0.0, rng=np.random.default_rng(0))
    assert np.abs(found).max() == pytest.approx(1.0)


def test_lips_labels_and_folds_stay(tmp_path: Path) -> None:
    before = open_dataset(shipped_dataset("grid_words"))
    after = with_noise(before, "voice", snr_db=0.0, rng=np.random.default_rng(0), out=tmp_path / "noisy")
    one, other = before.everything(), after.everything()
    for name in ("labels", "groups", "splits", "folds"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    some = np.arange(0, 480, 60)
    np.testing.assert_array_equal(one.take(some)["lips"], other.take(some)["lips"])
    assert after.spec.name == "grid_words_voice_0db"


def test_noise_is_for_sound(tmp_path: Path) -> None:
    words, rng = open_dataset(shipped_dataset("grid_words")), np.random.default_rng(0)
    with pytest.raises(UsageError) as failed:
        with_noise(words, "lips", snr_db=0.0, rng=rng, out=tmp_path / "noisy")
    assert str(failed.value) == "modality 'lips': expected sound, got video; name a microphone"
