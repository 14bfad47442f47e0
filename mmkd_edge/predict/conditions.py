"""Around one prediction: its conditions, which of several students answers, and what the policy makes of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from mmkd_edge.errors import InputError, UsageError
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predict.sensors import WindowFault, worse


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a prediction is asked under, where it is more than the window.

    Attributes:
        fault: what is known against the window.
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


def age_fault(input_age_s: float | None, stale_s: float | None) -> WindowFault | None:
    """What the age of the input says against a window: from `stale_s` on it is stale.

    As far in the future it is stale too: one of the clocks was set, and how old the sample is nobody can tell. Clocks
    that disagree by less are in the nature of clocks.
    """
    if input_age_s is None or stale_s is None or abs(input_age_s) <= stale_s:
        return None
    if input_age_s < 0:
        reason = f"the newest sample is {-input_age_s:.3g} s in the future: the clocks disagree"
        return WindowFault(status="stale", reason=reason)
    return WindowFault(status="stale", reason=f"the newest sample is {input_age_s:.3g} s old")


def lives(prediction: Prediction) -> bool:
    """Whether its sensor answers for now; `unknown` does: what the window shows is new, and the sensor works."""
    return prediction.index >= 0 and prediction.status != "stale"


def first_available(asked: Iterable[Prediction]) -> Prediction:
    """Asks one student after the other until one's modality lives; says for whom it stands in, or why none does.

    A stale one ends the asking: the age and the deadline of a call hold for all of its windows.
    """
    silent: list[Prediction] = []
    for prediction in asked:
        if lives(prediction) or prediction.status == "stale":
            return standing_in(silent, prediction)
        silent.append(prediction)
    return msgspec.structs.replace(silent[0], reason="; ".join(map(_why, silent)))


def standing_in(silent: Sequence[Prediction], prediction: Prediction) -> Prediction:
    """A prediction that says for whom it stands in, and why those give none."""
    if not silent:
        return prediction
    reason = f"{prediction.modality!r} answers in place of {'; '.join(map(_why, silent))}"
    return with_fault(prediction, WindowFault(status="degraded", reason=reason))


def with_fault(prediction: Prediction, fault: WindowFault) -> Prediction:
    """The same prediction with something that is known against it besides."""
    if prediction.status != "ok":
        fault = worse(fault, WindowFault(status=prediction.status, reason=prediction.reason)) or fault
    marked = msgspec.structs.replace(prediction, status=fault.status, reason=fault.reason)
    if fault.status != "invalid" or prediction.index < 0:
        return marked
    return msgspec.structs.replace(
        marked,
        label="",
        index=-1,
        probability=0.0,
        probabilities=np.zeros_like(prediction.probabilities),
        labels=(),
        value=None,
        label_set=(),
        novelty=None,
    )


def _why(prediction: Prediction) -> str:
    return f"{prediction.modality}: {prediction.reason}"


Policy = Literal["predict", "abstain", "raise"]
POLICIES: tuple[Policy, ...] = ("predict", "abstain", "raise")


class SensorError(InputError):
    """A sensor that failed, where the policy is `raise`.

    Attributes:
        predictions: what was found, the refused ones among them, in the order of the windows.
    """

    def __init__(self, message: str, *, predictions: Sequence[Prediction] = ()) -> None:
        super().__init__(message)
        self.predictions = tuple(predictions)


def check_policy(policy: Any) -> Policy:
    """The policy itself.

    Raises:
        UsageError: there is no such policy.
    """
    for known in POLICIES:
        if policy == known:
            return known
    raise UsageError(f"policy: expected one of {', '.join(map(repr, POLICIES))}, got {policy!r}")


def apply_policy(policy: Policy, predictions: list[Prediction]) -> list[Prediction]:
    """Predictions as the caller gets them; one that only says that a stream warms up is never withheld.

    Raises:
        SensorError: one is not `ok`, and the policy is `raise`.
    """
    if policy == "predict":
        return predictions
    refused = [one for one in predictions if one.status not in ("ok", "warming_up")]
    if not refused:
        return predictions
    if policy == "raise":
        message = f"modality {refused[0].modality!r}: {refused[0].status}: {refused[0].reason}"
        raise SensorError(message, predictions=predictions)
    return [one if one.status in ("ok", "warming_up") else _withheld(one) for one in predictions]


def _withheld(prediction: Prediction) -> Prediction:
    """The same finding without an answer; its novelty says how far out the window is, and stays."""
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
