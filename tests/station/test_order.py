"""Which of several sensors answers, a prediction at a time."""

import contextlib
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mmkd_edge import ModalitySpec, Prediction, SensorFallback, TaskSpec
from mmkd_edge.predict.postprocess import first_available
from mmkd_edge.testing import fake_predictor
from mmkd_station.clock import SensorRules
from mmkd_station.intake import Delivery
from mmkd_station.records import StateRecord
from tests.station.rig import run_to_end, station_of

TASK = TaskSpec(labels=("rest", "turn"))
NAMES = ("acc", "gyro", "mic")


def answer(modality, status="ok", reason="", *, index=0):
    return Prediction(
        label=TASK.labels[index] if index >= 0 else "",
        index=index,
        probability=0.75 if index >= 0 else 0.0,
        probabilities=np.array([0.75, 0.25], np.float32),
        status=status,
        reason=reason,
        modality=modality,
    )


def dead(modality, reason="all values are missing"):
    return answer(modality, "invalid", reason, index=-1)


@pytest.fixture
def order():
    return SensorFallback([ModalitySpec(name=name, channels=("x",), rate_hz=10.0, samples=2) for name in NAMES], TASK)


def test_the_last_sensor_says_that_it_is_dead_after_a_better_one_has_ended(order):
    assert order.choose(0, answer("acc")) is not None
    assert order.choose(1, answer("gyro")) is None
    order.end(0)
    found = order.choose(1, dead("gyro"))
    assert (found.status, found.modality, found.reason) == ("invalid", "gyro", "all values are missing")


def test_of_dead_sensors_the_first_that_may_come_back_says_so(order):
    order.choose(0, dead("acc"))
    assert order.choose(1, dead("gyro")) is None
    assert order.choose(0, dead("acc")) is not None
    order.end(0)
    assert order.choose(1, dead("gyro")) is not None
    assert order.choose(2, dead("mic")) is None


def test_a_sensor_that_was_dead_before_its_end_keeps_its_reason(order):
    order.choose(0, dead("acc", "every channel is flat: the sensor is dead"))
    order.end(0)
    found = order.choose(1, answer("gyro"))
    assert found.reason == "'gyro' answers in place of acc: every channel is flat: the sensor is dead"


def test_a_sensor_whose_window_is_new_to_it_answers_and_a_stale_one_does_not(order):
    assert order.choose(0, answer("acc", "unknown", "new")) is not None
    assert order.choose(1, answer("gyro")) is None
    order.choose(0, answer("acc", "stale", "no sample for 9.0 s"))
    found = order.choose(1, answer("gyro"))
    assert found.reason == "'gyro' answers in place of acc: no sample for 9.0 s"


@pytest.mark.parametrize("status", ["unknown", "stale"])
def test_a_call_asks_nobody_after_a_student_that_is(status):
    asked = iter([answer("acc", status, "so"), answer("gyro")])
    found = first_available(asked)
    assert (found.modality, found.status, found.reason) == ("acc", status, "so")
    assert next(asked).modality == "gyro"


class Failing:
    """A live source that gives some samples and then fails for good."""

    live = True

    def __init__(self, samples, *, after=None):
        self.over = threading.Event()
        self._samples, self._after = samples, after

    def deliveries(self, listener):
        if self._after is not None:
            assert self._after.wait(20)
        for _ in range(self._samples):
            yield Delivery(rows=np.ones((1, 1), np.float32), times=None, arrived_s=time.monotonic())
        self.over.set()
        raise OSError(f"gone after {self._samples}")

    def close(self):
        pass


def ended(*sources):
    """A station that ran to the end of its sources, and what it said."""
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=2)
    predictor = fake_predictor([0.25, 0.75], modality=acc, labels=TASK.labels)
    said = []
    board = SimpleNamespace(samples=lambda times, rows: None, record=said.append)
    rules = SensorRules(hop=1)
    return run_to_end(station_of(predictor, *sources, rules=rules, may_drop=False, board=board)), said


def states(said):
    return [(one.state, one.reason) for one in said if isinstance(one, StateRecord)][1:-1]


def test_a_source_that_fails_beside_another_is_lost_and_the_station_goes_on():
    first = Failing(1)

    class Good(Failing):
        def deliveries(self, listener):
            with contextlib.suppress(OSError):
                yield from super().deliveries(listener)

    station, said = ended(first, Good(4, after=first.over))
    assert station.error is None
    assert states(said) == [("disconnected", "acc is lost for good: gone after 1")]


def test_a_station_fails_with_its_last_source():
    first = Failing(1)
    station, said = ended(first, Failing(4, after=first.over))
    assert str(station.error) == "gone after 4"
    assert states(said) == [("disconnected", "acc is lost for good: gone after 1"), ("failed", "gone after 4")]
