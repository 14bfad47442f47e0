"""Choose an alarm rule on recordings: most detections within a limit of false alarms per hour.

Recordings of normal running alone choose among rules of a student of normal data: the most powerful one within the
limit if a fault's p-values are distributed as u ** (1 / 0.35) (Lehmann, "The Power of Rank Tests", Annals of
Mathematical Statistics 24, 1953): an area under the ROC curve of .74, as one sensor reaches on faults it never saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import msgspec
import numpy as np

from mmkd_edge import EdgePredictor
from mmkd_edge.cli.run import require_modules
from mmkd_edge.errors import UsageError
from mmkd_station.alarms import AlarmRule, EpisodeState, check_rules, vote_of
from mmkd_station.intake import ReplayedRecording

_CONFIRM = ("1/1", "2/2", "2/3", "3/3", "3/5", "4/5", "5/5", "5/8", "8/10", "10/10")
_MIN_PROBABILITY = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_RELEASE = (1, 3, 5, 10)
_LEHMANN = 0.35
_STANDING_S = 3600.0  # an alarm that stands for so long counts again
_NO_ALARM_LIMIT = -math.log(0.05)  # of the rate, at 95 %, after a time without any: the rule of three


class RuleScore(msgspec.Struct, frozen=True, kw_only=True):
    """False alarms in recordings without the label (95 % interval per hour), detections in those with it.

    An alarm counts again for every hour that it stands.
    """

    normal_hours: float
    false_alarms: int
    false_alarms_per_hour: float
    false_alarms_interval: tuple[float, float]
    recordings: int
    detected: int
    delay_s: float | None  # median from the recording's start to the alarm


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """A chosen rule and its cost; `before` is that of an alarm for every result with the label, or `unknown`."""

    rule: AlarmRule
    most_per_hour: float
    on_valid: RuleScore
    on_test: RuleScore
    before: RuleScore


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    """Votes: whether the result has the label, probability, seconds."""

    votes: list[tuple[bool, float, float]]
    has_label: bool
    split: str
    seconds: float


def tune_alarm(
    predictor: EdgePredictor,
    recordings: Sequence[ReplayedRecording],
    *,
    label: str,
    most_per_hour: float,
    hop: int,
    cooldown_s: float,
) -> Tuned:
    """Choose a label's rule on validation recordings, measure it on test ones; others are normal. Raises UsageError."""
    require_modules(("scipy",), by="--tune-alarm", extra="import")
    check_rules([AlarmRule(label=label)], predictor.task)
    is_normal = predictor.task.kind == "normal"  # then nobody has looked at a recording without a label
    runs = [_replay(predictor, each, label, hop) for each in recordings if each.label or not is_normal]
    parts = {name: [run for run in runs if run.split == name] for name in ("valid", "test")}
    for name, part in parts.items():
        count = sum(run.has_label for run in part)
        if not (is_normal or count) or count == len(part):
            raise UsageError(
                f"--tune-alarm: expected {name} recordings of {label!r} and of normal operation, got {count} and "
                f"{len(part) - count}; deal the dataset anew"
            )
        hours = sum(run.seconds for run in part if not run.has_label) / 3600
        if is_normal and most_per_hour * hours < _NO_ALARM_LIMIT:
            raise UsageError(
                f"--false-alarms-per-day {24 * most_per_hour:g}: expected {24 * _NO_ALARM_LIMIT / hours:.3g} or more: "
                f"the {name} recordings have {hours:.3g} h of normal running, which show no lower rate even without "
                "an alarm; allow more, or record longer"
            )
    tried = [
        (rule, _score(parts["valid"], rule))
        for rule in (
            AlarmRule(label=label, confirm=confirm, release=release, cooldown_s=cooldown_s, min_probability=probability)
            for confirm, release, probability in product(_CONFIRM, _RELEASE, _MIN_PROBABILITY)
        )
    ]
    permitted = [(rule, score) for rule, score in tried if score.false_alarms_per_hour <= most_per_hour]
    if not permitted:
        least = min(score.false_alarms_per_hour for _, score in tried)
        raise UsageError(
            f"--false-alarms-per-hour {most_per_hour:g}: no rule of {len(tried)} keeps it on the validation "
            f"recordings; the least is {least:.3g}; allow more, or train a better student"
        )

    def worth(candidate: tuple[AlarmRule, RuleScore]) -> tuple[float, ...]:
        rule, score = candidate
        strictness = rule.min_probability, rule.votes[0] / rule.votes[1], rule.release
        if is_normal and not score.recordings:
            return _power(rule), -score.false_alarms, *strictness
        return score.detected, -score.false_alarms, -(score.delay_s or 0.0), *strictness

    rule, on_valid = max(permitted, key=worth)
    unusual = 1 - predictor.entry.normal.level if predictor.entry.normal else 0.0
    single = AlarmRule(label=label, confirm="1/1", release=1, cooldown_s=0.0, min_probability=unusual)
    return Tuned(
        rule=rule,
        most_per_hour=most_per_hour,
        on_valid=on_valid,
        on_test=_score(parts["test"], rule),
        before=_score(parts["test"], single),
    )


def _replay(predictor: EdgePredictor, recording: ReplayedRecording, label: str, hop: int) -> _Run:
    recorded = predictor.modality.recorded
    times = np.arange(len(recording.rows)) / recorded.rate_hz
    hop = max(1, round(hop * recorded.rate_hz / predictor.modality.rate_hz))
    predictions = (
        predictor.stream(hop=hop, modality=recorded.name).push(recording.rows, times, now_s=0.0) if len(times) else []
    )
    votes = [(vote_of(each, label, predictor.task), -(each.input_age_s or 0.0)) for each in predictions]
    is_normal = predictor.task.kind == "normal"
    return _Run(
        # `now_s` is 0, so the negative age is the newest sample's time.
        votes=[(*vote, moment_s) for vote, moment_s in votes if vote is not None],
        has_label=recording.label != predictor.task.labels[0] if is_normal else recording.label == label,
        split=recording.split,
        seconds=len(times) / recorded.rate_hz,
    )


def _score(runs: Sequence[_Run], rule: AlarmRule) -> RuleScore:
    hours, false_alarms, delays = 0.0, 0, []
    for run in runs:
        state, raised_s, standing_s = EpisodeState(rule), [], 0.0
        for has_label, probability, moment_s in run.votes:
            event = state.vote(has_label, probability, moment_s)
            if event == "raised" or (state.is_open and moment_s - standing_s >= _STANDING_S):
                raised_s.append(moment_s)
                standing_s = moment_s
        if run.has_label:
            delays += raised_s[:1]
        else:
            hours += run.seconds / 3600
            false_alarms += len(raised_s)
    return RuleScore(
        normal_hours=hours,
        false_alarms=false_alarms,
        false_alarms_per_hour=false_alarms / hours,
        false_alarms_interval=rate_interval(false_alarms, hours),
        recordings=sum(run.has_label for run in runs),
        detected=len(delays),
        delay_s=float(np.median(delays)) if delays else None,
    )


def _power(rule: AlarmRule) -> float:
    """Return how often M windows of a fault raise an alarm, by Lehmann's alternative."""
    needed, of = rule.votes
    chance = (1 - rule.min_probability) ** _LEHMANN
    return math.fsum(math.comb(of, n) * chance**n * (1 - chance) ** (of - n) for n in range(needed, of + 1))


def rate_interval(count: int, hours: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson rate per hour (Garwood, Biometrika 28, 1936)."""
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low) / hours, float(chi2.ppf(0.975, 2 * count + 2) / 2) / hours
