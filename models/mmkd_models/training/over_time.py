"""How a stream filters a student's answers: chosen on the validation recordings, as they were recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import HopRule, OverTime
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.likelihood import Floats, fitted_temperature, log_likelihood, probabilities_of
from mmkd_models.metrics.over_time import (
    Rows,
    changes_of,
    delays_along,
    filter_runs,
    hop_of,
    in_changing_groups,
    runs_of,
    usual_delays,
)
from mmkd_models.metrics.scores import metric_of_confusions
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.choosing import MIN_GROUPS, NATS, clear_gain
from mmkd_models.training.predict import logits_of

logger = logging.getLogger(__name__)

_DWELLS = (1, 3, 10, 30, 100, 300, 1000)  # windows that a state lasts
_EXPONENTS = (0.125, 0.25, 0.5, 1.0)  # windows that overlap, or are alike, are less than one piece of evidence each
_STEPS = (1, 2, 4, 8)  # of the dataset's hop
_FEWEST_CHANGES = 5
_LEAST = 1e-6  # mean probability of a class
_SAME = 1e-6  # hops that differ by this fraction
_TINY = float(np.finfo(np.float32).tiny)  # probability, as in a stream


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Answers of candidates (C, N, K) on windows in runs, by group."""

    confusions: Floats  # (C, G, K, K)
    nats: Floats  # (C, G), sums of log-likelihoods

    @classmethod
    def of(cls, answers: Floats, labels: Rows, groups: Rows) -> _Judged:
        count, classes = groups.max() + 1, answers.shape[-1]
        confusions = np.zeros((len(answers), count, classes, classes))
        nats = np.zeros((len(answers), count))
        for number, each in enumerate(answers):
            np.add.at(confusions[number], (groups, labels, each.argmax(-1)), 1)
            np.add.at(
                nats[number], groups, log_likelihood(np.log(np.maximum(each, _TINY)), labels, kind="classification")
            )
        return cls(confusions=confusions, nats=nats)

    def best(self, shown: NDArray[np.bool_], metric: str) -> int:
        """Return the candidate that `best_validated` takes on these groups (G,)."""
        seen = self.confusions[:, shown].sum(1)
        return int(np.argmax(metric_of_confusions(seen, metric) + NATS * self.nats[:, shown].sum(1) / seen[0].sum()))


def fit_over_time(checkpoint: StudentCheckpoint, valid: Windows) -> OverTime | None:
    """Choose how a stream filters a student's answers; see `choose_over_time`."""
    if checkpoint.task.kind != "classification":
        return None
    modality = checkpoint.modality

    def answer() -> Floats:
        return logits_of(checkpoint.network(), valid, modality=modality.name).astype(np.float64)

    return choose_over_time(answer, valid, window_s=modality.duration_s, metric=checkpoint.facts.metric)


def choose_over_time(answer: Callable[[], Floats], valid: Windows, *, window_s: float, metric: str) -> OverTime | None:
    """Return the rules for logits (N, K) of validation windows; None where single answers are as good.

    Three groups (machines, people) or more must change their state while they are recorded. Each is judged by what
    the others choose.
    """
    runs = runs_of(valid, window_s=window_s)
    moves = in_changing_groups(valid, runs)
    runs = [run for run in runs if moves[run[0]]]
    changes, groups = sum(len(changes_of(valid.labels[run])) for run in runs), len(np.unique(valid.groups[moves]))
    if groups < MIN_GROUPS or changes < _FEWEST_CHANGES:
        logger.info("answers over time: none, %d changes of state in %d groups of validation", changes, groups)
        return None
    probabilities, known = calibrated(answer(), valid), valid.labelled
    mean = np.maximum(probabilities[known].mean(0), _LEAST)
    hop_s = hop_of(valid, runs)
    found: list[tuple[Floats, list[HopRule]]] = []
    for prior in (np.full_like(mean, 1 / len(mean)), mean):
        rules = []
        for step in _STEPS:
            fraction = step * hop_s / window_s
            if fraction > 1 + _SAME:
                break
            parts = [run[phase::step] for run in runs for phase in range(min(step, len(run)))]
            rule = _best_rule(probabilities, prior, valid, parts, min(fraction, 1.0), window_s=window_s, metric=metric)
            rules += [] if rule is None else [rule]
        found.append((prior, rules))
    prior, rules = max(found, key=lambda each: sum(rule.gain_points for rule in each[1]))
    if not rules:
        logger.info("answers over time: none is better than single ones, by %d changes of state", changes)
        return None
    for rule in rules:
        logger.info("answers over time: %s", rule)
    return OverTime(prior=tuple(prior.tolist()), rules=tuple(rules), changes=changes)


def calibrated(logits: Floats, windows: Windows) -> Floats:
    """Return probabilities (N, K) of logits, calibrated on the labelled windows as an export does."""
    known = windows.labelled
    temperature = fitted_temperature(logits[known], windows.labels[known], kind="classification")
    return probabilities_of(logits / temperature, kind="classification")


def _best_rule(
    answers: Floats,
    prior: Floats,
    valid: Windows,
    runs: Sequence[Rows],
    hop_fraction: float,
    *,
    window_s: float,
    metric: str,
) -> HopRule | None:
    """Return the rule of a hop with its gain and price; None where single answers are as good."""
    unjudged: dict[str, Any] = {"gain_points": 0.0, "delay": (0.0, 0.0), "single_delay": (0.0, 0.0)}
    tried = [
        HopRule(hop_fraction=hop_fraction, dwell_s=dwell * window_s, exponent=exponent, **unjudged)
        for dwell in _DWELLS
        for exponent in _EXPONENTS
    ]
    assert valid.clock_s is not None
    filtered = filter_runs(answers, prior, runs, valid.clock_s, tried, window_s=window_s)
    rows = np.concatenate(runs)
    judged = rows[valid.labels[rows] >= 0]
    labels = valid.labels[judged]
    _, groups = np.unique(valid.groups[judged], return_inverse=True)
    single = _Judged.of(answers[None, judged], labels, groups).confusions[0]
    candidates = _Judged.of(filtered[:, judged], labels, groups)
    count = len(single)
    without = [candidates.best(np.arange(count) != group, metric) for group in range(count)]
    honest = candidates.confusions[without, np.arange(count)]  # (G, K, K), each by a choice of the others

    def gain(shown: NDArray[np.bool_]) -> float:
        pair = np.stack([each[shown].sum(0) for each in (honest, single)])
        after, before = metric_of_confusions(pair, metric)
        return float(after - before)

    points = clear_gain(gain, np.arange(count))
    if points is None:
        return None
    best = candidates.best(np.ones(count, dtype=np.bool_), metric)
    delays, single_delays = (delays_along(runs, valid.labels, each) for each in (filtered[best], answers))
    if not delays:  # every state is shorter than this hop
        return None
    price = {"delay": usual_delays(delays), "single_delay": usual_delays(single_delays)}
    return msgspec.structs.replace(tried[best], gain_points=100 * points, **price)
