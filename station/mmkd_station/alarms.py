"""Episodes: what an operator sees of a stream of results.

One result is no alarm. An episode begins when enough of the last results speak for its label, and ends when none has
for a while. A result without an answer (`invalid`, `stale`, `warming_up`) speaks neither for nor against, nor does one
that nobody should believe (`unknown`). Owns the rule and the count; knows nothing of where results come from.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from mmkd_edge import TaskSpec
from mmkd_edge.errors import UsageError
from mmkd_station.records import AlarmRecord, ResultRecord

MOST_CONFIRM = 1000
ABSTAINING = ("stale", "unknown")
"""Statuses of answers that speak neither for nor against."""
_CONFIRM = re.compile(r"([0-9]+)/([0-9]+)")


class AlarmRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an episode of one label begins and ends.

    Attributes:
        label: what it is an episode of.
        confirm: `3/5` begins one when three of the last five results speak for the label.
        release: so many results in a row that do not speak for it end one.
        cooldown_s: after an end no episode of the label begins for so long, on the clock of the samples.
        min_probability: from which on a result speaks for the label.
    """

    label: str
    confirm: str = "3/5"
    release: int = 5
    cooldown_s: float = 60.0
    min_probability: float = 0.8

    @property
    def votes(self) -> tuple[int, int]:
        """How many of how many; (0, 0) where the text is none of that form."""
        match = _CONFIRM.fullmatch(self.confirm)
        return (int(match[1]), int(match[2])) if match else (0, 0)


def check_rules(rules: Sequence[AlarmRule], task: TaskSpec) -> None:
    """Refuse rules that no result of a student could fulfil.

    Raises:
        UsageError: the first thing that is wrong.
    """
    for rule in rules:
        for text in rule_problems(rule):
            raise UsageError(f"--alarm {rule.label}: {text}")
        if task.kind == "regression":
            raise UsageError(
                f"--alarm {rule.label}: expected a student of classes or labels, got one that answers a number; "
                "compare the value where results are read"
            )
        if rule.label not in task.labels:
            raise UsageError(f"--alarm {rule.label}: expected one of {', '.join(task.labels)}; choose one of them")
    labels = [rule.label for rule in rules]
    for label in {label for label in labels if labels.count(label) > 1}:
        raise UsageError(f"--alarm {label}: it is there {labels.count(label)} times; give each label one rule")


def rule_problems(rule: AlarmRule) -> Iterator[str]:
    """One text for everything that no rule can be."""
    most, of = rule.votes
    if not 1 <= most <= of <= MOST_CONFIRM:
        yield f"confirm: expected N/M with 1 <= N <= M <= {MOST_CONFIRM}, got {rule.confirm!r}; for instance 3/5"
    if not 1 <= rule.release <= MOST_CONFIRM:
        yield f"release: expected 1 to {MOST_CONFIRM} results, got {rule.release}; correct it"
    if not 0 <= rule.cooldown_s < math.inf:
        yield f"cooldown: expected seconds of 0 or more, got {rule.cooldown_s}; correct it"
    if not 0 <= rule.min_probability <= 1:
        yield f"min_probability: expected 0 to 1, got {rule.min_probability}; correct it"


class Episodes:
    """Follows the results of one station and makes episodes of them. Used by one thread.

    Args:
        rules: one for each label.
        task: what the results are answers to.
        last: the last alarm of each label in earlier runs.
    """

    def __init__(self, rules: Sequence[AlarmRule], task: TaskSpec, *, last: Sequence[AlarmRecord] = ()) -> None:
        check_rules(rules, task)
        self._followed = {rule.label: _Followed(rule, task) for rule in rules}
        self._last = last
        self._count = max((alarm.episode for alarm in last), default=0)

    def resume(self) -> list[AlarmRecord]:
        """Take up what earlier runs left: each open episode is `continued`, or `cleared` if its label has no rule."""
        resumed = []
        for alarm in self._last:
            if alarm.label in self._followed:
                self._followed[alarm.label].resume(alarm)
            if alarm.event != "cleared":
                resumed.append(resumed_alarm(alarm, is_followed=alarm.label in self._followed))
        return resumed

    def see(self, result: ResultRecord) -> list[AlarmRecord]:
        """The alarms that a result raises or clears, with the result's number."""
        found = []
        for one in self._followed.values():
            event = one.vote(result)
            if event == "raised":
                self._count += 1
                one.episode = self._count
            if event is not None:
                found.append(one.record(event, result))
        return found


def resumed_alarm(alarm: AlarmRecord, *, is_followed: bool) -> AlarmRecord:
    """What is said at a start of an episode that an earlier run left open; its number is set by the station."""
    return msgspec.structs.replace(
        alarm,
        event="continued" if is_followed else "cleared",
        decided_s=time.time(),
        reason="open when the run before ended" if is_followed else "no rule or station follows it any more",
    )


class _Followed:
    """One rule, and where its episode stands."""

    def __init__(self, rule: AlarmRule, task: TaskSpec) -> None:
        self._rule = rule
        self._place = task.labels.index(rule.label)
        self._needed, of = rule.votes
        self._votes: deque[tuple[bool, float]] = deque(maxlen=of)
        self._against = 0
        self._quiet_until_s = self._last_s = -math.inf
        self._since_s = 0.0
        self._windows = 0
        self._probability = 0.0
        self.open = False
        self.episode = 0

    def resume(self, alarm: AlarmRecord) -> None:
        self.episode = alarm.episode
        self._last_s = alarm.decided_s if alarm.time_s is None else alarm.time_s
        if alarm.event == "cleared":
            self._quiet_until_s = self._last_s + self._rule.cooldown_s
            return
        self.open, self._since_s = True, self._last_s if alarm.since_s is None else alarm.since_s
        self._windows, self._probability = alarm.windows, alarm.probability

    def vote(self, result: ResultRecord) -> str | None:
        """`raised` or `cleared` where this result decides it."""
        if result.index < 0 or result.status in ABSTAINING:
            return None
        moment_s = result.decided_s if result.time_s is None else result.time_s
        if moment_s < self._last_s:  # the clock of the samples was set: it says nothing of a cooldown any more
            self._quiet_until_s = -math.inf
        self._last_s = moment_s
        probability = result.probabilities[self._place]
        speaks = probability >= self._rule.min_probability and (
            result.label == self._rule.label or self._rule.label in result.labels
        )
        self._votes.append((speaks, moment_s))
        if self.open:
            return self._go_on(speaks, probability, moment_s)
        for_it = [moment for spoke, moment in self._votes if spoke]
        if not speaks or len(for_it) < self._needed or moment_s < self._quiet_until_s:
            return None
        self.open, self._against, self._since_s = True, 0, for_it[0]
        self._windows, self._probability = len(for_it), probability
        return "raised"

    def _go_on(self, speaks: bool, probability: float, moment_s: float) -> str | None:
        self._windows += speaks
        self._probability = max(self._probability, probability)
        self._against = 0 if speaks else self._against + 1
        if self._against < self._rule.release:
            return None
        self.open = False
        self._quiet_until_s = moment_s + self._rule.cooldown_s
        self._votes.clear()
        return "cleared"

    def record(self, event: str, result: ResultRecord) -> AlarmRecord:
        return AlarmRecord(
            station=result.station,
            number=result.number,
            time_s=result.time_s,
            decided_s=result.decided_s,
            event="raised" if event == "raised" else "cleared",
            label=self._rule.label,
            episode=self.episode,
            since_s=None if result.time_s is None else self._since_s,
            windows=self._windows,
            probability=self._probability,
        )
