"""Derived modalities of a dataset: the same windows as a device derives, by stored windows, recordings and groups."""

import msgspec
import numpy as np
import pytest

from mmkd_edge.derive import derive_batch, derived_modality
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_models.data import open_dataset
from mmkd_models.data.for_devices import measure_reference, read_recordings
from mmkd_models.data.windows import StoredWindows
from mmkd_models.training.inputs import check_compatible
from tests.models.data.conftest import TEMP, VIB

TEXT, NAME = "vib[x,z]@50Hz,8bit,-4..4", "vib__c0c2_50Hz_8bit_m4to4"


def test_a_view_is_what_a_device_derives_and_is_computed_once(rig, splits, monkeypatch):
    windows = rig.everything().with_modalities(("vib", TEXT))
    modality = windows.spec.modality(NAME)
    assert [spec.name for spec in windows.spec.modalities] == ["vib", NAME]
    taken = windows.take(np.array([47, 0, 24, 0]))
    for recorded, derived in zip(taken["vib"], taken[NAME], strict=True):
        np.testing.assert_array_equal(check_window(recorded, modality), derived)
    reads = []
    gather = StoredWindows.gather

    def read(self, modality, rows, *, shift_s):
        reads.append(modality.name)
        return gather(self, modality, rows, shift_s=shift_s)

    monkeypatch.setattr(StoredWindows, "gather", read)
    again = windows.with_modalities((NAME,)).subset(np.array([0, 24, 47])).take(np.arange(3))[NAME]
    np.testing.assert_array_equal(again, taken[NAME][[1, 2, 0]])
    assert reads == [NAME]  # not `vib`
    again[:] = 0  # belongs to the caller
    np.testing.assert_array_equal(windows.take(np.array([47]))[NAME], taken[NAME][:1])


def test_names_of_one_view_are_one_and_unknown_ones_are_refused(rig):
    windows = rig.everything()
    with pytest.raises(UsageError) as error:
        windows.with_modalities((TEXT, NAME))
    assert str(error.value) == f"modalities: expected each name once, got {TEXT}, {NAME}; name each once"
    with pytest.raises(UsageError) as error:
        windows.with_modalities(("sound@8kHz",))
    assert str(error.value) == "dataset 'rig': modality 'sound@8kHz' is not in it; choose one of vib, temp"
    model = derived_modality("vib@50Hz", [msgspec.structs.replace(VIB, samples=40)])
    assert model is not None
    with pytest.raises(UsageError) as error:
        check_compatible("student", rig.spec.task, [model], windows)
    assert str(error.value) == (
        "student: modality 'vib__50Hz': expected windows (T, C)=(20, 3) at 50.0 Hz, got (10, 3) at 50.0 Hz; name the "
        "dataset of its training, or train a student on this dataset"
    )
    check_compatible("student", rig.spec.task, [windows.spec.modality(TEXT)], windows.with_modalities((TEXT,)))


def test_views_of_recordings_move_with_their_windows(line):
    windows = line.split("train").with_modalities(("vib", "vib@25Hz"))
    modality = windows.spec.modalities[1]
    shift = np.array([0.0, 0.05, -0.04])
    for taken in (windows.take(np.arange(3), shift_s=shift), windows.take(np.arange(3))):
        np.testing.assert_array_equal(derive_batch(taken["vib"], modality), taken[modality.name])
    with pytest.raises(UsageError) as error:
        read_recordings(line.path, modality)
    assert str(error.value) == (
        f"{line.path}: modality 'vib@25Hz': expected a recorded one to replay, got one derived from 'vib'; add "
        "--modality vib"
    )


def test_groups_of_a_view_have_their_own_statistics_as_a_device_measures_them(write, splits):
    per_group = msgspec.structs.replace(VIB, normalise="per_group")
    dataset = write(splits, modalities=(per_group, TEMP))
    text = "vib@25Hz"
    windows = dataset.everything().subset(np.arange(6, 48)).with_modalities((text,))
    modality = windows.spec.modalities[0]
    raw = derive_batch(splits["train"]["vib"][6:12], modality).astype(np.float64)  # group 1
    expected = (raw - raw.mean((0, 1))) / raw.std((0, 1))
    taken = windows.take(np.arange(6))[modality.name]
    np.testing.assert_allclose(taken, expected, atol=1e-5)
    reference = measure_reference(dataset, modality=text, group=1).reference
    assert reference.modality == modality.name
    values, _ = prepare(check_window(splits["train"]["vib"][6], modality), modality, reference)
    np.testing.assert_allclose(values[0], taken[0], atol=1e-6)


def test_a_dataset_states_no_derived_modality(rig, edit):
    derived = msgspec.to_builtins(rig.spec.modality("vib@50Hz"))
    edit(lambda document: document["modalities"].append(derived))
    with pytest.raises(DatasetError, match=r"expected a recorded modality, got 'derived'; remove the key"):
        open_dataset(rig.path)
