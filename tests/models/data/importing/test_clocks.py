"""Times of logs: units, zones, the hours that clocks repeat and leave out, and what is measured of a clock."""

from datetime import datetime, timezone
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from scipy.signal import resample_poly

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing import grids
from mmkd_models.data.importing.clock import SampleSeries, TimeColumn, clock_facts, in_order, start_ns
from mmkd_models.data.importing.grids import grid_blocks
from mmkd_models.data.importing.readers.table import RowBlock, TextTable
from mmkd_models.data.importing.recipe import SensorSource
from mmkd_models.data.importing.source import ImportedSensor


def read(values, **table):
    block = RowBlock(frame=pl.DataFrame({"t": values}), place=lambda row: f"log.csv:{row + 2}")
    return TimeColumn(TextTable(**table), "t").read(block).tolist()


def ns(text):
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * 10**9 + moment.microsecond * 1000


HALF = ns("2025-11-03T06:30:00.500000+00:00")


@pytest.mark.parametrize(
    ("value", "table"),
    [
        ("1762151400.5", {}),
        ("1762151400500", {}),
        ("1762151400500000", {}),
        ("1762151400500000000", {}),
        ("1762151400,5", {"decimal": ","}),
        ("2025-11-03T06:30:00.5Z", {}),
        ("2025-11-03 07:30:00.500+01:00", {}),
        ("2025-11-03T07:30:00,5 +0100", {}),
        ("2025-11-03 07:30:00.5", {"timezone": "Europe/Berlin"}),
        ("2025/11/03 15:30:00.5", {"timezone": "Asia/Tokyo"}),
        ("03.11.2025 07:30:00.5", {"timezone": "Europe/Berlin", "time_format": "%d.%m.%Y %H:%M:%S%.f"}),
    ],
)
def test_a_moment_is_the_same_however_it_is_written(value, table):
    assert read([value], **table) == [HALF]


def test_stamps_keep_nanoseconds_and_are_utc_or_local_as_the_recipe_says():
    assert read(["1762151400500000001"], time_unit="ns") == [1762151400500000001]
    naive = datetime(2025, 11, 3, 7, 30, 0, 500000)
    assert read([naive], timezone="Europe/Berlin") == [HALF]
    assert read([naive.replace(hour=6, tzinfo=timezone.utc)]) == [HALF]


def test_a_recording_may_start_a_fraction_of_a_second_before_1970():
    assert start_ns("1969-12-31T23:59:59.5Z", TextTable(), place="log.csv") == -500_000_000


def test_the_hour_that_comes_twice_is_told_by_the_order_of_lines_and_not_guessed(refusal):
    local = ["01:59:00", "02:10:00", "02:50:00", "02:05:00", "02:55:00", "03:00:00"]
    times = read([f"2025-10-26 {one}" for one in local], timezone="Europe/Berlin", ambiguous="infer")
    # Summer time is two hours before UTC, winter time one.
    utc = ["2025-10-25T23:59", "2025-10-26T00:10", "2025-10-26T00:50", "2025-10-26T01:05", "2025-10-26T01:55"]
    assert times == [ns(f"{one}:00+00:00") for one in [*utc, "2025-10-26T02:00"]]
    assert refusal(
        DatasetError, read, ["2025-10-26 02:30:00", "2025-10-26 03:00:00"], timezone="Europe/Berlin", ambiguous="infer"
    ) == (
        "log.csv:2: column 't': expected a line before the hour that came twice, to infer by, got 2025-10-26T02:30:00"
        " first; log in UTC"
    )


def series(times_s, values):
    return SampleSeries(
        times=np.rint(np.asarray(times_s) * 1e9).astype(np.int64),
        values=np.asarray(values, dtype=np.float32).reshape(len(times_s), -1),
    )


def test_samples_of_one_time_are_kept_as_told():
    given = series([0, 2, 1, 1], [0, 3, 1, 2])
    assert in_order(given, duplicates="error", sort=True).values[:, 0].tolist() == [0, 1, 2, 3]
    for rule, kept in (("first", [0, 1, 3]), ("last", [0, 2, 3]), ("mean", [0, 1.5, 3])):
        assert in_order(given, duplicates=rule, sort=True).values[:, 0].tolist() == kept
    assert in_order(series([0, 0], [np.nan, 4]), duplicates="mean", sort=False).values.tolist() == [[4.0]]


def test_a_clock_is_measured_without_its_gaps_and_by_the_digits_it_has():
    steps = np.full(1000, 0.01)
    steps[500], steps[1], steps[2] = 3.0, 0.012, 0.008
    facts = clock_facts(series(np.cumsum(steps), np.zeros(1000)), max_gap_s=0.015)
    assert (facts.samples, facts.gaps, facts.longest_gap_s) == (1000, 1, pytest.approx(3.0))
    assert facts.rate_hz == pytest.approx(100.0, rel=1e-4)
    assert facts.jitter_p99_ms == pytest.approx(0.0, abs=0.01)
    for rate_hz in (0.7, 0.8, 0.95):  # in whole seconds: steps of 1 and 2 s, evenly mixed
        times = np.floor(np.arange(1000) / rate_hz)
        facts = facts_of(times)
        assert (facts.rate_hz, facts.missing) == (pytest.approx(rate_hz, rel=2e-3), 0)
        # Each seventh row of a clock of 1 Hz may as well be lost: only the recipe can tell.
        assert facts_of(times, expected_hz=1.0).rate_hz == 1.0
    facts = facts_of(np.arange(1000) + np.random.default_rng(0).normal(scale=0.2, size=1000))
    assert facts.rate_hz == pytest.approx(1.0, rel=2e-3)
    assert facts.missing <= 2


def facts_of(times_s, **options):
    return clock_facts(series(times_s, np.zeros(len(times_s))), max_gap_s=1.5, **options)


@pytest.mark.parametrize("lost", [0.04, 0.09, 0.3])
def test_lost_rows_do_not_slow_a_clock_down(lost):
    whole = np.arange(1000.0)
    stays = np.random.default_rng(0).random(1000) >= lost
    stays[[0, -1]] = True
    facts = facts_of(whole[stays])
    assert (facts.rate_hz, facts.missing, facts.jitter_p99_ms) == (1.0, int((~stays).sum()), 0.0)
    fast = clock_facts(series(whole[stays] / 100, np.zeros(stays.sum())), max_gap_s=0.015)
    assert (fast.rate_hz, fast.missing) == (pytest.approx(100.0), int((~stays).sum()))
    jitter = np.random.default_rng(1).uniform(-0.1, 0.1, 1000)  # a tenth of a period
    assert facts_of((whole + jitter)[stays]).rate_hz == pytest.approx(1.0, rel=5e-3)


def on_grid(given, *, count, rate_hz, native_hz, resample="linear", **keys):
    """The blocks of a grid in one array (count, C)."""
    source = SensorSource(modality="a", files="a.csv", resample_hz=rate_hz, **keys)
    sensor = ImportedSensor(source=source, columns={"x": "x"}, native_hz=native_hz, resample=resample)
    return np.concatenate(list(grid_blocks(given, sensor, origin_ns=0, count=count)))


def grid(given, resample, **sensor):
    sensor = {"native_hz": 1.0, "max_gap_s": 1.5, **sensor}
    return on_grid(given, rate_hz=2.0, count=9, resample=resample, **sensor)[:, 0].tolist()


def test_nothing_is_interpolated_across_gaps_and_polyphase_takes_what_the_rate_cannot_hold():
    given = series([0, 1, 3.5, 4], [0, 10, 30, 40])
    nan = np.nan
    np.testing.assert_equal(grid(given, "linear"), [0, 5, 10, nan, nan, nan, nan, 30, 40])
    np.testing.assert_equal(grid(given, "hold", hold_s=1.0), [0, 0, 10, 10, 10, nan, nan, 30, 40])
    np.testing.assert_equal(
        grid(series([0, 1, 2, 3, 4], [0, 10, np.nan, 30, 40]), "linear"), [0, 5, 10, np.nan, np.nan, np.nan, 30, 35, 40]
    )
    time = np.arange(4000) / 100.0
    given = series(time, np.sin(2 * np.pi * 2 * time) + np.sin(2 * np.pi * 45 * time))
    found = on_grid(given, rate_hz=20.0, count=790, resample="polyphase", native_hz=100.0, max_gap_s=0.015)
    wanted = np.sin(2 * np.pi * 2 * np.arange(790) / 20.0)
    # The filter's ripple in scipy's default window (Kaiser, beta 5) is below 0.5 %.
    assert np.abs(found[100:-100, 0] - wanted[100:-100]).max() < 0.01


@pytest.mark.parametrize(("native_hz", "rate_hz"), [(44.1, 16.0), (10.0, 25.0)])
def test_polyphase_in_blocks_is_that_of_the_whole(native_hz, rate_hz, monkeypatch):
    monkeypatch.setattr(grids, "_BLOCK_VALUES", 128)
    values = 3 + np.random.default_rng(0).normal(size=3000).cumsum() / 100
    values[:70], values[900:1500], values[2990:] = np.nan, np.nan, np.nan
    there = np.ones(3000, dtype=bool)
    there[2000:2400] = False
    count = int(2999 / native_hz * rate_hz) + 1
    given = series(np.arange(3000)[there] / native_hz, values[there])
    gap_s = 1.5 / native_hz
    found = on_grid(given, rate_hz=rate_hz, count=count, resample="polyphase", native_hz=native_hz, max_gap_s=gap_s)
    length = int(np.ceil(count * native_hz / rate_hz)) + 1
    native = on_grid(given, rate_hz=native_hz, native_hz=native_hz, count=length, max_gap_s=gap_s)[:, 0]
    known = np.flatnonzero(~np.isnan(native))
    # What is missing, also before the first sample and behind the last, has the value of the nearest sample.
    places = np.arange(-1000, length + 1000)
    nearest = known[np.abs(places[:, None] - known).argmin(axis=1)]
    ratio = Fraction(rate_hz / native_hz).limit_denominator(1000)
    first = 1000 // ratio.denominator * ratio.denominator  # samples before, which are whole steps of the new rate
    whole = resample_poly(native[nearest][1000 - first :].astype(float), ratio.numerator, ratio.denominator)
    whole = whole[first // ratio.denominator * ratio.numerator :][:count]
    nearest = np.rint(np.arange(count) * native_hz / rate_hz).astype(int)
    wanted = np.where(np.isnan(native[nearest]), np.nan, whole)
    assert 0.3 < np.isnan(wanted).mean() < 0.5
    # The values are of one filter in float64; what is left is the rounding to float32.
    np.testing.assert_allclose(found[:, 0], wanted, rtol=0, atol=1e-6)
