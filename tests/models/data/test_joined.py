"""Windows of a joined sensor: its parts side by side, and with one of them missing."""

import numpy as np
import pytest

from mmkd_edge.predict.preprocess import check_window
from mmkd_edge.spec import ModalitySpec
from mmkd_models.carried import carried_windows
from mmkd_models.data import Recording, write_recordings
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.data.windows import without_each

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=4, range=(-90.0, 90.0))
GYRO = ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=4)
PLAIN = AugmentConfig(shift=False, mixup=0.0, noise=0.0, gain=0.0, channel_dropout=0.0, span_dropout=0.0)
NAN = np.nan


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """Recordings of 25 samples that count from 1, 31, 61 and 1001 on, beyond the range of acc; z is a thousand more."""
    parts = []
    for number, (split, first) in enumerate((("train", 1), ("train", 31), ("valid", 61), ("test", 1001))):
        ramp = first + np.arange(25, dtype=np.float32)
        samples = {"acc": np.stack([ramp, ramp], axis=1), "gyro": 1000 + ramp[:, None]}
        parts.append(Recording(samples=samples, label=number % 2, group=number, split=split))
    path, labels = tmp_path_factory.mktemp("joined") / "data", ["a", "b"]
    return write_recordings(path, name="ramps", labels=labels, modalities=[ACC, GYRO], recordings=parts, hop_s=0.4)


def test_windows_have_the_channels_side_by_side_and_move_together(ramps):
    taken = ramps.split("train").with_modalities(["acc", "gyro", "gyro+acc"]).take([1], shift_s=[0.1])
    np.testing.assert_array_equal(taken["acc_and_gyro"][0], [[n, n, 1000 + n] for n in (6, 7, 8, 9)])
    test = ramps.split("test").with_modalities(["acc", "gyro", "acc+gyro"]).take([0])
    np.testing.assert_array_equal(test["acc_and_gyro"][0, 0], [NAN, NAN, 2001])
    window = {"acc": test["acc"][0], "gyro": test["gyro"][0]}  # the device joins as training does
    np.testing.assert_array_equal(check_window(window, ramps.spec.modality("acc+gyro")), test["acc_and_gyro"][0])


def test_half_of_a_batch_lacks_one_part_and_other_sensors_none(ramps):
    train = ramps.split("train").with_modalities(["acc", "acc+gyro"])
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


def test_copies_lack_each_part_and_carried_windows_lack_one_in_turn(ramps):
    train, valid = ramps.split("train").subset(np.array([7, 2])), ramps.split("valid")
    copied = without_each(train, "acc_and_gyro")
    assert copied.labels.tolist() == [1, 0] * 3
    expected = [[35, 35, 1035], [9, 9, 1009], [NAN, NAN, 1035], [NAN, NAN, 1009], [35, 35, NAN], [9, 9, NAN]]
    np.testing.assert_array_equal(copied.take(np.arange(6))["acc_and_gyro"][:, 0], expected)
    assert len(without_each(train, "gyro")) == 2
    lacking = np.isnan(carried_windows(valid, "acc_and_gyro", seed=0).windows[:, 0]).tolist()
    assert lacking == ([[False] * 3, [True, True, False], [False, False, True]] * 2)[: len(valid)]
