"""Around one prediction: its conditions, which of several students answers, and what the policy makes of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np

from mmkd_edge.errors import InputError
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predict.sensors import WindowFault, worse

Policy = Literal["predict", "abstain", "raise"]


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions of a prediction beyond its window.

    Attributes:
        fault: of the window, known before.
        input_age_s: age of its newest sample.
        deadline_s: a moment of `time.monotonic()`.
    """

    fault: WindowFault | None = None
    input_age_s: float | None = None
    deadline_s: float | None = None

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline_s is not None and time.monotonic() >= self.deadline_s


NO_CONDITIONS = Conditions()


class SensorError(InputError):
    """A sensor failed, and the policy is `raise`; `predictions` has all windows of the call, in order."""

    def __init__(self, message: str, *, predictions: Sequence[Prediction] = ()) -> None:
        super().__init__(message)
        self.predictions = tuple(predictions)


def age_fault(input_age_s: float | None, stale_s: float | None) -> WindowFault | None:
    """Judge the age of the input: beyond `stale_s`, in the past or the future, a window is stale.

    As far in the future one of the clocks was set, and the age is unknown. Smaller disagreements are normal.
    """
    if input_age_s is None or stale_s is None or abs(input_age_s) <= stale_s:
        return None
    if input_age_s < 0:
        reason = f"the newest sample is {-input_age_s:.3g} s in the future: the clocks disagree"
        return WindowFault(status="stale", reason=reason)
    return WindowFault(status="stale", reason=f"the newest sample is {input_age_s:.3g} s old")


def lives(prediction: Prediction) -> bool:
    """Whether its sensor works; `unknown` counts: the window is new, but the sensor works."""
    return prediction.index >= 0 and prediction.status != "stale"


def first_available(predictions: Iterable[Prediction]) -> Prediction:
    """The prediction of the first student whose sensor works, and why earlier ones do not; or why none does.

    A stale one ends the search: age and deadline are the same for all windows of a call.
    """
    silent: list[Prediction] = []
    for prediction in predictions:
        if lives(prediction) or prediction.status == "stale":
            return standing_in(silent, prediction)
        silent.append(prediction)
    return msgspec.structs.replace(silent[0], reason="; ".join(map(_why, silent)))


def standing_in(silent: Sequence[Prediction], prediction: Prediction) -> Prediction:
    """Mark a prediction as a substitute for the silent ones."""
    if not silent:
        return prediction
    reason = f"{prediction.modality!r} answers in place of {'; '.join(map(_why, silent))}"
    return with_fault(prediction, WindowFault(status="degraded", reason=reason))


def _why(prediction: Prediction) -> str:
    return f"{prediction.modality}: {prediction.reason}"


def with_fault(prediction: Prediction, fault: WindowFault) -> Prediction:
    """Add a fault to a prediction."""
    if prediction.status != "ok":
        fault = worse(fault, WindowFault(status=prediction.status, reason=prediction.reason))
    marked = msgspec.structs.replace(prediction, status=fault.status, reason=fault.reason)
    if fault.status != "invalid" or prediction.index < 0:
        return marked
    return msgspec.structs.replace(_withheld(marked), novelty=None)


def apply_policy(policy: Policy, predictions: list[Prediction]) -> list[Prediction]:
    """Return predictions as the caller gets them; `warming_up` of a stream is never withheld.

    Raises:
        SensorError: a prediction is not `ok`, and the policy is `raise`.
    """
    refused = [prediction for prediction in predictions if prediction.status not in ("ok", "warming_up")]
    if policy == "predict" or not refused:
        return predictions
    if policy == "raise":
        message = f"modality {refused[0].modality!r}: {refused[0].status}: {refused[0].reason}"
        raise SensorError(message, predictions=predictions)
    return [
        prediction if prediction.status in ("ok", "warming_up") else _withheld(prediction) for prediction in predictions
    ]


def _withheld(prediction: Prediction) -> Prediction:
    """The same without an answer; its novelty stays."""
    return msgspec.structs.replace(
        prediction,
        label="",
        index=-1,
        probability=0.0,
        probabilities=np.zeros_like(prediction.probabilities),
        labels=(),
        value=None,
        label_set=(),
    )
