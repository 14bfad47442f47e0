"""The page of one or several benchmark runs: what a buyer reads before a device is bought.

Owns which figures stand where and how they are put into words; geometry is in `charts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd_report.charts.plots import LineChart
from mmkd_report.documents.bench import BenchReport, MachineFacts, read_bench
from mmkd_report.errors import DocumentError
from mmkd_report.pages.bench.charts import (
    Distribution,
    StageBar,
    device_panel,
    distribution,
    stage_bars,
    time_text,
    timeline,
    timeline_unit,
)
from mmkd_report.pages.page import render_page
from mmkd_report.words.formats import NOTHING, count, fixed, magnitude, percent, significant, with_unit

MOST_RUNS = 12
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run, written."""

    name: str
    manner: str
    percentiles: tuple[tuple[str, str, str], ...]
    distribution: Distribution | None
    timeline: LineChart | None
    timeline_unit: str
    stages: tuple[StageBar, ...]
    figures: tuple[tuple[str, str], ...]
    energy: tuple[tuple[str, str], ...]
    steadiness: tuple[str, ...]
    stable: bool
    device: tuple[tuple[str, str], ...]
    subject: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Lead:
    """What the fastest run's median differs by from the next one's, as `mmkd-bench compare` judges it.

    `low` and `high` are the 95 % interval of the change, a fraction: below 0 it is faster.
    """

    is_certain: bool
    low: float
    high: float


def render_bench(documents: Sequence[Mapping[str, Any]], *, lead: Lead | None = None) -> str:
    """The page of benchmark runs as HTML: one file without scripts or requests, for light, dark and paper.

    Args:
        documents: What `mmkd-bench run --json` printed, one per run; the first is told in the answer, and several are
            held beside each other.
        lead: Of several, how certain it is that the one of the smallest median is faster than the next, see
            `fastest_two`; None where that could not be judged.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: A document breaks its contract, or there is none, or more than a page can hold.
    """
    if not 1 <= len(documents) <= MOST_RUNS:
        raise DocumentError(
            f"benchmark page: expected 1 to {MOST_RUNS} documents, got {len(documents)}; choose some, or make the "
            "page of a fleet (mmkd-bench page --fleet)"
        )
    runs = [read_bench(document) for document in documents]
    names = run_names(runs)
    first = runs[0]
    return render_page(
        "bench.html.j2",
        {
            "first": first,
            "names": names,
            "question": "How fast is it?" if len(runs) == 1 else "Which is faster?",
            "answer": _answer(runs, names, lead),
            "caution": _caution(runs, names),
            "key_figures": _key_figures(first),
            "runs": [_view(run, name) for run, name in zip(runs, names, strict=True)],
            "devices": device_panel(runs, names) if len(runs) > 1 else None,
            "rows": [_row(run, name) for run, name in zip(runs, names, strict=True)],
        },
    )


def run_names(runs: Sequence[BenchReport]) -> list[str]:
    """A name for each run: what tells it from the others, else the device."""
    parts = [_name_parts(run) for run in runs]
    kept = [number for number in range(len(parts[0])) if len({one[number] for one in parts}) > 1] or [0]
    names = [", ".join(one[number] for number in kept if one[number]) for one in parts]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: number + 1].count(name)})"
        for number, name in enumerate(names)
    ]


def _name_parts(run: BenchReport) -> tuple[str, ...]:
    how = run.configuration
    return (
        run.machine.name,
        run.machine.power_mode or "",
        run.subject.model,
        run.subject.modality,
        how.backend,
        how.precision,
        f"{how.threads} threads" if how.threads > 1 else "1 thread",
        "1 caller" if how.clients == 1 else f"{how.clients} callers",
        f"batch {how.batch}" if how.batch > 1 else "",
        f"hop {how.hop}" if how.hop is not None else "",
        f"{how.rate_hz:g} per second" if how.rate_hz is not None else "back to back",
    )


def manner_text(run: BenchReport) -> str:
    """How the calls of a run were made."""
    how = run.configuration
    call = "a hop of samples" if how.hop is not None else f"{how.batch} windows" if how.batch > 1 else "a window"
    each = " each" if how.clients > 1 else ""
    pace = "back to back" if how.rate_hz is None else f"{how.rate_hz:g} times per second{each}"
    parts = [f"one call is {call}", pace, f"{how.precision} on {how.backend}", f"{how.threads} thread(s) per call"]
    if how.clients > 1:
        parts.append(f"{how.clients} callers at once")
    return ", ".join(parts).replace("1 thread(s)", "1 thread").replace("thread(s)", "threads")


def _answer(runs: Sequence[BenchReport], names: Sequence[str], lead: Lead | None) -> list[str]:
    first = runs[0]
    if len(runs) > 1:
        return [_fastest(runs, names, lead)]
    latency = first.result.latency
    median = time_text(latency.value_us(0.5))
    sentence = f"{first.machine.name} answers in {median} at the median of {count(latency.count)} calls"
    tail = next(
        (one for quantile in (0.99, 0.95, 0.9) if (one := latency.percentile(quantile)) and one.value_us is not None),
        None,
    )
    if tail is not None:
        bound = "" if tail.upper_us is None else f", with 99 % confidence at most {time_text(tail.upper_us)}"
        sentence += f", and {100 * tail.quantile:g} of 100 calls within {time_text(tail.value_us)}{bound}"
    found = [sentence + "."]
    pace = first.result.pace
    if pace is not None and first.configuration.deadline_ms is not None:
        missed = "No" if pace.missed == 0 else f"{count(pace.missed)} of {count(pace.response.count)}"
        found.append(f"{missed} deadlines of {first.configuration.deadline_ms:g} ms were missed.")
    return found


def fastest_two(medians_us: Sequence[float | None]) -> tuple[int, int] | None:
    """The numbers of the run with the smallest median and of the next one; None below two medians."""
    timed = sorted((value, number) for number, value in enumerate(medians_us) if value is not None)
    return None if len(timed) < 2 else (timed[0][1], timed[1][1])


def _fastest(runs: Sequence[BenchReport], names: Sequence[str], lead: Lead | None) -> str:
    medians = [run.result.latency.value_us(0.5) for run in runs]
    two = fastest_two(medians)
    if two is None:
        return "Too few samples to say: a median needs eleven calls."
    best, second = two
    shown = f"{time_text(medians[best])} at the median"
    if lead is None:
        return (
            f"{names[best]} has {shown}, {names[second]} {time_text(medians[second])}; whether that is more than noise "
            "is not known, since a comparison needs five complete launches of each."
        )
    span = f"95 % interval of the change {fixed(100 * lead.low)} to {fixed(100 * lead.high)}\u202f%"
    beside = f"{names[second]} {time_text(medians[second])} ({span})."
    if lead.is_certain:
        return f"{names[best]} is the fastest: {shown}, {beside}"
    return f"{names[best]} and {names[second]} are equally fast within noise: {names[best]} {shown}, {beside}"


def _caution(runs: Sequence[BenchReport], names: Sequence[str]) -> str:
    shaky = [name for run, name in zip(runs, names, strict=True) if not run.stability.stable or not run.complete]
    bundles = {run.subject.sha256 for run in runs}
    sentences = []
    if shaky:
        sentences.append(
            f"Unstable or interrupted: {'; '.join(shaky)}. Measure again on a machine that does nothing else "
            "before you decide by these figures."
        )
    if len(bundles) > 1:
        sentences.append("The runs measured different bundles: they differ in more than the device.")
    return " ".join(sentences)


def _key_figures(run: BenchReport) -> list[tuple[str, str]]:
    result, energy = run.result, run.energy
    return [
        (time_text(result.latency.value_us(0.5)), "at the median"),
        (time_text(result.latency.value_us(0.99)), "in 99 of 100 calls"),
        (magnitude(result.throughput_hz), "predictions per second"),
        (with_unit(significant(result.rss_mb), "MB"), "memory of the process"),
        (
            (NOTHING, "energy: not measured")
            if energy is None
            else (with_unit(significant(energy.above_idle_mj), "mJ"), "per prediction, above idle")
        ),
    ]


def _view(run: BenchReport, name: str) -> RunView:
    return RunView(
        name=name,
        manner=manner_text(run),
        percentiles=_percentiles(run),
        distribution=distribution(run, name=name),
        timeline=timeline(run),
        timeline_unit=timeline_unit(run),
        stages=stage_bars(run),
        figures=_figures(run),
        energy=_energy(run),
        steadiness=(*run.stability.findings, *(f"beside it: {one}" for one in run.stability.disturbances)),
        stable=run.stability.stable,
        device=_device(run),
        subject=_subject(run),
    )


def _percentiles(run: BenchReport) -> tuple[tuple[str, str, str], ...]:
    latency = run.result.latency
    rows = [
        (
            f"p{100 * one.quantile:.10g}",
            time_text(one.value_us) if one.value_us is not None else f"needs {count(one.floor)} calls",
            time_text(one.upper_us),
        )
        for one in latency.percentiles
    ]
    return (*rows, ("largest", time_text(latency.max_us), time_text(None)))


def _figures(run: BenchReport) -> tuple[tuple[str, str], ...]:
    result = run.result
    gpu = f"not measured: {result.gpu_note}" if result.gpu_note else "not measured"
    rows = [
        ("load", time_text(1e3 * result.load_ms)),
        ("first call", time_text(1e3 * result.first_call_ms)),
        ("import", time_text(1e3 * result.import_ms)),
        ("throughput", f"{significant(result.throughput_hz)} predictions per second"),
        ("CPU", with_unit(percent(result.cpu_share), "%") + " of a core"),
        ("memory", f"{significant(result.rss_mb)} MB, peak {significant(result.rss_peak_mb)} MB"),
        ("GPU memory", gpu if result.gpu_memory_mb is None else with_unit(significant(result.gpu_memory_mb), "MB")),
    ]
    pace = result.pace
    if pace is not None:
        rows += [
            ("response", f"p50 {time_text(pace.response.value_us(0.5))}, largest {time_text(pace.response.max_us)}"),
            ("wake-up", f"p50 {time_text(pace.lateness.value_us(0.5))}, largest {time_text(pace.lateness.max_us)}"),
            ("missed deadlines", f"{count(pace.missed)} of {count(pace.response.count)}"),
        ]
    return tuple(rows)


def _energy(run: BenchReport) -> tuple[tuple[str, str], ...]:
    energy = run.energy
    if energy is None:
        return (("energy", f"not measured: {run.energy_note}"),)
    return (
        ("per prediction", with_unit(significant(energy.above_idle_mj), "mJ") + " above idle"),
        ("under load", with_unit(significant(energy.load_mw / 1e3), "W")),
        ("at rest", with_unit(significant(energy.idle_mw / 1e3), "W")),
        ("sensor", f"{energy.sensor}, {count(energy.readings)} readings under load"),
    )


def _device(run: BenchReport) -> tuple[tuple[str, str], ...]:
    machine = run.machine
    clocks = machine.clocks
    rows = [
        ("device", machine.name),
        ("processor", machine.cpu),
        ("cores", f"{machine.usable_cores} of {machine.cores} usable"),
        ("memory", with_unit(significant(machine.memory_mb / 1024), "GB")),
        *_limits(machine),
        *_temperatures(run),
        *[("GPU", name) for name in machine.gpus],
        ("governor", ", ".join(machine.governors) or "not shown"),
        ("clocks", "not shown" if clocks is None else "; ".join(clocks.moving) or f"held ({clocks.source})"),
        *([("power mode", machine.power_mode)] if machine.power_mode else []),
        ("virtual machine", "yes" if machine.virtual else "no"),
        ("container", "yes" if machine.container else "no"),
        ("system", f"{machine.os}, Python {machine.python}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
    ]
    return tuple(rows)


def _limits(machine: MachineFacts) -> list[tuple[str, str]]:
    """What a control group allows."""
    quota, limit_mb = machine.cpu_quota, machine.memory_limit_mb
    limits = [] if quota is None else [f"{significant(quota)} cores' time"]
    limits += [] if limit_mb is None else [with_unit(significant(limit_mb), "MB")]
    return [("limited to", ", ".join(limits))] if limits else []


def _temperatures(run: BenchReport) -> list[tuple[str, str]]:
    """The hottest zone before the first launch and after the last."""
    if not run.launches:
        return []
    before, after = run.launches[0].interference.celsius_before, run.launches[-1].interference.celsius_after
    if before is None or after is None:
        return []
    return [("hottest zone", f"{with_unit(f'{before:.0f}', '°C')} before, {with_unit(f'{after:.0f}', '°C')} after")]


def _subject(run: BenchReport) -> tuple[tuple[str, str], ...]:
    subject, how = run.subject, run.configuration
    return (
        ("bundle", subject.bundle),
        (
            "student",
            f"{subject.model}: {subject.modality}, {significant(subject.window_s)} s at {subject.rate_hz:g} Hz",
        ),
        ("parameters", count(subject.parameters)),
        ("artifact", f"{subject.artifact}, {significant(subject.artifact_size_bytes / 1e3)} kB"),
        ("launches", f"{len(run.launches)} of {how.launches}, {how.duration_s:g} s together"),
        ("begun", run.created_utc),
        ("SHA-256", subject.sha256),
    )


def _row(run: BenchReport, name: str) -> tuple[str, ...]:
    result, energy = run.result, run.energy
    return (
        name,
        *(time_text(result.latency.value_us(quantile)) for quantile in QUANTILES),
        magnitude(result.throughput_hz),
        with_unit(significant(result.rss_mb), "MB"),
        "not measured" if energy is None else with_unit(significant(energy.above_idle_mj), "mJ"),
        "yes" if run.stability.stable else "no",
    )
