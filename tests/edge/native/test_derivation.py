"""The native engine derives a sensor's windows to the bit as `mmkd_edge.derive` does, and refuses wrong numbers."""

import ctypes

import msgspec
import numpy as np
import pytest

from mmkd_edge.derive import derive, derived_modality
from mmkd_edge.errors import BackendError
from mmkd_edge.native import NativeModel, library
from mmkd_edge.predict.preprocess import only_valid
from mmkd_edge.spec import ModalitySpec
from mmkd_export.graph.native_from_student import derivation_tensors, int8_weights
from tests.edge.native.test_members import file_of, interval_tensors, tensor_sizes
from tests.edge.native.test_native import changed
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("native_engine")

ACC = ModalitySpec(name="acc", channels=("ax", "ay", "az"), rate_hz=100.0, samples=400)
RANGED = msgspec.structs.replace(ACC, range=(-2.0, 2.0))
POSITIVE = msgspec.structs.replace(ACC, range=(0.0, 2.0))
CASES = [
    (ACC, "acc@25Hz"),
    (ACC, "acc@12Hz"),
    (RANGED, "acc@37Hz"),
    (ACC, "acc@0.08s,25Hz"),  # 2 samples
    (ACC, "acc@2s"),
    (ACC, "acc[ax,az]"),
    (RANGED, "acc@25Hz,8bit"),
    (RANGED, "acc@24bit"),
    (POSITIVE, "acc@3bit"),
    (POSITIVE, "acc@0..0.5"),
    (ACC, "acc@8bit,-0.1..0.3"),
    (ACC, "acc@10per0.9s"),
    (ACC, "acc@1500per99s"),  # one burst that is longer than the window
    (ACC, "acc[az]@1.5s,12.5Hz,5per1s,-0.5..0.5"),
    (RANGED, "acc[ax,ay]@0.5s,99.5Hz,3per0.1s,6bit,-1..1"),
]


def derived_file(source, text):
    modality = derived_modality(text, [source])
    samples, channels = modality.shape
    members = interval_tensors(samples, channels, depth=0, bins=1)
    weights = np.zeros((members["i.feature_mean"].size, 2))
    return modality, file_of(
        samples, channels, {**members, **dict(derivation_tensors(modality.derived))}, weights, np.zeros(2)
    )


def derived_in_c(model, recorded):
    facts = library().mmkd_model_facts(model._handle.model)
    assert recorded.shape[1] == facts.recorded_channels
    newest = np.ascontiguousarray(recorded[len(recorded) - facts.recorded_samples :])
    window = np.empty(model.shape, dtype=np.float32)
    places = (ctypes.c_void_p(array.ctypes.data) for array in (newest, window))
    library().mmkd_derive(model._handle.model, *places)
    return window


def recorded_windows():
    """Noise, gaps, values out of range, both zeros, and sums beyond float32."""
    values = np.random.default_rng(1).normal(size=(6, *ACC.shape)).astype(np.float32)
    values[1:5][np.random.default_rng(2).uniform(size=(4, *ACC.shape)) < 0.3] = np.nan
    values[2:, 40:200, 1] = np.nan
    values[2, 7:9], values[3, 9], values[3, 300:] = np.inf, -0.0, 0.0
    values[4, 300:] *= np.float32(1e38)
    values[5] = -0.0
    return values


@pytest.mark.parametrize(("source", "text"), CASES, ids=[text for _, text in CASES])
def test_a_window_is_derived_to_the_bit_as_in_python(source, text):
    modality, data = derived_file(source, text)
    for model in (NativeModel(data), NativeModel(int8_weights(data))):
        for window in recorded_windows():
            with np.errstate(over="ignore"):  # becomes infinite, which is missing
                expected = derive(only_valid(window, source), modality)
            got, missing = derived_in_c(model, window), np.isnan(expected)
            np.testing.assert_array_equal(np.isnan(got), missing)
            np.testing.assert_array_equal(got[~missing].view(np.int32), expected[~missing].view(np.int32))


def bits_of(number, word):
    return int(np.array([number]).view(np.int32)[word])


@pytest.mark.parametrize(
    ("name", "word", "value", "message"),
    [
        ("d.sizes", 0, 0, "d.sizes: is out of its range"),
        ("d.sizes", 0, 2**20, "d.sizes: is out of its range"),  # with 3 channels
        ("d.sizes", 1, 1025, "d.sizes: is out of its range"),
        ("d.sizes", 2, 401, "d.sizes: is out of its range"),  # more than the recorded window has
        ("d.sizes", 2, 50, "d.sizes: is out of its range"),  # fewer than the derived window needs
        ("d.sizes", 3, 2, "d.sizes: is out of its range"),
        ("d.sizes", 3, 1601, "d.sizes: is out of its range"),
        ("d.sizes", 4, 0, "d.sizes: is out of its range"),
        ("d.sizes", 5, -1, "d.sizes: is out of its range"),
        ("d.sizes", 5, 16001, "d.sizes: is out of its range"),
        ("d.sizes", 5, 39, "d.taps: does not have the sizes that the model needs"),
        ("d.sizes", 6, 0, "d.sizes: is out of its range"),
        ("d.sizes", 7, 0, "d.sizes: is out of its range"),
        ("d.sizes", 8, 25, "d.sizes: is out of its range"),
        ("d.channels", 1, 3, "d.channels: is out of its range"),
        ("d.channels", 0, -1, "d.channels: is out of its range"),
        ("d.taps", 40, 0x7F800000, "d.taps: expected finite numbers"),
        ("d.limits", 1, bits_of(-1.0, 1), "d.limits: expected a rate and two ranges"),
        ("d.limits", 1, bits_of(np.inf, 1), "d.limits: expected a rate and two ranges"),
        ("d.limits", 3, bits_of(np.nan, 1), "d.limits: expected a rate and two ranges"),
        ("d.limits", 9, bits_of(-3.0, 1), "d.limits: expected a rate and two ranges"),
        ("d.limits", 9, bits_of(np.inf, 1), "d.limits: expected a rate and two ranges"),  # which no bits divide
    ],
)
def test_a_number_out_of_its_range_is_refused(name, word, value, message):
    _, data = derived_file(RANGED, "acc[ax,az]@1s,25Hz,8bit")
    told = f"backend 'native' cannot open the artifact: {message}"
    assert said(BackendError, NativeModel, changed(data, name, word, value)) == told


def test_altered_numbers_are_refused_or_derived_by_and_nothing_crashes():
    _, data = derived_file(RANGED, "acc[ax,az]@1s,25Hz,5per0.4s,8bit")
    rng = np.random.default_rng(0)
    words = {name: size for name, size in tensor_sizes(data).items() if name.startswith("d.")}
    opened = 0
    for _ in range(1000):
        altered = data
        for _ in range(rng.integers(1, 3)):
            name = rng.choice(list(words))
            value = int(rng.choice([-1, 0, 1, 2, 7, 100, 2**30, -(2**31), int(rng.integers(-400, 400))]))
            altered = changed(altered, name, int(rng.integers(words[name])), value)
        try:
            model = NativeModel(altered)
        except BackendError:
            continue
        opened += 1
        facts = library().mmkd_model_facts(model._handle.model)
        assert derived_in_c(model, np.zeros((facts.recorded_samples, facts.recorded_channels), np.float32)).shape == (
            25,
            2,
        )
    assert 0 < opened < 1000
