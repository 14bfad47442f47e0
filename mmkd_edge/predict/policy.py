"""What a prediction that is not `ok` becomes on its way to the caller: given as it is, withheld, or an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from mmkd_edge.errors import InputError, UsageError
from mmkd_edge.predict.postprocess import Prediction

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
