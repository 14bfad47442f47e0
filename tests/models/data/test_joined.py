"""Windows of a joined sensor: read from stored and cut windows, and with one part missing."""

import msgspec
import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_edge.predict.preprocess import check_window
from mmkd_edge.spec import ModalitySpec
from mmkd_models.carried import carried_windows
from mmkd_models.data import Recording, write_dataset, write_recordings
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.data.joined import with_copies
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=4, range=(-9.0, 9.0))
GYRO = ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=4)
PLAIN = AugmentConfig(shift=False, mixup=0.0, noise=0.0, gain=0.0, channel_dropout=0.0, span_dropout=0.0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Window i holds 1 + i, its z 101 + i; in the first window of each split, one x is beyond the range."""

    def split(count, first):
        value = first + np.arange(count, dtype=np.float32)[:, None, None]
        acc, gyro = np.repeat(value, 8).reshape(-1, 4, 2), np.repeat(100 + value, 4).reshape(-1, 4, 1)
        acc[0, 0, 0] = 50
        return {"acc": acc, "gyro": gyro, "labels": np.arange(count) % 2, "groups": first + np.arange(count)}

    return write_dataset(
        tmp_path_factory.mktemp("joined") / "data",
        name="pairs",
        labels=["a", "b"],
        modalities=[ACC, GYRO],
        splits={"train": split(6, 1), "valid": split(6, -7), "test": split(2, 30)},
    )


def test_stored_and_cut_windows_have_the_channels_side_by_side(stored, tmp_path):
    train = stored.split("train")
    taken = train.with_modalities(["acc", "gyro", "gyro+acc"]).take([0, 3])
    np.testing.assert_array_equal(taken["acc_and_gyro"][1], [[4, 4, 104]] * 4)
    np.testing.assert_array_equal(taken["acc_and_gyro"][0, :2], [[np.nan, 1, 101], [1, 1, 101]])
    pair = stored.spec.modality("acc+gyro")
    window = {"acc": taken["acc"][0], "gyro": taken["gyro"][0]}  # the device joins as training does
    np.testing.assert_array_equal(check_window(window, pair), taken["acc_and_gyro"][0])
    parts = []
    for number, split in enumerate(("train", "train", "valid", "test")):
        ramp = np.arange(40, dtype=np.float32) + 1000 * number
        samples = {"acc": np.stack([ramp / 999, -ramp / 999], axis=1), "gyro": ramp[:, None]}
        parts.append(Recording(samples=samples, label=number % 2, group=number, split=split))
    cut = write_recordings(
        tmp_path / "cut", name="cut", labels=["a", "b"], modalities=[ACC, GYRO], recordings=parts, hop_s=0.4
    )
    moved = cut.split("train").with_modalities(["acc+gyro"]).take([1], shift_s=[0.1])["acc_and_gyro"][0]
    np.testing.assert_allclose(moved[:, 2], [5, 6, 7, 8])  # both parts move by one sample
    np.testing.assert_allclose(moved[:, 0] * 999, [5, 6, 7, 8], rtol=1e-6)


def test_half_of_a_batch_lacks_one_part_and_other_sensors_none(stored):
    train = stored.split("train").with_modalities(["acc", "acc+gyro"]).subset(np.arange(1, 6))
    source = BatchSource(train, PLAIN, batch=5, labelled_fraction=0.0, seed=0)
    gone = {"acc": 0, "gyro": 0, "none": 0}
    for step in range(200):
        inputs = source.at(step).inputs
        values, present = (part.numpy() for part in inputs["acc_and_gyro"])
        assert inputs["acc"][1].numpy().all()
        assert (present == present[:, :1]).all()
        assert (values[present == 0] == 0).all()
        assert (values[present > 0] != 0).all()
        for row in present[:, 0].tolist():
            gone[{(0.0, 0.0, 1.0): "acc", (1.0, 1.0, 0.0): "gyro", (1.0, 1.0, 1.0): "none"}[tuple(row)]] += 1
    assert gone["none"] == pytest.approx(500, abs=60)  # binomial: four standard deviations of 16
    assert gone["acc"] == pytest.approx(250, abs=60)


def test_copies_lack_each_part_and_carried_windows_lack_one_in_turn(stored):
    train = stored.split("train").subset(np.array([5, 2]))
    copied = with_copies(train.with_modalities(["gyro", "acc+gyro"]), "acc_and_gyro")
    assert copied.labels.tolist() == [1, 0] * 3
    taken = copied.take(np.arange(6))
    np.testing.assert_array_equal(taken["gyro"][:, 0, 0], [106, 103] * 3)
    nan = np.nan
    expected = [[6, 6, 106], [3, 3, 103], [nan, nan, 106], [nan, nan, 103], [6, 6, nan], [3, 3, nan]]
    np.testing.assert_array_equal(taken["acc_and_gyro"][:, 0], expected)
    assert with_copies(train, "gyro") is train
    valid = stored.split("valid")
    carried = carried_windows(valid, "acc_and_gyro", seed=0)
    lacking = [tuple(np.isnan(window[1]).tolist()) for window in carried.windows]
    assert lacking == [(False, False, False), (True, True, False), (False, False, True)] * 2
    assert carried.labels.tolist() == valid.labels.tolist()


def test_a_dataset_cannot_store_a_joined_sensor(stored, tmp_path):
    pair = msgspec.structs.replace(stored.spec.modality("acc+gyro"))
    splits = {
        name: {"acc_and_gyro": np.ones((2, 4, 3)) * n, "labels": [0, 1]}
        for n, name in enumerate(("train", "valid", "test"))
    }
    message = said(
        DatasetError,
        lambda: write_dataset(tmp_path / "d", name="d", labels=["a", "b"], modalities=[pair], splits=splits),
    )
    assert message.endswith("(acc_and_gyro): expected a recorded modality, got 'parts'; remove the key")
