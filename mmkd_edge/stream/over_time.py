"""Answers over time: the label of a stream from all its answers so far, by a forward filter.

a_t(k) is proportional to (p_t(k) / q_k)^beta sum_j a_(t-1)(j) A_jk: the forward recursion of a hidden Markov model
(Rabiner, Proceedings of the IEEE 77, 1989, equations 19 to 21) on tempered posterior probabilities. A lets a state
stay with exp(-elapsed / dwell), and else draws one anew from all, so that two short steps are one long step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import HopRule, OverTime
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.spec import ModalitySpec

Floats = NDArray[np.float64]


def next_belief(belief: Floats, probabilities: Floats, prior: Floats, *, stay: Floats, exponent: Floats) -> Floats:
    """Return the next belief (..., K), which sums to 1, of answers (..., K).

    `stay` and `exponent` are of shape (..., 1) or less. `prior` (K,) is above 0.
    """
    kept = stay * belief + (1 - stay) / len(prior)
    raw = kept * np.power(np.maximum(probabilities, np.finfo(np.float32).tiny) / prior, exponent)
    return np.asarray(raw / raw.sum(-1, keepdims=True))


def over_time_text(over_time: OverTime) -> str:
    """Describe what answers over time gain, and their price."""
    hops = [
        f"a hop of {rule.hop_fraction:.3g} windows gains {rule.gain_points:.1f} points on validation recordings and "
        f"follows a change of state after {rule.delay[0]:g} answers, 9 of 10 within {rule.delay[1]:g} (single answers "
        f"{rule.single_delay[0]:g} and {rule.single_delay[1]:g})"
        for rule in over_time.rules
    ]
    return f"{'; '.join(hops)}; {over_time.changes} changes judged"


def nearest_rule(over_time: OverTime, hop_fraction: float) -> HopRule:
    """Return the rule of the hop, in windows, that is nearest by ratio; the shorter of two."""
    return min(over_time.rules, key=lambda rule: abs(math.log(rule.hop_fraction / hop_fraction)))


def weights_of(rule: HopRule, elapsed_s: Floats, *, window_s: float) -> tuple[Floats, Floats]:
    """Return what stays of a belief, and the exponent of the next answer, after these seconds; infinite at first.

    An answer sooner than the rule's hop has less that is new, and counts for less in proportion.
    """
    new = np.minimum(elapsed_s / (rule.hop_fraction * window_s), 1.0)
    return np.exp(-elapsed_s / rule.dwell_s), rule.exponent * new


class AnswerFilter:
    """The belief of one stream. `over_time` returns the rules of the student that answers now, or None."""

    def __init__(self, over_time: Callable[[], OverTime | None], *, hop: int, modality: ModalitySpec) -> None:
        self._over_time = over_time
        self._hop_fraction = hop / modality.samples
        self._modality = modality
        self._rules: OverTime | None = None
        self.begin()

    def begin(self) -> None:
        """Forget all answers."""
        self._belief: Floats = np.zeros(1)
        self._answered = -math.inf  # samples of the time line at the last answer that counted

    def follow(self, prediction: Prediction, labels: tuple[str, ...], *, count: int) -> Prediction:
        """Return the prediction with the label that its stream supports after so many samples of its time line.

        An answer counts if it is `ok` or `degraded`; another keeps its own label. The rules of another bundle begin
        anew.
        """
        rules = self._over_time()
        if rules is not self._rules:
            self.begin()
            self._rules = rules
            if rules is not None:
                self._rule, self._prior = nearest_rule(rules, self._hop_fraction), np.asarray(rules.prior)
        if rules is None or prediction.index < 0 or prediction.status not in ("ok", "degraded"):
            return prediction
        elapsed_s = np.float64((count - self._answered) / self._modality.rate_hz)
        stay, exponent = weights_of(self._rule, elapsed_s, window_s=self._modality.duration_s)
        answer = prediction.probabilities.astype(np.float64)
        self._belief = belief = next_belief(self._belief, answer, self._prior, stay=stay, exponent=exponent)
        self._answered = count
        index = int(belief.argmax())
        return msgspec.structs.replace(prediction, label=labels[index], index=index, probability=float(belief[index]))
