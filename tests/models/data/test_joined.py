"""Windows of a joined sensor: read from stored and cut windows, and with one part missing."""

import numpy as np
import pytest

from mmkd_edge.predict.preprocess import check_window
from mmkd_edge.spec import ModalitySpec
from mmkd_models.carried import carried_windows
from mmkd_models.data import Recording, write_dataset, write_recordings
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.data.windows import without_each

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=4, range=(-9.0, 9.0))
GYRO = ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=4)
PLAIN = AugmentConfig(shift=False, mixup=0.0, noise=0.0, gain=0.0, channel_dropout=0.0, span_dropout=0.0)
NAN = np.nan


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Window i holds 1 + i, its z 101 + i; in the first window of each split, one x is beyond the range."""
    splits = {}
    for name, count, first in (("train", 6, 1), ("valid", 6, -7), ("test", 2, 30)):
        value = np.repeat(first + np.arange(count, dtype=np.float32), 4).reshape(-1, 4, 1)
        acc = np.concatenate([value, value], axis=2)
        acc[0, 0, 0] = 50
        splits[name] = {
            "acc": acc,
            "gyro": 100 + value,
            "labels": np.arange(count) % 2,
            "groups": value[:, 0, 0].astype(int),
        }
    path = tmp_path_factory.mktemp("joined") / "data"
    return write_dataset(path, name="pairs", labels=["a", "b"], modalities=[ACC, GYRO], splits=splits)


def test_stored_and_cut_windows_have_the_channels_side_by_side(stored, tmp_path):
    taken = stored.split("train").with_modalities(["acc", "gyro", "gyro+acc"]).take([0, 3])
    np.testing.assert_array_equal(taken["acc_and_gyro"][1], [[4, 4, 104]] * 4)
    np.testing.assert_array_equal(taken["acc_and_gyro"][0, :2], [[NAN, 1, 101], [1, 1, 101]])
    window = {"acc": taken["acc"][0], "gyro": taken["gyro"][0]}  # the device joins as training does
    np.testing.assert_array_equal(check_window(window, stored.spec.modality("acc+gyro")), taken["acc_and_gyro"][0])
    parts = []
    for number, split in enumerate(("train", "train", "valid", "test")):
        ramp = np.arange(40, dtype=np.float32) + 1000 * number
        samples = {"acc": np.stack([ramp / 999, -ramp / 999], axis=1), "gyro": ramp[:, None]}
        parts.append(Recording(samples=samples, label=number % 2, group=number, split=split))
    cut = write_recordings(
        tmp_path / "cut", name="cut", labels=["a", "b"], modalities=[ACC, GYRO], recordings=parts, hop_s=0.4
    )
    moved = cut.split("train").with_modalities(["acc+gyro"]).take([1], shift_s=[0.1])["acc_and_gyro"][0]
    np.testing.assert_allclose(moved * [999, -999, 1], np.repeat([[5], [6], [7], [8]], 3, axis=1), rtol=1e-6)


def test_half_of_a_batch_lacks_one_part_and_other_sensors_none(stored):
    train = stored.split("train").with_modalities(["acc", "acc+gyro"]).subset(np.arange(1, 6))
    source, gone = BatchSource(train, PLAIN, batch=5, labelled_fraction=0.0, seed=0), []
    for step in range(200):
        inputs = source.at(step).inputs
        values, present = (part.numpy() for part in inputs["acc_and_gyro"])
        assert inputs["acc"][1].numpy().all()
        assert ((values != 0) == (present > 0)).all()
        assert (present == present[:, :1]).all()
        gone += [tuple(row) for row in present[:, 0].tolist()]
    assert gone.count((1, 1, 1)) == pytest.approx(500, abs=60)  # binomial: four standard deviations of 16
    assert gone.count((0, 0, 1)) == pytest.approx(250, abs=60)
    assert gone.count((1, 1, 0)) == 1000 - gone.count((1, 1, 1)) - gone.count((0, 0, 1))


def test_copies_lack_each_part_and_carried_windows_lack_one_in_turn(stored):
    train, valid = stored.split("train").subset(np.array([5, 2])), stored.split("valid")
    copied = without_each(train, "acc_and_gyro")
    assert copied.labels.tolist() == [1, 0] * 3
    expected = [[6, 6, 106], [3, 3, 103], [NAN, NAN, 106], [NAN, NAN, 103], [6, 6, NAN], [3, 3, NAN]]
    np.testing.assert_array_equal(copied.take(np.arange(6))["acc_and_gyro"][:, 0], expected)
    assert len(without_each(train, "gyro")) == 2
    carried = carried_windows(valid, "acc_and_gyro", seed=0)
    lacking = [tuple(np.isnan(window[1]).tolist()) for window in carried.windows]
    assert lacking == [(False, False, False), (True, True, False), (False, False, True)] * 2
    assert carried.labels.tolist() == valid.labels.tolist()
