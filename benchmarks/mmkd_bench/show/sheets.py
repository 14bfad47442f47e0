"""The sheet of each report: its heading, tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmkd_bench.compare import VERDICT_QUANTITIES
from mmkd_bench.measuring.load import MISSED_FRACTION
from mmkd_bench.measuring.percentiles import QUANTILES, quantile_name
from mmkd_bench.show.render import Column, Sentence, Sheet, Table
from mmkd_bench.show.text import (
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
from mmkd_edge.predict.profile import ExecutionProfile, MeasuredConfig, best_trial
from mmkd_report.schema.bench import (
    BenchReport,
    CapacityReport,
    Comparison,
    LatencySummary,
    Level,
    Measurement,
    OverheadReport,
    PairReport,
    ProcessStart,
    QuantityChange,
    RepeatSpread,
    Result,
    RivalsReport,
)

AnyReport = BenchReport | Comparison | CapacityReport | OverheadReport | PairReport | RivalsReport

BAR_CELLS = 30
_SPREAD = (
    Column(title="p50", name="p50_us", write=duration_text),
    Column(title="lowest", name="low_us", write=duration_text),
    Column(title="highest", name="high_us", write=duration_text),
)
_P99 = Column(title="p99", name="p99_us", write=duration_text)


def sheet_of(report: AnyReport) -> Sheet:
    """The sheet of a report."""
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
    """Latency, stages, figures, steadiness, machine; for programs a row per launch and one for all."""
    latency, stages = report.result.latency, report.result.stages
    bounded = tuple((one.name, percentile_text(one, latency.count), one.upper_us) for one in latency.percentiles)
    total_us = sum(stage.p50_us for stage in stages) or 1.0
    launches = f"{latency.count:,} calls in {len(report.launches)} of {report.configuration.launches} launches"
    return Sheet(
        heading=subject_text(report),
        parts=(
            Sentence(text=launches if report.complete else f"{launches}, interrupted"),
            Table(
                columns=(
                    Column(title="latency"),
                    Column(title=""),
                    Column(title="at most, with 99 % confidence", write=duration_text),
                ),
                rows=(*bounded, ("max", duration_text(latency.max_us), None)),
            ),
            *(Sentence(text=line, style="dim") for line in duration_lines(report)),
            Table(
                columns=(
                    Column(title="stage"),
                    Column(title="p50", write=duration_text),
                    Column(title="p90", write=duration_text),
                    Column(title="", write=_bar, is_text=True),
                ),
                rows=tuple((stage.name, stage.p50_us, stage.p90_us, stage.p50_us / total_us) for stage in stages),
            ),
            Table(columns=(Column(title=""), Column(title="", is_text=True)), rows=tuple(fact_rows(report))),
            *(
                Sentence(text=line, style="yellow" if line.startswith("unstable") else "")
                for line in stability_lines(report)
            ),
            Sentence(text=machine_text(report.machine), style="dim"),
        ),
        csv=_launch_table(report),
    )


def _launch_table(report: BenchReport) -> Table:
    subject, how, result = report.subject, report.configuration, report.result
    fixed = {name: getattr(subject, name) for name in ("bundle", "sha256", "modality")}
    configured = ("backend", "precision", "threads", "clients", "rate_hz", "batch", "hop")
    fixed |= {name: getattr(how, name) for name in configured}
    figures = ("throughput_hz", "load_ms", "first_call_ms", "rss_mb", "gpu_memory_mb")
    names = (
        *(*fixed, "launch", "samples"),
        *(f"{quantile_name(quantile)}_us" for quantile in QUANTILES),
        *("max_us", *figures, *(f"{stage.name}_us" for stage in result.stages)),
    )

    def row(name: object, measured: ProcessStart | Result) -> tuple[object, ...]:
        latency = measured.latency
        return (
            *(*fixed.values(), name, latency.count, *_values_us(latency), latency.max_us),
            *(getattr(measured, figure) for figure in figures),
            *(stage.p50_us for stage in measured.stages),
        )

    rows = [row(number, launch) for number, launch in enumerate(report.launches, start=1)]
    return Table(columns=tuple(Column(name=name) for name in names), rows=(*rows, row("all", result)))


def _comparison(comparison: Comparison) -> Sheet:
    """The verdict, every quantity, what else differs."""
    names = ("quantity", "unit", "before", "after", "change", "low", "high", "judged")
    return Sheet(
        heading=f"Verdict: {comparison.verdict}",
        style={"equal": "bold", "slower": "bold red", "faster": "bold green"}[comparison.verdict],
        parts=(
            Table(
                columns=tuple(Column(title=title) for title in ("", "before", "after", "change", "95 % interval")),
                rows=tuple(map(_change_row, comparison.changes)),
            ),
            Sentence(text="* decides the verdict: median over launches of medians over time windows", style="dim"),
            *(Sentence(text=f"failed: {sentence}", style="red") for sentence in comparison.failed),
            *(Sentence(text=f"differs: {difference}") for difference in comparison.differences),
            *(Sentence(text=remark, style="yellow") for remark in comparison.remarks),
        ),
        csv=Table(
            columns=tuple(Column(name=name) for name in names),
            rows=tuple(tuple(getattr(change, name) for name in names) for change in comparison.changes),
        ),
    )


def _change_row(change: QuantityChange) -> tuple[object, ...]:
    interval = None
    if change.low is not None and change.high is not None:
        interval = f"{change.low:+.1%} to {change.high:+.1%}" + ("" if change.judged else ", not judged")
    return (
        change.quantity + (" *" if change.quantity in VERDICT_QUANTITIES else ""),
        value_text(change.before, change.unit),
        value_text(change.after, change.unit),
        None if change.change is None else f"{change.change:+.1%}",
        interval,
    )


def _pair(report: PairReport) -> Sheet:
    table = Table(
        columns=(
            Column(title="called in turn", name="model"),
            *_SPREAD,
            Column(title="p90", name="p90_us", write=duration_text),
            _P99,
        ),
        rows=(
            (report.first, *_spread(report.first_p50_us), report.first_p90_us.median, report.first_p99_us.median),
            (report.second, *_spread(report.second_p50_us), report.second_p90_us.median, report.second_p99_us.median),
        ),
    )
    return _sheet(report, ratio_text(report.second, report.first, report.ratio), table, [f"{report.count:,} pairs"])


def _overhead(report: OverheadReport) -> Sheet:
    table = Table(
        columns=(Column(title="called in turn", name="what"), *_SPREAD),
        rows=(
            ("predict", *_spread(report.predict_p50_us)),
            (report.bare, *_spread(report.bare_p50_us)),
            ("difference", *_spread(report.overhead_us)),
        ),
    )
    heading = f"{report.bundle}: predict{', every check on,' if report.checks else ''} over the bare engine, one thread"
    adds = f"predict adds {duration_text(report.overhead_us.median)} at the median of {report.count:,} pairs"
    return _sheet(report, heading, table, [adds])


def _rivals(report: RivalsReport) -> Sheet:
    table = Table(
        columns=(
            Column(title="engine", name="engine"),
            Column(title="version", name="version", is_text=True),
            *(*_SPREAD, _P99),
            Column(title="to predict", name="to_predict", write=lambda cell: f"{cell:.2f} x"),
            Column(title="load", name="load_ms", write=lambda cell: duration_text(1e3 * cell)),
            Column(title="difference", name="max_abs_error"),
            Column(name="reason"),
        ),
        rows=tuple(
            (
                *(rival.name, rival.version, *_spread(rival.p50_us)),
                None if rival.p99_us is None else rival.p99_us.median,
                None if rival.ratio is None else rival.ratio.median,
                rival.load_ms,
                None if rival.max_abs_error is None else float(f"{rival.max_abs_error:.2g}"),
                rival.reason,
            )
            for rival in report.rivals
        ),
    )
    return _sheet(
        report,
        f"{report.subject.bundle} through other engines, {plural(report.threads, 'thread')}, called in turn",
        table,
        [],
        [f"{rival.name}: {rival.reason}" for rival in report.rivals if rival.reason],
    )


def _capacity(report: CapacityReport) -> Sheet:
    levels = [("answer", report.at_answer), ("refused", report.refused)]
    levels += [(f"launch {number}", level) for number, level in enumerate(report.launches, start=1)]
    names = [quantile_name(quantile) for quantile in QUANTILES]
    table = Table(
        columns=(
            *(Column(title="load", name="load"), Column(title="streams", name="streams")),
            Column(title="carried", name="carried", write=lambda cell: "yes" if cell else "no"),
            *(Column(title="due", name="due"), Column(title="missed", name="missed")),
            *(Column(title=name, name=f"response_{name}_us", write=duration_text) for name in names),
            Column(title="max", name="response_max_us", write=duration_text),
            Column(title="cores", name="cpu_share", write=lambda cell: f"{cell:.2f}"),
        ),
        rows=tuple(_level_row(name, level) for name, level in levels if level is not None),
    )
    demand = f"{report.rate_hz:g} predictions per second each within {report.deadline_ms:g} ms"
    return _sheet(
        report,
        f"{report.subject.bundle}, {report.precision} in {report.backend}, {demand}: {carried_text(report)}",
        table,
        [
            *_answer_lines(report),
            f"{plural(len(report.trials), 'load')} tried, {plural(report.servers, 'thread')} answered",
        ],
        [*_pause_lines(report), *(f"at the same time: {sentence}" for sentence in report.disturbances)],
    )


def _level_row(name: str, level: Level) -> tuple[object, ...]:
    figures = (*_values_us(level.response), level.response.max_us, level.cpu_share)
    return (name, level.streams, level.carried, level.due, level.missed, *figures)


def _answer_lines(report: CapacityReport) -> Iterator[str]:
    """The figure that decides, what is left at the answer, and the load that was refused."""
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
    """Every config of each student, the one that `open` takes in the first row, and what was left out."""
    parts: list[Table | Sentence] = []
    for model in dict.fromkeys(trial.model for trial in profile.trials):
        trials = [trial for trial in profile.trials if trial.model == model]
        best = best_trial(trials, model=model)
        ranked = sorted(trials, key=lambda trial: (trial is not best, trial.ratio))
        columns = (
            *(Column(title=model), Column(title="precision", is_text=True), Column(title="threads")),
            Column(title="options", is_text=True),
            *(Column(title=name, write=duration_text) for name in ("p50", "p99")),
            Column(title="times as fast", write=significant),
        )
        parts.append(Table(columns=columns, rows=tuple(map(_trial_row, ranked))))
    parts += [
        Sentence(text=f"left out: {one.model} in {one.backend} {one.precision}: {one.reason}", style="yellow")
        for one in profile.left_out
    ]
    first = profile.trials[0]
    choice = (
        f"compared with {first.backend} {first.precision}; EdgePredictor.open takes the first row of a table "
        "(lower precision and more threads have to be 1.1 times as fast)"
    )
    parts.append(Sentence(text=choice))
    return Sheet(heading=str(profile.machine), parts=tuple(parts), csv=Table(columns=(), rows=()))


def _trial_row(trial: MeasuredConfig) -> tuple[object, ...]:
    options = [f"graph={trial.options.graph}"] if trial.options.graph != "all" else []
    options += ["owns cores"] if trial.options.owns_cores else []
    figures = (trial.p50_us, trial.p99_us, 1 / trial.ratio)
    return (trial.backend, trial.precision, trial.threads, ", ".join(options), *figures)


def _sheet(
    report: Measurement, heading: str, table: Table, notes: Sequence[str], warnings: Sequence[str] = ()
) -> Sheet:
    """A sheet of one table, the same for people and programs."""
    interrupted = () if report.complete else ("interrupted: less was measured than asked for",)
    yellow = (Sentence(text=line, style="yellow") for line in (*warnings, *interrupted))
    return Sheet(heading=heading, parts=(table, *(Sentence(text=note) for note in notes), *yellow), csv=table)


def _spread(spread: RepeatSpread | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if spread is None else (spread.median, spread.min, spread.max)


def _values_us(latency: LatencySummary) -> list[float | None]:
    return [latency.value_us(quantile) for quantile in QUANTILES]


def _bar(share: float) -> str:
    return "█" * max(1, round(BAR_CELLS * share)) + f" {share:.0%}"
