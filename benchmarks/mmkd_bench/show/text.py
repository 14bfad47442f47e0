"""Reports in words: figures with their units, and sentences. Prints nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mmkd_report.schema.bench import (
    BenchReport,
    Clocks,
    LatencySummary,
    MachineFacts,
    Percentile,
)

if TYPE_CHECKING:
    from mmkd_report.schema.bench_others import CapacityReport, PlanReport, RepeatSpread, TeacherReport


def duration_text(microseconds: float) -> str:
    """A length of time with three significant digits.

    >>> [duration_text(value) for value in (0.339, 12.345, 999.7, 1234.5, 2.5e6)]
    ['0.339 µs', '12.3 µs', '1.00 ms', '1.23 ms', '2.50 s']
    """
    for unit, size in (("µs", 1.0), ("ms", 1e3), ("s", 1e6)):
        text = significant(microseconds / size)
        if float(text) < 1000:
            return f"{text} {unit}"
    return f"{microseconds / 1e6:.0f} s"


def significant(value: float) -> str:
    """Three significant digits without an exponent.

    >>> [significant(value) for value in (0.0, 0.01234, 9.996, 123.4, 98765.0)]
    ['0', '0.0123', '10.0', '123', '98765']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(float(f"{value:.2e}"))))
    return f"{value:.{max(0, 2 - magnitude)}f}"


def size_text(size_bytes: float) -> str:
    """A number of bytes.

    >>> size_text(59_900), size_text(2_500_000)
    ('59.9 kB', '2.50 MB')
    """
    return f"{significant(size_bytes / 1e3)} kB" if size_bytes < 1e6 else f"{significant(size_bytes / 1e6)} MB"


def percentile_text(entry: Percentile, count: int) -> str:
    """The percentile, or how many samples it lacks."""
    if entry.value_us is None:
        return f"needs {entry.floor:,} samples, has {count:,}"
    return duration_text(entry.value_us)


def subject_text(report: BenchReport) -> str:
    """What was measured, in one line."""
    configuration, subject = report.configuration, report.subject
    each = " each" if configuration.clients > 1 else ""
    manner = "calls back to back"
    if configuration.rate_hz is not None:
        manner = f"{configuration.rate_hz:g} calls per second{each}"
    taken = [
        *([f"batches of {configuration.batch}"] if configuration.batch > 1 else []),
        *([f"stream, hop {configuration.hop}"] if configuration.hop is not None else []),
        *([f"times with jitter {configuration.jitter:g}"] if configuration.jitter is not None else []),
    ]
    callers = "sensor" if configuration.hop is not None else "client"
    parts = [
        subject.bundle,
        subject.modality,
        configuration.precision,
        configuration.backend,
        plural(configuration.threads, "thread"),
        *([plural(configuration.clients, callers)] if configuration.clients > 1 else []),
        *taken,
        manner,
    ]
    return " · ".join(parts)


def machine_text(report: BenchReport) -> str:
    """What it ran on, in one line."""
    machine = report.machine
    parts = [
        machine.board or machine.cpu,
        plural(machine.usable_cores, "core"),
        *limit_texts(machine),
        *([f"governor {machine.governors[0]}"] if machine.governors else []),
        *([f"power mode {machine.power_mode}"] if machine.power_mode else []),
        *([clocks_text(machine.clocks)] if machine.clocks else []),
        *machine.gpus,
        *(["virtual machine"] if machine.virtual else []),
        *(["container"] if machine.container else []),
        machine.os,
        f"Python {machine.python}",
        *(f"{name} {version}" for name, version in machine.versions.items() if name in ("mmkd-edge", "onnxruntime")),
    ]
    return " · ".join(parts)


def limit_texts(machine: MachineFacts) -> list[str]:
    """What the control group allows, where it limits anything."""
    found = [] if machine.cpu_quota is None else [f"limited to {significant(machine.cpu_quota)} cores' time"]
    limit_mb = machine.memory_limit_mb
    return found if limit_mb is None else [*found, f"limited to {significant(limit_mb)} MB"]


def longer_lines(report: BenchReport) -> list[str]:
    """How long a run has to be for the percentiles that it has too few samples for."""
    latency, configuration = report.result.latency, report.configuration
    missing = [entry for entry in latency.percentiles if entry.value_us is None]
    if not missing or not report.complete:
        return []
    seconds = math.ceil(1.1 * configuration.duration_s * missing[-1].floor / latency.count)
    return [f"enough for {missing[-1].name} at this pace: --duration-s {seconds}"]


def clocks_text(clocks: Clocks) -> str:
    """Whether clocks are held.

    >>> clocks_text(Clocks(source="kernel", moving=("cpu0 800 to 3000 MHz", "cpu1 800 to 3000 MHz")))
    'clocks move (cpu0 800 to 3000 MHz and 1 more)'
    """
    if not clocks.moving:
        return "clocks held"
    more = f" and {len(clocks.moving) - 1} more" if len(clocks.moving) > 1 else ""
    return f"clocks move ({clocks.moving[0]}{more})"


def stability_lines(report: BenchReport) -> list[str]:
    """Whether the figures held still, and what disturbed them."""
    stability = report.stability
    lines = [f"unstable: {finding}" for finding in stability.findings] or ["stable: all parts agree within 10 %"]
    lines += [f"beside it: {sentence}" for sentence in stability.disturbances]
    if stability.findings and not stability.disturbances:
        lines.append("beside it: the machine's counters show no cause")
    return lines


def energy_text(report: BenchReport) -> str:
    """Energy of one prediction, or why there is none."""
    energy = report.energy
    if energy is None:
        return f"not measured: {report.energy_note}"
    return (
        f"{significant(energy.above_idle_mj)} mJ above idle per prediction "
        f"({significant(energy.load_mw)} mW, idle {significant(energy.idle_mw)} mW; {energy.sensor})"
    )


def fact_rows(report: BenchReport) -> list[tuple[str, str]]:
    """Figures beside the latency, name and value."""
    result, subject = report.result, report.subject
    rows = [
        ("load", duration_text(1e3 * result.load_ms)),
        ("first call", duration_text(1e3 * result.first_call_ms)),
        ("import", duration_text(1e3 * result.import_ms)),
        ("throughput", f"{significant(result.throughput_hz)} predictions per second"),
        ("CPU", f"{result.cpu_share:.1%} of a core"),
        ("memory", f"{significant(result.rss_mb)} MB resident, peak {significant(result.rss_peak_mb)} MB"),
        ("GPU memory", gpu_memory_text(report)),
        ("artifact", f"{size_text(subject.artifact_size_bytes)}, {subject.parameters:,} parameters"),
        ("energy", energy_text(report)),
    ]
    return rows + _temperature_rows(report) + _stream_rows(report) + _pace_rows(report)


def _temperature_rows(report: BenchReport) -> list[tuple[str, str]]:
    before = report.launches[0].interference.celsius_before
    after = report.launches[-1].interference.celsius_after
    if before is None or after is None:
        return []
    return [("temperature", f"{before:.0f} °C before, {after:.0f} °C after, of the hottest zone")]


def gpu_memory_text(report: BenchReport) -> str:
    """Memory on GPUs, or why there is none."""
    result = report.result
    if result.gpu_memory_mb is None:
        return f"not measured: {result.gpu_note}" if result.gpu_note else "not measured"
    return f"{significant(result.gpu_memory_mb)} MB"


def _stream_rows(report: BenchReport) -> list[tuple[str, str]]:
    """How much of a core the measured stream needs at the pace of its sensor."""
    hop = report.configuration.hop
    if hop is None:
        return []
    hops_hz = report.subject.rate_hz / hop
    share = report.result.cpu_share / report.result.throughput_hz * hops_hz
    return [("real time", f"{significant(hops_hz)} hops per second of one sensor, {share:.2%} of a core")]


def _pace_rows(report: BenchReport) -> list[tuple[str, str]]:
    pace, deadline_ms = report.result.pace, report.configuration.deadline_ms
    if pace is None or deadline_ms is None:
        return []
    share = pace.missed / pace.response.count
    return [
        ("response", f"{_two(pace.response)} after the scheduled time"),
        ("wake-up", f"{_two(pace.lateness)} after the scheduled time"),
        ("missed", f"{pace.missed:,} of {pace.response.count:,} deadlines of {deadline_ms:g} ms ({share:.2%})"),
    ]


def _two(summary: LatencySummary) -> str:
    found = [
        f"{entry.name} {duration_text(entry.value_us)}"
        for entry in summary.percentiles
        if entry.quantile in (0.5, 0.99) and entry.value_us is not None
    ]
    return ", ".join([*found, f"max {duration_text(summary.max_us)}"])


def carried_text(report: CapacityReport) -> str:
    """The answer of capacity."""
    if report.settled:
        return plural(report.streams, "stream") if report.streams else "not carried"
    ended = f"the budget of {report.budget_s:g} s was over" if report.complete else "interrupted"
    if report.streams:
        return f"at least {plural(report.streams, 'stream')}, {ended}"
    if not report.estimate:
        return f"not known, {ended}"
    return f"not known, {ended}; {plural(report.estimate, 'stream')} in short loads that do not count"


def ratio_text(second: str, first: str, ratio: RepeatSpread) -> str:
    """How many times as fast one of two is as the other, where the repeats agree that it differs.

    Args:
        second: what the ratio is of.
        first: what it is compared with.
        ratio: first over second, repeat by repeat.
    """
    spread = f"{significant(ratio.min)} to {significant(ratio.max)} over {plural(ratio.repeats, 'repeat')}"
    if ratio.repeats == 1:
        spread = "one repeat, no spread"
    if ratio.min <= 1 <= ratio.max:
        return f"{second} and {first} are equally fast within noise ({spread})"
    return f"{second} is {significant(ratio.median)} times as fast as {first} ({spread})"


def model_text(report: PlanReport) -> str:
    """The model of a plan and how far it may be trusted."""
    if report.serial_share is None:
        return "no model: not every core count was measured"
    error = "unknown: this machine has one usable core" if report.error is None else f"{report.error:+.1%}"
    return f"serial share {report.serial_share:.3f}; the model's error at the largest measured count: {error}"


def spared_lines(report: TeacherReport) -> list[str]:
    """What the sensors cost that the student no longer needs."""
    spared = [sensor for sensor in report.sensors if not sensor.needed]
    if not spared:
        return ["the student needs every sensor of the teacher"]
    names = ", ".join(sensor.modality for sensor in spared)
    bytes_per_s = sum(sensor.bytes_per_s for sensor in spared)
    handling_us = sum(sensor.gather_us.median + sensor.front_end_us.median for sensor in spared)
    lines = [
        (
            f"no longer needed: {names}: {size_text(bytes_per_s)}/s to capture, move and keep, "
            f"{duration_text(handling_us)} of a core per prediction to gather and prepare"
        )
    ]
    given = [sensor.power_mw for sensor in spared if sensor.power_mw is not None]
    if given:
        milliwatts = sum(given)
        lines.append(
            f"their power, as given: {significant(milliwatts)} mW, "
            f"{significant(milliwatts * report.hop_s)} mJ per prediction"
        )
    unknown = [sensor.modality for sensor in spared if sensor.power_mw is None]
    if unknown:
        lines.append(f"power not measured and not given: {', '.join(unknown)}; say it with --sensor-mw NAME=MW")
    return lines


def value_text(value: float | None, unit: str) -> str:
    """A value in its unit."""
    if value is None:
        return "not measured"
    if unit == "µs":
        return duration_text(value)
    if unit == "ms":
        return duration_text(1e3 * value)
    if unit == "bytes":
        return size_text(value)
    return f"{significant(value)} {unit}"


def plural(count: int, word: str, several: str | None = None) -> str:
    """A count with its word; `several` where the plural is not the word with an s.

    >>> plural(1, "core"), plural(2, "core"), plural(2, "launch", "launches")
    ('1 core', '2 cores', '2 launches')
    """
    return f"{count} {word}" if count == 1 else f"{count} {several or word + 's'}"
