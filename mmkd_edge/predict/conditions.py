"""Conditions of a prediction, the choice among students, and the policy."""

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


class CallConditions(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a prediction besides its window; `deadline_s` is a moment of `time.monotonic()`."""

    fault: WindowFault | None = None
    input_age_s: float | None = None
    deadline_s: float | None = None

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline_s is not None and time.monotonic() >= self.deadline_s


NO_CONDITIONS = CallConditions()


class SensorError(InputError):
    """A prediction is not `ok` under the policy `raise`; `predictions` has all windows of the call."""

    def __init__(self, message: str, *, predictions: Sequence[Prediction] = ()) -> None:
        super().__init__(message)
        self.predictions = tuple(predictions)


def age_fault(input_age_s: float | None, stale_s: float | None) -> WindowFault | None:
    """Return the fault of an input older than `stale_s`, or as far in the future (a clock was set)."""
    if input_age_s is None or stale_s is None or abs(input_age_s) <= stale_s:
        return None
    if input_age_s < 0:
        reason = f"the newest sample is {-input_age_s:.3g} s in the future: the clocks disagree"
        return WindowFault(status="stale", reason=reason)
    return WindowFault(status="stale", reason=f"the newest sample is {input_age_s:.3g} s old")


def is_available(prediction: Prediction) -> bool:
    """Return whether the sensor works; `unknown` is a new window of a working sensor."""
    return prediction.index >= 0 and prediction.status != "stale"


def first_available(predictions: Iterable[Prediction]) -> Prediction:
    """Return the prediction of the first working sensor, with why earlier ones fail; or why none works.

    A stale prediction ends the search: age and deadline are common to all windows of a call.
    """
    silent: list[Prediction] = []
    for prediction in predictions:
        if is_available(prediction) or prediction.status == "stale":
            return mark_substitute(silent, prediction)
        silent.append(prediction)
    return msgspec.structs.replace(silent[0], reason="; ".join(map(_why, silent)))


def mark_substitute(silent: Sequence[Prediction], prediction: Prediction) -> Prediction:
    """Mark a prediction as a substitute for silent students."""
    if not silent:
        return prediction
    reason = f"{prediction.modality!r} answers in place of {'; '.join(map(_why, silent))}"
    return with_fault(prediction, WindowFault(status="degraded", reason=reason))


def _why(prediction: Prediction) -> str:
    return f"{prediction.modality}: {prediction.reason}"


def with_fault(prediction: Prediction, fault: WindowFault) -> Prediction:
    """Return a prediction with one more fault."""
    if prediction.status != "ok":
        fault = worse(fault, WindowFault(status=prediction.status, reason=prediction.reason))
    marked = msgspec.structs.replace(prediction, status=fault.status, reason=fault.reason)
    if fault.status != "invalid" or prediction.index < 0:
        return marked
    return msgspec.structs.replace(_withheld(marked), novelty=None)


def apply_policy(policy: Policy, predictions: list[Prediction]) -> list[Prediction]:
    """Return predictions by policy, or raise SensorError; `warming_up` is never withheld."""
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
