"""The geometry of figures, by hand-computed places, properties and the PNG format."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_app.pages import charts as plots

FIGURES = st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1, max_size=8)


@settings(max_examples=60, derandomize=True)
@given(FIGURES)
def test_an_axis_holds_every_figure_between_round_ticks(values):
    over = plots.axis(values)
    slack = 1e-6 + 1e-9 * (max(values) - min(values))  # a figure this close to a round end is on it
    assert over.low <= min(values) + slack
    assert over.high >= max(values) - slack
    steps = np.diff(over.ticks)
    assert 1 <= len(steps) <= 7
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - round_step) for round_step in (1, 2, 5, 10)) < 1e-6


def test_an_axis_stays_within_its_bounds_and_is_one_of_a_single_figure_too():
    over = plots.axis([0.93, 0.991], floor=0.0, ceiling=1.0)
    assert (over.low, over.high, over.ticks) == (pytest.approx(0.92), 1.0, (0.92, 0.94, 0.96, 0.98, 1.0))
    assert plots.axis([1.0], ceiling=1.0).high == 1.0
    assert plots.axis([1.0], ceiling=1.0).low < 1.0
    assert (plots.axis([None, math.nan]).low, plots.axis([]).high) == (0.0, 1.0)
    over = plots.tight_axis([0, 40, 1600])  # ends where the data end
    assert (over.low, over.high, over.ticks) == (0, 1600, (0.0, 500.0, 1000.0, 1500.0))
    over = plots.Axis(low=0.5, high=1.0, ticks=(0.5, 1.0))
    assert [over.place(value) for value in (0.4, 0.5, 0.75, 1.2)] == [0.0, 0.0, 0.5, 1.0]


def chart(y, **bands):
    x = np.linspace(0, 3, len(y)).tolist()
    unit = plots.Axis(low=0.0, high=1.0, ticks=(0.0, 1.0))
    return plots.line_chart(
        [plots.Line(role="student", name="S", x=x, y=y, **bands)],
        title="t",
        description="d",
        x_label="x",
        x_axis=plots.Axis(low=0.0, high=3.0, ticks=(0.0, 3.0)),
        y_axis=unit,
    ).svg


def path(svg, style):
    (found,) = re.findall(rf'<path class="{style}" d="([^"]*)"', svg)
    return found


def test_a_line_runs_from_corner_to_corner_and_keeps_its_ends():
    svg = chart([0.0, 0.25, 0.5, 1.0])
    assert path(svg, "line") == "M42 138L138.7 106L235.3 74L332 10"
    assert re.findall(r'class="point" cx="([\d.]+)" cy="([\d.]+)"', svg) == [
        ("42", "138"),
        ("138.7", "106"),
        ("235.3", "74"),
        ("332", "10"),
    ]
    assert "<title>S: 1, 0.25</title>" in svg  # a reader sees the value on hover
    points = re.findall(r"[ML]([\d.]+) ", path(chart([0.5] * 5000), "line"))
    assert (len(points), points[0], points[-1]) == (plots.MAX_POINTS, "42", "332")
    svg = chart([0.5] * 4, low=[0.25, None, 0.25, 0.25], high=[0.75, None, 0.75, 0.75])
    assert path(svg, "band") == "M42 106L235.3 106L332 106L332 42L235.3 42L42 42Z"
    hostile = '</svg><script>"&'
    texts = plots.element("title", hostile), plots.element("desc", hostile)
    svg = plots.element("svg", *texts, plots.element("text", hostile, class_=hostile))
    assert "<script" not in svg
    assert svg.count("&lt;/svg&gt;&lt;script&gt;&#34;&amp;") == 4


@pytest.mark.parametrize("gap", [None, math.nan])
def test_a_missing_figure_lifts_the_pen(gap):
    assert path(chart([0.0, gap, 0.5, 1.0]), "line") == "M42 138M235.3 74L332 10"
