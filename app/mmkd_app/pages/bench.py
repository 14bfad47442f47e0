"""The page of `mmkd-bench run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmkd_app import words
from mmkd_app.pages import page
from mmkd_app.words import NOTHING, quantity, time_text
from mmkd_documents.bench import BenchReport
from mmkd_documents.errors import DocumentError

MAX_RUNS = 12
DOCUMENT = "the documents of mmkd-bench run"
Named = Sequence[tuple[BenchReport, str]]
PERCENTILE_HEADS = ("Latency", "of one call", "at most")


def render_bench(runs: Sequence[BenchReport]) -> str:
    """Return the page as HTML; raise DocumentError for no or too many runs."""
    if not 1 <= len(runs) <= MAX_RUNS:
        raise DocumentError(f"benchmark page: expected 1 to {MAX_RUNS} documents, got {len(runs)}; choose some")
    named = list(zip(runs, run_names(runs), strict=True))
    first, several = runs[0], len(runs) > 1
    subject = first.subject
    return page.render(
        page.Page(
            title=f"{subject.model} on {first.machine.name}{' and others' if several else ''}: benchmark",
            kind="benchmark",
            headline="Which is faster?" if several else "How fast is it?",
            lede=[
                f"{subject.bundle}.",
                f"{subject.modality}, windows of {quantity(subject.window_s, 's')}; {manner_text(first)}.",
            ],
            answer=[_fastest(named)] if several else [answer(first)],
            cautions=_cautions(named),
            key_figures=[(value, f"{text}, {named[0][1]}" if several else text) for value, text in _key_figures(first)],
            sections=[
                *([_side_by_side(named)] if several else []),
                _distribution(named),
                _stages(named),
                page.Section(
                    "energy", "Energy and memory", [page.columns(page.Facts(figures(run), name) for run, name in named)]
                ),
                page.Section(
                    "measured",
                    "What was measured",
                    [page.columns(page.Facts(origin(run), name) for run, name in named)],
                ),
            ],
            document=DOCUMENT,
        )
    )


def run_names(runs: Sequence[BenchReport]) -> list[str]:
    """Name each run by the settings that differ, or the device."""
    parts = [
        (
            run.machine.name,
            run.machine.power_mode or "",
            run.subject.model,
            run.subject.modality,
            how.backend,
            how.precision,
            words.count_noun(how.threads, "thread"),
            f"hop {how.hop}" if how.hop is not None else "",
        )
        for run in runs
        for how in [run.configuration]
    ]
    differing = [number for number in range(len(parts[0])) if len({part[number] for part in parts}) > 1] or [0]
    names = [", ".join(part[number] for number in differing if part[number]) for part in parts]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: number + 1].count(name)})"
        for number, name in enumerate(names)
    ]


def manner_text(run: BenchReport) -> str:
    """Return how calls were made, as part of a sentence."""
    how = run.configuration
    call = "a window" if how.hop is None else f"a hop of {words.count_noun(how.hop, 'sample')}"
    return f"one call is {call}, {how.precision} on {how.backend}, {words.count_noun(how.threads, 'thread')} per call"


def answer(run: BenchReport) -> str:
    """Return the median and the largest known percentile in a sentence."""
    latency = run.result.latency
    sentence = f"{run.machine.name} answers in {time_text(latency.value_us(0.5))} at the median of "
    sentence += f"{words.count(latency.count)} calls"
    tails = (latency.percentile(quantile) for quantile in (0.99, 0.95, 0.9))
    tail = next((tail for tail in tails if tail and tail.value_us is not None), None)
    if tail is not None:
        bound = "" if tail.upper_us is None else f" (99 % confidence: at most {time_text(tail.upper_us)})"
        sentence += f", {100 * tail.quantile:g} % of them within {time_text(tail.value_us)}{bound}"
    return f"{sentence}."


def _fastest(named: Named) -> str:
    medians = [(median, name) for run, name in named if (median := run.result.latency.value_us(0.5)) is not None]
    if len(medians) < 2:
        return "Too few samples: a median needs eleven calls."
    (best, name), (second, other), *_ = sorted(medians)
    return (
        f"{name} has the smallest median, {time_text(best)}, then {other}, {time_text(second)}; whether they differ "
        "beyond noise is what mmkd-bench compare decides."
    )


def _cautions(named: Named) -> Iterator[str]:
    unstable = [name for run, name in named if not (run.complete and run.stability.stable)]
    if unstable:
        yield f"Unstable or interrupted: {'; '.join(unstable)}. Measure again on an idle machine before you decide."
    if len({run.subject.sha256 for run, _ in named}) > 1:
        yield "The runs measured different bundles: they differ in more than the device."


def stability_text(run: BenchReport) -> str:
    """Return whether a run was stable, what does not agree and what disturbed it."""
    disturbances = (f"at the same time {cause}" for cause in run.stability.disturbances)
    sentences = [text[:1].upper() + text[1:] + "." for text in (*run.stability.findings, *disturbances)]
    return " ".join(["Stable." if run.stability.stable else "Unstable.", *sentences])


def _energy_text(run: BenchReport) -> str:
    return "not measured" if run.energy is None else quantity(run.energy.above_idle_mj, "mJ")


def _key_figures(run: BenchReport) -> list[tuple[str, str]]:
    return [
        (time_text(run.result.latency.value_us(0.5)), "at the median"),
        (time_text(run.result.latency.value_us(0.99)), "in 99 of 100 calls"),
        (words.magnitude(run.result.throughput_hz), "predictions per second"),
        (quantity(run.result.rss_mb, "MB"), "memory of the process"),
        (_energy_text(run), "energy per prediction, above idle"),
    ]


def _side_by_side(named: Named) -> page.Section:
    cells = [
        [
            name,
            *(time_text(run.result.latency.value_us(quantile)) for quantile in (0.5, 0.9, 0.95, 0.99, 0.999)),
            words.magnitude(run.result.throughput_hz),
            words.significant(run.result.rss_mb),
            _energy_text(run),
            "yes" if run.stability.stable else "no",
        ]
        for run, name in named
    ]
    heads = ["Run", "p50", "p90", "p95", "p99", "p99.9", "Per second", "Memory, MB", "Energy", "Stable"]
    caption = "Percentiles over all calls of a run. Energy is that of one prediction above idle."
    return page.Section("devices", "Side by side", [page.table(heads, cells, caption=caption, style="results")])


def _distribution(named: Named) -> page.Section:
    items: list[list[page.Block]] = []
    for run, name in named:
        caption = f"Percentiles of {name}"
        percentiles = page.table(
            PERCENTILE_HEADS, percentile_rows(run), caption=caption, style="compact", hide_caption=True
        )
        items.append([page.Heading(name), percentiles, page.Note(stability_text(run))])
    lead = (
        "All calls of a run. “At most” is the upper end of a 99 % confidence interval of the percentile. A run is "
        "stable if thirds of launches, and launches, agree within 10 %."
    )
    return page.Section("distribution", "Distribution", [page.Columns(items, "wide")], lead)


def percentile_rows(run: BenchReport) -> list[list[str]]:
    """Return name, value, or how many calls it lacks, and upper bound of each percentile."""
    rows = []
    for percentile in run.result.latency.percentiles:
        lacking = f"needs {words.count(percentile.floor)} calls"
        value = lacking if percentile.value_us is None else time_text(percentile.value_us)
        rows.append([percentile.name, value, time_text(percentile.upper_us)])
    return [*rows, ["largest", time_text(run.result.latency.max_us), NOTHING]]


def _stages(named: Named) -> page.Section:
    items: list[list[page.Block]] = []
    for run, name in named:
        total = sum(stage.p50_us for stage in run.result.stages) or 1.0
        rows = [
            page.Row(
                [
                    stage.name,
                    page.bar_cell(stage.p50_us / total, "student"),
                    time_text(stage.p50_us),
                    time_text(stage.p90_us),
                ]
            )
            for stage in run.result.stages
        ]
        caption = f"Steps of one call, {name}"
        steps = page.table(["Step", page.BAR, "p50", "p90"], rows, caption=caption, style="stages", hide_caption=True)
        items.append([page.Heading(name), steps])
    lead = "The runtime's own steps, timed one after another after the calls themselves."
    return page.Section("stages", "Where the time goes", [page.Columns(items)], lead)


def figures(run: BenchReport) -> list[tuple[str, str]]:
    """Return names and values of energy, start-up, load and memory."""
    energy, result = run.energy, run.result
    rows = [("energy", f"not measured: {run.energy_note}")]
    if energy is not None:
        rows = [
            ("energy per prediction", f"{quantity(energy.above_idle_mj, 'mJ')} above idle"),
            ("under load", quantity(energy.load_mw / 1e3, "W")),
            ("at rest", quantity(energy.idle_mw / 1e3, "W")),
            ("sensor", f"{energy.sensor}, {words.count(energy.readings)} readings under load"),
        ]
    return [
        *rows,
        ("load", time_text(1e3 * result.load_ms)),
        ("first call", time_text(1e3 * result.first_call_ms)),
        ("import", time_text(1e3 * result.import_ms)),
        ("throughput", f"{words.significant(result.throughput_hz)} predictions per second"),
        ("CPU", f"{words.short_percent(result.cpu_cores)} of a core"),
        ("memory", f"{quantity(result.rss_mb, 'MB')}, peak {quantity(result.rss_peak_mb, 'MB')}"),
    ]


def origin(run: BenchReport) -> list[tuple[str, str]]:
    """Return names and values of bundle, run and device, as far as known."""
    subject, how, machine, clocks = run.subject, run.configuration, run.machine, run.machine.moving_clocks
    quota = "" if machine.cpu_quota is None else f", limited to {words.significant(machine.cpu_quota)} cores' time"
    hottest = ""
    if run.launches:
        before, after = run.launches[0].interference.celsius_before, run.launches[-1].interference.celsius_after
        if before is not None and after is not None:
            hottest = f"{before:.0f}\u202f°C before, {after:.0f}\u202f°C after"
    sampled = f"{quantity(subject.window_s, 's')} at {subject.rate_hz:g} Hz"
    rows = [
        ("bundle", subject.bundle),
        ("student", f"{subject.model}: {subject.modality}, {sampled}, {words.count(subject.parameters)} parameters"),
        ("artifact", f"{subject.artifact}, {quantity(subject.artifact_size_bytes / 1e3, 'kB')}"),
        ("launches", f"{len(run.launches)} of {how.launches}, {how.duration_s:g} s together"),
        ("begun", run.created_utc),
        ("SHA-256", subject.sha256),
        ("device", machine.name),
        ("processor", machine.cpu),
        ("cores", f"{machine.usable_cores} of {machine.cores} usable{quota}"),
        ("memory", quantity(machine.memory_mb / 1024, "GB")),
        ("hottest zone", hottest),
        ("GPU", "; ".join(machine.gpus)),
        ("governor", ", ".join(machine.governors)),
        ("clocks", "" if clocks is None else "; ".join(clocks) or "held"),
        ("power mode", machine.power_mode or ""),
        ("runs in", "a virtual machine" if machine.virtual else ""),
        ("system", f"{machine.os}, Python {machine.python}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
    ]
    return [(name, value) for name, value in rows if value]
