"""Reports on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mmkd_bench.compare import VERDICT_QUANTITIES
from mmkd_bench.measuring.load import MISSED_FRACTION
from mmkd_bench.text import (
    carried_text,
    duration_lines,
    duration_text,
    fact_rows,
    machine_text,
    percentile_text,
    plural,
    ratio_text,
    significant,
    stability_lines,
    subject_text,
    value_text,
)
from mmkd_edge.cli.show import show_table
from mmkd_edge.opening.profile import ExecutionProfile, MeasuredConfig, best_trial
from mmkd_report.schema.bench import (
    BenchReport,
    CapacityReport,
    Comparison,
    Level,
    OverheadReport,
    PairReport,
    QuantityChange,
    RepeatSpread,
    RivalEngine,
    RivalsReport,
)

AnyReport = BenchReport | Comparison | CapacityReport | OverheadReport | PairReport | RivalsReport
_BAR_CELLS = 30
_MIN_TEXT_WIDTH = 12
_SPREAD_HEADS = ("p50", "lowest", "highest")


@dataclass(frozen=True)
class Table:
    """Rows, shown if they have more than a name; the first column and those of `text` may wrap."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A report for people; `style` is of the heading."""

    heading: str
    parts: Sequence[Table | Text]
    style: str = "bold"


def show(sheet: Sheet) -> None:
    """Write a sheet to stdout."""
    show_table(render_sheet(sheet))


def render_sheet(sheet: Sheet) -> RenderableType:
    """Return a sheet for rich."""
    drawn: list[RenderableType] = [Text(sheet.heading, style=sheet.style)]
    is_below_table = False
    for part in sheet.parts:
        is_table = isinstance(part, Table)
        drawn += [Text()] if is_table or is_below_table else []
        drawn.append(_rich_table(part) if isinstance(part, Table) else part)
        is_below_table = is_table
    return Group(*drawn)


def _rich_table(table: Table) -> RichTable:
    has_header = any(table.heads)
    drawn = RichTable(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", show_header=has_header)
    for number, head in enumerate(table.heads):
        is_text = not number or number in table.text
        drawn.add_column(
            head,
            justify="left" if is_text else "right",
            no_wrap=not is_text,
            overflow="fold",
            min_width=min(_MIN_TEXT_WIDTH, max((len(row[number]) for row in table.rows), default=0))
            if is_text
            else None,
            style="" if has_header or number else "dim",
        )
    for row in table.rows:
        if any(row[1:]):
            drawn.add_row(*map(Text, row))
    return drawn


def make_sheet(report: AnyReport) -> Sheet:
    """Return a report's sheet."""
    match report:
        case BenchReport():
            return _run(report)
        case Comparison():
            return _comparison(report)
        case CapacityReport():
            return _capacity(report)
        case OverheadReport():
            return _overhead(report)
        case PairReport():
            return _pair(report)
        case RivalsReport():
            return _rivals(report)


def _run(report: BenchReport) -> Sheet:
    latency, stages = report.result.latency, report.result.stages
    total_us = sum(stage.p50_us for stage in stages) or 1.0
    launches = f"{latency.count:,} calls in {len(report.launches)} of {report.configuration.launches} launches"
    percentiles = [
        (percentile.name, percentile_text(percentile, latency.count), duration_text(percentile.upper_us))
        for percentile in latency.percentiles
    ]
    steps = [
        (stage.name, duration_text(stage.p50_us), duration_text(stage.p90_us), _bar(stage.p50_us / total_us))
        for stage in stages
    ]
    return Sheet(
        heading=subject_text(report),
        parts=[
            Text(launches if report.complete else f"{launches}, interrupted"),
            Table(
                ("latency", "", "at most, with 99 % confidence"),
                [*percentiles, ("max", duration_text(latency.max_us), "")],
            ),
            *(Text(line, "dim") for line in duration_lines(report)),
            Table(("stage", "p50", "p90", ""), steps, text=(3,)),
            Table(("", ""), list(fact_rows(report)), text=(1,)),
            *(Text(line, "yellow" if line.startswith("unstable") else "") for line in stability_lines(report)),
            Text(machine_text(report.machine), "dim"),
        ],
    )


def _bar(fraction: float) -> str:
    return "█" * max(1, round(_BAR_CELLS * fraction)) + f" {fraction:.0%}"


def _comparison(comparison: Comparison) -> Sheet:
    return Sheet(
        heading=f"Verdict: {comparison.verdict}",
        style={"equal": "bold", "slower": "bold red", "faster": "bold green"}[comparison.verdict],
        parts=[
            Table(("", "before", "after", "change", "95 % interval"), list(map(_change_row, comparison.changes))),
            Text("* decides the verdict: median over launches of medians over time windows", "dim"),
            *(Text(f"failed: {sentence}", "red") for sentence in comparison.failed),
            *(Text(f"differs: {difference}") for difference in comparison.differences),
            *(Text(remark, "yellow") for remark in comparison.remarks),
        ],
    )


def _change_row(change: QuantityChange) -> Sequence[str]:
    interval = ""
    if change.low is not None and change.high is not None:
        interval = f"{change.low:+.1%} to {change.high:+.1%}" + ("" if change.judged else ", not judged")
    return (
        change.quantity + (" *" if change.quantity in VERDICT_QUANTITIES else ""),
        value_text(change.before, change.unit),
        value_text(change.after, change.unit),
        "" if change.change is None else f"{change.change:+.1%}",
        interval,
    )


def _pair(report: PairReport) -> Sheet:
    models = (
        (report.first, report.first_p50_us, report.first_p90_us, report.first_p99_us),
        (report.second, report.second_p50_us, report.second_p90_us, report.second_p99_us),
    )
    rows = [
        (name, *_spread(p50), duration_text(p90.median), duration_text(p99.median)) for name, p50, p90, p99 in models
    ]
    table = Table(("called in turn", *_SPREAD_HEADS, "p90", "p99"), rows)
    return _sheet(ratio_text(report.second, report.first, report.ratio), table, [f"{report.count:,} pairs"])


def _overhead(report: OverheadReport) -> Sheet:
    rows = [
        ("predict", *_spread(report.predict_p50_us)),
        (report.bare, *_spread(report.bare_p50_us)),
        ("difference", *_spread(report.overhead_us)),
    ]
    heading = f"{report.bundle}: predict{', every check on,' if report.checks else ''} over the bare engine, one thread"
    adds = f"predict adds {duration_text(report.overhead_us.median)} at the median of {report.count:,} pairs"
    return _sheet(heading, Table(("called in turn", *_SPREAD_HEADS), rows), [adds])


def _rivals(report: RivalsReport) -> Sheet:
    heads = ("engine", "version", *_SPREAD_HEADS, "p99", "to predict", "load", "difference")
    threads = plural(report.threads, "thread")
    return _sheet(
        f"{report.subject.bundle} through other engines, {threads}, called in turn",
        Table(heads, [_rival_row(rival) for rival in report.rivals if rival.p50_us is not None], text=(1,)),
        [],
        [f"{rival.name}: {rival.reason}" for rival in report.rivals if rival.reason],
    )


def _rival_row(rival: RivalEngine) -> Sequence[str]:
    return (
        *(rival.name, rival.version, *_spread(rival.p50_us)),
        "" if rival.p99_us is None else duration_text(rival.p99_us.median),
        "" if rival.ratio is None else f"{rival.ratio.median:.2f} x",
        "" if rival.load_ms is None else duration_text(1e3 * rival.load_ms),
        "" if rival.max_abs_error is None else f"{rival.max_abs_error:.2g}",
    )


def _capacity(report: CapacityReport) -> Sheet:
    levels = [("answer", report.at_answer), ("refused", report.refused)]
    levels += [(f"launch {number}", level) for number, level in enumerate(report.launches, start=1)]
    percentiles = [percentile.name for percentile in report.trials[0].response.percentiles] if report.trials else []
    heads = ("load", "streams", "carried", "due", "missed", *percentiles, "max", "cores")
    demand = f"{report.rate_hz:g} predictions per second each within {report.deadline_ms:g} ms"
    return _sheet(
        f"{report.subject.bundle}, {report.precision} in {report.backend}, {demand}: {carried_text(report)}",
        Table(heads, [_level_row(name, level) for name, level in levels if level is not None]),
        [
            *_answer_lines(report),
            f"{plural(len(report.trials), 'load')} tried, {plural(report.servers, 'thread')} answered",
        ],
        [*_pause_lines(report), *(f"at the same time: {sentence}" for sentence in report.disturbances)],
    )


def _level_row(name: str, level: Level) -> Sequence[str]:
    counts = (str(level.streams), "yes" if level.carried else "no", str(level.due), str(level.missed))
    times = [*(percentile.value_us for percentile in level.response.percentiles), level.response.max_us]
    return (name, *counts, *map(duration_text, times), f"{level.cpu_cores:.2f}")


def _answer_lines(report: CapacityReport) -> Iterator[str]:
    if report.at_answer is not None:
        p999_us, deadline = report.p999_us, f"{report.deadline_ms:g} ms"
        median = "unknown for lack of samples" if p999_us is None else f"{duration_text(p999_us)} in the median launch"
        carried = sum(level.carried for level in report.launches)
        yield f"p99.9 {median}, within {deadline} in {carried} of {plural(len(report.launches), 'launch', 'launches')}"
        headroom = "unknown" if p999_us is None else duration_text(max(0.0, 1e3 * report.deadline_ms - p999_us))
        cores = report.machine.usable_cores
        idle = "unknown" if report.idle_cores is None else f"{report.idle_cores:.2f} of {cores} cores"
        yield f"headroom {headroom} at p99.9, {idle} idle"
    if report.refused is not None:
        verb = "was" if report.refused.streams == 1 else "were"
        share = report.refused.missed / report.refused.due
        yield f"{plural(report.refused.streams, 'stream')} {verb} not carried: {share:.2%} missed"


def _pause_lines(report: CapacityReport) -> Iterator[str]:
    level = report.at_answer
    if level is not None and level.missed > MISSED_FRACTION * level.due and report.streams:
        pauses = sum(not launch.carried for launch in report.launches)
        yield f"in {plural(pauses, 'launch', 'launches')} pauses of this machine outlasted the deadline"


def profile_sheet(profile: ExecutionProfile) -> Sheet:
    """Return every config of each student, as `open` sorts them, and rejected ones."""
    parts: list[Table | Text] = []
    for model in dict.fromkeys(trial.model for trial in profile.trials):
        trials = [trial for trial in profile.trials if trial.model == model]
        best = best_trial(trials, model=model)
        ranked = sorted(trials, key=lambda trial: (trial is not best, trial.ratio))
        heads = (model, "precision", "threads", "p50", "p99", "times as fast")
        parts.append(Table(heads, list(map(_trial_row, ranked)), text=(1,)))
    parts += [
        Text(f"left out: {rejected.model} in {rejected.backend} {rejected.precision}: {rejected.reason}", "yellow")
        for rejected in profile.left_out
    ]
    first = profile.trials[0]
    choice = (
        f"compared with {first.backend} {first.precision}; EdgePredictor.open takes the first row of a table "
        "(lower precision and more threads have to be 1.1 times as fast)"
    )
    return Sheet(heading=str(profile.machine), parts=[*parts, Text(choice)])


def _trial_row(trial: MeasuredConfig) -> Sequence[str]:
    times = (duration_text(trial.p50_us), duration_text(trial.p99_us), significant(1 / trial.ratio))
    return (trial.backend, trial.precision, str(trial.threads), *times)


def _sheet(heading: str, table: Table, notes: Sequence[str], warnings: Sequence[str] = ()) -> Sheet:
    yellow = (Text(line, "yellow") for line in warnings)
    return Sheet(heading=heading, parts=[table, *map(Text, notes), *yellow])


def _spread(spread: RepeatSpread | None) -> Sequence[str]:
    if spread is None:
        return ("", "", "")
    return (duration_text(spread.median), duration_text(spread.min), duration_text(spread.max))
