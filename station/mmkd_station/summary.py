"""What a run did, in a few lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmkd_edge.errors import UnavailableError
from mmkd_station.service import RunFacts
from mmkd_station.sinks.outlet import OutletFacts
from mmkd_station.station import StationFacts


def summary_lines(facts: RunFacts) -> Iterator[str]:
    """The lines: three for each station, one for each sink; at the end what makes the answers worthless."""
    for station in facts.stations:
        yield from _station_lines(station)
    for sink in facts.sinks:
        yield _sink_line(sink)
    for station in facts.stations:
        if station.unlike_training:
            yield f"{station.station}: {station.unlike_training}"


def lost_records(sinks: Sequence[OutletFacts]) -> UnavailableError | None:
    """The error with which a run ends whose sinks did not take every record; None where they did."""
    lost = [
        f"{sink.sink}: {sink.dropped:,} of {sink.written + sink.dropped + sink.waiting:,} records were lost"
        + (f": {sink.fault}" if sink.fault else "")
        for sink in sinks
        if sink.dropped
    ]
    advice = "make the sink work; --store FOLDER keeps records on disk while it does not"
    return UnavailableError(f"{'; '.join(lost)}; {advice}") if lost else None


def _station_lines(facts: StationFacts) -> Iterator[str]:
    results = ", ".join(f"{count:,} {status}" for status, count in facts.results.items()) or "none"
    yield f"{facts.station}: {sum(facts.results.values()):,} results in {facts.running_s:.1f} s: {results}"
    intake, stream = facts.intake, facts.stream
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
    said = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
    yield f"  {intake.samples:,} samples{said}" + (f"; {stream.restarts} restarts" if stream.restarts else "")
    if facts.latency is not None:
        latency = facts.latency
        yield (
            f"  from arrival to result: {1000 * latency.p50_s:.2f} ms for half of them, "
            f"{1000 * latency.p99_s:.2f} ms for 99 %, {1000 * latency.max_s:.2f} ms at most"
        )
    if facts.uncertain is not None:
        kept = facts.uncertain
        said = f", {kept.dropped:,} dropped" if kept.dropped else ""
        yield f"  {kept.kept:,} uncertain windows kept{said}"
    if facts.adaptation:
        yield f"  adaptation is due: {facts.adaptation}; record it anew, and see mmkd-adapt"
    if facts.alarms:
        yield "  alarms: " + ", ".join(f"{count} {label}" for label, count in facts.alarms.items())


def _sink_line(facts: OutletFacts) -> str:
    said = f"{facts.sink}: {facts.written:,} records written"
    said += f", {facts.dropped:,} dropped" if facts.dropped else ""
    said += f", {facts.waiting:,} wait" if facts.waiting else ""
    return said + (f"; failed {facts.failures} times, last: {facts.fault}" if facts.fault else "")
