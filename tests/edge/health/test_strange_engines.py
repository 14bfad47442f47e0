"""Engines that give what no student gives, and exceptions that are not theirs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mmkd_edge import BackendError, EdgePredictor, ModalitySpec
from mmkd_edge.backends.calls import reraise_signal_exceptions
from mmkd_edge.testing import FakeBackend, fake_entry
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=10.0, samples=20)
ROW = np.array([[0.25, 0.75]], dtype=np.float32)


class Strange:
    """A backend of one's own that gives whatever it was made with, or what a function gives."""

    name, version, threads = "strange", "strange 1", 1
    inputs = outputs = ()

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def run(self, feeds: object) -> Any:
        return self._answer() if callable(self._answer) else self._answer

    def close(self) -> None:
        """Nothing to give back."""


def model(answer: Any, **options: Any) -> EdgePredictor:
    return EdgePredictor(entry=fake_entry(modality=ACC, labels=("a", "b")), backend=Strange(answer), **options)


def window() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


PAIR, SHARES = "logits float32 (1, 2), probabilities float32 (1, 2)", "probabilities float32 (1, 2)"
STRANGE = [
    (None, f"expected {PAIR}, got NoneType"),
    (7, f"expected {PAIR}, got int"),
    (ROW, f"expected {PAIR}, got float32 (1, 2)"),
    ((ROW,), f"expected {PAIR}, got tuple of 1"),
    ((ROW, None), f"expected {SHARES}, got NoneType"),
    ((ROW, [[0.25, 0.75]]), f"expected {SHARES}, got list of 1"),
    ((ROW, ROW[0]), f"expected {SHARES}, got float32 (2,)"),
    ((ROW, ROW[:, :1]), f"expected {SHARES}, got float32 (1, 1)"),
    ((ROW, np.zeros((0, 2), np.float32)), f"expected {SHARES}, got float32 (0, 2)"),
    ((ROW, np.array(0.5, dtype=np.float32)), f"expected {SHARES}, got float32 ()"),
    ((ROW, np.array([["a", "b"]])), f"expected {SHARES}, got <U1 (1, 2)"),
]


@pytest.mark.parametrize(("answer", "reason"), STRANGE)
def test_an_engine_that_gives_something_else_has_failed(answer: Any, reason: str) -> None:
    prediction = model(answer).predict(window())
    assert (prediction.status, prediction.label, prediction.reason) == ("invalid", "", f"the engine failed: {reason}")
    assert said(BackendError, lambda: model(answer, policy="raise").predict(window())) == reason


# The exceptions of a signal handler.


class TooLateError(Exception):
    """What a program raises in its own handler."""


def raise_too_late(number: int, frame: FrameType | None) -> None:
    raise TooLateError("the time of this program is over")


class Handler:
    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise_too_late(number, frame)

    def handle(self, number: int, frame: FrameType | None) -> None:
        raise_too_late(number, frame)


@pytest.fixture(
    params=[raise_too_late, Handler(), Handler().handle, partial(raise_too_late)],
    ids=["function", "object", "method", "partial"],
)
def handled(request: pytest.FixtureRequest) -> Iterator[None]:
    earlier = signal.signal(signal.SIGUSR1, request.param)
    yield
    signal.signal(signal.SIGUSR1, earlier)


def interrupted() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    signal.raise_signal(signal.SIGUSR1)
    return ROW, ROW


def wrapped() -> Any:
    try:
        return interrupted()
    except Exception as error:
        raise BackendError("failed to run") from error


@pytest.mark.parametrize("answer", [interrupted, wrapped])
@pytest.mark.parametrize("policy", ["predict", "raise"])
@pytest.mark.usefixtures("handled")
def test_what_a_signal_handler_raises_reaches_the_program_and_is_no_failure_of_the_engine(
    answer: Callable[[], object], policy: Any
) -> None:
    reopened: list[FakeBackend] = []

    def reopen() -> FakeBackend:
        reopened.append(FakeBackend([1.0, 0.0]))
        return reopened[-1]

    predictor = model(answer, reopen=reopen, policy=policy)
    with pytest.raises(TooLateError):
        predictor.predict(window())
    assert reopened == []
    assert predictor.health().backend_failures == 0


def failing() -> Any:
    raise RuntimeError("the device is gone")


@pytest.mark.usefixtures("handled")
def test_what_a_handler_raised_before_is_not_raised_again_while_the_program_handles_it() -> None:
    with pytest.raises(TooLateError):
        model(interrupted).predict(window())
    try:
        interrupted()
    except TooLateError:
        prediction = model(failing).predict(window())
        assert model(failing, reopen=failing).predict(window()).reason == prediction.reason
        with pytest.raises(BackendError, match="the device is gone"):
            model(failing, policy="raise").predict(window())
        with pytest.raises(TooLateError):  # a new one, in the middle of that
            model(interrupted).predict(window())
    assert (prediction.status, prediction.reason) == ("invalid", "the engine failed: the device is gone")


@pytest.mark.usefixtures("handled")
def test_a_shipped_backend_lets_it_through_once(bundle_path: Any) -> None:
    with EdgePredictor.open(bundle_path, backend="ort") as predictor:
        backend: Any = predictor.backend
        backend._session = SimpleNamespace(run=lambda *_: interrupted())
        with pytest.raises(TooLateError):
            predictor.predict(window())
        backend._session = SimpleNamespace(run=lambda *_: failing())
        try:
            interrupted()
        except TooLateError:
            assert predictor.predict(window()).status == "ok"  # by an engine that was opened again
        assert predictor.health().backend_failures == 1


def test_an_engines_own_exception_is_none_of_a_handler() -> None:
    with pytest.raises(TypeError) as caught:
        len(7)  # type: ignore[arg-type]
    reraise_signal_exceptions(caught.value)
    reraise_signal_exceptions(None)
