"""The rule of an alarm, chosen on recordings: at most so many false alarms an hour, then the most detections.

Rules are tried on the validation recordings; what the chosen one does is counted on those of the test split, which
chose nothing. Intervals are exact: Poisson for counts in hours (Garwood, Biometrika 28, 1936), Clopper and Pearson
(Biometrika 26, 1934) for shares, both at 95 %.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor
from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_station.alarms import ABSTAINING, AlarmRule, check_rules
from mmkd_station.sources.base import ReplayedRecording

_CONFIRM = ("1/1", "2/2", "2/3", "3/3", "3/5", "4/5", "5/5", "5/8", "8/10", "10/10")
_MIN_PROBABILITY = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_RELEASE = (1, 3, 5, 10)
_LEVEL = 0.95
# A figure per day needs a day of normal operation.
_DAY_H = 24.0


class RuleScore(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule did on some recordings.

    Attributes:
        normal_hours: of recordings without the label.
        false_alarms: episodes in them.
        false_alarms_per_hour: of them; None without any hours.
        false_alarms_interval: at 95 %; None without any hours.
        recordings: with the label.
        detected: of these those in which an episode began.
        detected_interval: of the share, at 95 %; None without any recordings.
        delay_s: from the start of such a recording to the alarm, half of the detected ones within; None without any.
        longest_delay_s: of all detected ones.
        groups: machines, persons or sessions that the recordings are of.
    """

    normal_hours: float
    false_alarms: int
    false_alarms_per_hour: float | None
    false_alarms_interval: tuple[float, float] | None
    recordings: int
    detected: int
    detected_interval: tuple[float, float] | None
    delay_s: float | None
    longest_delay_s: float | None
    groups: int

    @property
    def false_alarms_per_day(self) -> float | None:
        """None where less than a day of normal operation was observed."""
        if self.false_alarms_per_hour is None or self.normal_hours < _DAY_H:
            return None
        return 24 * self.false_alarms_per_hour


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """A chosen rule and what it costs.

    Attributes:
        rule: that was chosen.
        most_per_hour: false alarms that were allowed.
        tried: how many rules were.
        normal: labels taken as normal operation.
        on_valid: on the recordings that chose it.
        on_test: on the others.
        before: on the others, were every result that names the label an alarm.
    """

    rule: AlarmRule
    most_per_hour: float
    tried: int
    normal: tuple[str, ...]
    on_valid: RuleScore
    on_test: RuleScore
    before: RuleScore


class Votes:
    """Results of one recording that may speak for a label, so that many rules are tried quickly.

    Does what `Episodes` does with one rule, where no result is earlier than the one before it.

    Args:
        moments: (n,) seconds, of results with an answer.
        shares: float64 (n,) probability of the label; -1 where the result does not name it.
    """

    def __init__(self, moments: Sequence[float], shares: NDArray[np.float64]) -> None:
        self._moments = list(moments)
        self._shares = shares
        self._speaking: dict[float, NDArray[np.int64]] = {}
        self._begins: dict[tuple[float, int, int], list[int]] = {}
        self._ends: dict[tuple[float, int], list[int]] = {}

    def raised(self, rule: AlarmRule) -> list[float]:
        """When episodes begin, on the clock of the samples."""
        least, (needed, of), release = rule.min_probability, rule.votes, rule.release
        begins, ends = self._begins_of(least, needed, of), self._ends_of(least, release)
        speaking = self._speaking_of(least)
        found: list[float] = []
        place, quiet_until_s = 0, -math.inf
        while place < len(begins):
            moment_s = self._moments[speaking[begins[place]]]
            if moment_s < quiet_until_s:
                place += 1
                continue
            found.append(moment_s)
            after = bisect_left(ends, begins[place])
            if after == len(ends):
                break
            quiet_until_s = self._moments[speaking[ends[after]] + release] + rule.cooldown_s
            # Votes up to the end of an episode are forgotten.
            place = bisect_left(begins, ends[after] + needed)
        return found

    def _speaking_of(self, least: float) -> NDArray[np.int64]:
        """Places of the results that speak for the label."""
        if least not in self._speaking:
            self._speaking[least] = np.flatnonzero(self._shares >= least)
        return self._speaking[least]

    def _begins_of(self, least: float, needed: int, of: int) -> list[int]:
        """Which of them are the last of `needed` within `of` results."""
        key = least, needed, of
        if key not in self._begins:
            speaking = self._speaking_of(least)
            spans = speaking[needed - 1 :] - speaking[: max(0, len(speaking) - needed + 1)]
            self._begins[key] = (np.flatnonzero(spans < of) + needed - 1).tolist()
        return self._begins[key]

    def _ends_of(self, least: float, release: int) -> list[int]:
        """Which of them are followed by `release` results that do not speak for it."""
        key = least, release
        if key not in self._ends:
            speaking = self._speaking_of(least)
            self._ends[key] = np.flatnonzero(np.diff(speaking, append=len(self._shares)) > release).tolist()
        return self._ends[key]


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    """The votes of one recording, and how long it was."""

    votes: Votes
    label: str
    group: str
    split: str
    seconds: float


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
    """Chooses a rule for one label.

    Args:
        predictor: whose results are judged.
        recordings: with labels and splits.
        label: to raise alarms for.
        normal: labels of normal operation; empty takes all others.
        most_per_hour: false alarms that are allowed on the validation recordings.
        hop: samples from one result to the next.
        cooldown_s: of every rule.

    Raises:
        UsageError: a label is unknown, the recordings cannot tell, or no rule keeps the limit.
        UnavailableError: scipy is not installed.
    """
    _scipy_stats()  # before the recordings, which take their time
    task = predictor.task
    check_rules([AlarmRule(label=label)], task)
    names = tuple(normal) or tuple(one for one in task.labels if one != label)
    unknown = [one for one in names if one not in task.labels or one == label]
    if unknown:
        raise UsageError(f"--normal {unknown[0]}: expected another label than {label!r}: {', '.join(task.labels)}")
    runs = [run for one in recordings if one.label in (label, *names) for run in [_run_of(predictor, one, label, hop)]]
    parts = {name: [run for run in runs if run.split == name] for name in ("valid", "test")}
    for name, part in parts.items():
        kinds = {run.label == label for run in part}
        if kinds != {True, False}:
            raise UsageError(
                f"--tune-alarm: expected {name} recordings of {label!r} and of normal operation, got "
                f"{sum(run.label == label for run in part)} and {sum(run.label != label for run in part)}; "
                "name normal operation with --normal, or deal the dataset anew"
            )
    tried = [(rule, outcome_of(parts["valid"], rule)) for rule in rules_tried(label, cooldown_s=cooldown_s)]
    kept = [(rule, found) for rule, found in tried if (found.false_alarms_per_hour or 0.0) <= most_per_hour]
    if not kept:
        least = min(found.false_alarms_per_hour or 0.0 for _, found in tried)
        raise UsageError(
            f"--false-alarms-per-hour {most_per_hour:g}: no rule of {len(tried)} keeps it on the validation "
            f"recordings; the least is {least:.3g}; allow more, or train a better student"
        )
    rule, on_valid = max(kept, key=_worth)
    single = AlarmRule(label=label, confirm="1/1", release=1, cooldown_s=0.0, min_probability=0.0)
    return Tuned(
        rule=rule,
        most_per_hour=most_per_hour,
        tried=len(tried),
        normal=names,
        on_valid=on_valid,
        on_test=outcome_of(parts["test"], rule),
        before=outcome_of(parts["test"], single),
    )


def rules_tried(label: str, *, cooldown_s: float) -> Iterator[AlarmRule]:
    """The rules that are chosen from."""
    for confirm, release, least in product(_CONFIRM, _RELEASE, _MIN_PROBABILITY):
        yield AlarmRule(label=label, confirm=confirm, release=release, cooldown_s=cooldown_s, min_probability=least)


def _worth(tried: tuple[AlarmRule, RuleScore]) -> tuple[float, ...]:
    """More detections, then fewer false alarms, then sooner, then the rule that asks for more."""
    rule, found = tried
    return (
        found.detected,
        -found.false_alarms,
        -(found.delay_s or 0.0),
        rule.min_probability,
        rule.votes[0] / rule.votes[1],
        rule.release,
    )


def _run_of(predictor: EdgePredictor, recording: ReplayedRecording, label: str, hop: int) -> _Run:
    stream = predictor.stream(hop=hop)
    rate_hz = predictor.modality.rate_hz
    times = np.arange(len(recording.rows)) / rate_hz
    found = stream.push(recording.rows, times, now_s=0.0) if len(times) else []
    place = predictor.task.labels.index(label)
    voting = [one for one in found if one.index >= 0 and one.status not in ABSTAINING]
    shares = [float(one.probabilities[place]) if label in (one.label, *one.labels) else -1.0 for one in voting]
    return _Run(
        # The age is that of time 0: its negative is when the newest sample was taken.
        votes=Votes([-(one.input_age_s or 0.0) for one in voting], np.array(shares)),
        label=recording.label,
        group=recording.group,
        split=recording.split,
        seconds=len(times) / rate_hz,
    )


def outcome_of(runs: Sequence[_Run], rule: AlarmRule) -> RuleScore:
    """What a rule does on the results of some recordings; each recording begins without a history."""
    hours, false_alarms, delays, positive = 0.0, 0, [], 0
    for run in runs:
        raised = run.votes.raised(rule)
        if run.label == rule.label:
            positive += 1
            delays += raised[:1]
        else:
            hours += run.seconds / 3600
            false_alarms += len(raised)
    return RuleScore(
        normal_hours=hours,
        false_alarms=false_alarms,
        false_alarms_per_hour=false_alarms / hours if hours else None,
        false_alarms_interval=rate_interval(false_alarms, hours) if hours else None,
        recordings=positive,
        detected=len(delays),
        detected_interval=share_interval(len(delays), positive) if positive else None,
        delay_s=float(np.median(delays)) if delays else None,
        longest_delay_s=max(delays) if delays else None,
        groups=len({run.group for run in runs}),
    )


def rate_interval(count: int, hours: float) -> tuple[float, float]:
    """Between which rates an hour the true one is, where so many were counted: exact, at 95 %."""
    chi2, tail = _scipy_stats().chi2, (1 - _LEVEL) / 2
    low = chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    return float(low) / hours, float(chi2.ppf(1 - tail, 2 * count + 2) / 2) / hours


def share_interval(count: int, of: int) -> tuple[float, float]:
    """Between which shares the true one is, where `count` of `of` were: exact, at 95 %."""
    beta, tail = _scipy_stats().beta, (1 - _LEVEL) / 2
    low = beta.ppf(tail, count, of - count + 1) if count else 0.0
    high = beta.ppf(1 - tail, count + 1, of - count) if count < of else 1.0
    return float(low), float(high)


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise UnavailableError(
            "--tune-alarm needs scipy, which this Python lacks; run: pip install 'mmkd-edge[import]'"
        ) from error
    return stats
