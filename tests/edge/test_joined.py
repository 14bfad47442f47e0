"""Joined sensors: what may be joined, and windows of which one sensor is missing."""

import msgspec
import numpy as np
import pytest

from mmkd_edge import InputError, ModalitySpec, check_window
from mmkd_edge.derive import derivation_fault, derived_modality
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.arguments import check_batch, check_mapping, pick_window
from mmkd_edge.testing import fake_predictor
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y"), unit="g", rate_hz=10.0, samples=3, range=(-2.0, 2.0))
GYRO = ModalitySpec(name="gyro", channels=("z",), unit="dps", rate_hz=10.0, samples=3, range=(-90.0, 90.0))
MIC = ModalitySpec(name="mic", kind="audio", channels=("left",), rate_hz=10.0, samples=3)
SLOW = msgspec.structs.replace(GYRO, name="slow", rate_hz=5.0)
BOTH = msgspec.structs.replace(GYRO, name="left_and_right")
SENSORS = (ACC, GYRO, MIC, SLOW, BOTH)
PAIR = derived_modality("gyro+acc", SENSORS)
NAN = np.nan
UNKNOWN = "expected recorded sensors of acc, gyro, mic, slow, left_and_right, got {!r}; name those"
UNLIKE = (
    "expected series of one rate, length and normalise, got acc, series of 3 at 10 Hz, normalise none and {} Hz, "
    "normalise none; resample one, or train a student of each"
)
SHAPE = "modality {!r}: expected shape (T, C)={}, got (3, 2); one row per sample, one column per channel ({})"
OTHER = (
    "unknown modality 'mic': this model takes 'acc' and 'gyro'; pass a mapping from these to arrays, None where one is "
    "missing"
)


def test_two_sensors_are_one_of_their_channels_whatever_the_order():
    joined = ModalitySpec(
        name="acc_and_gyro", channels=("x", "y", "z"), rate_hz=10.0, samples=3, range=(-90.0, 90.0), parts=(ACC, GYRO)
    )
    assert joined == PAIR
    assert (PAIR.title, PAIR.sources, derivation_fault(PAIR)) == ("acc+gyro", (ACC, GYRO), None)
    assert derived_modality("acc_and_gyro", SENSORS) == PAIR  # the name of graphs and files leads back
    assert derived_modality("acc_and_mass", SENSORS) is None
    same = msgspec.structs.replace(GYRO, channels=("x",), unit="g", range=None)
    alike = derived_modality("acc+gyro", [ACC, same])
    assert (alike.channels, alike.unit, alike.range) == (("acc.x", "acc.y", "gyro.x"), "g", None)
    plus = msgspec.structs.replace(ACC, channels=("a+b", "c"))
    assert derived_modality("acc[a+b]", [plus, GYRO]).channels == ("a+b",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acc+mass", UNKNOWN.format("mass")),
        ("gyro+acc@5Hz", UNKNOWN.format("acc@5Hz")),
        ("acc+acc", "expected two sensors or more, got acc, acc; name each once"),
        ("acc+mic", UNLIKE.format("mic, audio of 3 at 10")),
        ("acc+slow", UNLIKE.format("slow, series of 3 at 5")),
        (
            "acc+left_and_right",
            "expected names without _and_, of 64 letters together, got acc_and_left_and_right; rename a sensor",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(text, message):
    assert said(UsageError, lambda: derived_modality(text, SENSORS)) == f"joined sensor {text!r}: {message}"


def test_a_window_of_both_of_one_or_of_bare_channels():
    acc, gyro = [[1, 3], [NAN, -2], [0, 1]], [[5], [100], [6]]  # 3 is no acceleration, and 100 no turn
    whole = [[1, NAN, 5], [NAN, -2, NAN], [0, 1, 6]]
    bare = np.concatenate([np.array(acc, np.float32), np.array(gyro, np.float32)], axis=1)
    for window in ({"acc": acc, "gyro": gyro}, bare, {"acc_and_gyro": bare}):
        np.testing.assert_array_equal(check_window(window, PAIR), whole)
    for window in ({"acc": acc}, {"acc": acc, "gyro": None}):
        np.testing.assert_array_equal(check_window(window, PAIR), [[1, NAN, NAN], [NAN, -2, NAN], [0, 1, NAN]])
    for window, message in (
        ({"acc": [[1, 2]] * 3, "mic": None}, OTHER),
        ({"gyro": [[1, 2]] * 3}, SHAPE.format("gyro", (3, 1), "z")),
        ([[1, 2]] * 3, SHAPE.format("acc_and_gyro", (3, 3), "x, y, z")),
    ):
        assert said(InputError, check_window, window, PAIR) == message


def test_an_answer_names_the_missing_sensor():
    acc, gyro = np.ones((3, 2)), np.ones((3, 1))
    half = gyro * np.array([[1], [NAN], [NAN]])
    windows = ({"acc": acc, "gyro": gyro}, {"acc": acc}, {"gyro": gyro, "acc": None}, {"acc": acc, "gyro": half})
    with fake_predictor(modality=PAIR, labels=("a", "b"), answer=(0.7, 0.3)) as predictor:
        answers = predictor.predict_batch(windows)
        answers += map(predictor.predict, ({"acc": None, "gyro": None}, {"acc_and_gyro": None}))
    assert [(answer.status, answer.reason) for answer in answers] == [
        ("ok", ""), ("degraded", "sensor 'gyro' is missing"), ("degraded", "sensor 'acc' is missing"),
        ("degraded", "22.2% of the values are missing"), ("invalid", "all values are missing"),
        ("invalid", "modality 'acc_and_gyro' is absent"),
    ]  # fmt: skip


def test_beside_another_student_a_pair_takes_what_there_is():
    windows = check_mapping({"acc": [[1, 2]] * 3, "mic": [[0]] * 3}, [PAIR, MIC])
    assert pick_window(windows, PAIR) == {"acc": [[1, 2]] * 3, "gyro": None}
    assert pick_window({"mic": [[0]] * 3}, PAIR) == {"acc_and_gyro": None}
    (checked,) = check_batch([windows], [PAIR, MIC])
    np.testing.assert_array_equal(checked["acc_and_gyro"], [[1, 2, NAN]] * 3)
