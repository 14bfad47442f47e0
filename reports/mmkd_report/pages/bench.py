"""The pages of `mmkd-bench`: one or several runs side by side, and a fleet of devices grouped."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd_report.charts import (
    Chart,
    DotPanel,
    DotRow,
    Line,
    axis,
    bar,
    draw_panels,
    line_chart,
    log_histogram,
    row_height,
)
from mmkd_report.errors import DocumentError
from mmkd_report.page import (
    Block,
    Cell,
    Columns,
    Facts,
    Heading,
    Heads,
    Page,
    Picture,
    Row,
    Section,
    Table,
    Text,
    label,
    render,
    table,
)
from mmkd_report.schema.bench import BenchReport, MachineFacts, read_bench
from mmkd_report.words import NOTHING, count, fixed, is_number, magnitude, percent, significant, with_unit

MOST_RUNS = 12
MOST_FLEET_RUNS = 10_000
MOST_ALERTS = 200
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
BUDGET_QUANTILE = 0.99
"""A budget is kept if 99 of 100 calls keep it."""
FOOTER = "Made by mmkd-edge from the documents of mmkd-bench run."


@dataclass(frozen=True, kw_only=True)
class Lead:
    """How much faster the fastest run is than the next, as `mmkd-bench compare` judges it.

    `low` and `high` are the 95 % interval of the change of the median, a fraction: below 0 is faster.
    """

    is_certain: bool
    low: float
    high: float


def time_text(microseconds: float | None) -> str:
    """Return a length of time in the unit that fits it.

    >>> time_text(339.4), time_text(12_345.0), time_text(None)
    ('339\u202fµs', '12.3\u202fms', '–')
    """
    if not is_number(microseconds):
        return NOTHING
    for unit, size in (("µs", 1.0), ("ms", 1e3)):
        if microseconds / size < 999.5:
            return with_unit(significant(microseconds / size), unit)
    return with_unit(significant(microseconds / 1e6), "s")


def render_bench(documents: Sequence[Mapping[str, Any]], *, lead: Lead | None = None) -> str:
    """Return the page of benchmark runs as HTML.

    Args:
        documents: What `mmkd-bench run --json` printed, one per run.
        lead: How certain it is that the run of the smallest median is faster than the next, see `fastest_two`; None
            if that could not be judged.

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
    named = list(zip(runs, names, strict=True))
    first, several = runs[0], len(runs) > 1
    caution = _caution(named)
    subject = first.subject
    size = f"{count(subject.parameters)} parameters"
    return render(
        Page(
            title=f"{subject.model} on {first.machine.name}{' and others' if several else ''}: benchmark",
            kind="benchmark",
            headline="Which is faster?" if several else "How fast is it?",
            lede=[
                (True, f"{subject.bundle}."),
                (
                    False,
                    f"{subject.modality}, windows of {significant(subject.window_s)} s, {size}; {manner_text(first)}.",
                ),
            ],
            answer=[_fastest(named, lead)] if several else _answer(first),
            cautions=[caution] if caution else [],
            key_figures=[(value, f"{text}, {names[0]}" if several else text) for value, text in _key_figures(first)],
            has_contents=True,
            sections=[
                *([_side_by_side(named)] if several else []),
                _distribution(named),
                _over_time(named),
                _stages(named),
                Section(
                    key="energy",
                    title="Energy and memory",
                    blocks=[
                        Columns(items=[[Facts(title=n, rows=_energy(r)), Facts(rows=_figures(r))] for r, n in named])
                    ],
                ),
                Section(
                    key="measured",
                    title="What was measured, on what",
                    link="What was measured",
                    blocks=[
                        Columns(items=[[Facts(title=n, rows=_subject(r)), Facts(rows=_device(r))] for r, n in named])
                    ],
                ),
            ],
            footer=FOOTER,
        )
    )


def run_names(runs: Sequence[BenchReport]) -> list[str]:
    """Return a name for each run: the settings that differ between the runs, else the device."""
    parts = [_name_parts(run) for run in runs]
    differing = [number for number in range(len(parts[0])) if len({one[number] for one in parts}) > 1] or [0]
    names = [", ".join(one[number] for number in differing if one[number]) for one in parts]
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
    """Return how the calls of a run were made, as part of a sentence."""
    how = run.configuration
    call = "a hop of samples" if how.hop is not None else f"{how.batch} windows" if how.batch > 1 else "a window"
    each = " each" if how.clients > 1 else ""
    pace = "back to back" if how.rate_hz is None else f"{how.rate_hz:g} times per second{each}"
    threads = "1 thread" if how.threads == 1 else f"{how.threads} threads"
    parts = [f"one call is {call}", pace, f"{how.precision} on {how.backend}", f"{threads} per call"]
    return ", ".join([*parts, f"{how.clients} callers at once"] if how.clients > 1 else parts)


def _answer(run: BenchReport) -> list[str]:
    latency, pace = run.result.latency, run.result.pace
    median = time_text(latency.value_us(0.5))
    sentence = f"{run.machine.name} answers in {median} at the median of {count(latency.count)} calls"
    tails = (latency.percentile(quantile) for quantile in (0.99, 0.95, 0.9))
    tail = next((one for one in tails if one and one.value_us is not None), None)
    if tail is not None:
        bound = "" if tail.upper_us is None else f", with 99 % confidence at most {time_text(tail.upper_us)}"
        sentence += f", and {100 * tail.quantile:g} of 100 calls within {time_text(tail.value_us)}{bound}"
    sentences = [f"{sentence}."]
    if pace is not None and run.configuration.deadline_ms is not None:
        missed = "No" if pace.missed == 0 else f"{count(pace.missed)} of {count(pace.response.count)}"
        sentences.append(f"{missed} deadlines of {run.configuration.deadline_ms:g} ms were missed.")
    return sentences


def fastest_two(medians_us: Sequence[float | None]) -> tuple[int, int] | None:
    """Return the numbers of the run with the smallest median and of the next one; None below two medians."""
    timed = sorted((value, number) for number, value in enumerate(medians_us) if value is not None)
    return None if len(timed) < 2 else (timed[0][1], timed[1][1])


def _fastest(named: Sequence[tuple[BenchReport, str]], lead: Lead | None) -> str:
    medians = [run.result.latency.value_us(0.5) for run, _ in named]
    two = fastest_two(medians)
    if two is None:
        return "Too few samples: a median needs eleven calls."
    (best, second), names = two, [name for _, name in named]
    shown = f"{time_text(medians[best])} at the median"
    if lead is None:
        return (
            f"{names[best]} has {shown}, {names[second]} {time_text(medians[second])}; whether the difference is "
            "significant is not known, since a comparison needs five complete launches of each."
        )
    span = f"95 % interval of the change {fixed(100 * lead.low)} to {fixed(100 * lead.high)}\u202f%"
    other = f"{names[second]} {time_text(medians[second])} ({span})."
    if lead.is_certain:
        return f"{names[best]} is the fastest: {shown}, {other}"
    return f"{names[best]} and {names[second]} do not differ significantly: {names[best]} {shown}, {other}"


def _caution(named: Sequence[tuple[BenchReport, str]]) -> str:
    shaky = [name for run, name in named if not is_steady(run)]
    sentences = []
    if shaky:
        sentences.append(
            f"Unstable or interrupted: {'; '.join(shaky)}. Measure again on a machine that does nothing else "
            "before you decide by these figures."
        )
    if len({run.subject.sha256 for run, _ in named}) > 1:
        sentences.append("The runs measured different bundles: they differ in more than the device.")
    return " ".join(sentences)


def _key_figures(run: BenchReport) -> list[tuple[str, str]]:
    result, energy = run.result, run.energy
    used = (NOTHING, "energy: not measured")
    if energy is not None:
        used = (with_unit(significant(energy.above_idle_mj), "mJ"), "per prediction, above idle")
    return [
        (time_text(result.latency.value_us(0.5)), "at the median"),
        (time_text(result.latency.value_us(0.99)), "in 99 of 100 calls"),
        (magnitude(result.throughput_hz), "predictions per second"),
        (with_unit(significant(result.rss_mb), "MB"), "memory of the process"),
        used,
    ]


def _side_by_side(named: Sequence[tuple[BenchReport, str]]) -> Section:
    values = [launch.latency.value_us(0.5) for run, _ in named for launch in run.launches]
    over = axis([0.0, *values, *(run.result.latency.value_us(0.5) for run, _ in named)], floor=0.0)
    rows = tuple(
        DotRow(
            role="student",
            name=name,
            mean=run.result.latency.value_us(0.5),
            text=time_text(run.result.latency.value_us(0.5)),
            dots=tuple(
                (value, f"launch {number}: {time_text(value)}")
                for number, launch in enumerate(run.launches, start=1)
                if (value := launch.latency.value_us(0.5)) is not None
            ),
        )
        for run, name in named
    )
    panel = DotPanel(
        title="p50, one dot per launch",
        description=f"Median latency: {'; '.join(f'{row.name} {row.text}' for row in rows)}.",
        rows=rows,
        over=over,
        tick_text=lambda value: time_text(value) if value else "0",
        row_height=row_height(row.name for row in rows),
    )
    heads: Heads = [label("Run"), "p50", "p90", "p95", "p99", "p99.9", "Per second", "Memory", "Energy"]
    cells = [
        Row(
            name,
            [
                *(time_text(run.result.latency.value_us(quantile)) for quantile in QUANTILES),
                magnitude(run.result.throughput_hz),
                with_unit(significant(run.result.rss_mb), "MB"),
                "not measured" if run.energy is None else with_unit(significant(run.energy.above_idle_mj), "mJ"),
                "yes" if run.stability.stable else "no",
            ],
        )
        for run, name in named
    ]
    caption = "Percentiles over all calls of a run. Energy is that of one prediction above idle."
    return Section(
        key="devices",
        title="Side by side",
        lead="One dot is the median of one launch, a process of its own; the bar is the median of all calls.",
        blocks=[
            Picture(draw_panels([panel], note="", named=True)),
            table([*heads, "Stable"], cells, caption=caption, style="results"),
        ],
    )


def _distribution(named: Sequence[tuple[BenchReport, str]]) -> Section:
    items: list[list[Block]] = []
    for run, name in named:
        latency = run.result.latency
        rows = [
            Row(
                f"p{100 * one.quantile:.10g}",
                [
                    time_text(one.value_us) if one.value_us is not None else f"needs {count(one.floor)} calls",
                    time_text(one.upper_us),
                ],
            )
            for one in latency.percentiles
        ]
        rows.append(Row("largest", [time_text(latency.max_us), NOTHING]))
        heads: Heads = [label("Latency"), "of one call", "at most"]
        caption = f"Percentiles of {name}"
        percentiles = table(heads, rows, caption=caption, style="compact", hide_caption=True)
        chart = latency_chart(run, name=name)
        items.append([Heading(name), *([] if chart is None else [Picture(chart)]), percentiles])
    return Section(
        key="distribution",
        title="Distribution",
        lead="All calls of a run. The time axis is logarithmic; heights grow with the root of the number of calls, so "
        "that the tail is visible. “At most” is the upper end of a 99 % confidence interval of the percentile.",
        blocks=[Columns(items=items, style="pareto")],
    )


def latency_chart(run: BenchReport, *, name: str) -> Chart | None:
    """Return the distribution of latencies with three percentiles marked; None if the document has no histogram."""
    histogram, latency = run.result.histogram, run.result.latency
    if histogram is None or not sum(histogram.counts):
        return None
    marks = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    known = [(label, value) for quantile, label in marks if (value := latency.value_us(quantile)) is not None]
    spoken = ", ".join(f"{label} {time_text(value)}" for label, value in known)
    return log_histogram(
        histogram.edges_us,
        histogram.counts,
        known,
        title=f"Distribution: {name}",
        description=f"{latency.count} calls: {spoken}, largest {time_text(latency.max_us)}.",
        text=time_text,
    )


def _over_time(named: Sequence[tuple[BenchReport, str]]) -> Section:
    items: list[list[Block]] = []
    for run, name in named:
        chart, unit = timeline(run)
        disturbances = (f"at the same time {one}" for one in run.stability.disturbances)
        sentences = [one[:1].upper() + one[1:] + "." for one in (*run.stability.findings, *disturbances)]
        verdict = "Stable." if run.stability.stable else "Unstable."
        drawn = [] if chart is None else [Picture(chart)]
        text = Text(" ".join([verdict, *sentences]), style="notes")
        items.append([Heading(f"{name}, {unit}"), *drawn, text])
    return Section(
        key="time",
        title="Over time",
        lead="The line is the median of a stretch of time, the band reaches to its p90; a gap is the step to the next "
        "process. A run is stable if thirds of launches, and launches, agree within 10 %.",
        blocks=[Columns(items=items)],
    )


def timeline(run: BenchReport) -> tuple[Chart | None, str]:
    """Return the median of each stretch of time with a band up to its p90, launch by launch, and the unit."""
    launch_s = run.configuration.duration_s / max(1, run.configuration.launches)
    lines = []
    for number, launch in enumerate(run.launches):
        parts = launch.windows
        if parts:
            middle = [window.p50_us for window in parts]
            x = [(number + (part + 0.5) / len(parts)) * launch_s for part in range(len(parts))]
            high = [window.p90_us for window in parts]
            lines.append(Line(role="student", name=f"launch {number + 1}", x=x, y=middle, low=middle, high=high))
    values = [value for one in lines for value in (*one.y, *one.high) if value is not None]
    if not values:
        return None, "µs"
    in_ms = max(values) >= 999.5
    medians = [value for one in lines for value in one.y if value is not None]
    first, last = min(x for one in lines for x in one.x), max(x for one in lines for x in one.x)
    spoken = f"run from {time_text(min(medians))} to {time_text(max(medians))}"
    chart = line_chart(
        lines,
        title="Latency over the run",
        description=f"Medians of {len(medians)} stretches of time {spoken}.",
        x_label="measured seconds, launch after launch",
        x_axis=axis([0.0, first, last, run.configuration.duration_s]),
        y_axis=axis([0.0, *values], floor=0.0),
        x_text=significant,
        y_text=lambda value: significant(value / 1e3) if in_ms else significant(value),
        caption="",
    )
    return chart, "ms" if in_ms else "µs"


def _stages(named: Sequence[tuple[BenchReport, str]]) -> Section:
    heads: Heads = [label("Step"), label("Bar", "wide", hidden=True), "p50", "p90"]
    items: list[list[Block]] = []
    for run, name in named:
        total = sum(stage.p50_us for stage in run.result.stages) or 1.0
        rows = [
            Row(
                stage.name,
                [
                    Cell(content=bar(round(100 * stage.p50_us / total, 2), "student")),
                    time_text(stage.p50_us),
                    time_text(stage.p90_us),
                ],
            )
            for stage in run.result.stages
        ]
        steps = table(heads, rows, caption=f"Steps of one call, {name}", style="stages", hide_caption=True)
        items.append([Heading(name), steps])
    lead = "The runtime's own steps, timed one after another after the calls themselves: median and p90."
    return Section(key="stages", title="Where the time goes", lead=lead, blocks=[Columns(items=items)])


def _energy(run: BenchReport) -> list[tuple[str, str]]:
    energy = run.energy
    if energy is None:
        return [("energy", f"not measured: {run.energy_note}")]
    return [
        ("per prediction", with_unit(significant(energy.above_idle_mj), "mJ") + " above idle"),
        ("under load", with_unit(significant(energy.load_mw / 1e3), "W")),
        ("at rest", with_unit(significant(energy.idle_mw / 1e3), "W")),
        ("sensor", f"{energy.sensor}, {count(energy.readings)} readings under load"),
    ]


def _figures(run: BenchReport) -> list[tuple[str, str]]:
    result, pace = run.result, run.result.pace
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
    if pace is not None:
        rows += [
            ("response", f"p50 {time_text(pace.response.value_us(0.5))}, largest {time_text(pace.response.max_us)}"),
            ("wake-up", f"p50 {time_text(pace.lateness.value_us(0.5))}, largest {time_text(pace.lateness.max_us)}"),
            ("missed deadlines", f"{count(pace.missed)} of {count(pace.response.count)}"),
        ]
    return rows


def _device(run: BenchReport) -> list[tuple[str, str]]:
    machine, clocks = run.machine, run.machine.clocks
    rows = [
        ("device", machine.name),
        ("processor", machine.cpu),
        ("cores", f"{machine.usable_cores} of {machine.cores} usable"),
        ("memory", with_unit(significant(machine.memory_mb / 1024), "GB")),
        ("limited to", _limits(machine)),
        ("hottest zone", _temperatures(run)),
        *[("GPU", name) for name in machine.gpus],
        ("governor", ", ".join(machine.governors) or "not shown"),
        ("clocks", "not shown" if clocks is None else "; ".join(clocks.moving) or f"held ({clocks.source})"),
        ("power mode", machine.power_mode or ""),
        ("virtual machine", "yes" if machine.virtual else "no"),
        ("container", "yes" if machine.container else "no"),
        ("system", f"{machine.os}, Python {machine.python}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
    ]
    return [(name, value) for name, value in rows if value]


def _limits(machine: MachineFacts) -> str:
    """Return the limits of the control group."""
    quota, limit_mb = machine.cpu_quota, machine.memory_limit_mb
    limits = [] if quota is None else [f"{significant(quota)} cores' time"]
    return ", ".join(limits if limit_mb is None else [*limits, with_unit(significant(limit_mb), "MB")])


def _temperatures(run: BenchReport) -> str:
    """Return the hottest zone before the first launch and after the last."""
    if not run.launches:
        return ""
    before, after = run.launches[0].interference.celsius_before, run.launches[-1].interference.celsius_after
    if before is None or after is None:
        return ""
    return f"{with_unit(f'{before:.0f}', '°C')} before, {with_unit(f'{after:.0f}', '°C')} after"


def _subject(run: BenchReport) -> list[tuple[str, str]]:
    subject, how = run.subject, run.configuration
    sampled = f"{significant(subject.window_s)} s at {subject.rate_hz:g} Hz"
    return [
        ("bundle", subject.bundle),
        ("student", f"{subject.model}: {subject.modality}, {sampled}"),
        ("parameters", count(subject.parameters)),
        ("artifact", f"{subject.artifact}, {significant(subject.artifact_size_bytes / 1e3)} kB"),
        ("launches", f"{len(run.launches)} of {how.launches}, {how.duration_s:g} s together"),
        ("begun", run.created_utc),
        ("SHA-256", subject.sha256),
    ]


# --- fleets -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A problem of one run; `over_budget`: its latency, or too few calls to judge it."""

    name: str
    device: str
    text: str
    over_budget: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one kind of device with one bundle, called in one manner.

    Attributes:
        p50_us: median of the runs' medians; None if no run has enough calls.
        slowest: name of the run with the largest median, and that median.
        p99_us: largest p99 of the runs; None if no run has enough calls.
        over: number of runs over the budget; None without a budget.
    """

    first: BenchReport
    names: tuple[str, ...]
    p50_us: float | None
    slowest: tuple[str, float] | None
    p99_us: float | None
    over: int | None
    unsteady: int

    @property
    def title(self) -> str:
        """Device and bundle."""
        machine, subject = self.first.machine, self.first.subject
        mode = f" in {machine.power_mode}" if machine.power_mode else ""
        return f"{machine.name}{mode} with {subject.bundle} ({subject.sha256[:8]})"


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Groups, the slowest first, and alerts, those over the budget first."""

    groups: tuple[Group, ...]
    alerts: tuple[Alert, ...]


def group_fleet(runs: Sequence[BenchReport], names: Sequence[str], *, budget_ms: float | None) -> Fleet:
    """Group runs by device, bundle and manner, and list their problems.

    Args:
        runs: Of any devices and bundles. A report names no station, so `names` does.
        names: One for each run.
        budget_ms: Limit for 99 of 100 calls; None for no limit.
    """
    together: dict[tuple[object, ...], list[tuple[str, BenchReport]]] = {}
    for name, run in zip(names, runs, strict=True):
        how = run.configuration
        manner = (how.backend, how.precision, how.threads, how.clients, how.batch, how.hop, how.rate_hz, how.jitter)
        key = (run.machine.name, run.machine.power_mode, run.subject.sha256, run.subject.model, *manner)
        together.setdefault(key, []).append((name, run))
    groups = sorted((_group(members, budget_ms) for members in together.values()), key=lambda one: -(one.p50_us or 0.0))
    alerts = [alert for name, run in zip(names, runs, strict=True) for alert in _alerts(name, run, budget_ms)]
    return Fleet(groups=tuple(groups), alerts=tuple(sorted(alerts, key=lambda alert: not alert.over_budget)))


def _group(members: Sequence[tuple[str, BenchReport]], budget_ms: float | None) -> Group:
    medians = [(value, name) for name, run in members if (value := run.result.latency.value_us(0.5)) is not None]
    tails = [value for _, run in members if (value := run.result.latency.value_us(BUDGET_QUANTILE)) is not None]
    slowest = max(medians, default=None)
    return Group(
        first=members[0][1],
        names=tuple(name for name, _ in members),
        p50_us=statistics.median(value for value, _ in medians) if medians else None,
        slowest=None if slowest is None else (slowest[1], slowest[0]),
        p99_us=max(tails, default=None),
        over=None if budget_ms is None else sum(_over_budget(run, budget_ms) is not None for _, run in members),
        unsteady=sum(not is_steady(run) for _, run in members),
    )


def _over_budget(run: BenchReport, budget_ms: float) -> str | None:
    """Return how a run breaks the budget; None if it keeps it."""
    p99_us = run.result.latency.value_us(BUDGET_QUANTILE)
    if p99_us is None:
        return f"{run.result.latency.count} calls are too few to tell whether 99 of 100 keep {budget_ms:g} ms"
    if p99_us > 1e3 * budget_ms:
        return f"99 of 100 calls take up to {p99_us / 1e3:.3g} ms, the budget is {budget_ms:g} ms"
    return None


def is_steady(run: BenchReport) -> bool:
    """Return whether a run is complete and its timings settled."""
    return run.complete and run.stability.stable


def _alerts(name: str, run: BenchReport, budget_ms: float | None) -> list[Alert]:
    device, pace, texts = run.machine.name, run.result.pace, []
    over = None if budget_ms is None else _over_budget(run, budget_ms)
    if over is not None:
        texts.append((over, True))
    if pace is not None and pace.missed:
        texts.append((f"{pace.missed} of {pace.response.count} deadlines missed", False))
    if not is_steady(run):
        why = "; ".join(run.stability.findings) if run.complete else "interrupted"
        texts.append((f"unstable: {why}", False))
    return [Alert(name=name, device=device, text=text, over_budget=is_over) for text, is_over in texts]


def render_fleet(
    documents: Sequence[Mapping[str, Any]], *, names: Sequence[str], budget_ms: float | None = None
) -> str:
    """Return the page of the runs of a fleet as HTML.

    Args:
        documents: What `mmkd-bench run --json` printed, one per run.
        names: File or station of each run.
        budget_ms: Limit for 99 of 100 calls; None for no limit.

    Raises:
        DocumentError: A document breaks its contract, or there is none, or more than a page can hold.
    """
    if not 1 <= len(documents) <= MOST_FLEET_RUNS:
        raise DocumentError(
            f"fleet page: expected 1 to {count(MOST_FLEET_RUNS)} documents, got {len(documents)}; choose some"
        )
    fleet = group_fleet([read_bench(document) for document in documents], names, budget_ms=budget_ms)
    kinds = len({(group.first.machine.name, group.first.machine.power_mode) for group in fleet.groups})
    bundles = len({group.first.subject.sha256 for group in fleet.groups})
    lede = (
        f"of {count(kinds)} kind{'s' if kinds != 1 else ''} of device and {count(bundles)} "
        f"bundle{'s' if bundles != 1 else ''}."
    )
    total = len(documents)
    return render(
        Page(
            title=f"{count(total)} runs of a fleet: benchmark",
            kind="benchmark",
            headline="How fast is the fleet?",
            lede=[(True, f"{count(total)} report{'s' if total != 1 else ''}"), (False, lede)],
            answer=_fleet_answer(fleet, budget_ms),
            sections=[
                Section(key="devices", title="By device and bundle", blocks=[_fleet_table(fleet, budget_ms)]),
                Section(key="alerts", title="Problems", blocks=_alert_blocks(fleet)),
                Section(
                    key="members",
                    title="Which reports",
                    blocks=[Facts(rows=[(group.title, ", ".join(group.names)) for group in fleet.groups])],
                ),
            ],
            footer=FOOTER,
        )
    )


def _fleet_answer(fleet: Fleet, budget_ms: float | None) -> list[str]:
    sentences, slowest = [], fleet.groups[0]
    if slowest.slowest is not None:
        sentences.append(f"The slowest are {slowest.title}: {time_text(slowest.p50_us)} at the median.")
    if budget_ms is not None:
        over = sum(group.over or 0 for group in fleet.groups)
        runs = sum(len(group.names) for group in fleet.groups)
        kept = "All keep" if over == 0 else f"{count(over)} of {count(runs)} do not keep"
        sentences.append(f"{kept} the budget of {budget_ms:g} ms for 99 of 100 calls.")
    return sentences or ["Too few samples: a median needs eleven calls."]


def _fleet_table(fleet: Fleet, budget_ms: float | None) -> Table:
    heads: Heads = [label("Device, bundle"), "Reports", "p50", "Slowest p50", "Largest p99", "Unsteady"]
    rows = []
    for group in fleet.groups:
        slowest = NOTHING if group.slowest is None else f"{time_text(group.slowest[1])}, {group.slowest[0]}"
        cells = [
            count(len(group.names)),
            time_text(group.p50_us),
            slowest,
            time_text(group.p99_us),
            count(group.unsteady),
        ]
        cells += [] if group.over is None else [count(group.over)]
        rows.append(Row(Cell(group.title, note=manner_text(group.first)), cells))
    caption = (
        "Runs of one kind of device with the same bundle, called in the same manner, share a row. p50 is the median of "
        "their medians; the slowest is named by its file."
    )
    return table(heads if budget_ms is None else [*heads, "Over budget"], rows, caption=caption, style="results names")


def _alert_blocks(fleet: Fleet) -> list[Block]:
    if not fleet.alerts:
        return [Text("None.")]
    heads = [label(name) for name in ("Report", "Device", "Problem")]
    rows = [
        Row(one.name, [one.device, one.text], role="student" if one.over_budget else "")
        for one in fleet.alerts[:MOST_ALERTS]
    ]
    caption = "Alerts, those over the budget first"
    left_out = len(fleet.alerts) - MOST_ALERTS
    more = [Text(f"{count(left_out)} more are left out.")] if left_out > 0 else []
    return [table(heads, rows, caption=caption, style="compact", hide_caption=True), *more]
