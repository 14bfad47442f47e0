"""Reports as tables on a terminal. Colour and width are rich's choice: none where nobody watches, NO_COLOR obeyed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmkd_bench.measuring.load import MISSED_SHARE
from mmkd_bench.show.text import (
    carried_text,
    change_rows,
    duration_text,
    fact_rows,
    interruption_lines,
    longer_lines,
    machine_text,
    model_text,
    percentile_text,
    plural,
    ratio_text,
    significant,
    size_text,
    spared_lines,
    stability_lines,
    subject_text,
)
from mmkd_edge.command.tables import WholeWords
from mmkd_edge.predict.profile import best_trial

if TYPE_CHECKING:
    from mmkd_bench.capacity import CapacityReport
    from mmkd_bench.compare import Comparison
    from mmkd_bench.contest import RivalsReport
    from mmkd_bench.measuring.load import Level
    from mmkd_bench.paired import OverheadReport, PairReport, Spread
    from mmkd_bench.plan import PlanReport
    from mmkd_bench.report import BenchReport
    from mmkd_bench.show.tables import AnyReport
    from mmkd_bench.teacher import TeacherReport
    from mmkd_edge.predict.profile import ExecutionProfile, Trial

BAR_CELLS = 30


def show(content: RenderableType) -> None:
    """Write to stdout."""
    Console(highlight=False).print(content)


def report_view(report: BenchReport) -> RenderableType:
    """One report: latency, stages, figures, steadiness, machine."""
    latency = report.result.latency
    percentiles = [
        (entry.name, percentile_text(entry, latency.count), _bound(entry.upper_us)) for entry in latency.percentiles
    ]
    percentiles.append(("max", duration_text(latency.max_us), ""))
    launches = f"{len(report.launches)} of {report.configuration.launches} launches"
    return Group(
        Text(subject_text(report), style="bold"),
        Text(f"{latency.count:,} calls in {launches}{'' if report.complete else ', interrupted'}"),
        Text(),
        _table(("latency", "", "with 99 % confidence"), percentiles),
        *(_line(line, "dim") for line in longer_lines(report)),
        Text(),
        _stage_table(report),
        Text(),
        _pairs(fact_rows(report)),
        Text(),
        *(_line(line, "yellow" if line.startswith("unstable") else "") for line in stability_lines(report)),
        _line(machine_text(report), "dim"),
    )


def comparison_view(comparison: Comparison) -> RenderableType:
    """One comparison: every quantity, the verdict, what else differs."""
    style = {"equal": "bold", "slower": "bold red", "faster": "bold green"}[comparison.verdict]
    return Group(
        _table(("", "before", "after", "change", "95 % interval"), change_rows(comparison)),
        _line("* the verdict rests on these: medians over launches of windows", "dim"),
        Text(),
        *(_line(f"differs: {difference}") for difference in comparison.differences),
        *(_line(remark, "yellow") for remark in comparison.remarks),
        Text(f"verdict: {comparison.verdict}", style=style),
    )


def pair_view(report: PairReport) -> RenderableType:
    """Two models and their ratio."""
    rows = [
        (report.first, *_spread_cells(report.first_p50_us)),
        (report.second, *_spread_cells(report.second_p50_us)),
    ]
    sentence = f"{ratio_text('the second', 'the first', report.ratio)}, {report.count:,} pairs"
    return Group(
        _table(("p50, called in turn", "median", "over repeats"), rows),
        Text(),
        Text(sentence, style="bold"),
        *_interruption(report),
    )


def overhead_view(report: OverheadReport) -> RenderableType:
    """`predict`, the bare engine, and the difference."""
    rows = [
        ("predict, every check on" if report.checks else "predict", *_spread_cells(report.predict_p50_us)),
        (f"bare {report.bare}", *_spread_cells(report.bare_p50_us)),
        ("predict adds", *_spread_cells(report.overhead_us)),
    ]
    return Group(
        Text(f"{report.bundle} · {report.count:,} pairs, one thread", style="bold"),
        Text(),
        _table(("p50, called in turn", "median", "over repeats"), rows),
        *_interruption(report),
    )


def teacher_view(report: TeacherReport) -> RenderableType:
    """Both end to end, every sensor's share, and what is spared."""
    rows = [
        ("teacher, samples to answer", *_spread_cells(report.teacher_us)),
        ("student, samples to answer", *_spread_cells(report.student_us)),
        ("teacher's graph alone", *_spread_cells(report.teacher_engine_us)),
        ("student's graph alone", *_spread_cells(report.student_engine_us)),
    ]
    sensors = [
        (
            sensor.modality,
            "yes" if sensor.needed else "no",
            f"{sensor.channels} x {sensor.rate_hz:g} Hz",
            f"{size_text(sensor.bytes_per_s)}/s",
            duration_text(sensor.gather_us.median),
            duration_text(sensor.front_end_us.median),
            "" if sensor.power_mw is None else f"{significant(sensor.power_mw)} mW",
        )
        for sensor in report.sensors
    ]
    return Group(
        Text(f"{report.teacher} and {report.subject.bundle} · every {report.hop_s:g} s · called in turn", style="bold"),
        Text(),
        _table(("p50", "median", "over repeats"), rows),
        Text(),
        _table(("sensor", "needed", "samples", "data", "gather", "front end", "draws"), sensors),
        Text(),
        Text(f"end to end {ratio_text('the student', 'the teacher', report.ratio)}", style="bold"),
        *(_line(sentence) for sentence in spared_lines(report)),
        *_interruption(report),
    )


def rivals_view(report: RivalsReport) -> RenderableType:
    """Every engine: latency, ratio, difference of its answers, or why it is not there."""
    rows = [
        (
            f"{rival.name} {rival.version}",
            *_spread_cells(rival.p50_us),
            "" if rival.p99_us is None else duration_text(rival.p99_us.median),
            "" if rival.ratio is None else f"{rival.ratio.median:.2f} x",
            "" if rival.load_ms is None else duration_text(1e3 * rival.load_ms),
            "" if rival.max_abs_error is None else f"{rival.max_abs_error:.1g}",
            f"{report.mflops * 1e-3 / (rival.p50_us.median * 1e-6):.0f}" if report.mflops else "",
        )
        for rival in report.rivals
        if rival.p50_us is not None
    ]
    return Group(
        Text(f"{report.subject.bundle} · {plural(report.threads, 'thread')} · called in turn", style="bold"),
        Text(),
        _table(("engine", "p50", "over repeats", "p99", "to predict", "load", "difference", "GFLOP/s"), rows),
        Text(),
        _line(f"one core's product of float32 matrices: {report.peak_gflops:.0f} GFLOP/s", "dim"),
        *(_line(f"{rival.name}: {rival.reason}", "yellow") for rival in report.rivals if rival.reason),
        *_interruption(report),
    )


def capacity_view(report: CapacityReport) -> RenderableType:
    """The answer first, then the load at the answer."""
    demand = f"{report.rate_hz:g} predictions per second each, answered within {report.deadline_ms:g} ms"
    lines: list[RenderableType] = [
        Text(f"{report.subject.bundle} · {report.precision} · {report.backend} · {demand}", style="bold"),
        Text(f"carried by this device: {carried_text(report)}", style="bold"),
    ]
    level = report.at_answer
    if level is not None:
        lines += [Text(), _pairs(_level_rows(report, level)), Text()]
        if level.missed > MISSED_SHARE * level.due and report.streams:
            pauses = sum(not one.carried for one in report.launches)
            lines.append(
                _line(
                    f"in {plural(pauses, 'launch', 'launches')} pauses of this machine outlasted the deadline", "yellow"
                )
            )
    if report.refused is not None:
        share = report.refused.missed / report.refused.due
        verb = "was" if report.refused.streams == 1 else "were"
        lines.append(_line(f"{plural(report.refused.streams, 'stream')} {verb} not carried: {share:.2%} missed"))
    lines += [_line(f"beside it: {sentence}", "yellow") for sentence in report.disturbances]
    lines.append(
        _line(f"{plural(len(report.trials), 'load')} tried, {plural(report.servers, 'thread')} answered", "dim")
    )
    return Group(*lines)


def _level_rows(report: CapacityReport, level: Level) -> list[tuple[str, str]]:
    rows = [(entry.name, percentile_text(entry, level.response.count)) for entry in level.response.percentiles]
    p999_us = report.p999_us
    headroom = "unknown" if p999_us is None else duration_text(max(0.0, 1e3 * report.deadline_ms - p999_us))
    idle = "unknown" if report.idle_cores is None else f"{report.idle_cores:.2f} of {report.machine.usable_cores} cores"
    carried = sum(one.carried for one in report.launches)
    median = "unknown" if p999_us is None else duration_text(p999_us)
    return [
        ("offered", f"{level.streams} streams, {level.offered_hz:g} windows per second"),
        (
            "p99.9",
            (
                f"{median} in the median launch, within {report.deadline_ms:g} ms in {carried} of "
                f"{plural(len(report.launches), 'launch', 'launches')}"
            ),
        ),
        *((f"response {name}", value) for name, value in rows),
        ("response max", duration_text(level.response.max_us)),
        ("missed", f"{level.missed:,} of {level.due:,} windows"),
        ("headroom", f"{headroom} at p99.9, {idle} idle"),
    ]


def plan_view(report: PlanReport) -> RenderableType:
    """Measured and forecast throughput, and how far the model may be trusted."""
    measured = [
        (f"{one.cores} measured", f"{one.throughput_hz:,.0f}", f"{one.low_hz:,.0f} to {one.high_hz:,.0f}", "")
        for one in report.measured
    ]
    forecasts = [
        (f"{one.cores} forecast", f"{one.throughput_hz:,.0f}", "", "" if one.streams is None else f"{one.streams:,}")
        for one in report.forecasts
    ]
    return Group(
        Text(report.subject.bundle, style="bold"),
        Text(),
        _table(("cores", "predictions per second", "over rounds", "streams at most"), [*measured, *forecasts]),
        Text(),
        Text(model_text(report)),
        *(_line(f"beside it: {sentence}", "yellow") for sentence in report.disturbances),
        *_interruption(report),
        _line("more cores of this kind at this clock, and nothing else on them", "dim"),
    )


def profile_view(profile: ExecutionProfile) -> RenderableType:
    """Every way to run each student, the one that `open` takes in the first row, and what was left out."""
    parts: list[RenderableType] = [Text(str(profile.machine), style="bold")]
    for model in dict.fromkeys(trial.model for trial in profile.trials):
        trials = [trial for trial in profile.trials if trial.model == model]
        best = best_trial(trials, model=model)
        ranked = sorted(trials, key=lambda trial: (trial is not best, trial.ratio))
        header = (model, "precision", "threads", "options", "p50", "p99", "times as fast")
        parts += [Text(), _table(header, map(_trial_row, ranked), left=(0, 1, 3))]
    for one in profile.left_out:
        parts.append(_line(f"left out: {one.model} in {one.backend} {one.precision}: {one.reason}", "yellow"))
    first = profile.trials[0]
    parts += [
        Text(),
        _line(
            f"compared with {first.backend} {first.precision}; EdgePredictor.open takes the first row of a table "
            "(lower precision and more threads have to be 1.1 times as fast)"
        ),
    ]
    return Group(*parts)


def _trial_row(trial: Trial) -> tuple[str, ...]:
    options = [f"graph={trial.options.graph}"] if trial.options.graph != "all" else []
    options += ["owns cores"] if trial.options.owns_cores else []
    return (
        trial.backend,
        trial.precision,
        str(trial.threads),
        ", ".join(options),
        duration_text(trial.p50_us),
        duration_text(trial.p99_us),
        significant(1 / trial.ratio),
    )


def _spread_cells(spread: Spread) -> tuple[str, str]:
    return duration_text(spread.median), f"{duration_text(spread.min)} to {duration_text(spread.max)}"


def _bound(upper_us: float | None) -> str:
    return "" if upper_us is None else f"at most {duration_text(upper_us)}"


def _stage_table(report: BenchReport) -> WholeWords:
    stages = report.result.stages
    total_us = sum(stage.p50_us for stage in stages) or 1.0
    rows = [
        (stage.name, duration_text(stage.p50_us), duration_text(stage.p90_us), _bar(stage.p50_us / total_us))
        for stage in stages
    ]
    return _table(("stage", "p50", "p90", ""), rows, left=(0, 3))


def _bar(share: float) -> str:
    return "█" * max(1, round(BAR_CELLS * share)) + f" {share:.0%}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,)) -> WholeWords:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for number, title in enumerate(header):
        first = number in left
        table.add_column(title, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return WholeWords(table)


def _pairs(rows: Iterable[tuple[str, str]]) -> WholeWords:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return WholeWords(table)


def _interruption(report: AnyReport) -> list[RenderableType]:
    return [_line(line, "yellow") for line in interruption_lines(complete=report.complete)]


def _line(text: str, style: str = "") -> RenderableType:
    return Text(text, style=style)
