"""Alarm episodes from results, without those that lack an answer or are `unknown`.

A student of normal data has the one alarm `unknown`, whose probability is 1 - the p-value: evidence accumulates over
windows, whatever the level of a single one.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from mmkd_edge import ModelEntry, Prediction, TaskSpec
from mmkd_edge.errors import UsageError
from mmkd_station.records import AlarmEvent, AlarmRecord, ResultRecord

_MAX_CONFIRM = 1000
ABSTAINING = ("stale", "unknown")
"""Statuses of answers that count neither for nor against."""
UNKNOWN = "unknown"
_CONFIRM = re.compile(r"([0-9]+)/([0-9]+)")


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
        known = alarm_labels(task)
        if rule.label not in known:
            raise UsageError(f"--alarm {rule.label}: expected one of {', '.join(known)}; choose one of them")
    labels = [rule.label for rule in rules]
    for label in {label for label in labels if labels.count(label) > 1}:
        raise UsageError(f"--alarm {label}: it is there {labels.count(label)} times; give each label one rule")


def alarm_labels(task: TaskSpec) -> tuple[str, ...]:
    """Return the labels that an alarm may have."""
    return (UNKNOWN,) if task.kind == "normal" else task.labels


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
