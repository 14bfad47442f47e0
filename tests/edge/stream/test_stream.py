"""Streams: what comes out depends on the samples and their times, and memory does not grow."""

import asyncio
import itertools
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge import EdgePredictor, InputError, ModalitySpec, SensorError, UsageError
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.testing import FakeBackend, fake_entry, fake_predictor
from tests.edge.said import said as refused

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=20, range=(-8.0, 8.0))
LABELS = ("a", "b", "c")


def answer(feeds):
    """An answer that no two windows share."""
    values, present = feeds["acc"][0].astype(float), feeds["acc_present"][0].astype(float)
    weights = np.sin(np.arange(values.size)).reshape(values.shape)
    logits = np.array([(values * weights).sum(), (present * weights).sum(), 0.5])
    shares = np.exp(logits - logits.max())
    return list(shares / shares.sum())


def predictor(**options):
    return fake_predictor(answer, modality=ACC, labels=LABELS, **options)


def samples(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)


def said(predictions):
    return [
        (p.status, p.reason, p.index, p.missing_fraction, p.probabilities.tobytes(), p.input_age_s) for p in predictions
    ]


def test_each_gives_what_push_gives_and_refuses_what_it_refuses():
    whole, given = predictor().stream(hop=3), predictor().stream(hop=3)
    times = 5.0 + np.arange(90) / 10
    found = given.each(samples(90), times, now_s=14.0)
    first = next(found)
    assert (first.status, first.reason) == ("warming_up", "2 of 20 samples are there")
    assert given.latest(14.0) is not None
    assert given._count == 2  # what is behind it waits
    assert said([first, *found]) == said(whole.push(samples(90), times, now_s=14.0))
    stream = predictor(policy="raise").stream(hop=20)
    message = "modality 'acc': expected samples of shape (n, C)=(n, 2), got (4, 3); one row per sample, one column per"
    assert refused(InputError, lambda: list(stream.each(np.zeros((4, 3))))).startswith(message)
    refused(SensorError, list, stream.each(np.full((20, 2), np.nan)))


def test_a_prediction_is_due_after_the_first_window_and_then_after_every_hop():
    model, rows = predictor(), samples(47)
    found = model.stream(hop=8).push(rows)
    # 20 % 8 = 4: due at 4 and 12 (too early for a window), then 20, 28, 36, 44.
    assert [p.status for p in found] == ["warming_up"] * 2 + ["ok"] * 4
    assert [p.reason for p in found[:2]] == ["4 of 20 samples are there", "12 of 20 samples are there"]
    assert [p.missing_fraction for p in found[:2]] == [0.8, 0.4]
    expected = [model.predict(rows[end - 20 : end]) for end in (20, 28, 36, 44)]
    assert said(found[2:]) == said(expected)
    rows = samples(150)
    for hop in (1, 20, 33):
        found = [p for p in model.stream(hop=hop).push(rows) if p.status == "ok"]
        assert said(found) == said([model.predict(rows[end - 20 : end]) for end in range(20, 151, hop)])


def test_single_samples_and_plain_numbers_are_pushed_at_the_declared_rate():
    rows = samples(30)
    one, other = predictor().stream(hop=3), predictor().stream(hop=3)
    bare = [p for row in rows for p in one.push(row)]
    named = [p for row in rows for p in other.push({"acc": row[None].tolist()})]
    assert said(bare) == said(named)
    assert len(bare) == 10
    temp = ModalitySpec(name="temp", channels=("t",), rate_hz=2.0, samples=4)
    stream = fake_predictor([0.25, 0.75], modality=temp, labels=("low", "high")).stream(hop=2)
    assert [p.label for p in stream.push([20.0, 21.0, 22.0])] == [""]
    assert [p.label for p in stream.push(23.0)] == ["high"]
    rows = samples(200)
    plain = predictor().stream(hop=4).push(rows)
    for begin in (0.0, 1.7e9):
        for times in (begin + np.arange(200) / 10, begin + np.arange(200) * 0.1, begin):
            assert said(predictor().stream(hop=4).push(rows, times)) == said(plain)


def test_jitter_is_interpolated_as_an_offline_resampling_does():
    rng = np.random.default_rng(4)
    times = 5.0 + (np.arange(300) + rng.uniform(-0.3, 0.3, 300)) / 10
    rows = np.stack([np.sin(times), np.cos(times)], axis=1).astype(np.float32)
    grid = times[0] + np.arange(280) / 10
    offline = np.stack([np.interp(grid, times, rows[:, c]) for c in range(2)], axis=1).astype(np.float32)
    kept = []

    def remember(feeds):
        kept.append(feeds["acc"][0].copy())
        return [1.0, 0.0]

    fake_predictor(remember, modality=ACC, labels=("a", "b")).stream(hop=20).push(rows, times)
    seen = np.concatenate(kept)[: len(offline)]
    # float32 rounding, and the hundredth of a period within which a row is taken from its sample.
    np.testing.assert_allclose(seen, offline[: len(seen)], atol=2e-3)
    assert len(seen) >= 260


def test_a_gap_is_missing_and_a_lost_sample_is_not():
    rows, times = samples(60), np.arange(60) / 10
    lost = np.delete(np.arange(60), 30)
    assert {p.missing_fraction for p in predictor().stream(hop=20).push(rows[lost], times[lost])} == {0.0}
    gap = np.delete(np.arange(60), slice(24, 34))
    found = predictor().stream(hop=20).push(rows[gap], times[gap])
    assert [p.missing_fraction for p in found] == [0.0, 0.5, 0.0]
    assert found[1].reason == "50.0% of the values are missing"
    # Nor is a missing or impossible value interpolated.
    rows, times = samples(40), np.arange(40) / 10 + np.where(np.arange(40) % 2, 0.03, 0.0)
    rows[10, 0], rows[12, 1], rows[14, 0] = np.nan, 1e30, np.inf
    found = predictor().stream(hop=20).push(rows, times)
    assert found[0].missing_fraction == 3 / 40


def test_duplicates_and_late_samples_are_left_out_and_counted():
    rows, times = samples(60), np.arange(60) / 10
    order = [*range(30), 29, 10, *range(30, 60)]
    stream = predictor().stream(hop=5)
    assert said(stream.push(rows[order], times[order])) == said(predictor().stream(hop=5).push(rows, times))
    facts = stream.facts
    assert (facts.samples, facts.duplicates, facts.late, facts.strays, facts.restarts) == (62, 1, 1, 0, 0)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, -1.7e9])
def test_a_clock_that_is_set_begins_a_new_time_line(step_s):
    rows = samples(100)
    times = 1.7e9 + np.arange(100) / 10
    times[50:] += step_s
    stream = predictor().stream(hop=10)
    found = stream.push(rows, times)
    assert [p.status for p in found] == ["warming_up"] + ["ok"] * 4 + ["warming_up"] + ["ok"] * 4
    assert found[5].reason == "the time line began anew: 10 of 20 samples are there"
    assert stream.facts.restarts == 1
    assert said(found[6:]) == said(predictor().stream(hop=10).push(rows[50:], times[50:])[1:])


def test_one_wrong_time_or_an_old_input_is_said_once():
    rows, times = samples(100), np.arange(100) / 10
    wrong = times.copy()
    wrong[[40, 55, 70]] = (0.0 - 1e6, 1e9, np.nan)
    stream = predictor().stream(hop=10)
    found = stream.push(rows, wrong)
    assert [p.status for p in found] == ["warming_up"] + ["ok"] * 9
    assert (stream.facts.strays, stream.facts.restarts) == (3, 0)
    entry = fake_entry(modality=ACC, labels=LABELS)
    by_itself = EdgePredictor.with_backend(entry, FakeBackend(answer), options=OpenOptions(stale_s=1.0)).stream(hop=10)
    for stream in (by_itself, predictor().stream(hop=10, stale_s=1.0)):
        first = stream.push(samples(20), 100.0 + np.arange(20) / 10, now_s=102.0)[-1]
        assert (first.status, first.input_age_s) == ("ok", pytest.approx(0.1))
        late = stream.push(samples(10), 102.0 + np.arange(10) / 10, now_s=105.0)[-1]
        assert (late.status, late.reason, late.label != "") == ("stale", "the newest sample is 2.1 s old", True)


@pytest.mark.parametrize("rate_hz", [100, 1])
def test_a_wrong_rate_is_said(rate_hz):
    found = predictor().stream(hop=10).push(samples(400), np.arange(400) / rate_hz)
    full = [p for p in found if p.status != "warming_up"]
    assert {p.status for p in full} == {"degraded"}
    assert all(f"samples come at {rate_hz} Hz, expected 10 Hz" in p.reason for p in full[-20:])


def test_a_silent_sensor_makes_the_latest_answer_stale():
    stream = predictor().stream(hop=10, stale_s=1.0)
    assert stream.latest(100.0) is None
    last = stream.push(samples(20), 100.0 + np.arange(20) / 10)[-1]
    fresh, old = stream.latest(102.0), stream.latest(110.0)
    assert (fresh.status, fresh.label) == ("ok", last.label)
    assert (old.status, old.reason) == ("stale", "the newest sample is 8.1 s old")
    plain = predictor().stream(hop=10)
    plain.push(samples(1))
    told = "latest: expected a stream whose samples have times, got one without; push with time_s"
    assert refused(UsageError, plain.latest, 1.0) == told


def test_flush_answers_once_and_reset_forgets_everything():
    model, rows = predictor(), samples(25)
    stream = model.stream(hop=10)
    stream.push(rows)
    assert said(stream.flush()) == said([model.predict(rows[5:25])])
    assert stream.flush() == []
    more = samples(5, seed=9)
    assert said(stream.push(more)) == said([model.predict(np.concatenate([rows[10:], more]))])
    stream.reset()
    assert stream.facts.samples == 0
    assert said(stream.push(rows, np.arange(25) / 10)) == said(model.stream(hop=10).push(rows))


def test_an_asynchronous_source_is_followed_to_its_end():
    rows, times = samples(55), np.arange(55) / 10

    async def sensor():
        for start in range(0, 55, 4):
            yield rows[start : start + 4], times[start : start + 4]

    async def follow():
        return [prediction async for prediction in predictor().stream(hop=10).over(sensor())]

    other = predictor().stream(hop=10)
    assert said(asyncio.run(follow())) == said(other.push(rows, times) + other.flush())


def test_the_policy_raise_takes_all_samples_and_then_refuses():
    rows = samples(60)
    rows[25:35] = np.nan
    stream = predictor(policy="raise").stream(hop=10)
    with pytest.raises(SensorError, match=r"\Amodality 'acc': degraded: 25\.0% of the values are missing\Z") as caught:
        stream.push(rows)
    assert [p.status for p in caught.value.predictions] == ["warming_up", "ok", *["degraded"] * 3, "ok"]
    assert [p.status for p in stream.push(samples(10))] == ["ok"]


def test_arguments_out_of_range_are_refused():
    model = predictor()
    for options, told in (
        ({"hop": 0}, "hop: expected a whole number from 1 to 1073741824, got 0"),
        ({"hop": 1, "gap_s": 0}, "gap_s: expected seconds above 0, got 0"),
        ({"hop": 1, "modality": "gyro"}, "modality 'gyro' is unknown; expected one of 'acc'"),
    ):
        assert refused(UsageError, model.stream, **options) == told


def test_samples_that_do_not_fit_are_refused_and_the_stream_goes_on():
    rows = samples(20)
    stream = predictor().stream(hop=20)
    stream.push(rows[:10], np.arange(10) / 10)
    assert refused(InputError, lambda: stream.push(np.zeros((2, 3)))) == (
        "modality 'acc': expected samples of shape (n, C)=(n, 2), got (2, 3); "
        "one row per sample, one column per channel (x, y)"
    )
    told = "time_s: expected one time per sample, 2, got shape (1,)"
    assert refused(InputError, stream.push, rows[:2], [1.0]) == told
    told = "time_s: this stream began with time_s; go on alike, or call reset()"
    assert refused(UsageError, stream.push, rows[:2]) == told
    assert [p.status for p in stream.push(rows[10:], 1.0)] == ["ok"]


CUTS = st.lists(st.integers(0, 130), max_size=12).map(lambda found: [0, *sorted(found), 130])


def pushed(stream, rows, times, at):
    found = []
    for start, stop in itertools.pairwise(at):
        found += stream.push(rows[start:stop], None if times is None else times[start:stop])
    # Sums in another order round otherwise, and a measured rate is told to three digits.
    return [
        tuple(re.sub(r"at [\d.]+ Hz", "at a rate", one) if isinstance(one, str) else one for one in each)
        for each in said(found + stream.flush())
    ]


@settings(max_examples=25, deadline=None)
@given(
    at=CUTS,
    hop=st.integers(1, 45),
    seed=st.integers(0, 2**31),
    jitter=st.sampled_from([0.0, 0.1, 0.5, 2.0]),
    faults=st.lists(
        st.tuples(st.integers(0, 129), st.sampled_from([0.0, 0.25, 1.5, 5.0, -0.3, -50.0, 1e6, -1e6, np.nan])),
        max_size=5,
    ),
)
def test_however_timed_samples_are_divided_the_predictions_are_the_same(at, hop, seed, jitter, faults):
    rng = np.random.default_rng(seed)
    rows, model = samples(130, seed), predictor()
    rows[rng.random(rows.shape) < 0.05] = np.nan
    times = (np.arange(130) + jitter * rng.normal(size=130)) / 10
    for number, step in faults:
        if number % 2:
            times[number:] += step  # the clock is set, or the sensor pauses
        else:
            times[number] += step  # one time is wrong
    streams = [model.stream(hop=hop) for _ in range(2)]
    assert pushed(streams[0], rows, times, at) == pushed(streams[1], rows, times, [0, 130])
    assert streams[0].facts == streams[1].facts
    untimed = [pushed(model.stream(hop=hop), rows, None, cut) for cut in (at, [0, 130])]
    assert untimed[0] == untimed[1]


def test_memory_stays_where_it_is():
    stream = predictor().stream(hop=10)
    stream._ask = lambda *_: None
    stream._deliver = lambda predictions: []
    rows = samples(50)
    times = np.arange(50) / 10

    def run(turns, begin):
        for turn in range(turns):
            stream.push(rows, begin + turn * 5.0 + times)
        return begin + turns * 5.0

    begin = run(10, 0.0)
    tracemalloc.start()
    begin = run(10, begin)
    before, _ = tracemalloc.get_traced_memory()
    run(40, begin)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 10_000
