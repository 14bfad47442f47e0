"""The few large figures under the answer of the demo page: what a decision hangs on."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_report.documents.demo import Contest, DemoDocument, DemoTeacher, LatencyPercentiles, RatioRange
from mmkd_report.documents.figures import Measure
from mmkd_report.pages.demo.answer import best_student, mean_of, teacher_network
from mmkd_report.words.formats import NOTHING, TIMES, is_figure, magnitude, significant, things, with_unit
from mmkd_report.words.guessing import is_refuted
from mmkd_report.words.key_figure import KeyFigure
from mmkd_report.words.measures import difference, gain_interval, told


def key_figures(demo: DemoDocument) -> tuple[KeyFigure, ...]:
    """The few figures that a decision hangs on; what was not measured is left out."""
    best = best_student(demo)
    if best is None:
        return ()
    contest, measure = demo.students[best], demo.told_by
    what = "right" if measure.name == "accuracy" else measure.words
    figures = [
        KeyFigure(
            figure=told(mean_of(contest.student.score(measure)), measure),
            caption=f"{what} with {best} alone{_after(' · all sensors ', demo.teacher, measure)}"
            + _guess(contest, measure),
        ),
        *_gain_figure(demo, contest),
        *_parameters_figure(demo, contest),
        *_latency_figure(demo, contest),
    ]
    return tuple(figures)


def _after(words: str, teacher: DemoTeacher, measure: Measure) -> str:
    mean = mean_of(teacher.score(measure))
    return f"{words}{told(mean, measure)}" if is_figure(mean) else ""


def _guess(contest: Contest, measure: Measure) -> str:
    found = contest.student.guessing
    return "" if found is None else f" · guessing {told(found.figure, measure)}"


def _gain_figure(demo: DemoDocument, contest: Contest) -> Iterator[KeyFigure]:
    if is_refuted(contest.student.guessing):
        return
    several = len(demo.students) > 1
    gain = demo.mean_gain_points if several else contest.gain_points
    if gain is None or not is_figure(gain.mean):
        return
    measure = demo.told_by
    span = gain_interval(gain.low, gain.high, measure)
    tail = f" · interval {span}" if span != NOTHING else ""
    where = f", mean over {len(demo.students)} sensors" if several else ""
    counted = f"{measure.gain_unit} " if measure.gain_unit else ""
    better = "off the error " if measure.lower_is_better else ""
    yield KeyFigure(figure=difference(gain.mean, measure), caption=f"{counted}{better}from distillation{where}{tail}")


def _parameters_figure(demo: DemoDocument, contest: Contest) -> Iterator[KeyFigure]:
    teacher, student = demo.teacher.parameters, contest.student.parameters
    ratio = contest.parameters_ratio or (teacher / student if teacher and student else None)
    if not is_figure(ratio) or ratio <= 0:
        return
    sizes = f" · {magnitude(student)} instead of {magnitude(teacher)}" if teacher and student else ""
    word = "fewer" if ratio >= 1 else "more"
    yield KeyFigure(figure=f"{_times(ratio)}{TIMES}", caption=f"{word} parameters than {teacher_network(demo)}{sizes}")


def _latency_figure(demo: DemoDocument, contest: Contest) -> Iterator[KeyFigure]:
    student = contest.student.latency_ms or LatencyPercentiles()
    ratio = contest.latency_ratio
    own = with_unit(significant(student.p50), "ms")
    over = contest.latency_ratios
    if over is not None and is_figure(over.min) and is_figure(over.max) and over.min <= 1 <= over.max:
        yield KeyFigure(
            figure=own, caption=f"per window, no certain difference to {teacher_network(demo)}{_repeats(1.0, over)}"
        )
    elif is_figure(ratio) and ratio > 0:
        word = "faster" if ratio >= 1 else "slower"
        tail = f" · {own} per window" if own != NOTHING else ""
        caption = f"{word} than {teacher_network(demo)}{_repeats(ratio, contest.latency_ratios)}{tail}"
        yield KeyFigure(figure=f"{_times(ratio)}{TIMES}", caption=caption)
    elif own != NOTHING:
        yield KeyFigure(figure=own, caption="per window, median")


def _repeats(ratio: float, over: RatioRange | None) -> str:
    """The range of a ratio over its repeats, in the direction in which the ratio is told."""
    if over is None or not (is_figure(over.min) and is_figure(over.max)) or over.min <= 0:
        return ""
    low, high = (over.min, over.max) if ratio >= 1 else (1 / over.max, 1 / over.min)
    repeats = f" in {things(over.repeats, 'repeat')}" if over.repeats else ""
    return f" ({significant(low, 2)} to {significant(high, 2)}{repeats})"


def _times(ratio: float) -> str:
    return significant(ratio if ratio >= 1 else 1 / ratio, 2)
