import pickle
from types import MappingProxyType

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmkd_edge import InputError, ModalitySpec, Reference, check_window, prepare
from mmkd_edge.frames import all_present
from mmkd_edge.predict.preprocess import prepare_batch, standardise
from mmkd_edge.predict.sensors import missing_causes
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=50.0, samples=200)
SMALL = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=1.0, samples=3)
RANGED = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=1.0, samples=3, range=(-2.0, 5.5))
# In the first every number between begins with a byte of which others are outside; in the second half of the bytes go.
HIGH = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=1.0, samples=3, range=(1.5, 1.75))
UPWARDS = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=1.0, samples=3, range=(0.0, 4.0))
TEMP = ModalitySpec(name="temp", channels=("t", "u"), rate_hz=1.0, samples=2, range=(20.0, 45.0), normalise="per_group")


def message(window, modality=ACC):
    return said(InputError, lambda: check_window(window, modality))


def test_a_native_float32_window_is_kept_without_a_copy():
    window = np.zeros((200, 3), dtype=np.float32)
    for same in (window, {"acc": window}, MappingProxyType({"acc": window})):
        assert check_window(same, ACC) is window
    unpickled = pickle.loads(pickle.dumps(window))
    assert unpickled.dtype is not np.dtype(np.float32)
    assert check_window(unpickled, ACC) is unpickled


@pytest.mark.parametrize(
    "dtype", ["<f8", "<f2", ">f4", ">f8", "<i2", ">i2", "u1", "<i8", "<u8", "?", "g"], ids=lambda name: name
)
def test_every_kind_of_number_arrives_as_native_float32(dtype):
    window = np.arange(6).reshape(3, 2).astype(dtype)
    checked = check_window(window, SMALL)
    assert checked.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(checked, np.array([[0, 1], [2, 3], [4, 5]]) if dtype != "?" else window)


@pytest.mark.parametrize("reach", [(-1e300, 1e300), (-1.0, 1e39), (-1e39, 1.0)])
def test_a_range_beyond_float32_ends_where_float32_does_without_a_warning(reach):
    modality = msgspec.structs.replace(SMALL, range=reach)
    whole = np.full((3, 2), 0.5, dtype=np.float32)
    assert prepare(whole, modality)[1] is all_present(modality.shape)
    gap = np.array([[0.5, np.nan], [np.inf, 0.25], [-np.inf, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(prepare(gap, modality)[1][0], [[1, 0], [0, 1], [0, 1]])
    assert missing_causes(gap, modality) == ": 2 infinite"


def test_nested_masked_and_huge_numbers_are_windows_and_ragged_rows_are_not():
    np.testing.assert_array_equal(check_window([[1, 2.5], [3, 4], [5, 6]], SMALL), [[1, 2.5], [3, 4], [5, 6]])
    window = np.ma.MaskedArray([[1, 2], [3, 4], [5, 6]], mask=[[0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(check_window(window, SMALL), [[1, np.nan], [3, 4], [np.nan, 6]])
    window = np.array([[1e300, 0.0], [0.0, -1e300], [1.0, 2.0]])
    values, present = prepare(check_window(window, SMALL), SMALL)
    np.testing.assert_array_equal(values[0], [[0, 0], [0, 0], [1, 2]])
    np.testing.assert_array_equal(present[0], [[0, 1], [1, 0], [1, 1]])
    assert message([[1.0, 2.0], [3.0]]).startswith("modality 'acc': expected an array of numbers, got list: ")


NOT_NUMBERS = (
    "modality 'acc': expected an array of numbers, got {}; convert it to float32, with NaN where a value is missing"
)
EMPTY = "modality 'acc': expected it in the window, got an empty mapping"
OTHER_SHAPE = "modality 'acc': expected shape (T, C)=(200, 3), got {}; {}"
UNKNOWN = "unknown modality {}: this model takes 'acc'; pass {{'acc': array}} or the bare array"


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (np.zeros((3, 200)), OTHER_SHAPE.format("(3, 200)", "transpose it")),
        (np.zeros((5, 200, 3)), OTHER_SHAPE.format("(5, 200, 3)", "pass one window, or all of them to predict_batch")),
        (np.zeros(600), OTHER_SHAPE.format("(600,)", "reshape it to (200, 3)")),
        (np.zeros((199, 3)), OTHER_SHAPE.format("(199, 3)", "a window is 200 samples, 4 s at 50 Hz")),
        (np.zeros((200, 6)), OTHER_SHAPE.format("(200, 6)", "one row per sample, one column per channel (x, y, z)")),
        ({"vib": np.zeros((200, 3))}, UNKNOWN.format("'vib'")),
        ({"gyro": np.zeros(3), "acc": np.zeros((200, 3)), "mic": np.zeros(3)}, UNKNOWN.format("'gyro', 'mic'")),
        ({}, f"{EMPTY}; pass an array of NaN where the sensor gave nothing"),
        ("hello", NOT_NUMBERS.format("str of dtype <U5")),
        (None, NOT_NUMBERS.format("NoneType of dtype object")),
        ([[1.0, None, 2.0]], NOT_NUMBERS.format("list of dtype object")),
        (np.zeros((200, 3), dtype=np.complex64), NOT_NUMBERS.format("ndarray of dtype complex64")),
        ([["1", "2", "3"]], NOT_NUMBERS.format("list of dtype <U1")),
        (np.zeros((200, 3), dtype="datetime64[s]"), NOT_NUMBERS.format("ndarray of dtype datetime64[s]")),
    ],
)
def test_what_is_no_window_is_refused_with_advice(window, expected):
    assert message(window) == expected


def test_missing_infinite_and_out_of_range_values_are_zero_and_absent():
    window = np.array([[np.nan, -2.0], [5.5, np.inf], [5.6, -2.1]], dtype=np.float32)
    before = window.copy()
    values, present = prepare(window, RANGED)
    np.testing.assert_array_equal(values, [[[0, -2], [5.5, 0], [0, 0]]])
    np.testing.assert_array_equal(present, [[[0, 1], [1, 0], [0, 0]]])
    assert (values.dtype, present.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(window, before)


raw_windows = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.just(3), st.just(2)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


@settings(max_examples=60, deadline=None)
@given(windows=raw_windows, modality=st.sampled_from([SMALL, RANGED]))
def test_a_batch_is_prepared_as_its_windows_are(windows, modality):
    values, present = prepare_batch(windows, modality)
    for index, window in enumerate(windows):
        one_values, one_present = prepare(window, modality)
        np.testing.assert_array_equal(values[index], one_values[0])
        np.testing.assert_array_equal(present[index], one_present[0])
    low, high = modality.range or (-np.inf, np.inf)
    for raw, value, seen in zip(windows.ravel(), values.ravel(), present.ravel(), strict=True):
        valid = bool(np.isfinite(raw)) and np.float32(low) <= raw <= np.float32(high)
        assert (value, seen) == ((raw, 1.0) if valid else (0.0, 0.0))


def test_a_reference_turns_raw_values_into_z_scores_within_the_range_of_raw_values():
    reference = Reference(modality="temp", mean=(30.0, 40.0), std=(2.0, 0.5))
    values, present = prepare(np.array([[32.0, 40.0], [27.0, 40.5]], dtype=np.float32), TEMP, reference)
    np.testing.assert_array_equal(values, [[[1.0, 0.0], [-1.5, 1.0]]])
    assert present.all()
    raw = np.array([[19.0, 46.0], [np.nan, 40.0]], dtype=np.float32)
    values, present = prepare(raw, TEMP, reference)
    np.testing.assert_array_equal(values, [[[0, 0], [0, 0]]])
    np.testing.assert_array_equal(present, [[[0, 0], [0, 1]]])
    scores = np.array([[-5.5, 12.0], [0.0, 1.0]], dtype=np.float32)
    assert prepare(scores, TEMP)[1].all()
    assert prepare_batch(scores[None], TEMP)[1].all()


def test_large_slow_values_keep_their_differences():
    pressure = ModalitySpec(name="p", channels=("p",), rate_hz=1.0, samples=2, normalise="per_group")
    raw = np.array([[101325.5], [101325.25]], dtype=np.float32)
    scores = standardise(raw, pressure, mean=[101325.3], std=[0.1])
    # Exact in float64; the rounding left is float32's own of a number near 2: 2**-23 * 2.
    np.testing.assert_allclose(scores, [[2.0], [-0.5]], atol=3e-7)


def test_windows_that_miss_nothing_share_one_presence_that_nobody_can_change():
    first, second = (prepare(np.full((4, 2), value, dtype=np.float32), SMALL)[1] for value in (1, 2))
    assert first is second
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


# Whatever the edge of a range is: just inside, on it, just outside, and what no range contains.
_EDGES = [-2.0, 5.5, 1.5, 1.75, 0.0, -0.0, 4.0, 1.9, -1.9, 2.1, 1e19, 3e38, np.nan, np.inf, -np.inf]


@given(
    arrays(np.float32, (3, 2), elements=st.one_of(st.floats(-6, 6, width=32), st.sampled_from(_EDGES).map(np.float32))),
    st.sampled_from([SMALL, RANGED, HIGH, UPWARDS]),
)
@settings(max_examples=100, deadline=None)
def test_presence_is_whole_exactly_where_nothing_is_missing(window, modality):
    low, high = modality.range or (-np.inf, np.inf)
    whole = all(np.isfinite(value) and low <= value <= high for value in window.ravel().tolist())
    assert (prepare(window, modality)[1] is all_present(modality.shape)) == whole
