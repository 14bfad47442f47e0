"""Reports on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mmkd_app.cli.show import json_text, show_table
from mmkd_app.words import count_noun, for_terminal, significant, time_text
from mmkd_bench.capacity import MISSED_FRACTION
from mmkd_bench.compare import VERDICT_QUANTITIES
from mmkd_documents.bench import (
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
from mmkd_edge.opening.choice import ExecutionProfile, best_trial

AnyReport = BenchReport | Comparison | CapacityReport | OverheadReport | PairReport | RivalsReport | ExecutionProfile
_MIN_TEXT_WIDTH = 12
_SPREAD_HEADS = ("p50", "lowest", "highest")


@dataclass(frozen=True)
class Table:
    """Rows, shown if they have more than a name; the first column and those of `text` may wrap."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = ()


Sheet = Sequence[Table | Text]
"""A report for people: its heading, then tables and sentences."""


def show(report: AnyReport, *, json: bool = False) -> None:
    """Write a report to stdout."""
    if json:
        sys.stdout.write(json_text(report) + "\n")
    else:
        show_table(render_sheet(make_sheet(report)))


def render_sheet(sheet: Sheet) -> RenderableType:
    """Return a sheet for rich."""
    drawn: list[RenderableType] = []
    is_below_table = False
    for part in sheet:
        is_table = isinstance(part, Table)
        drawn += [Text()] if is_table or is_below_table else []
        drawn.append(_rich_table(part) if isinstance(part, Table) else Text(for_terminal(part.plain), part.style))
        is_below_table = is_table
    return Group(*drawn)


def _rich_table(table: Table) -> RichTable:
    has_header = any(table.heads)
    drawn = RichTable(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", show_header=has_header)
    for number, head in enumerate(table.heads):
        is_text = not number or number in table.text
        widest = max((len(row[number]) for row in table.rows), default=0)
        drawn.add_column(
            head,
            justify="left" if is_text else "right",
            no_wrap=not is_text,
            overflow="fold",
            min_width=min(_MIN_TEXT_WIDTH, widest) if is_text else None,
            style="" if has_header or number else "dim",
        )
    for row in table.rows:
        if any(row[1:]):
            drawn.add_row(*(Text(for_terminal(cell)) for cell in row))
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
        case ExecutionProfile():
            return _profile(report)


def _run(report: BenchReport) -> Sheet:
    from mmkd_app.pages.bench import PERCENTILE_HEADS, figures, manner_text, origin, percentile_rows, stability_text

    launches = f"{len(report.launches)} of {report.configuration.launches} launches"
    stages = [(stage.name, time_text(stage.p50_us), time_text(stage.p90_us)) for stage in report.result.stages]
    machine = [value for name, value in origin(report) if name in ("device", "cores", "governor", "power mode", "GPU")]
    return [
        Text(f"{report.subject.bundle}: {manner_text(report)}", "bold"),
        Text(f"{report.result.latency.count:,} calls in {launches}{'' if report.complete else ', interrupted'}"),
        Table(PERCENTILE_HEADS, percentile_rows(report)),
        Table(("Stage", "p50", "p90"), stages),
        Table(("", ""), figures(report), text=(1,)),
        Text(stability_text(report), "" if report.stability.stable else "yellow"),
        Text(" · ".join([*machine, report.machine.os]), "dim"),
    ]


def _comparison(comparison: Comparison) -> Sheet:
    return [
        Text(
            f"Verdict: {comparison.verdict}",
            {"equal": "bold", "slower": "bold red", "faster": "bold green"}[comparison.verdict],
        ),
        Table(("", "before", "after", "change", "95 % interval"), list(map(_change_row, comparison.changes))),
        Text("* decides the verdict: median over launches of medians over time windows", "dim"),
        *(Text(f"failed: {sentence}", "red") for sentence in comparison.failed),
        *(Text(f"differs: {difference}") for difference in comparison.differences),
        *(Text(remark, "yellow") for remark in comparison.remarks),
    ]


def _change_row(change: QuantityChange) -> Sequence[str]:
    interval = ""
    if change.low is not None and change.high is not None:
        interval = f"{change.low:+.1%} to {change.high:+.1%}" + ("" if change.judged else ", not judged")
    values = []
    for value in (change.before, change.after):
        text = "not measured" if value is None else f"{significant(value)} {change.unit}"
        values.append(time_text(value) if value is not None and change.unit == "µs" else text)
    name = change.quantity + (" *" if change.quantity in VERDICT_QUANTITIES else "")
    return (name, *values, "" if change.change is None else f"{change.change:+.1%}", interval)


def _pair(report: PairReport) -> Sheet:
    models = (
        (report.first, report.first_p50_us, report.first_p90_us, report.first_p99_us),
        (report.second, report.second_p50_us, report.second_p90_us, report.second_p99_us),
    )
    rows = [(name, *_spread(p50), *(time_text(one.median) for one in (p90, p99))) for name, p50, p90, p99 in models]
    table = Table((f"called in turn, {count_noun(report.threads, 'thread')}", *_SPREAD_HEADS, "p90", "p99"), rows)
    return [
        Text(_ratio_text(report.second, report.first, report.ratio), "bold"),
        table,
        Text(f"{report.count:,} pairs"),
    ]


def _ratio_text(second: str, first: str, ratio: RepeatSpread) -> str:
    spread = f"{significant(ratio.min)} to {significant(ratio.max)} over {count_noun(ratio.repeats, 'repeat')}"
    if ratio.min <= 1 <= ratio.max:
        return f"{second} and {first} are equally fast within noise ({spread})"
    return f"{second} is {significant(ratio.median)} times as fast as {first} ({spread})"


def _overhead(report: OverheadReport) -> Sheet:
    rows = [
        ("predict", *_spread(report.predict_p50_us)),
        (report.bare, *_spread(report.bare_p50_us)),
        ("difference", *_spread(report.overhead_us)),
    ]
    adds = f"predict adds {time_text(report.overhead_us.median)} at the median of {report.count:,} pairs"
    return [
        Text(f"{report.bundle}: predict over the bare engine, one thread", "bold"),
        Table(("called in turn", *_SPREAD_HEADS), rows),
        Text(adds),
    ]


def _rivals(report: RivalsReport) -> Sheet:
    heads = ("engine", "version", *_SPREAD_HEADS, "p99", "to predict", "load", "difference")
    rows = [_rival_row(rival) for rival in report.rivals if rival.p50_us is not None]
    reasons = [Text(f"{rival.name}: {rival.reason}", "yellow") for rival in report.rivals if rival.reason]
    threads = count_noun(report.threads, "thread")
    return [
        Text(f"{report.subject.bundle} through other engines, {threads}, called in turn", "bold"),
        Table(heads, rows, text=(1,)),
        *reasons,
    ]


def _rival_row(rival: RivalEngine) -> Sequence[str]:
    return (
        *(rival.name, rival.version, *_spread(rival.p50_us)),
        "" if rival.p99_us is None else time_text(rival.p99_us.median),
        "" if rival.ratio is None else f"{rival.ratio.median:.2f} x",
        "" if rival.load_ms is None else time_text(1e3 * rival.load_ms),
        "" if rival.max_abs_error is None else f"{rival.max_abs_error:.2g}",
    )


def _capacity(report: CapacityReport) -> Sheet:
    levels = [("answer", report.at_answer), ("refused", report.refused)]
    levels += [(f"launch {number}", level) for number, level in enumerate(report.launches, start=1)]
    shown = [(name, level) for name, level in levels if level is not None]
    percentiles = [percentile.name for percentile in shown[0][1].response.percentiles]
    heads = ("load", "streams", "carried", "due", "missed", *percentiles, "max", "cores")
    demand = f"{report.rate_hz:g} predictions per second each within {report.deadline_ms:g} ms"
    carried = count_noun(report.streams, "stream") if report.streams else "not carried"
    return [
        Text(f"{report.subject.bundle}, {report.precision} in {report.backend}, {demand}: {carried}", "bold"),
        Table(heads, [_level_row(name, level) for name, level in shown]),
        *map(Text, _answer_lines(report)),
        *(Text(f"at the same time: {sentence}", "yellow") for sentence in report.disturbances),
    ]


def _level_row(name: str, level: Level) -> Sequence[str]:
    counts = (str(level.streams), "yes" if level.carried else "no", str(level.due), str(level.missed))
    times = [*(percentile.value_us for percentile in level.response.percentiles), level.response.max_us]
    return (name, *counts, *map(time_text, times), f"{level.cpu_cores:.2f}")


def _answer_lines(report: CapacityReport) -> Iterator[str]:
    level = report.at_answer
    if level is not None:
        p999_us, deadline = report.p999_us, f"{report.deadline_ms:g} ms"
        median = "unknown for lack of samples" if p999_us is None else f"{time_text(p999_us)} in the median launch"
        carried = sum(launch.carried for launch in report.launches)
        idle = "unknown" if report.idle_cores is None else f"{report.idle_cores:.2f}"
        yield f"p99.9 {median}, within {deadline} in {carried} of {len(report.launches)} launches"
        yield f"{idle} of {report.machine.usable_cores} cores idle"
        if report.streams and level.missed > MISSED_FRACTION * level.due:
            yield f"in {len(report.launches) - carried} launches pauses of this machine outlasted the deadline"
    if report.refused is not None:
        missed = report.refused.missed / report.refused.due
        yield f"not carried: {count_noun(report.refused.streams, 'stream')}, {missed:.2%} missed"


def _profile(profile: ExecutionProfile) -> Sheet:
    parts: list[Table | Text] = []
    for model in dict.fromkeys(trial.model for trial in profile.trials):
        trials = [trial for trial in profile.trials if trial.model == model]
        best = best_trial(trials, model=model)
        ranked = sorted(trials, key=lambda trial: (trial is not best, trial.ratio))
        heads = (model, "precision", "threads", "p50", "p99", "times as fast")
        rows = [
            (one.backend, one.precision, str(one.threads), *map(time_text, (one.p50_us, one.p99_us)), gain)
            for one in ranked
            for gain in [significant(1 / one.ratio)]
        ]
        parts.append(Table(heads, rows, text=(1,)))
    parts += [
        Text(f"left out: {rejected.model} in {rejected.backend} {rejected.precision}: {rejected.reason}", "yellow")
        for rejected in profile.left_out
    ]
    first = profile.trials[0]
    choice = (
        f"compared with {first.backend} {first.precision}; EdgePredictor.open takes the first row of a table "
        "(lower precision and more threads have to be 1.1 times as fast)"
    )
    return [Text(str(profile.machine), "bold"), *parts, Text(choice)]


def _spread(spread: RepeatSpread | None) -> Sequence[str]:
    if spread is None:
        return ("", "", "")
    return (time_text(spread.median), time_text(spread.min), time_text(spread.max))
