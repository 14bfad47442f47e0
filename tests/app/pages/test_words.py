"""How figures are written, against python's own formatting and by properties."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_app import words as formats
from mmkd_documents.figures import OF_CLASSES, Measure

FINITE = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False)
WRITERS = ["decimal", "count", "percent", "points", "significant", "plain", "magnitude", "short_percent", "duration"]


def as_number(written):
    return float(written.replace("\u202f", "").replace("\u2212", "-"))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_what_is_missing_or_not_finite_is_written_as_a_dash(write, nothing):
    assert getattr(formats, write)(nothing) == "–"


@settings(max_examples=60, derandomize=True)
@given(FINITE)
def test_a_fixed_figure_reads_back_within_half_of_its_last_digit(value):
    assert abs(as_number(formats.decimal(value, 2)) - value) <= 0.005 * (1 + 1e-9) + 1e-9 * abs(value)


@settings(max_examples=60, derandomize=True)
@given(st.floats(min_value=1e-5, max_value=9e8))
def test_significant_figures_read_back_within_half_of_the_third_digit(value):
    assert as_number(formats.significant(value)) == pytest.approx(value, rel=0.005 * (1 + 1e-9))


@settings(max_examples=60, derandomize=True)
@given(FINITE)
def test_zero_never_carries_a_sign(value):
    written = formats.points(value)
    assert written.startswith(("+", "\u2212")) == any(digit in written for digit in "123456789")


@settings(max_examples=30, derandomize=True)
@given(st.integers(min_value=0, max_value=10**9))
def test_thousands_are_set_apart_by_narrow_spaces(number):
    assert re.fullmatch(r"\d{1,3}(\u202f\d{3})*", formats.count(number))
    assert as_number(formats.count(number)) == number


@pytest.mark.parametrize(
    ("write", "figures"),
    [
        (formats.magnitude, {0: "0", 999: "999", 999.6: "1.00 k", 61_432: "61.4 k", 999_600: "1.00 M"}),
        # Three digits stay three when rounding up.
        (formats.significant, {0.0995: "0.0995", 0.09996: "0.100", 99.96: "100", 1e-8: "1.00e-08", -2.345: "-2.35"}),
        (formats.short_percent, {1: "100 %", 0.1: "10 %", 0.05: "5 %", 0.125: "12.5 %", 0.3333: "33.33 %", 0.0: "0 %"}),
        (formats.duration, {0.42: "0.42 s", 59.7: "60 s"}),
    ],
)
def test_figures_are_written_with_three_digits_a_sign_and_a_unit(write, figures):
    expected = [text.replace(" ", "\u202f").replace("-", "\u2212") for text in figures.values()]
    assert [write(figure) for figure in figures] == expected


def test_durations_read_as_people_say_them():
    assert [formats.duration(seconds) for seconds in (60, 3599.6, 7321)] == ["1 min 0 s", "1 h 0 min", "2 h 2 min"]


def test_a_teacher_below_labels_only_has_nothing_to_give():
    accuracy, of = OF_CLASSES[0], "The teacher has nothing to give on acc: it validates "
    error = Measure(name="mae", words="error", short="MAE", unit="mm", gain_unit="mm", lower_is_better=True)
    expected = f"{of}6.5 points below labels only (77.3\u202f% and 83.8\u202f%)"
    assert formats.teacher_shortfall(0.773, 0.838, accuracy, " on acc") == expected
    expected = f"{of}0.500 mm below labels only (2.50\u202fmm and 2.00\u202fmm)"
    assert formats.teacher_shortfall(2.5, 2.0, error, " on acc") == expected
    for scores in ((0.9, 0.8), (0.8, 0.8), (None, 0.8), (0.8, None)):
        assert formats.teacher_shortfall(*scores, accuracy) == ""
