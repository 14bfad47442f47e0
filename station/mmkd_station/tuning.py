"""Choose an alarm rule on recordings: most detections within a limit of false alarms per hour.

Intervals are exact at 95 %: Poisson for rates (Garwood, Biometrika 28, 1936), Clopper and Pearson (Biometrika 26,
1934) for fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import msgspec
import numpy as np

from mmkd_edge import EdgePredictor
from mmkd_edge.cli.run import require_modules
from mmkd_edge.errors import UsageError
from mmkd_station.alarms import ABSTAINING, AlarmRule, EpisodeState, check_rules
from mmkd_station.intake import ReplayedRecording

_CONFIRM = ("1/1", "2/2", "2/3", "3/3", "3/5", "4/5", "5/5", "5/8", "8/10", "10/10")
_MIN_PROBABILITY = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_RELEASE = (1, 3, 5, 10)
_LEVEL = 0.95


class RuleScore(msgspec.Struct, frozen=True, kw_only=True):
    """False alarms in recordings without the label, detections in those with it.

    `delay_s` is the median from the recording's start to the alarm.
    """

    normal_hours: float
    false_alarms: int
    false_alarms_per_hour: float
    false_alarms_interval: tuple[float, float]
    recordings: int
    detected: int
    detected_interval: tuple[float, float]
    delay_s: float | None
    longest_delay_s: float | None
    groups: int


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """A chosen rule and its cost; `before` is that of an alarm for every result."""

    rule: AlarmRule
    most_per_hour: float
    tried: int
    normal: tuple[str, ...]
    on_valid: RuleScore
    on_test: RuleScore
    before: RuleScore


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    """Votes: seconds, whether the result has the label, probability."""

    votes: tuple[tuple[float, bool, float], ...]
    label: str
    group: str
    split: str
    seconds: float

    def raised(self, rule: AlarmRule) -> list[float]:
        state = EpisodeState(rule)
        return [
            moment_s
            for moment_s, has_label, probability in self.votes
            if state.vote(has_label, probability, moment_s) == "raised"
        ]


def tune_alarm(
    predictor: EdgePredictor,
    recordings: Sequence[ReplayedRecording],
    *,
    label: str,
    normal: Sequence[str],
    most_per_hour: float,
    hop: int,
    cooldown_s: float,
) -> Tuned:
    """Choose a label's rule on validation recordings, and measure it on test recordings.

    `normal` are labels of normal operation; empty uses all others. Raises UsageError, UnavailableError without scipy.
    """
    require_modules(("scipy",), by="--tune-alarm", extra="import")
    task = predictor.task
    check_rules([AlarmRule(label=label)], task)
    names = tuple(normal) or tuple(other for other in task.labels if other != label)
    unknown = [name for name in names if name not in task.labels or name == label]
    if unknown:
        raise UsageError(f"--normal {unknown[0]}: expected another label than {label!r}: {', '.join(task.labels)}")
    runs = [_replay(predictor, each, label, hop) for each in recordings if each.label in (label, *names)]
    parts = {name: [run for run in runs if run.split == name] for name in ("valid", "test")}
    for name, part in parts.items():
        kinds = {run.label == label for run in part}
        if kinds != {True, False}:
            raise UsageError(
                f"--tune-alarm: expected {name} recordings of {label!r} and of normal operation, got "
                f"{sum(run.label == label for run in part)} and {sum(run.label != label for run in part)}; "
                "name normal operation with --normal, or deal the dataset anew"
            )
    rules = [
        AlarmRule(label=label, confirm=confirm, release=release, cooldown_s=cooldown_s, min_probability=probability)
        for confirm, release, probability in product(_CONFIRM, _RELEASE, _MIN_PROBABILITY)
    ]
    tried = [(rule, _score(parts["valid"], rule)) for rule in rules]
    permitted = [(rule, score) for rule, score in tried if score.false_alarms_per_hour <= most_per_hour]
    if not permitted:
        least = min(score.false_alarms_per_hour for _, score in tried)
        raise UsageError(
            f"--false-alarms-per-hour {most_per_hour:g}: no rule of {len(tried)} keeps it on the validation "
            f"recordings; the least is {least:.3g}; allow more, or train a better student"
        )
    rule, on_valid = max(permitted, key=_worth)
    single = AlarmRule(label=label, confirm="1/1", release=1, cooldown_s=0.0, min_probability=0.0)
    return Tuned(
        rule=rule,
        most_per_hour=most_per_hour,
        tried=len(tried),
        normal=names,
        on_valid=on_valid,
        on_test=_score(parts["test"], rule),
        before=_score(parts["test"], single),
    )


def _worth(tried: tuple[AlarmRule, RuleScore]) -> tuple[float, ...]:
    rule, score = tried
    strictness = rule.min_probability, rule.votes[0] / rule.votes[1], rule.release
    return score.detected, -score.false_alarms, -(score.delay_s or 0.0), *strictness


def _replay(predictor: EdgePredictor, recording: ReplayedRecording, label: str, hop: int) -> _Run:
    stream = predictor.stream(hop=hop)
    rate_hz = predictor.modality.rate_hz
    times = np.arange(len(recording.rows)) / rate_hz
    predictions = stream.push(recording.rows, times, now_s=0.0) if len(times) else []
    place = predictor.task.labels.index(label)
    return _Run(
        # `now_s` is 0, so the negative age is the newest sample's time.
        votes=tuple(
            (-(each.input_age_s or 0.0), label in (each.label, *each.labels), float(each.probabilities[place]))
            for each in predictions
            if each.index >= 0 and each.status not in ABSTAINING
        ),
        label=recording.label,
        group=recording.group,
        split=recording.split,
        seconds=len(times) / rate_hz,
    )


def _score(runs: Sequence[_Run], rule: AlarmRule) -> RuleScore:
    hours, false_alarms, delays, positive = 0.0, 0, [], 0
    for run in runs:
        raised = run.raised(rule)
        if run.label == rule.label:
            positive += 1
            delays += raised[:1]
        else:
            hours += run.seconds / 3600
            false_alarms += len(raised)
    return RuleScore(
        normal_hours=hours,
        false_alarms=false_alarms,
        false_alarms_per_hour=false_alarms / hours,
        false_alarms_interval=rate_interval(false_alarms, hours),
        recordings=positive,
        detected=len(delays),
        detected_interval=fraction_interval(len(delays), positive),
        delay_s=float(np.median(delays)) if delays else None,
        longest_delay_s=max(delays, default=None),
        groups=len({run.group for run in runs}),
    )


def rate_interval(count: int, hours: float) -> tuple[float, float]:
    """Return the exact 95 % interval of the rate per hour."""
    from scipy.stats import chi2

    tail = (1 - _LEVEL) / 2
    low = chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    return float(low) / hours, float(chi2.ppf(1 - tail, 2 * count + 2) / 2) / hours


def fraction_interval(count: int, of: int) -> tuple[float, float]:
    """Return the exact 95 % interval of `count` / `of`."""
    from scipy.stats import binomtest

    low, high = binomtest(count, of).proportion_ci(_LEVEL, method="exact")
    return float(low), float(high)
