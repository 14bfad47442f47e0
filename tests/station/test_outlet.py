"""Sinks that fail, hang and come back: what waits, what is lost, and that it is counted."""

import contextlib
import json
import random
import sqlite3
import threading
import time

import pytest

from mmkd_edge import ModalitySpec, UsageError
from mmkd_edge.testing import fake_predictor
from mmkd_station.build import open_outlet
from mmkd_station.outlet import Outlet
from mmkd_station.protocols.base import Backoff, RefusedError
from mmkd_station.protocols.table import open_sink, shown_names
from mmkd_station.records import record_from_line, record_line, result_record
from mmkd_station.store import FILE_NAME, Store, checksum
from tests.edge.said import said
from tests.station.rig import alarm, quick, state, until


class Flaky:
    """A sink that is away until it is told to be there."""

    def __init__(self, error=ConnectionError, *, is_there=False):
        self.there = threading.Event()
        self.taken: list[int] = []
        self._error = error
        if is_there:
            self.there.set()

    def write(self, records):
        if not self.there.is_set():
            raise self._error(32, "nobody there")
        self.taken += [record.number for record in records]

    def close(self):
        pass


def put(outlet, numbers):
    for number in numbers:
        outlet.put(state(number))


def predicted(label, **facts):
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=2)
    prediction = fake_predictor([0.25, 0.75], modality=acc, labels=("ok", label)).predict([[0.0], [1.0]])
    return result_record(prediction, number=3, decided_s=5.0, **facts)


def test_a_record_is_one_line_that_can_be_read_back():
    record = predicted("worn", station="press 1", time_s=2.0, dropped=4)
    line = record_line(record)
    assert record_from_line(line) == record
    assert json.loads(line) == {
        "kind": "result", "station": "press 1", "number": 3, "time_s": 2.0, "decided_s": 5.0, "status": "ok",
        "reason": "", "label": "worn", "index": 1, "probability": 0.75, "probabilities": [0.25, 0.75], "labels": [],
        "value": None, "label_set": [], "missing_fraction": 0.0, "modality": "acc", "input_age_s": None, "dropped": 4,
        "late": 0, "novelty": None, "score": None, "p_value": None, "boot": "",
    }  # fmt: skip


def test_a_label_that_a_spreadsheet_would_run_is_escaped_in_the_csv_sink(tmp_path):
    sink = open_sink(f"csv:{tmp_path / 'results.csv'}")
    sink.write([predicted("=HYPERLINK(1)", station="@press", time_s=-2.5)])
    sink.close()
    header, row = (tmp_path / "results.csv").read_text().splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert [found[name] for name in ("station", "time_s", "label")] == ["'@press", "-2.5", "'=HYPERLINK(1)"]


def test_records_wait_in_memory_and_the_oldest_are_given_up_and_counted():
    sink = Flaky()
    outlet = Outlet("away", sink, most=5, backoff=quick)
    put(outlet, range(1, 21))
    until(lambda: outlet.facts().failures >= 2)
    sink.there.set()
    outlet.close()
    facts = outlet.facts()
    assert sink.taken == sorted(sink.taken)
    assert sink.taken[-5:] == [16, 17, 18, 19, 20]
    assert (facts.written, facts.written + facts.dropped, facts.fault) == (len(sink.taken), 20, "")


@pytest.fixture
def open_store(tmp_path):
    """Opens stores in one folder, each of which ends the one before."""
    opened = []

    def open_one(most_bytes=10**6, **options):
        for store in opened:
            store.close()
        opened.append(Store(tmp_path / "store", most_bytes=most_bytes, **options))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.mark.parametrize("has_store", [True, False])
def test_a_refused_record_takes_no_other_with_it(has_store, open_store):
    class Choosy(Flaky):
        def write(self, records):
            super().write([])
            if refused := {record.number for record in records} & {7, 300}:
                raise RefusedError(f"no {min(refused)}")
            super().write(records)

    sink = Choosy()
    outlet = Outlet("choosy", sink, store=open_store() if has_store else None, backoff=quick)
    put(outlet, range(1, 301))
    until(lambda: outlet.facts().failures >= 1)  # all of them wait
    away = outlet.facts().failures
    sink.there.set()
    until(lambda: outlet.facts().waiting == 0)
    outlet.close()
    facts = outlet.facts()
    assert sink.taken == [number for number in range(1, 300) if number != 7]
    assert (facts.written, facts.dropped, facts.fault) == (298, 2, "no 300")
    assert facts.failures <= away + 3  # one of a race, and one of each refused record
    if has_store:
        assert stored(open_store()) == []


def test_records_wait_on_the_disk_over_a_restart_and_come_in_order(open_store):
    outlet = Outlet("sink", Flaky(), store=open_store(), backoff=quick)
    put(outlet, range(1, 301))
    until(lambda: outlet.facts().failures >= 2)
    outlet.close(drain_s=0.1)
    assert outlet.facts().dropped == 0
    sink = Flaky(is_there=True)
    again = Outlet("sink", sink, store=open_store(), backoff=quick)
    again.put(state(301))
    until(lambda: again.facts().written >= 301)
    again.close()
    assert sink.taken == list(range(1, 302))
    assert stored(open_store()) == []


def stored(store):
    """Numbers of the records on the disk, in their order."""
    return [record_from_line(line).number for (line,) in store.rows("SELECT line FROM records ORDER BY id")]


class Hung(Flaky):
    """A sink that hangs in its first write."""

    def __init__(self):
        super().__init__()
        self.tries = threading.Event()

    def write(self, records):
        self.tries.set()
        self.there.wait(20)
        super().write(records)


@pytest.mark.parametrize("has_store", [True, False])
def test_what_a_sink_was_trying_when_the_run_ended_waits_on_the_disk_or_is_counted(has_store, open_store):
    hung = Hung()
    outlet = Outlet("hangs", hung, store=open_store() if has_store else None, backoff=quick)
    outlet.put(state(1))
    assert hung.tries.wait(10)
    outlet.put(state(2))
    outlet.close(drain_s=0.1)
    assert (outlet.facts().waiting, outlet.facts().dropped) == ((2, 0) if has_store else (0, 2))
    if has_store:
        assert stored(open_store()) == [1, 2]
    hung.there.set()


def test_what_a_sink_does_not_take_at_once_is_on_the_disk_soon_and_nothing_else_is(open_store):
    store, hung, healthy = open_store(), Hung(), Flaky(is_there=True)
    outlets = Outlet("hangs", hung, store=store), Outlet("healthy", healthy, store=store)
    for number in range(1, 4):
        for outlet in outlets:
            outlet.put(state(number))
    until(lambda: stored(store) == [1, 2, 3])
    assert healthy.taken == [1, 2, 3]
    hung.there.set()
    until(lambda: stored(store) == [])
    assert hung.taken == [1, 2, 3]
    for outlet in outlets:
        outlet.close()


class Looking(Flaky):
    """A sink that notes what is on the disk when it gets records."""

    def __init__(self, store):
        super().__init__()
        self.seen = []
        self._store = store

    def write(self, records):
        self.seen.append(([record.number for record in records], stored(self._store)))


@pytest.mark.parametrize(("make", "loss_s"), [(alarm, 0.0), (state, 0.0), (alarm, 0.2)])
def test_a_record_is_on_the_disk_for_every_sink_before_any_sees_it(make, loss_s, open_store):
    store = open_store(loss_s=loss_s)
    looking = Looking(store)
    outlets = [Outlet("looks", looking, store=store), Outlet("away", Flaky(), store=store)]
    store.put(make(7), [outlet.queue for outlet in outlets])
    until(lambda: looking.seen)
    assert looking.seen == [([7], [7, 7])]
    assert store.last_alarms() == ([alarm(7)] if make is alarm else [])
    for outlet in outlets:
        outlet.close(drain_s=0.1)


def test_with_a_loss_of_choice_results_go_out_before_they_are_on_the_disk_and_wait_on_it_soon(open_store):
    store = open_store(loss_s=0.2)
    looking, hung = Looking(store), Hung()
    outlets = [Outlet("looks", looking, store=store), Outlet("hangs", hung, store=store)]
    store.put(state(7), [outlet.queue for outlet in outlets])
    until(lambda: looking.seen)
    assert looking.seen[0] == ([7], [])
    until(lambda: stored(store) == [7])
    hung.there.set()
    for outlet in outlets:
        outlet.close()


def test_a_thousand_records_a_second_cost_the_disk_a_transaction_a_tick(open_store):
    store, sinks = open_store(), [Flaky(is_there=True) for _ in range(4)]
    outlets = [Outlet(str(number), sink, store=store) for number, sink in enumerate(sinks)]
    commits = []
    store._connection.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    began_s = time.monotonic()
    for number in range(500):
        store.put(state(number), [outlet.queue for outlet in outlets])
        time.sleep(0.001)
    until(lambda: all(sink.taken == list(range(500)) for sink in sinks))
    assert 1 < len(commits) <= 2 + (time.monotonic() - began_s) / 0.1
    for outlet in outlets:
        outlet.close()


def test_each_stored_record_has_a_checksum_and_what_is_damaged_is_left_out_and_counted_by_name(open_store, caplog):
    store = open_store()
    outlet = Outlet("sink", Flaky(), store=store, backoff=quick)
    for number in range(1, 9):
        store.put(alarm(number, label=f"label {number}"), [outlet.queue])
    outlet.close(drain_s=0.1)
    changes = [
        "records SET line = CAST(replace(CAST(line AS TEXT), '0.9', '0.8') AS BLOB) WHERE id = 2",
        "records SET line = NULL WHERE id = 3", "records SET line = 5 WHERE id = 4",
        "records SET sum = 'x' WHERE id = 5", "records SET id = 60 WHERE id = 6", "records SET id = 'y' WHERE id = 7",
        "alarms SET label = 'moved' WHERE label = 'label 1'",
    ]  # fmt: skip
    for change in changes:
        store._connection.execute(f"UPDATE {change}")
    store._connection.commit()
    store, sink = open_store(), Flaky(is_there=True)
    outlet = Outlet("sink", sink, store=store)
    outlet.close()
    assert (sink.taken, outlet.facts().dropped, outlet.facts().waiting) == ([1, 8], 6, 0)
    assert [one.label for one in store.last_alarms()] == [f"label {number}" for number in range(2, 9)]
    differs = "its checksum differs"
    reasons = [
        f"records: sink 2: {differs}", "records: sink 3: line: expected bytes, got NoneType",
        "records: sink 4: line: expected bytes, got int", "records: sink 5: sum: expected int, got str",
        f"records: sink 60: {differs}", "records: sink y: id: expected int, got str",
        f"alarms: press 1 moved: {differs}",
    ]  # fmt: skip
    path = store._path
    assert [one.getMessage() for one in caplog.records if one.name.endswith("store")] == [
        f"{path}: {reason}; it is left out" for reason in reasons
    ]


@pytest.mark.parametrize("flips", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_no_bit_of_a_store_makes_it_send_a_changed_record_or_breaks_a_start(flips, open_store, tmp_path):
    outlet = Outlet("sink", Flaky(), store=open_store(), backoff=quick)
    put(outlet, range(1, 101))
    outlet.close(drain_s=0.1)
    open_store().close()
    path, dice = tmp_path / "store" / FILE_NAME, random.Random(flips)
    data = path.read_bytes()
    for _ in range(flips):
        place = dice.randrange(100, len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :])
        seen = []
        sink = Flaky(is_there=True)
        sink.write = seen.extend
        again = Outlet("sink", sink, store=open_store())
        again.close()
        assert seen == [state(record.number) for record in seen]
        assert [record.number for record in seen] == sorted(record.number for record in seen)


def test_records_of_a_store_from_before_checksums_are_sent(tmp_path):
    (tmp_path / "store").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / FILE_NAME)) as old:
        for table, keys in {"records": "sink TEXT, id INTEGER", "alarms": "station TEXT, label TEXT"}.items():
            names = ", ".join(name.split()[0] for name in keys.split(", "))
            old.execute(f"CREATE TABLE {table} ({keys}, line BLOB, PRIMARY KEY ({names})) WITHOUT ROWID")
        old.execute("INSERT INTO records VALUES ('sink', 1, ?)", (record_line(state(1)),))
        old.commit()
    store, sink = Store(tmp_path / "store", most_bytes=10**6), Flaky(is_there=True)
    outlet = Outlet("sink", sink, store=store)
    outlet.close()
    store.close()
    assert (sink.taken, outlet.facts().dropped) == ([1], 0)


def test_a_disk_that_takes_nothing_leaves_records_in_memory_until_it_does(open_store, caplog, monkeypatch):
    monkeypatch.setattr("mmkd_station.store._TRIES_AGAIN_S", 0.05)
    store, sink = open_store(), Flaky()
    pages = store.rows("PRAGMA page_count")[0][0]
    store.rows(f"PRAGMA max_page_count = {pages}")  # the file can grow no more, as on a full disk
    outlet = Outlet("away", sink, store=store, most=30, backoff=quick)
    put(outlet, range(1, 201))
    until(lambda: "cannot be used" in caplog.text)
    facts = outlet.facts()
    assert (facts.waiting + facts.dropped, stored(store)) == (200, [])
    store.rows("PRAGMA max_page_count = 1000")
    until(lambda: len(stored(store)) == facts.waiting)
    sink.there.set()
    outlet.close()
    assert sink.taken == list(range(201 - facts.waiting, 201))
    path = store._path
    assert [one.getMessage() for one in caplog.records if one.name.endswith("store")] == [
        f"{path}: cannot be used: database or disk is full; records wait in memory",
        f"{path}: can be written again",
    ]


def test_records_that_cannot_be_read_wait_until_they_can_while_later_ones_are_sent(open_store, caplog):
    earlier = Outlet("sink", Flaky(), store=open_store(), backoff=quick)
    put(earlier, range(1, 4))
    earlier.close(drain_s=0.1)
    sink, store, broken = Flaky(is_there=True), open_store(), ["id"]
    store._connection.set_authorizer(lambda action, _, name, *__: action == sqlite3.SQLITE_READ and name in broken)
    outlet = Outlet("sink", sink, store=store)
    until(lambda: "cannot be used" in caplog.text)
    outlet.put(state(4))
    until(lambda: sink.taken == [4])
    assert (outlet.facts().waiting, outlet.facts().dropped) == (3, 0)
    broken.clear()
    until(lambda: sink.taken == [4, 1, 2, 3])
    outlet.close()


def test_what_a_sink_takes_after_the_end_of_a_run_on_a_full_disk_is_not_counted_as_one_less(open_store):
    store, hung = open_store(), Hung()
    hung.there.set()
    outlet = Outlet("hangs", hung, store=store)
    outlet.put(alarm(1))
    until(lambda: hung.taken == [1] and stored(store) == [])
    store.rows(f"PRAGMA max_page_count = {store.rows('PRAGMA page_count')[0][0]}")
    hung.there.clear()
    hung.tries.clear()
    put(outlet, range(2, 202))
    assert hung.tries.wait(10)
    outlet.close(drain_s=0.1)
    hung.there.set()
    until(lambda: 2 in hung.taken)
    until(lambda: outlet.facts().written > 1)
    assert outlet.facts().waiting == 0


@pytest.mark.parametrize(
    ("place", "damage"), [(0, "file is not a database"), (4096, "database disk image is malformed")]
)
def test_a_damaged_file_is_kept_aside_and_said_in_one_line(place, damage, open_store, tmp_path, caplog):
    outlet = Outlet("away", Flaky(), store=open_store(), backoff=quick)
    put(outlet, range(1, 201))
    outlet.close(drain_s=0.1)
    open_store().close()
    path = tmp_path / "store" / FILE_NAME
    data = path.read_bytes()
    path.write_bytes(data[:place] + bytes(4096) + data[place + 4096 :])
    store = open_store()
    assert stored(store) == []
    aside = path.with_name(f"{FILE_NAME}.damaged")
    assert len(aside.read_bytes()) == len(data)
    assert [one.getMessage() for one in caplog.records if one.name.endswith("store")] == [
        f"{path}: damaged: {damage}; kept as {aside.name}, and a new file is begun"
    ]


def test_with_a_store_nothing_is_given_up_while_a_sink_hangs_and_all_comes_once_and_in_order(open_store):
    hung, store = Hung(), open_store()
    outlet = Outlet("hangs", hung, store=store, most=5, backoff=quick)
    outlet.put(state(1))
    assert hung.tries.wait(10)
    put(outlet, range(2, 24))
    facts = outlet.facts()
    assert (facts.waiting, facts.dropped) == (23, 0)
    hung.there.set()
    outlet.close()
    assert hung.taken == list(range(1, 24))
    assert (outlet.facts().written, outlet.facts().dropped) == (23, 0)
    assert stored(open_store()) == []


def test_the_store_keeps_within_its_bytes_of_each_sink_and_counts_what_it_gives_up(open_store):
    slow = Backoff(first_s=20.0, most_s=30.0)
    size_bytes = len(record_line(state(100)))
    store = open_store(most_bytes=4 * size_bytes)
    outlet = Outlet("away", Flaky(), store=store, most=2, backoff=lambda: slow)
    outlet.put(state(100))
    until(lambda: outlet.facts().failures == 1)
    put(outlet, range(101, 120))
    store.save(everything=True)
    assert stored(store) == [116, 117, 118, 119]
    assert (outlet.facts().waiting, outlet.facts().dropped) == (4, 16)
    outlet.close(drain_s=0.1)


def test_what_a_sink_is_trying_is_not_given_up(open_store):
    hung, store = Hung(), open_store(most_bytes=2 * len(record_line(state(10))))
    outlet = Outlet("hangs", hung, store=store)
    outlet.put(state(10))
    assert hung.tries.wait(10)
    put(outlet, range(11, 16))
    store.save(everything=True)
    assert stored(store) == [10, 15]
    hung.there.set()
    outlet.close()
    assert (hung.taken, outlet.facts().written, outlet.facts().dropped) == ([10, 15], 2, 4)


def test_a_record_that_cannot_be_read_is_left_out_and_counted(open_store):
    store, sink = open_store(), Flaky(is_there=True)
    lines = enumerate([record_line(state(1)), b"{broken}", record_line(state(2))], start=1)
    rows = [("sink", number, line, checksum("sink", number, line)) for number, line in lines]
    store._connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)
    store._connection.commit()
    outlet = Outlet("sink", sink, store=open_store())
    outlet.close()
    assert (sink.taken, outlet.facts().dropped, outlet.facts().waiting) == ([1, 2], 1, 0)


def test_a_store_that_another_has_or_in_the_place_of_a_file_is_refused(tmp_path):
    first = Store(tmp_path, most_bytes=10**6)
    assert said(UsageError, lambda: Store(tmp_path, most_bytes=10**6)) == (
        f"{tmp_path}: expected a folder for the records of one mmkd-run, got one that another mmkd-run has; stop that "
        "one, or name another --store"
    )
    first.close()
    Store(tmp_path, most_bytes=10**6).close()
    (tmp_path / "file").write_text("")
    assert said(UsageError, lambda: Store(tmp_path / "file", most_bytes=10**6)) == (
        f"{tmp_path}/file: expected a folder for records that wait: file exists; choose another name"
    )


def test_sinks_whose_names_differ_in_a_sign_alone_have_records_of_their_own(open_store, tmp_path):
    store = open_store()
    outlets = [open_outlet(f"jsonl:{tmp_path}/{name}", store, name=name) for name in ("a-b", "a_b")]
    for outlet in outlets:
        (tmp_path / outlet.name).unlink()
        (tmp_path / outlet.name).mkdir()  # it can be written no more
        outlet.put(state(1))
    store.save(everything=True)
    assert len(store.rows("SELECT DISTINCT sink FROM records")) == 2
    for outlet in outlets:
        outlet.close(drain_s=0.1)


def test_a_connection_that_breaks_is_a_fault_of_its_sink_and_ends_no_run():
    sink = Flaky(BrokenPipeError)
    outlet = Outlet("broken", sink, backoff=quick)
    outlet.put(state(1))
    until(lambda: outlet.facts().failures >= 2)
    assert not outlet.is_gone
    sink.there.set()
    outlet.close()
    assert sink.taken == [1]


def test_a_webhook_is_shown_without_its_secret_and_no_two_sinks_alike():
    hook = "webhook:https://user:pw@hooks.example.com"
    texts = [f"{hook}/services/T0/secret", f"{hook}/services/T1/other#kinds=alarm", "jsonl:a/b.jsonl"]
    assert list(shown_names(texts).values()) == [
        "webhook:https://hooks.example.com",
        "webhook:https://hooks.example.com (2)",
        "jsonl:a/b.jsonl",
    ]
