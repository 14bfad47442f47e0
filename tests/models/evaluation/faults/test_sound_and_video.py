"""Faults of microphones and cameras: by hand, and on the words that are shipped."""

import numpy as np
import pytest

from mmkd_edge.frames import mask_missing, missing_frames
from mmkd_models.data import Windows, open_dataset, shipped_dataset
from mmkd_models.data.windows import StoredWindows
from mmkd_models.evaluation.faults import FAULTS, NAMES, FaultedChannels, faults_for
from mmkd_models.evaluation.suites.faults import sensors_of, with_fault

MIC = FaultedChannels(mean=np.zeros(1), std=np.ones(1), rate_hz=8000.0)
VIDEO = [name for name in NAMES if "video" in FAULTS[name].kinds and not FAULTS[name].moves]


def broken(name, severity, x, seed=0):
    return FAULTS[name].apply(x, MIC, severity, np.random.default_rng(seed))


def tone(hz):
    return np.sin(2 * np.pi * hz * np.arange(8000) / 8000)[:, None]


@pytest.fixture(scope="module")
def words():
    return open_dataset(shipped_dataset("grid_words")).split("test")


@pytest.fixture(scope="module")
def sensors():
    return sensors_of(open_dataset(shipped_dataset("grid_words")).split("train"), ["voice", "lips"])


@pytest.mark.parametrize(("severity", "signal_to_noise_db"), [(0.2, 24.0), (0.8, 6.0), (1.0, 0.0)])
def test_noise_is_added_at_a_signal_to_noise_of_the_window(severity, signal_to_noise_db):
    x = 0.1 * tone(500)
    x[:4000] = np.nan  # what is missing has no power, and stays missing
    found = broken("added noise", severity, x)
    assert np.isnan(found[:4000]).all()
    found_db = 10 * np.log10(np.mean(x[4000:] ** 2) / np.mean((found - x)[4000:] ** 2))
    assert found_db == pytest.approx(signal_to_noise_db, abs=0.4)  # 4,000 draws: three standard errors of 0.1 dB


def test_a_lost_band_takes_its_tones_and_leaves_the_others():
    low, high = tone(500), tone(3000)  # at worst the limits are at 1,000 Hz
    np.testing.assert_allclose(broken("treble lost", 1.0, low + high), low, atol=1e-9)
    np.testing.assert_allclose(broken("bass lost", 1.0, low + high), high, atol=1e-9)
    np.testing.assert_allclose(broken("treble lost", 0.2, low + high), low + high, atol=1e-9)  # to 3,400 Hz
    gap = low.copy()
    gap[100:200] = np.nan
    assert np.isnan(broken("bass lost", 0.5, gap)).ravel().nonzero()[0].tolist() == list(range(100, 200))


def test_pictures_are_darkened_blurred_dropped_and_knocked():
    x = np.full((2, 3, 4, 1), 200.0)
    assert np.unique(broken("dark", 1.0, x)) == pytest.approx([20.0])
    assert np.unique(broken("dark", 0.2, x)) == pytest.approx([164.0])
    x = np.zeros((1, 21, 31, 1))
    x[0, 10, 15] = 100
    found = broken("blur", 1.0, x)[0, :, :, 0]
    assert found.sum() == pytest.approx(100)
    rows = (found.sum(axis=1) * (np.arange(21) - 10) ** 2).sum() / 100
    assert rows**0.5 == pytest.approx(0.1 * 21, rel=0.02)  # three standard deviations each way are kept
    flat = np.full((1, 8, 8, 3), 7.0)
    np.testing.assert_allclose(broken("blur", 1.0, flat), flat)
    x = np.zeros((10, 2, 2, 1))
    dropped = [int(np.isnan(broken("dropped frames", one, x)).all(axis=(1, 2, 3)).sum()) for one in (0.05, 0.6, 1.0)]
    assert dropped == [1, 3, 5]
    picture = np.add.outer(100 * np.arange(20), np.arange(40))[None, :, :, None].astype(float)
    found = broken("shifted camera", 1.0, np.repeat(picture, 3, axis=0))
    assert (found == found[:1]).all()
    down, right = (int(one) for one in divmod(found[0, 10, 20, 0], 100))
    assert (down - 10, right - 20) != (0, 0)
    assert ((down - 10) / 5) ** 2 + ((right - 20) / 10) ** 2 == pytest.approx(1, abs=0.25)  # whole pixels of 5 and 10


@pytest.mark.parametrize("name", faults_for(open_dataset(shipped_dataset("grid_words")).spec.modalities))
def test_a_word_has_the_same_fault_in_every_subset(name, words, sensors):
    whole = with_fault(words, name, 1.0, seed=3, sensors=sensors).take([5])
    part = with_fault(words.subset(np.array([5, 7])), name, 1.0, seed=3, sensors=sensors).take([0])
    clean = words.take([5])
    hit, other = ("lips", "voice") if name in VIDEO else ("voice", "lips")
    assert whole[hit].dtype == clean[hit].dtype
    assert np.ma.allequal(np.ma.masked_invalid(whole[hit]), np.ma.masked_invalid(part[hit]))
    assert not np.array_equal(np.ma.filled(whole[hit], 0), np.ma.filled(clean[hit], 0))
    np.testing.assert_array_equal(whole[other], clean[other])
    if hit == "voice":
        assert (np.abs(np.nan_to_num(whole["voice"])) <= 1).all()


def test_frames_that_were_missing_stay_missing(words, sensors):
    missing = np.zeros((len(words), 10), dtype=bool)
    missing[:, 2] = True
    parts = {"lips": [np.asarray(mask_missing(words.take(np.arange(len(words)))["lips"], missing).data)]}
    offsets = np.array([0, len(words)])
    one = Windows(
        **{name: getattr(words, name) for name in ("labels", "groups", "has_groups", "splits", "folds")},
        spec=words.with_modalities(["lips"]).spec,
        source=StoredWindows(parts=parts, offsets=offsets, present={"lips": [(~missing).astype(np.uint8)]}),
        rows=np.arange(len(words)),
    )
    assert missing_frames(with_fault(one, "blur", 1.0, seed=0, sensors=sensors).take([0])["lips"]).tolist() == [
        [False, False, True, *[False] * 7]
    ]
    dropped = missing_frames(with_fault(one, "dropped frames", 0.2, seed=0, sensors=sensors).take(range(9))["lips"])
    assert set(dropped.sum(axis=1)) <= {1, 2}
    assert dropped[:, 2].all()


def test_a_microphone_has_no_faults_of_an_accelerometer_and_a_camera_its_own_alone():
    spec = open_dataset(shipped_dataset("grid_words")).spec
    assert faults_for([spec.modality("lips")]) == ("dark", "blur", "dropped frames", "shifted camera")
    heard = faults_for([spec.modality("voice")])
    assert {"added noise", "treble lost", "bass lost", "hum", "clipping", "lost channel"} <= set(heard)
    assert not {"noise", "offset", "drift", "time stretch", "channel swap", "blur"} & set(heard)
