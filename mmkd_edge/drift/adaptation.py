"""Whether adapting a student is due, from what can be seen without labels: the drift of its inputs, and how sure it is.

How much accuracy was lost is estimated by a difference of confidences (Guillory et al., "Predicting with Confidence on
Unseen Distributions", ICCV 2021), here of the expected probability of the true label. Of calibrated probabilities p
that is the mean of sum(p^2), which needs no label; on the calibration windows, which have labels, the manifest has the
probabilities that their true labels got.

On the shipped bundle, whose calibration gave true labels 0.79 on average, the two people whom neither training nor
calibration saw have 0.78 and 0.69 by this estimate, and 0.79 and 0.65 in truth (balanced on 270 and 259 windows); with
samples times 0.5, 2 and 9.81 it says 0.53, 0.65 and 0.51, in truth 0.54, 0.62 and 0.38; with samples times 0.1 it is
blind (0.72, in truth 0.20), and only the drift of the inputs tells.

Owns the rule. Adapts nothing: `mmkd-adapt` does, where somebody asks for it, and only what is shown to get better.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.drift.verdict import Drift

DUE_CHANGE = -0.10
"""Of the estimate: just beyond the difference of the two people of the shipped bundle whom nothing is wrong with."""
# As of the label shares: fewer say more of the moment.
_FEWEST_ANSWERS = 200
# Then the sums are halved: what is long past fades.
_MOST_ANSWERS = 2048


class AdaptationAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a student should be adapted.

    Attributes:
        due: whether it should.
        reason: why, or what is to be mended first; empty where nothing speaks for it.
        accuracy_change: estimated, against the calibration windows, as a share; None where there are too few answers,
            or nothing to compare with.
    """

    due: bool
    reason: str
    accuracy_change: float | None


class SureAnswers:
    """How probable a student's true labels are, by its own probabilities, lately.

    Args:
        expected: the mean probability of the true label on the calibration windows; None where there were none.
    """

    def __init__(self, expected: float | None) -> None:
        self._expected = expected
        self._sum = self._count = 0.0

    def add(self, probabilities: NDArray[np.float32]) -> None:
        """Count one answer, (K,)."""
        self._sum += float(probabilities @ probabilities)
        self._count += 1
        if self._count >= _MOST_ANSWERS:
            self._sum, self._count = self._sum / 2, self._count / 2

    def change(self) -> float | None:
        """The estimated change of accuracy; None where it says nothing yet."""
        if self._expected is None or self._count < _FEWEST_ANSWERS:
            return None
        return self._sum / self._count - self._expected


def adaptation_of(drift: Drift, change: float | None) -> AdaptationAdvice:
    """The rule: inputs that drift for another reason than a dead or turned sensor, or answers that are less sure."""
    due, reason = False, ""
    if drift.verdict == "drifting" and set(drift.causes) & {"dead", "axes"}:
        reason = f"mend the sensor first: {drift.reason}"
    elif drift.verdict == "drifting":
        due, reason = True, f"inputs drift: {drift.reason}"
    elif change is not None and change <= DUE_CHANGE:
        due, reason = True, f"accuracy is estimated {-100 * change:.0f} points below that of the calibration windows"
    return AdaptationAdvice(due=due, reason=reason, accuracy_change=change)
