"""Summaries of a run and of a chosen alarm rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmkd_app.cli.run import shell_line
from mmkd_edge.errors import UnavailableError
from mmkd_station.alarms import Tuned
from mmkd_station.outlet import OutletFacts
from mmkd_station.service import RunFacts
from mmkd_station.station import StationFacts

_MAX_REASONS = 3
_CURES = {
    "samples come at": "send samples at the student's rate, or import the sensor's recordings at its own and train "
    "again",
    "no sample|newest sample is .* s old": "check that the sensor sends all the time; --stale and --silence allow "
    "longer pauses",
    "ahead of their arrival|the future|went back|stood still|because of their times": "set the sensor's clock, or "
    "take the arrival as time: --time arrival",
    "missing": "check the sensor, its cable, and the columns and units of its channels: --map CHANNEL=COLUMN*FACTOR",
    "flat|repeated one value": "check the sensor and its cable",
    "queue was full": "answer less often (--hop), or on a faster machine",
    "engine failed|the model's answer": "choose another engine (--backend), and run mmkd-doctor",
    "samples are there": "let it run for longer than a window, and send without pauses of that length",
}
"""What to do about a reason that contains these words."""


def summary_lines(facts: RunFacts) -> Iterator[str]:
    """Yield lines per station and sink, then what makes the answers worthless."""
    for station in facts.stations:
        yield from _station_lines(station)
    for sink in facts.sinks:
        line = f"{sink.sink}: {sink.written:,} records written"
        line += f", {sink.dropped:,} dropped" if sink.dropped else ""
        line += f", {sink.waiting:,} wait" if sink.waiting else ""
        yield line + (f"; failed {sink.failures} times, last: {sink.fault}" if sink.fault else "")
    for station in facts.stations:
        if station.unlike_training:
            yield f"{station.station}: {station.unlike_training}"
        yield from reason_lines(station)


def reason_lines(facts: StationFacts) -> Iterator[str]:
    """Yield why most results, or all samples, are of no use."""
    count, good = sum(facts.results.values()), facts.results.get("ok", 0) + facts.results.get("unknown", 0)
    if not count and not facts.unconnected:
        garbage = f", and {facts.intake.garbage:,} messages or lines are no samples" * bool(facts.intake.garbage)
        yield f"{facts.station}: no result, since no sample came{garbage}; check the topic or file, and what it sends"
    if 2 * good >= count or not facts.reasons:
        return
    yield f"{facts.station}: {count - good:,} of {count:,} results are of no or limited use:"
    for reason, times in list(facts.reasons.items())[:_MAX_REASONS]:
        cures = [f"; {cure}" for words, cure in _CURES.items() if re.search(words, reason)]
        yield f"  {times:,} x {reason}" + "".join(cures[:1])


def never_connected(stations: Sequence[StationFacts]) -> UnavailableError | None:
    """Return an error if a source never connected."""
    reasons = [
        f"{station.station}: never connected in {station.running_s:.1f} s: {reason}"
        for station in stations
        for reason in station.unconnected
    ]
    return UnavailableError(f"{'; '.join(reasons)}; correct --source, or make it answer") if reasons else None


def _station_lines(facts: StationFacts) -> Iterator[str]:
    results = ", ".join(f"{count:,} {status}" for status, count in facts.results.items()) or "none"
    yield f"{facts.station}: {sum(facts.results.values()):,} results in {facts.running_s:.1f} s: {results}"
    intake, stream, latency = facts.intake, facts.stream, facts.latency
    counts = {
        "dropped": intake.dropped,
        "late": stream.late,
        "duplicate": stream.duplicates,
        "stray": stream.strays,
        "missed": facts.missed,
        "with times that cannot be trusted": facts.untrusted,
        "not answered": facts.faults,
        "no samples": intake.garbage,
    }
    losses = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
    yield f"  {intake.samples:,} samples{losses}" + (f"; {stream.restarts} restarts" if stream.restarts else "")
    if latency is not None:
        yield (
            f"  from arrival to result: {1000 * latency.p50_s:.2f} ms for half of them, "
            f"{1000 * latency.p99_s:.2f} ms for 99 %, {1000 * latency.max_s:.2f} ms at most"
        )
    if facts.uncertain is not None:
        dropped = f", {facts.uncertain.dropped:,} dropped" if facts.uncertain.dropped else ""
        yield f"  {facts.uncertain.kept:,} uncertain windows kept{dropped}"
    if facts.adaptation:
        yield f"  adaptation is due: {facts.adaptation}; record it anew, and see mmkd-adapt"
    if facts.alarms:
        yield "  alarms: " + ", ".join(f"{count} {label}" for label, count in facts.alarms.items())
    if facts.shadow is not None:
        shadow = facts.shadow
        yield (
            f"  shadow run of {shadow.new.model_id}: {shadow.verdict}; {shadow.agreed:,} of {shadow.answered:,} "
            f"answers agree, {shadow.changed_alarms} alarms change, {shadow.dropped:,} windows dropped"
        )


def lost_records(sinks: Sequence[OutletFacts]) -> UnavailableError | None:
    """Return an error if sinks lost records."""
    lost = [
        f"{sink.sink}: {sink.dropped:,} of {sink.written + sink.dropped + sink.waiting:,} records were lost"
        + (f": {sink.fault}" if sink.fault else "")
        for sink in sinks
        if sink.dropped
    ]
    advice = "make the sink work; --store FOLDER keeps records on disk while it does not"
    return UnavailableError(f"{'; '.join(lost)}; {advice}") if lost else None


def tuned_lines(tuned: Tuned, bundle: Path, *, hop: int | None, reference: Path | None) -> Iterator[str]:
    """Yield the rule's cost, and the command to run it."""
    yield f"alarm for {tuned.rule.label}: best rule with at most {tuned.most_per_hour:g} false alarms per hour"
    scores = {"test, an alarm for each result": tuned.before, "test, by the rule": tuned.on_test}
    for name, score in (scores | {"validation, by the rule": tuned.on_valid}).items():
        low, high = score.false_alarms_interval
        delay = "" if score.delay_s is None else f", after {score.delay_s:.1f} s (median)"
        yield (
            f"  {name}: {score.false_alarms} false alarm{'s' * (score.false_alarms != 1)} in "
            f"{score.normal_hours:.2f} h, {score.false_alarms_per_hour:.2f} per hour (95 % interval {low:.2f} to "
            f"{high:.2f}); {score.detected} of {score.recordings} recordings detected{delay}"
        )
    options: list[object] = ["--alarm", tuned.rule.label, "--confirm", tuned.rule.confirm]
    options += ["--release", tuned.rule.release, "--cooldown", f"{tuned.rule.cooldown_s:g}s"]
    options += ["--min-probability", f"{tuned.rule.min_probability:g}"]
    options += [] if hop is None else ["--hop", hop]  # a rule counts results
    options += ["--single-answers"] if tuned.single_answers else []
    options += [] if reference is None else ["--reference", reference]
    yield "next: " + shell_line("mmkd-run", bundle, "--source", "SOURCE", *options)
