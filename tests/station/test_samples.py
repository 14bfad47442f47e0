"""From bytes to samples with times: columns, payloads, lines, clocks, the queue."""

import threading
import time

import numpy as np
import pytest

from mmkd_edge import UsageError
from mmkd_station.clock import SampleClock
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import Backoff, Columns, SourceRequest, map_columns
from mmkd_station.protocols.samples import LineReader, read_seconds, rows_from_json
from tests.edge.said import said

NAN = float("nan")
HUGE = "9" * 400  # beyond float64


def wanted(*names, factors=(), rate_hz=10.0):
    count = len(names)
    return SourceRequest(
        columns=Columns(names=names, factors=factors or (1.0,) * count, offsets=(0.0,) * count), rate_hz=rate_hz
    )


def delivery(count, *, arrived_s, times=None):
    times = None if times is None else np.array(times)
    return Delivery(rows=np.zeros((count, 1), dtype=np.float32), times=times, arrived_s=arrived_s)


def test_a_channel_is_a_column_times_a_factor_plus_an_offset(acc):
    columns = map_columns(acc, {"x": "accel.x*9.81+0.5", "y": "40001*-0.001", "z": '"a*2"-1'})
    assert columns.names == ("accel.x", "40001", "a*2")
    assert columns.factors == (9.81, -0.001, 1.0)
    assert columns.offsets == (0.5, 0.0, -1.0)
    scaled = columns.scaled(np.array([[1.0, 1000.0, NAN]], dtype=np.float32))
    np.testing.assert_allclose(scaled, [[10.31, -1.0, NAN]], rtol=1e-6)
    assert map_columns(acc, {}).names == ("x", "y", "z")
    refused = said(UsageError, map_columns, acc, {"x": "a*0"})
    assert refused == "--map x=a*0: expected a factor other than 0, got 0; correct it"


@pytest.mark.parametrize(
    ("text", "times", "rows"),
    [
        ('{"time": 2, "a": 1, "b": null}', [2.0], [[1, NAN]]),
        ("[1, 2]", None, [[1, 2]]),
        ("[[1, 2], [3, 4]]", None, [[1, 2], [3, 4]]),
        ('{"time": 2, "samples": [[1, 2], [3, 4]]}', [2.0, 2.1], [[1, 2], [3, 4]]),
        ('{"time": [2, 5], "a": [1, 3], "b": [2, 4]}', [2.0, 5.0], [[1, 2], [3, 4]]),
        ('[{"a": 1, "b": 2}, {"a": 3, "b": 4, "c": 9}]', None, [[1, 2], [3, 4]]),
        ('{"time": "1970-01-01T00:01:00Z", "a": 1, "b": 1e300}', [60.0], [[1, np.inf]]),
    ],
)
def test_samples_of_every_form_are_read(text, times, rows):
    found_times, found = rows_from_json(text.encode(), wanted("a", "b"))
    np.testing.assert_allclose(found, rows)
    assert found.dtype == np.float32
    assert (None if found_times is None else found_times.tolist()) == times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "expected JSON, got "),
        ('"x"', "expected samples, got str"),
        ('{"a": 1}', "expected the columns a, b, found no b"),
        ('{"a": 1, "b": "much"}', "column b: expected numbers, got something else"),
        ('{"a": [1, 2], "b": 1}', "expected columns of one length, got several"),
        ("[[1, 2], [3]]", "samples: expected numbers, got something else"),
        ("[1, 2, 3]", "expected 2 values in a row, got 3"),
        ('[{"a": 1, "b": 2}, 3]', "expected samples of one form, got objects and others in one array"),
        ('{"time": "noon", "a": 1, "b": 2}', "Invalid isoformat string: 'noon'"),
        ('{"time": [1], "a": [1, 2], "b": [1, 2]}', "expected a time for each of 2 samples, got 1"),
        ("true", "expected samples, got bool"),
        ("[" * 5000, "expected JSON, got "),
        ("[1, 2]".ljust((4 << 20) + 1), "expected a message of at most 4,194,304 bytes, got 4,194,305"),
        (f"[{HUGE}, 1]", "samples: expected numbers, got something else"),
        (f'{{"a": 1, "b": {HUGE}}}', "column b: expected numbers, got something else"),
        (f'{{"time": {HUGE}, "a": 1, "b": 2}}', "expected a time, got a whole number beyond any"),
        (f'{{"time": [-{HUGE}], "a": [1], "b": [2]}}', "expected a time, got a whole number beyond any"),
    ],
)
def test_what_is_no_sample_says_why(text, expected):
    assert said(ValueError, lambda: rows_from_json(text.encode(), wanted("a", "b"))).startswith(expected)


def test_times_come_in_units_and_as_texts():
    assert read_seconds(1500, unit="ms") == 1.5
    assert read_seconds("1970-01-01 01:00:00+01:00", unit="s") == 0.0
    for wrong in (True, None, "inf"):
        with pytest.raises(ValueError):
            read_seconds(wrong, unit="s")


def test_lines_have_headers_or_channels_in_order():
    reader, intake = LineReader("log.csv", wanted("b", "a")), Intake(most=1, may_drop=False)
    text = "\ufefftime;a;b;note\n1,5;1,25;2;x\n\n2,5;;NaN;y\n3;1\n4;much;2;z\n"
    found = reader.read(text.splitlines(), intake, arrived_s=7.0)
    np.testing.assert_array_equal(found.rows, np.array([[2, 1.25], [NAN, NAN]], dtype=np.float32))
    assert (found.times.tolist(), found.arrived_s) == ([1.5, 2.5], 7.0)
    assert (intake.facts().garbage, intake.last_garbage) == (2, "could not convert string to float: 'much'")
    intake = Intake(most=1, may_drop=False)
    timed = LineReader("log.csv", wanted("a", "b")).read(["1,2,3", "2,3,4"], intake, arrived_s=0.0)
    plain = LineReader("log.csv", wanted("a", "b")).read(["1\t2"], intake, arrived_s=0.0)
    assert (timed.times.tolist(), timed.rows.tolist()) == ([1.0, 2.0], [[2.0, 3.0], [3.0, 4.0]])
    assert (plain.times, plain.rows.tolist()) == (None, [[1.0, 2.0]])
    with pytest.raises(UsageError, match="or 2 values"):
        LineReader("log.csv", wanted("a", "b")).read(["1"], intake, arrived_s=0.0)


def test_decimal_commas_beside_another_separator_are_of_numbers():
    for separator in (";", "\t"):
        lines = [separator.join(values) for values in (("0,1", "1,25", "2,5"), ("0,2", "3", "4,5"))]
        found = LineReader("log.csv", wanted("a", "b")).read(lines, Intake(most=1, may_drop=False), arrived_s=0.0)
        assert (found.times.tolist(), found.rows.tolist()) == ([0.1, 0.2], [[1.25, 2.5], [3.0, 4.5]])


def test_a_full_queue_drops_the_oldest_and_counts_it():
    intake = Intake(most=2, may_drop=True)
    for count in (3, 4, 5):
        intake.put(delivery(count, arrived_s=0.0))
    facts = intake.facts()
    assert (facts.samples, facts.dropped, facts.queued) == (12, 3, 2)
    first = intake.take(timeout_s=0)
    assert len(first.rows) == 4


def test_a_full_queue_that_blocks_waits_until_there_is_room():
    intake = Intake(most=1, may_drop=False)
    intake.put(delivery(1, arrived_s=0.0))
    waiting = threading.Thread(target=intake.put, args=(delivery(2, arrived_s=0.0),), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    assert intake.take(timeout_s=1) is not None
    waiting.join(5)
    assert (waiting.is_alive(), intake.facts().dropped, intake.facts().queued) == (False, 0, 1)
    intake.end()
    assert not intake.is_over
    assert intake.take(timeout_s=1) is not None
    assert intake.is_over
    intake.put(delivery(7, arrived_s=0.0))  # too late
    assert (intake.facts().dropped, intake.is_over) == (7, True)


def test_samples_without_times_are_counted_and_arrival_corrects_the_count():
    clock = SampleClock(rate_hz=10.0, time_from="arrival", live=True)
    first = clock.sample_times(delivery(5, arrived_s=100.4))
    second = clock.sample_times(delivery(5, arrived_s=100.93))  # 30 ms late: jitter
    third = clock.sample_times(delivery(1, arrived_s=103.0))  # 2 s late: samples were lost
    np.testing.assert_allclose(np.diff(np.concatenate([first, second])), 0.1, atol=1e-3)
    assert third[0] - second[-1] == pytest.approx(103.0 - 100.9, abs=0.01)
    utc_s = time.time() - time.monotonic()
    assert first[0] == pytest.approx(utc_s + 100.0, abs=1)


def test_a_clock_of_the_machine_that_is_set_does_not_move_samples(monkeypatch):
    clock = SampleClock(rate_hz=10.0, time_from="arrival", live=True)
    first = clock.sample_times(delivery(1, arrived_s=100.0))
    monkeypatch.setattr(time, "time", lambda: 0.0)  # an hour back, or to 1970
    second = clock.sample_times(delivery(1, arrived_s=100.1))
    assert second[0] - first[0] == pytest.approx(0.1, abs=1e-3)
    now_s = clock.now_s()
    assert now_s > 1e9


def test_silence_is_filled_but_not_between_batches_or_in_a_recording():
    clock = SampleClock(rate_hz=10.0, time_from="source", live=False)
    assert clock.sample_times(delivery(2, arrived_s=5.0)).tolist() == [0.0, 0.1]
    assert clock.sample_times(delivery(2, arrived_s=50.0)).tolist() == pytest.approx([0.2, 0.3])
    assert len(clock.missing_times(1e6)) == 0
    assert clock.now_s() is None
    clock = SampleClock(rate_hz=10.0, time_from="source", live=True, silence_s=0.5)
    clock.sample_times(delivery(1, arrived_s=10.0, times=[500.0]))
    assert len(clock.missing_times(10.4)) == 0
    np.testing.assert_allclose(clock.missing_times(10.85), [500.1, 500.2, 500.3])
    assert len(clock.missing_times(10.86)) == 0
    np.testing.assert_allclose(clock.missing_times(11.05), [500.4, 500.5])
    clock = SampleClock(rate_hz=10.0, time_from="source", live=True)
    for number in range(3):
        clock.sample_times(delivery(1, arrived_s=4.0 * number, times=[4.0 * number]))
    assert len(clock.missing_times(8.0 + 11.9)) == 0
    assert len(clock.missing_times(8.0 + 12.25)) == 2


def test_a_clock_of_the_source_that_is_not_utc_tells_this_moment_by_its_newest_time(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.8e9)
    monkeypatch.setattr(time, "monotonic", lambda: 20.0)
    clock = SampleClock(rate_hz=10.0, time_from="source", live=True)

    def now_after(times, arrived_s):
        clock.sample_times(delivery(len(times), arrived_s=arrived_s, times=times))
        return clock.now_s()

    assert now_after([499.9, 500.0], 18.0) == 502.0  # seconds since it was switched on
    assert now_after([499.0], 19.0) == 502.0  # a late sample
    assert now_after([500.5], 19.0) == 501.5
    assert clock.silent_s() == 1.0
    assert now_after([5e9], 19.5) == 501.5  # not believed
    assert now_after([501.0], 19.5) == 501.5


def test_a_clock_of_the_source_that_was_set_is_believed_when_it_has_kept_pace(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.8e9)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    clock = SampleClock(rate_hz=10.0, time_from="source", live=True, back_s=2.0, stale_s=3.0)
    given = [clock.sample_times(delivery(1, arrived_s=97.0, times=[500.0]))]
    given += [clock.sample_times(delivery(1, arrived_s=97.0 + number, times=[1.0 + number])) for number in range(4)]
    assert [one is None for one in given] == [False, True, True, True, False]
    assert (clock.watch.refused, clock.now_s()) == (3, 4.0)
    for number in range(4):  # UTC, set badly
        clock.sample_times(delivery(1, arrived_s=101.0 + number, times=[1.8e9 - 80_000 + number]))
    assert (clock.watch.refused, clock.now_s()) == (6, 1.8e9)


def test_waits_double_from_one_second_to_thirty_with_jitter():
    backoff = Backoff()
    waits = [backoff.next_s() for _ in range(8)]
    for wait_s, middle_s in zip(waits, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert 0.8 * middle_s <= wait_s <= min(1.2 * middle_s, 30)
        assert wait_s >= 1
    backoff.succeeded()
    assert backoff.next_s() <= 1.2
