"""Which of several sensors answers, a prediction at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmkd_edge import ModalitySpec, Prediction, TaskSpec
from mmkd_edge.live.sensor import Order
from mmkd_edge.predict.conditions import first_living
from mmkd_edge.predict.sensors import Status

TASK = TaskSpec(labels=("rest", "turn"))
NAMES = ("acc", "gyro", "mic")


def said(modality: str, status: Status = "ok", reason: str = "", *, index: int = 0) -> Prediction:
    return Prediction(
        label=TASK.labels[index] if index >= 0 else "",
        index=index,
        probability=0.75 if index >= 0 else 0.0,
        probabilities=np.array([0.75, 0.25], np.float32),
        status=status,
        reason=reason,
        modality=modality,
    )


def dead(modality: str, reason: str = "all values are missing") -> Prediction:
    return said(modality, "invalid", reason, index=-1)


@pytest.fixture
def sensors() -> list[Any]:
    specs = [ModalitySpec(name=name, channels=("x",), rate_hz=10.0, samples=2) for name in NAMES]
    return [SimpleNamespace(modality=spec, has_ended=False) for spec in specs]


@pytest.fixture
def order(sensors: list[Any]) -> Order:
    return Order(sensors, TASK)


def test_the_last_sensor_says_that_it_is_dead_after_a_better_one_has_ended(order: Order, sensors: list[Any]) -> None:
    assert order.given(0, said("acc")) is not None
    assert order.given(1, said("gyro")) is None
    sensors[0].has_ended = True
    found = order.given(1, dead("gyro"))
    assert found is not None
    assert (found.status, found.modality, found.reason) == ("invalid", "gyro", "all values are missing")


def test_of_dead_sensors_the_first_that_may_come_back_says_so(order: Order, sensors: list[Any]) -> None:
    order.given(0, dead("acc"))
    assert order.given(1, dead("gyro")) is None
    assert order.given(0, dead("acc")) is not None
    sensors[0].has_ended = True
    assert order.given(1, dead("gyro")) is not None
    assert order.given(2, dead("mic")) is None


def test_who_stands_in_for_a_sensor_that_has_ended_says_so(order: Order, sensors: list[Any]) -> None:
    order.given(0, said("acc"))
    sensors[0].has_ended = True
    found = order.given(1, said("gyro"))
    assert found is not None
    assert (found.status, found.reason) == ("degraded", "'gyro' answers in place of acc: its source has ended")


def test_a_sensor_that_was_dead_before_its_end_keeps_its_reason(order: Order, sensors: list[Any]) -> None:
    order.given(0, dead("acc", "every channel is flat: the sensor is dead"))
    sensors[0].has_ended = True
    found = order.given(1, said("gyro"))
    assert found is not None
    assert found.reason == "'gyro' answers in place of acc: every channel is flat: the sensor is dead"


def test_a_sensor_whose_window_is_new_to_it_answers_and_a_stale_one_does_not(order: Order) -> None:
    assert order.given(0, said("acc", "unknown", "new")) is not None
    assert order.given(1, said("gyro")) is None
    order.given(0, said("acc", "stale", "no sample for 9.0 s"))
    found = order.given(1, said("gyro"))
    assert found is not None
    assert found.reason == "'gyro' answers in place of acc: no sample for 9.0 s"


@pytest.mark.parametrize("status", ["unknown", "stale"])
def test_a_call_asks_nobody_after_a_student_that_is(status: Status) -> None:
    asked = iter([said("acc", status, "so"), said("gyro")])
    found = first_living(asked)
    assert (found.modality, found.status, found.reason) == ("acc", status, "so")
    assert next(asked).modality == "gyro"
