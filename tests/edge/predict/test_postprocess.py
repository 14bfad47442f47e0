import json

import msgspec
import numpy as np
import pytest

from mmkd_edge import BackendError, ModalitySpec, SensorFallback, TaskSpec, interpret
from mmkd_edge.predict.postprocess import no_answer, with_fault
from mmkd_edge.predict.sensors import WindowFault
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=10)
TASK = TaskSpec(labels=("rest", "raise", "turn"))


def shares(*values):
    return np.array([values], dtype=np.float32)


def presence(missing=0):
    present = np.ones((1, 10, 2), dtype=np.float32)
    present.reshape(-1)[:missing] = 0
    return present


def test_the_most_probable_class_is_named_if_there_are_values_for_the_right_classes():
    prediction = interpret(shares(0.25, 0.125, 0.625), presence(), modality=ACC, task=TASK)
    assert (prediction.label, prediction.index, prediction.probability) == ("turn", 2, 0.625)
    assert (prediction.probabilities.tolist(), prediction.probabilities.dtype) == ([0.25, 0.125, 0.625], np.float32)
    assert (prediction.status, prediction.reason, prediction.missing_fraction) == ("ok", "", 0.0)
    assert prediction.modality == "acc"
    prediction = interpret(shares(0.2, 0.2, 0.6), presence(20), modality=ACC, task=TASK)
    assert (prediction.label, prediction.index, prediction.probability) == ("", -1, 0.0)
    assert (prediction.status, prediction.reason) == ("invalid", "all values are missing")
    assert (prediction.missing_fraction, prediction.probabilities.tolist()) == (1.0, [0.0, 0.0, 0.0])
    told = "modality 'acc': expected 3 probabilities, got 2; the backend runs another model than the manifest describes"
    assert said(BackendError, lambda: interpret(shares(0.5, 0.5), presence(), modality=ACC, task=TASK)) == told


@pytest.mark.parametrize(("channels", "dead", "fraction"), [(2, 1, 0.5), (20, 7, 0.05)])
def test_a_dead_channel_degrades_however_small_its_fraction(channels, dead, fraction):
    modality = ModalitySpec(name="acc", channels=tuple(f"c{i}" for i in range(channels)), rate_hz=10.0, samples=10)
    present = np.ones((1, 10, channels), dtype=np.float32)
    present[:, :, dead] = 0
    prediction = interpret(shares(1, 0, 0), present, modality=modality, task=TASK)
    assert (prediction.status, prediction.missing_fraction) == ("degraded", fraction)
    assert prediction.reason == f"channel 'c{dead}' is missing"


@pytest.mark.parametrize(("missing", "status", "reason"), [
    (1, "ok", ""),
    (11, "ok", ""),
    (12, "degraded", "2.0% of the values are missing"),
])  # fmt: skip
def test_of_600_values_fewer_than_12_may_be_missing(missing, status, reason):
    long = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=50.0, samples=200)
    present = np.ones(600, dtype=np.float32)
    present[np.linspace(0, 599, missing).astype(int)] = 0
    prediction = interpret(shares(1, 0, 0), present.reshape(1, 200, 3), modality=long, task=TASK)
    assert (prediction.status, prediction.reason, prediction.label) == (status, reason, "rest")
    assert prediction.missing_fraction == missing / 600


@pytest.mark.parametrize(
    "values",
    [
        (0.5, 0.5, np.nan),
        (np.inf, 0.0, 0.0),
        (np.inf, -np.inf, 0.0),
        (1.5, -0.25, -0.25),
        (0.9, 0.9, 0.9),
        (0.0, 0.0, 0.0),
    ],
)
def test_what_is_not_a_distribution_is_no_answer(values):
    prediction = interpret(shares(*values), presence(3), modality=ACC, task=TASK)
    assert (prediction.label, prediction.index, prediction.probability) == ("", -1, 0.0)
    assert (prediction.status, prediction.reason) == ("invalid", "the model's answer is not a distribution")
    assert prediction.failure == "outputs"
    assert prediction.missing_fraction == 0.15
    assert np.isfinite(prediction.probabilities).all()


def test_a_prediction_is_kept_as_plain_json():
    prediction = interpret(shares(0.25, 0.125, 0.625), presence(5), modality=ACC, task=TASK, input_age_s=0.5)
    expected = {"label": "turn", "index": 2, "probability": 0.625, "probabilities": [0.25, 0.125, 0.625]}
    expected |= {"status": "degraded", "reason": "25.0% of the values are missing", "missing_fraction": 0.25}
    expected |= {"modality": "acc", "input_age_s": 0.5, "labels": [], "value": None, "label_set": []}
    expected |= {"novelty": None, "score": None, "p_value": None, "failure": ""}
    assert list(prediction.to_dict().items()) == list(expected.items())
    assert json.loads(prediction.to_json()) == expected
    # Whoever writes a document with predictions in it gives the same hook to msgspec.
    assert msgspec.json.encode([prediction], enc_hook=np.ndarray.tolist) == b"[" + prediction.to_json() + b"]"


def test_the_first_stream_with_a_working_sensor_answers():
    gyro = msgspec.structs.replace(ACC, name="gyro")
    fallback = SensorFallback([ACC, gyro], TASK)
    good, other = (interpret(shares(1, 0, 0), None, modality=one, task=TASK) for one in (ACC, gyro))
    dead = no_answer(WindowFault(status="invalid", reason="it is dead"), modality=ACC, task=TASK)
    substitute = fallback.choose(1, other)
    assert (substitute.status, substitute.reason) == ("degraded", "'gyro' answers in place of acc: no sample came yet")
    assert fallback.choose(0, good) is good
    assert fallback.choose(1, other) is None  # a better one works
    assert fallback.choose(0, dead) is None  # the other answers
    gone = no_answer(WindowFault(status="invalid", reason="it is dead too"), modality=gyro, task=TASK)
    assert fallback.choose(1, gone) is None  # the first reports it
    assert fallback.choose(0, dead) is dead
    failed = WindowFault(status="invalid", reason="the engine failed: device lost", failure="engine")
    fallback.choose(0, no_answer(failed, modality=ACC, task=TASK))
    substitute = fallback.choose(1, with_fault(other, WindowFault(status="degraded", reason="it is slow")))
    assert (substitute.status, substitute.failure) == ("degraded", "engine")
    fallback.choose(0, good)
    fallback.end(0)
    ended = fallback.choose(1, other)
    assert ended.reason == "'gyro' answers in place of acc: its source has ended"
