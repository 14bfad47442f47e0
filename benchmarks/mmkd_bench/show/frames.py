"""What is shown of a film: a frame decoded and scaled, a window answered, and what of the time each of them is."""

from __future__ import annotations

from mmkd_bench.show.render import Column, Sentence, Sheet, Table
from mmkd_bench.show.text import duration_text
from mmkd_report.schema.bench_others import FramesReport, RepeatSpread


def frames_sheet(report: FramesReport) -> Sheet:
    """A row for each step, and one window's share of each."""
    width, height = report.recorded
    kept = "x".join(map(str, report.kept))
    samples, answer = report.samples, report.predict_us
    each = report.decode_us.median, report.scale_us.median, answer.median / samples
    columns = ("of one frame", "p50_us"), ("lowest", "low_us"), ("highest", "high_us")
    table = Table(
        columns=(
            Column(title="step", name="step"),
            *(Column(title=title, name=name, write=duration_text) for title, name in columns),
            Column(title="share", name="share", write=lambda share: f"{share:.0%}"),
        ),
        rows=(
            ("decode", *_spread(report.decode_us), each[0] / sum(each)),
            (f"cut and scale to {kept}", *_spread(report.scale_us), each[1] / sum(each)),
            (
                f"predict, 1/{report.samples} of a window",
                *_spread(report.predict_us, report.samples),
                each[2] / sum(each),
            ),
        ),
    )
    took = f"{duration_text(answer.median)} for a window of {samples}"
    notes = [f"{report.count:,} frames; predict takes {took}, the front-end included"]
    notes += [] if report.complete else ["interrupted: less was measured than asked for"]
    heading = f"{report.film}, {width}x{height}, beside {report.bundle}"
    return Sheet(heading=heading, parts=(table, *(Sentence(text=note) for note in notes)), csv=table)


def _spread(spread: RepeatSpread, divided_by: int = 1) -> tuple[float, float, float]:
    return spread.median / divided_by, spread.min / divided_by, spread.max / divided_by
