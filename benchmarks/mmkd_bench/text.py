"""Figures with units, and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mmkd_report.schema.bench import (
    BenchReport,
    CapacityReport,
    Clocks,
    LatencySummary,
    MachineFacts,
    Percentile,
    RepeatSpread,
)


def duration_text(microseconds: float | None) -> str:
    """Write a duration with three significant digits; empty for None.

    >>> [duration_text(value) for value in (0.339, 12.345, 999.7, 1234.5, 2.5e6)]
    ['0.339 µs', '12.3 µs', '1.00 ms', '1.23 ms', '2.50 s']
    """
    if microseconds is None:
        return ""
    for unit, size in (("µs", 1.0), ("ms", 1e3), ("s", 1e6)):
        text = significant(microseconds / size)
        if float(text) < 1000:
            return f"{text} {unit}"
    return f"{microseconds / 1e6:.0f} s"


def significant(value: float) -> str:
    """Write three significant digits without an exponent.

    >>> [significant(value) for value in (0.0, 0.01234, 9.996, 123.4, 98765.0)]
    ['0', '0.0123', '10.0', '123', '98765']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(float(f"{value:.2e}"))))
    return f"{value:.{max(0, 2 - magnitude)}f}"


def size_text(size_bytes: float) -> str:
    """Write a byte count."""
    return f"{significant(size_bytes / 1e3)} kB" if size_bytes < 1e6 else f"{significant(size_bytes / 1e6)} MB"


def percentile_text(entry: Percentile, count: int) -> str:
    """Write the percentile, or how many samples it lacks."""
    if entry.value_us is None:
        return f"needs {entry.floor:,} samples, has {count:,}"
    return duration_text(entry.value_us)


def subject_text(report: BenchReport) -> str:
    """Write what was measured."""
    how, subject = report.configuration, report.subject
    parts = [subject.bundle, subject.modality, how.precision, how.backend, plural(how.threads, "thread")]
    if how.clients > 1:
        parts.append(plural(how.clients, "sensor" if how.hop is not None else "client"))
    if how.batch > 1:
        parts.append(f"batches of {how.batch}")
    if how.hop is not None:
        parts.append(f"stream, hop {how.hop}")
    each = " each" if how.clients > 1 else ""
    pace = "calls back to back" if how.rate_hz is None else f"{how.rate_hz:g} calls per second{each}"
    return " · ".join([*parts, pace])


def machine_text(machine: MachineFacts) -> str:
    """Write the machine in one line."""
    quota, limit_mb = machine.cpu_quota, machine.memory_limit_mb
    parts = [
        machine.name,
        plural(machine.usable_cores, "core"),
        *([] if quota is None else [f"limited to {significant(quota)} cores' time"]),
        *([] if limit_mb is None else [f"limited to {significant(limit_mb)} MB"]),
        *([f"governor {machine.governors[0]}"] if machine.governors else []),
        *([f"power mode {machine.power_mode}"] if machine.power_mode else []),
        *([_clocks_text(machine.clocks)] if machine.clocks else []),
        *machine.gpus,
        *(["virtual machine"] if machine.virtual else []),
        *(["container"] if machine.container else []),
        machine.os,
        f"Python {machine.python}",
        *(f"{name} {version}" for name, version in machine.versions.items() if name in ("mmkd-edge", "onnxruntime")),
    ]
    return " · ".join(parts)


def _clocks_text(clocks: Clocks) -> str:
    if not clocks.moving:
        return "clocks held"
    more = f" and {len(clocks.moving) - 1} more" if len(clocks.moving) > 1 else ""
    return f"clocks move ({clocks.moving[0]}{more})"


def duration_lines(report: BenchReport) -> list[str]:
    """Return advice on the duration if percentiles lack samples."""
    latency, duration_s = report.result.latency, report.configuration.duration_s
    missing = [entry for entry in latency.percentiles if entry.value_us is None]
    if not missing or not report.complete:
        return []
    seconds = math.ceil(1.1 * duration_s * missing[-1].floor / latency.count)
    return [f"enough for {missing[-1].name} at this pace: --duration-s {seconds}"]


def stability_lines(report: BenchReport) -> list[str]:
    """Write steadiness and disturbances."""
    stability = report.stability
    lines = [f"unstable: {finding}" for finding in stability.findings] or ["stable: all parts agree within 10 %"]
    lines += [f"at the same time: {sentence}" for sentence in stability.disturbances]
    if stability.findings and not stability.disturbances:
        lines.append("the machine's counters show no cause")
    return lines


def fact_rows(report: BenchReport) -> Iterator[tuple[str, str]]:
    """Yield figures other than latency."""
    result, subject, energy, how = report.result, report.subject, report.energy, report.configuration
    yield "load", duration_text(1e3 * result.load_ms)
    yield "first call", duration_text(1e3 * result.first_call_ms)
    yield "import", duration_text(1e3 * result.import_ms)
    yield "throughput", f"{significant(result.throughput_hz)} predictions per second"
    yield "CPU", f"{result.cpu_cores:.1%} of a core"
    yield "memory", f"{significant(result.rss_mb)} MB resident, peak {significant(result.rss_peak_mb)} MB"
    missing = f"not measured: {result.gpu_note}" if result.gpu_note else "not measured"
    yield "GPU memory", missing if result.gpu_memory_mb is None else f"{significant(result.gpu_memory_mb)} MB"
    yield "artifact", f"{size_text(subject.artifact_size_bytes)}, {subject.parameters:,} parameters"
    if energy is None:
        yield "energy", f"not measured: {report.energy_note}"
    else:
        powers = f"{significant(energy.load_mw)} mW, idle {significant(energy.idle_mw)} mW; {energy.sensor}"
        yield "energy", f"{significant(energy.above_idle_mj)} mJ above idle per prediction ({powers})"
    before = report.launches[0].interference.celsius_before
    after = report.launches[-1].interference.celsius_after
    if before is not None and after is not None:
        yield "temperature", f"{before:.0f} °C before, {after:.0f} °C after, of the hottest zone"
    if how.hop is not None:
        hops_hz = subject.rate_hz / how.hop
        share = result.cpu_cores / result.throughput_hz * hops_hz
        yield "real time", f"{significant(hops_hz)} hops per second of one sensor, {share:.2%} of a core"
    pace = result.pace
    if pace is not None and how.deadline_ms is not None:
        missed, count = pace.missed, pace.response.count
        yield "response", f"{_median_and_tail(pace.response)} after the scheduled time"
        yield "wake-up", f"{_median_and_tail(pace.lateness)} after the scheduled time"
        yield "missed", f"{missed:,} of {count:,} deadlines of {how.deadline_ms:g} ms ({missed / count:.2%})"


def _median_and_tail(summary: LatencySummary) -> str:
    parts = [
        f"{entry.name} {duration_text(entry.value_us)}"
        for entry in summary.percentiles
        if entry.quantile in (0.5, 0.99) and entry.value_us is not None
    ]
    return ", ".join([*parts, f"max {duration_text(summary.max_us)}"])


def carried_text(report: CapacityReport) -> str:
    """Write the capacity."""
    if report.settled:
        return plural(report.streams, "stream") if report.streams else "not carried"
    end = f"the budget of {report.budget_s:g} s was over"
    if report.streams:
        return f"at least {plural(report.streams, 'stream')}, {end}"
    if not report.estimate:
        return f"not known, {end}"
    return f"not known, {end}; {plural(report.estimate, 'stream')} in short loads that do not count"


def ratio_text(second: str, first: str, ratio: RepeatSpread) -> str:
    """Write how many times as fast the second is, if all repeats agree."""
    spread = f"{significant(ratio.min)} to {significant(ratio.max)} over {plural(ratio.repeats, 'repeat')}"
    if ratio.repeats == 1:
        spread = "one repeat, no spread"
    if ratio.min <= 1 <= ratio.max:
        return f"{second} and {first} are equally fast within noise ({spread})"
    return f"{second} is {significant(ratio.median)} times as fast as {first} ({spread})"


def value_text(value: float | None, unit: str) -> str:
    """Write a value in its unit."""
    if value is None:
        return "not measured"
    if unit in ("µs", "ms"):
        return duration_text(value if unit == "µs" else 1e3 * value)
    return size_text(value) if unit == "bytes" else f"{significant(value)} {unit}"


def plural(count: int, word: str, several: str | None = None) -> str:
    """Write a count with its word; `several` is an irregular plural."""
    return f"{count} {word}" if count == 1 else f"{count} {several or word + 's'}"
