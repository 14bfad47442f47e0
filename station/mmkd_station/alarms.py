"""Alarm episodes from results, without those that lack an answer or are `unknown`; and rules chosen on recordings.

A student of normal data has the one alarm `unknown`, whose probability is 1 - the p-value. Recordings of normal running
alone choose its most powerful rule within the limit of false alarms; otherwise the rule that detects most is chosen.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal

import msgspec
import numpy as np

from mmkd_edge import EdgePredictor, Prediction, TaskSpec
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import require_modules
from mmkd_edge.spec import ReplayedRecording
from mmkd_station.records import AlarmEvent, AlarmRecord, ResultRecord

_MAX_CONFIRM = 1000
ABSTAINING = ("stale", "unknown")
"""Statuses of answers that count neither for nor against."""
UNKNOWN = "unknown"
_CONFIRM = re.compile(r"([0-9]+)/([0-9]+)")
# Rules that are tried.
_CONFIRMS = ("1/1", "2/2", "2/3", "3/3", "3/5", "4/5", "5/5", "5/8", "8/10", "10/10")
_MIN_PROBABILITY = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_RELEASE = (1, 3, 5, 10)
# A fault's p-values of a student of normal data are taken to be distributed as u ** (1 / 0.35) (Lehmann, "The Power of
# Rank Tests", Annals of Mathematical Statistics 24, 1953): an area under the ROC curve of .74, as one sensor reaches on
# faults it never saw.
_LEHMANN = 0.35
_STANDING_S = 3600.0
_NO_ALARM_LIMIT = -math.log(0.05)  # of the rate, at 95 %, after a time without any: the rule of three


class AlarmRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an episode of one label begins and ends."""

    label: str
    confirm: str = "3/5"  # `3/5` raises an alarm when three of the last five results have the label
    release: int = 5  # results in a row without the label that end the episode
    cooldown_s: float = 60.0  # minimum time to the label's next episode, on the samples' clock
    min_probability: float = 0.8

    @property
    def votes(self) -> tuple[int, int]:
        """Numbers of `confirm`; (0, 0) if malformed."""
        match = _CONFIRM.fullmatch(self.confirm)
        return (int(match[1]), int(match[2])) if match else (0, 0)


def check_rules(rules: Sequence[AlarmRule], task: TaskSpec) -> None:
    """Raise UsageError for rules that no result can meet."""
    for rule in rules:
        for text in rule_problems(rule):
            raise UsageError(f"--alarm {rule.label}: {text}")
        if task.kind == "regression":
            raise UsageError(
                f"--alarm {rule.label}: expected a student of classes or labels, got one that answers a number; "
                "compare the value where results are read"
            )
        known = (UNKNOWN,) if task.kind == "normal" else task.labels
        if rule.label not in known:
            raise UsageError(f"--alarm {rule.label}: expected one of {', '.join(known)}; choose one of them")
    labels = [rule.label for rule in rules]
    for label in {label for label in labels if labels.count(label) > 1}:
        raise UsageError(f"--alarm {label}: it is there {labels.count(label)} times; give each label one rule")


def vote_of(answer: Prediction | ResultRecord, label: str, task: TaskSpec) -> tuple[bool, float] | None:
    """Return whether an answer has the label, and its probability; None if it counts neither for nor against."""
    if answer.p_value is not None:
        return None if answer.status == "stale" else (True, 1 - answer.p_value)
    if answer.index < 0 or answer.status in ABSTAINING:
        return None
    return label in (answer.label, *answer.labels), float(answer.probabilities[task.labels.index(label)])


def rule_of_rate(entry: ModelEntry, *, per_day: float, hop: int) -> AlarmRule:
    """Return a rule of single windows with `per_day` false alarms; UsageError if calibration cannot support it."""
    option, results = f"--false-alarms-per-day {per_day:g}", 86400 * entry.modality.rate_hz / hop
    if not entry.normal:
        raise UsageError(
            f"{option}: expected a student of normal data, got one of {entry.task.kind}; use --alarm LABEL, whose rule "
            "--tune-alarm chooses"
        )
    groups = entry.normal.groups or len(entry.normal.scores)
    least = results / (groups + 1)
    if per_day < least:
        what = "groups" if entry.normal.groups else "windows"
        raise UsageError(
            f"{option}: expected {math.ceil(10 * least) / 10:g} or more: {results:,.0f} results a day, and {groups} "
            f"{what} of normal running judge no level below 1 in {groups + 1}; accumulate evidence with --tune-alarm "
            "DATASET, or answer less often (--hop)"
        )
    return AlarmRule(label=UNKNOWN, confirm="1/1", min_probability=max(0.0, 1 - per_day / results))


def rule_problems(rule: AlarmRule) -> Iterator[str]:
    """Yield a message per invalid value."""
    most, of = rule.votes
    if not 1 <= most <= of <= _MAX_CONFIRM:
        yield f"confirm: expected N/M with 1 <= N <= M <= {_MAX_CONFIRM}, got {rule.confirm!r}; for instance 3/5"
    if not 1 <= rule.release <= _MAX_CONFIRM:
        yield f"release: expected 1 to {_MAX_CONFIRM} results, got {rule.release}; correct it"
    if not 0 <= rule.cooldown_s < math.inf:
        yield f"cooldown: expected seconds of 0 or more, got {rule.cooldown_s}; correct it"
    if not 0 <= rule.min_probability <= 1:
        yield f"min_probability: expected 0 to 1, got {rule.min_probability}; correct it"


class EpisodeState:
    """State of one rule: the open episode's begin, windows with the label, highest probability."""

    def __init__(self, rule: AlarmRule) -> None:
        self.rule = rule
        self._needed, of = rule.votes
        self._votes: deque[tuple[bool, float]] = deque(maxlen=of)
        self._without = 0
        self._quiet_until_s = self._last_s = -math.inf
        self.is_open = False
        self.episode = 0
        self.since_s = 0.0
        self.windows = 0
        self.probability = 0.0

    def resume(self, alarm: AlarmRecord) -> None:
        """Continue from an earlier run's last alarm."""
        self.episode = alarm.episode
        self._last_s = alarm.decided_s if alarm.time_s is None else alarm.time_s
        if alarm.event == "cleared":
            self._quiet_until_s = self._last_s + self.rule.cooldown_s
            return
        self.is_open, self.since_s = True, self._last_s if alarm.since_s is None else alarm.since_s
        self.windows, self.probability = alarm.windows, alarm.probability

    def vote(self, has_label: bool, probability: float, moment_s: float) -> Literal["raised", "cleared"] | None:
        """Count a result and return its event."""
        if moment_s < self._last_s:  # the samples' clock was set: no cooldown
            self._quiet_until_s = -math.inf
        self._last_s = moment_s
        has_label = has_label and probability >= self.rule.min_probability
        self._votes.append((has_label, moment_s))
        if self.is_open:
            self.windows += has_label
            self.probability = max(self.probability, probability)
            self._without = 0 if has_label else self._without + 1
            if self._without < self.rule.release:
                return None
            self.is_open = False
            self._quiet_until_s = moment_s + self.rule.cooldown_s
            self._votes.clear()
            return "cleared"
        if not has_label or moment_s < self._quiet_until_s:
            return None
        moments = [moment for voted, moment in self._votes if voted]
        if len(moments) < self._needed:
            return None
        self.is_open, self._without, self.since_s = True, 0, moments[0]
        self.windows, self.probability = len(moments), probability
        return "raised"


class Episodes:
    """Alarms of one station. `last` has each label's last earlier alarm."""

    def __init__(self, rules: Sequence[AlarmRule], task: TaskSpec, *, last: Sequence[AlarmRecord] = ()) -> None:
        check_rules(rules, task)
        self._states = {rule.label: EpisodeState(rule) for rule in rules}
        self._task = task
        self._last = last
        self._count = max((alarm.episode for alarm in last), default=0)

    def resume(self) -> list[AlarmRecord]:
        """Continue earlier open episodes; clear those without a rule."""
        resumed = []
        for alarm in self._last:
            is_followed = alarm.label in self._states
            if is_followed:
                self._states[alarm.label].resume(alarm)
            if alarm.event != "cleared":
                reason = "open when the run before ended" if is_followed else "no rule follows it any more"
                event: AlarmEvent = "continued" if is_followed else "cleared"
                resumed.append(msgspec.structs.replace(alarm, event=event, decided_s=time.time(), reason=reason))
        return resumed

    def see(self, result: ResultRecord) -> list[AlarmRecord]:
        """Return the alarms that a result raises or clears."""
        alarms = []
        moment_s = result.decided_s if result.time_s is None else result.time_s
        for label, state in self._states.items():
            vote = vote_of(result, label, self._task)
            event = None if vote is None else state.vote(*vote, moment_s)
            if event is None:
                continue
            if event == "raised":
                self._count += 1
                state.episode = self._count
            alarms.append(
                AlarmRecord(
                    station=result.station,
                    number=result.number,
                    time_s=result.time_s,
                    decided_s=result.decided_s,
                    event=event,
                    label=label,
                    episode=state.episode,
                    since_s=None if result.time_s is None else state.since_s,
                    windows=state.windows,
                    probability=state.probability,
                )
            )
        return alarms


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
    single_answers: bool  # whether it is better with them, by a student that would weigh in earlier ones


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
    votes_by = {}
    for over_time in (True, False) if predictor.entry.over_time else (False,):
        runs = [_replay(predictor, each, label, hop, over_time) for each in recordings if each.label or not is_normal]
        votes_by[over_time] = {name: [run for run in runs if run.split == name] for name in ("valid", "test")}
    for name, part in votes_by[False].items():
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
    rules = [
        AlarmRule(label=label, confirm=confirm, release=release, cooldown_s=cooldown_s, min_probability=probability)
        for confirm, release, probability in product(_CONFIRMS, _RELEASE, _MIN_PROBABILITY)
    ]
    tried = [(over_time, rule, _score(parts["valid"], rule)) for over_time, parts in votes_by.items() for rule in rules]
    permitted = [each for each in tried if each[-1].false_alarms_per_hour <= most_per_hour]
    if not permitted:
        least = min(score.false_alarms_per_hour for _, _, score in tried)
        raise UsageError(
            f"--false-alarms-per-hour {most_per_hour:g}: no rule of {len(tried)} keeps it on the validation "
            f"recordings; the least is {least:.3g}; allow more, or train a better student"
        )

    def worth(candidate: tuple[bool, AlarmRule, RuleScore]) -> tuple[float, ...]:
        _, rule, score = candidate
        strictness = rule.min_probability, rule.votes[0] / rule.votes[1], rule.release
        if is_normal and not score.recordings:
            return power_of(rule), -score.false_alarms, *strictness
        return score.detected, -score.false_alarms, -(score.delay_s or 0.0), *strictness

    over_time, rule, on_valid = max(permitted, key=worth)
    unusual = 1 - predictor.entry.normal.level if predictor.entry.normal else 0.0
    single = AlarmRule(label=label, confirm="1/1", release=1, cooldown_s=0.0, min_probability=unusual)
    return Tuned(
        rule=rule,
        most_per_hour=most_per_hour,
        on_valid=on_valid,
        on_test=_score(votes_by[over_time]["test"], rule),
        before=_score(votes_by[False]["test"], single),
        single_answers=not over_time and len(votes_by) > 1,
    )


def _replay(predictor: EdgePredictor, recording: ReplayedRecording, label: str, hop: int, over_time: bool) -> _Run:
    recorded = predictor.modality.recorded
    times = np.arange(len(recording.rows)) / recorded.rate_hz
    hop = max(1, round(hop * recorded.rate_hz / predictor.modality.rate_hz))
    stream = predictor.stream(hop=hop, modality=recorded.name, over_time=over_time)
    predictions = stream.push(recording.rows, times, now_s=0.0) if len(times) else []
    is_normal = predictor.task.kind == "normal"
    return _Run(
        # `now_s` is 0, so the negative age is the newest sample's time.
        votes=[
            (*vote, -(each.input_age_s or 0.0))
            for each in predictions
            if (vote := vote_of(each, label, predictor.task)) is not None
        ],
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


def power_of(rule: AlarmRule) -> float:
    """Return how often M windows of a fault raise an alarm, by Lehmann's alternative."""
    needed, of = rule.votes
    chance = (1 - rule.min_probability) ** _LEHMANN
    return math.fsum(math.comb(of, n) * chance**n * (1 - chance) ** (of - n) for n in range(needed, of + 1))


def rate_interval(count: int, hours: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson rate per hour (Garwood, Biometrika 28, 1936)."""
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low) / hours, float(chi2.ppf(0.975, 2 * count + 2) / 2) / hours
