"""What a run did, in a few lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_edge.live.service import RunFacts
from mmkd_edge.live.sinks.outlet import OutletFacts
from mmkd_edge.live.station import StationFacts


def summary_lines(facts: RunFacts) -> Iterator[str]:
    """The lines: three for each station, one for each sink."""
    for station in facts.stations:
        yield from _station_lines(station)
    for sink in facts.sinks:
        yield _sink_line(sink)


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
