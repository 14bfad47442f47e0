"""Times of samples that cannot be trusted: what is refused, what is believed, and what results say of it."""

import json
import queue
import re
import time
import urllib.error
import urllib.request

import msgspec
import numpy as np
import pytest

from mmkd_edge.testing import fake_predictor
from mmkd_station.clock import TIME_FAULTS, SensorRules, TimeWatch
from mmkd_station.intake import Delivery
from mmkd_station.monitor.access import Access, read_address
from mmkd_station.monitor.server import serve_page
from mmkd_station.outlet import Outlet
from mmkd_station.protocols.samples import rows_from_json
from mmkd_station.sensor import Sensor
from mmkd_station.service import Service
from tests.station.rig import station_of, until, wanted
from tests.station.test_faults import Kept

UTC = 1_800_000_000.0


def verdicts(time_at, *, every_s=0.1, seconds=30.0, delay_at=lambda _: 0.0, waited=False, watch=None):
    """Why each delivery is refused; `time_at` has its time, `delay_at` how much later it arrives, by the real time."""
    watch = watch or TimeWatch(limit_s=5.0, back_s=2.0)
    reasons = []
    for number in range(round(seconds / every_s)):
        real_s = number * every_s
        arrived_s = real_s + delay_at(real_s)
        times = np.array([time_at(real_s)])
        watch.accept(times, arrived_s=arrived_s, utc_s=UTC + arrived_s, still_s=1.0, waited=waited)
        reasons.append(watch.reason)
    return reasons


@pytest.mark.parametrize("begins_s", [0.0, UTC - 3.0, UTC - 1e6])
@pytest.mark.parametrize(
    ("time_at", "last"),
    [
        (lambda real_s: min(real_s, 3.0), "the times of samples have stood still for 26.9 s"),
        (lambda real_s: 3.0 - abs(real_s - 3.0), "the times of samples went back 26.9 s"),
        (lambda real_s: real_s % 1.0, "the times of samples have stood still for 29.0 s"),
        (lambda real_s: real_s % 3.0, "the times of samples have stood still for 27.0 s"),
    ],
    ids=["still", "backwards", "back 1 s every second", "back 3 s every 3 s"],
)
def test_times_that_do_not_advance_are_refused(begins_s, time_at, last):
    reasons = verdicts(lambda real_s: begins_s + time_at(real_s))
    assert all(reasons[45:])  # three seconds of samples, one of patience
    assert reasons[-1] == last


@pytest.mark.parametrize("begins_s", [0.0, UTC, UTC - 1e6])
def test_times_that_run_faster_than_their_arrival_are_refused(begins_s):
    reasons = verdicts(lambda real_s: begins_s + 10 * real_s)
    assert not any(reasons[:5])
    assert all(reasons[8:])
    assert reasons[-1].startswith("the times of samples are 2")  # 9 x 29.9 s, less what a clock may gain
    assert reasons[-1].endswith(" s ahead of their arrival")


def test_times_in_utc_that_are_of_the_future_are_refused_for_good_and_at_once():
    reasons = verdicts(lambda real_s: UTC + 3600 + real_s)
    assert set(reasons) == {"the times of samples are 3,600.0 s ahead of their arrival"}


@pytest.mark.parametrize("step_s", [-1e5, -3600.0, 1e6])
def test_a_clock_that_was_set_is_believed_after_it_has_kept_pace(step_s):
    reasons = verdicts(lambda real_s: UTC - 10 + real_s + (step_s if real_s >= 10 else 0.0), seconds=20)
    assert (any(reasons[:100]), all(reasons[100:150]), any(reasons[150:])) == (False, True, False)


@pytest.mark.parametrize("begins_s", [0.0, UTC, UTC - 1e6])
def test_delays_jitter_and_clocks_that_drift_are_not_held_against_a_source(begins_s):
    random = np.random.default_rng(0)
    jitter = verdicts(lambda real_s: begins_s + real_s, delay_at=lambda _: float(random.uniform(0, 0.8)))
    stalled = verdicts(lambda real_s: begins_s + real_s, delay_at=lambda real_s: max(0.0, 20 - real_s) * (real_s >= 10))
    assert not any([*jitter, *stalled])
    assert not any(verdicts(lambda real_s: 1000 + 1.01 * real_s, every_s=10.0, seconds=100_000))
    assert not any(verdicts(lambda real_s: 1000 + 0.99 * real_s, every_s=10.0, seconds=100_000))


def test_seconds_since_power_on_are_never_utc_though_the_device_was_at_1970_before_its_clock_was_set():
    watch = TimeWatch(limit_s=5.0, back_s=2.0)
    for number in range(600):
        utc_s = 30.0 + 0.1 * number + (UTC if number >= 300 else 0.0)
        times = np.array([5.0 + 0.1 * number])
        assert watch.accept(times, arrived_s=0.1 * number, utc_s=utc_s, still_s=1.0, waited=False)
        assert not watch.is_utc(float(times[0]), utc_s)


def test_what_makes_results_stale_is_a_fault_of_the_times(acc):
    pauses = [(0.0, {"silent_s": 3.0}, "silent"), (9.0, {}, "old"), (-9.0, {}, "ahead")]
    for age_s, silence, fault in pauses:
        predictor = fake_predictor([0.25, 0.75], modality=acc, labels=("ok", "worn"))
        sensor = Sensor(Sent(acc), "text", predictor=predictor, rules=SensorRules(hop=5, stale_s=STALE_S))
        assert sensor.watch.fault is None
        prediction = predictor.predict(np.ones((acc.samples, 3), dtype=np.float32))
        changes = {"status": "stale" if age_s else "ok", "input_age_s": age_s}
        assert sensor._judge(msgspec.structs.replace(prediction, **changes), **silence).status == "stale"
        assert sensor.watch.fault == fault


def test_a_backlog_in_utc_may_catch_up():
    # As what a broker kept for an hour: it comes within a second.
    reasons = verdicts(lambda real_s: UTC - 3600 + min(3600 * real_s, 3600 + real_s), seconds=3, every_s=0.01)
    assert not any(reasons)


def test_lines_of_a_file_that_waited_for_their_reader_may_be_of_any_time():
    replayed = verdicts(lambda real_s: 1000 * real_s, waited=True)
    again = verdicts(lambda real_s: 10 * (real_s % 3.0), waited=True)
    assert not any([*replayed, *again])


# What a sensor of 10 Hz sends at tenth of a second k after a moment t, until which all was well; what the log and
# `/healthz` say of it; status and first reason of the last result.
ROW = [1, 0, 0]
STILL, BACK, AHEAD, LATE = TIME_FAULTS["still"], TIME_FAULTS["back"], TIME_FAULTS["ahead"], TIME_FAULTS["late"]
OWN_S, STALE_S = -1e9, 2.0
SENT = {
    "still": (
        lambda t, k: {"time": t, "samples": [ROW]},
        STILL, ("stale", "the times of samples have stood still for N s"),
    ),
    "backwards": (
        lambda t, k: {"time": t - 0.1 * k, "samples": [ROW]},
        BACK, ("stale", "the times of samples went back N s"),
    ),
    "an hour back and forth": (
        lambda t, k: {"time": t + 0.1 * k - 3600 * (k % 2), "samples": [ROW]},
        BACK, ("degraded", "N of N samples were left out because of their times"),
    ),
    "ten times the rate": (
        lambda t, k: {"time": t + 0.1 * k, "samples": [ROW] * 10},
        LATE, ("invalid", "N of N samples were left out because of their times"),
    ),
    "ten times the rate, without times": (
        lambda t, k: [ROW] * 10,
        AHEAD, ("invalid", "N of N samples were left out because of their times"),
    ),
    "a fast clock of its own": (
        lambda t, k: {"time": OWN_S + t + k, "samples": [ROW] * 10},
        AHEAD, ("stale", "the times of samples are N s ahead of their arrival"),
    ),
    "100,000 rows": (
        lambda t, k: {"time": t + 0.1 * k, "samples": [ROW] * (1 if k else 100_000)}, AHEAD, ("ok", ""),
    ),
}  # fmt: skip
LASTING = [name for name in SENT if not name.startswith("100,000")]


class Sent:
    """A live source of the documents that a test puts into its queue."""

    live = True

    def __init__(self, modality):
        self.documents = queue.SimpleQueue()
        self._modality = modality

    def deliveries(self, listener):
        while (document := self.documents.get()) is not None:
            times, rows = rows_from_json(json.dumps(document).encode(), wanted(self._modality))
            yield Delivery(rows=rows, times=times, arrived_s=time.monotonic())

    def close(self):
        pass


def test_times_that_cannot_be_trusted_leave_no_result_ok_and_are_said_until_they_can_be(acc, caplog):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    sources, sinks = {name: Sent(acc) for name in SENT}, {name: Kept() for name in SENT}
    stations = {
        name: station_of(
            fake_predictor([0.25, 0.75], modality=acc, labels=("ok", "worn")), sources[name], name=name,
            rules=SensorRules(hop=5, stale_s=STALE_S), outlets=[Outlet(name, sinks[name])],
        )
        for name in SENT
    }  # fmt: skip

    def send_good(count):
        for name, (message, _, _) in SENT.items():
            own_s = OWN_S if name.endswith("of its own") else 0.0
            rows = [ROW] * count
            timed = {"time": time.time() + own_s - 0.1 * (count - 1), "samples": rows}
            sources[name].documents.put(timed if isinstance(message(0, 1), dict) else rows)

    def healthz():
        try:
            with urllib.request.urlopen(f"{url}healthz", timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_well_after_a_good_sample():
        send_good(1)
        time.sleep(0.1)
        return healthz()[1]["well"]

    service, address = Service(stations=[*stations.values()], outlets=[], predictors=[]), read_address("127.0.0.1:0")
    with serve_page(service, address=address, access=Access("a token of 16", address, is_open=True)) as url:
        for station in stations.values():
            station.start()
        send_good(25)
        until(lambda: all(any(one.status == "ok" for one in sink.results) for sink in sinks.values()))
        assert healthz()[0] == 200
        began_s, tick, faults = time.time(), 0, {name: {"acc": SENT[name][1]} for name in LASTING}
        # A busy machine takes longer to be over the 100,000 rows.
        while tick < 80 or (tick < 600 and healthz()[1].get("time_faults") != faults):
            for name, (message, _, _) in SENT.items():
                sources[name].documents.put(message(began_s, tick))
            tick += 1
            time.sleep(max(0.0, began_s + 0.1 * tick - time.time()))
        code, told = healthz()
        ended_s = time.time()
        until(is_well_after_a_good_sample)
        assert healthz()[0] == 200
    assert (code, told["well"], told["time_faults"]) == (503, False, faults)
    for name, (_, fault, last) in SENT.items():
        sources[name].documents.put(None)
        stations[name].close()
        results = [one for one in sinks[name].results if began_s < one.decided_s < ended_s]
        statuses = [one.status for one in results]
        first = next(number for number, status in enumerate(statuses) if status != "ok")
        # A second of silence, or what may run ahead, and what a busy machine adds.
        assert results[first].decided_s - began_s < STALE_S + 3, name
        assert ("ok" in statuses[first:]) == (name not in LASTING), name
        assert (statuses[-1], re.sub(r"[\d,.]+", "N", results[-1].reason.split(";")[0])) == last, name
        assert all(one.time_s < one.decided_s + STALE_S for one in results), name
        assert sum(one.late for one in results) > 30, name
        assert (stations[name].facts().untrusted > 30) == (name != "ten times the rate"), name
        assert caplog.text.count(f"{name}: acc: {fault}; they are left out, and results say so\n") == 1, name
