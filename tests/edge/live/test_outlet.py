"""Sinks that fail, hang and come back: what waits, what is lost, and that it is counted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmkd_edge import ModalitySpec, UsageError
from mmkd_edge.live.build import outlet_of
from mmkd_edge.live.links.backoff import Backoff
from mmkd_edge.live.records import Record, StateRecord, line_of, record_from_line, result_record
from mmkd_edge.live.sinks.outlet import Outlet
from mmkd_edge.live.sinks.store import Store
from mmkd_edge.live.sinks.table import open_sink, shown_names
from mmkd_edge.live.spec import RunSpec, StationSpec
from mmkd_edge.testing import fake_predictor


class Flaky:
    """A sink that is away until it is told to be there."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.taken: list[int] = []

    def write(self, records: Sequence[Record]) -> None:
        if not self.there.is_set():
            raise ConnectionError("nobody there")
        self.taken += [record.number for record in records]

    def close(self) -> None:
        pass


def state(number: int) -> StateRecord:
    return StateRecord(station="press 1", number=number, decided_s=1.5, state="connected", reason="x" * 100)


def quick() -> Backoff:
    return Backoff(first_s=0.01, most_s=0.02)


def until(condition: object, *, within_s: float = 10.0) -> None:
    end_s = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_a_record_is_one_line_that_can_be_read_back() -> None:
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=2)
    prediction = fake_predictor([0.25, 0.75], modality=acc, labels=("ok", "worn")).predict([[0.0], [1.0]])
    record = result_record(prediction, station="press 1", number=3, time_s=2.0, decided_s=5.0, dropped=4)
    line = line_of(record)
    assert record_from_line(line) == record
    assert json.loads(line) == {
        "kind": "result", "station": "press 1", "number": 3, "time_s": 2.0, "decided_s": 5.0, "status": "ok",
        "reason": "", "label": "worn", "index": 1, "probability": 0.75, "probabilities": [0.25, 0.75], "labels": [],
        "value": None, "label_set": [], "missing_share": 0.0, "modality": "acc", "input_age_s": None, "dropped": 4,
        "late": 0, "novelty": None,
    }  # fmt: skip


def test_a_label_that_a_spreadsheet_would_run_is_escaped_in_the_csv_sink(tmp_path: Path) -> None:
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=2)
    prediction = fake_predictor([0.25, 0.75], modality=acc, labels=("ok", "=HYPERLINK(1)")).predict([[0.0], [1.0]])
    sink = open_sink(f"csv:{tmp_path / 'results.csv'}")
    sink.write([result_record(prediction, station="@press", number=3, time_s=-2.5, decided_s=5.0)])
    sink.close()
    header, row = (tmp_path / "results.csv").read_text().splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert [found[name] for name in ("station", "time_s", "label")] == ["'@press", "-2.5", "'=HYPERLINK(1)"]


def test_records_wait_in_memory_and_the_oldest_are_given_up_and_counted() -> None:
    sink = Flaky()
    outlet = Outlet("away", sink, most=5, backoff=quick)
    for number in range(1, 21):
        outlet.put(state(number))
    until(lambda: outlet.facts().failures >= 2)
    sink.there.set()
    outlet.close()
    facts = outlet.facts()
    assert sink.taken == sorted(sink.taken)
    assert sink.taken[-5:] == [16, 17, 18, 19, 20]
    assert (facts.written, facts.written + facts.dropped, facts.fault) == (len(sink.taken), 20, "")


def test_a_sink_that_hangs_holds_up_nobody() -> None:
    hung = threading.Event()

    class Hanging(Flaky):
        def write(self, records: Sequence[Record]) -> None:
            hung.wait(20)

    outlet = Outlet("hangs", Hanging(), most=10, backoff=quick)
    began_s = time.monotonic()
    for number in range(1000):
        outlet.put(state(number))
    outlet.close(drain_s=0.1)
    assert time.monotonic() - began_s < 5
    hung.set()


def test_records_wait_on_the_disk_over_a_restart_and_come_in_order(tmp_path: Path) -> None:
    outlet = Outlet("away", Flaky(), store=Store(tmp_path, most_bytes=10**6), backoff=quick)
    for number in range(1, 301):
        outlet.put(state(number))
    until(lambda: outlet.facts().failures >= 2)
    outlet.close(drain_s=0.1)
    assert outlet.facts().dropped == 0
    sink = Flaky()
    sink.there.set()
    again = Outlet("back", sink, store=Store(tmp_path, most_bytes=10**6), backoff=quick)
    again.put(state(301))
    until(lambda: again.facts().written >= 301)
    again.close()
    assert sink.taken == list(range(1, 302))
    assert list(tmp_path.iterdir()) == []


class Hung(Flaky):
    """A sink that hangs in its first write."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = threading.Event()

    def write(self, records: Sequence[Record]) -> None:
        self.tries.set()
        self.there.wait(20)
        super().write(records)


def test_what_a_sink_was_trying_when_the_run_ended_waits_on_the_disk(tmp_path: Path) -> None:
    hung = Hung()
    outlet = Outlet("hangs", hung, store=Store(tmp_path, most_bytes=10**6), backoff=quick)
    outlet.put(state(1))
    assert hung.tries.wait(10)
    outlet.put(state(2))
    outlet.close(drain_s=0.1)
    store = Store(tmp_path, most_bytes=10**6)
    assert [record.number for record in [*store.oldest(1), *store.oldest(9)]] == [1, 1]
    assert store.count == 2
    store.close()
    hung.there.set()


def test_what_a_sink_was_trying_when_the_run_ended_is_counted_without_a_store() -> None:
    hung = Hung()
    outlet = Outlet("hangs", hung, backoff=quick)
    outlet.put(state(1))
    assert hung.tries.wait(10)
    outlet.close(drain_s=0.1)
    assert (outlet.facts().dropped, outlet.facts().waiting) == (1, 0)
    hung.there.set()


def test_with_a_store_nothing_is_given_up_while_a_sink_hangs_and_all_comes_once_and_in_order(tmp_path: Path) -> None:
    hung = Hung()
    outlet = Outlet("hangs", hung, store=Store(tmp_path, most_bytes=10**6), most=5, backoff=quick)
    outlet.put(state(1))
    assert hung.tries.wait(10)
    for number in range(2, 24):
        outlet.put(state(number))
    facts = outlet.facts()
    assert (facts.waiting, facts.dropped) == (23, 0)
    hung.there.set()
    outlet.close()
    assert hung.taken == list(range(1, 24))
    assert (outlet.facts().written, outlet.facts().dropped) == (23, 0)
    assert list(tmp_path.iterdir()) == []


def test_with_a_store_nothing_is_given_up_while_a_try_that_failed_is_waited_after(tmp_path: Path) -> None:
    slow = Backoff(first_s=20.0, most_s=30.0)
    outlet = Outlet("away", Flaky(), store=Store(tmp_path, most_bytes=10**6), most=5, backoff=lambda: slow)
    outlet.put(state(1))
    until(lambda: outlet.facts().failures == 1)
    for number in range(2, 24):
        outlet.put(state(number))
    assert (outlet.facts().waiting, outlet.facts().dropped) == (23, 0)
    outlet.close(drain_s=0.1)
    assert (outlet.facts().waiting, outlet.facts().dropped) == (23, 0)


def test_the_store_keeps_within_its_bytes_and_counts_what_it_gives_up(tmp_path: Path) -> None:
    store = Store(tmp_path, most_bytes=10_000)
    size_bytes = len(line_of(state(100)))
    for first in range(100, 200, 10):
        store.append([state(number) for number in range(first, first + 10)])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 10_000
    kept = 10_000 // (10 * size_bytes) * 10
    assert (store.count, store.dropped) == (kept, 100 - kept)
    assert store.oldest(1)[0].number == 200 - kept


def test_a_line_that_a_power_failure_cut_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "0000000001.jsonl").write_bytes(line_of(state(1)) + b"{broken}\n" + line_of(state(2)) + b'{"kind')
    store = Store(tmp_path, most_bytes=10**6)
    found = store.oldest(10)
    assert [record.number for record in found] == [1, 2]
    assert store.dropped == 1
    store.sent(2)
    assert (store.count, store.oldest(10)) == (0, [])


def test_a_segment_that_was_cut_before_its_first_line_break_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "0000000001.jsonl").write_bytes(b'{"kind')
    store = Store(tmp_path, most_bytes=10**6)
    store.append([state(1)])
    assert (store.count, store.dropped) == (1, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000000001.jsonl", "0000000002.jsonl"]


def test_a_file_that_is_in_the_way_of_a_segment_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, most_bytes=10**6)
    (tmp_path / "0000000001.jsonl").write_bytes(line_of(state(7)))
    store.append([state(1)])
    assert store.dropped == 1
    assert (tmp_path / "0000000001.jsonl").read_bytes() == line_of(state(7))


def test_a_store_that_another_has_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    first = Store(tmp_path, most_bytes=10**6)
    with pytest.raises(UsageError) as refused:
        Store(tmp_path, most_bytes=10**6)
    assert str(refused.value) == (
        f"{tmp_path}: expected a folder for the records of one sink, got one that another mmkd-run has; stop that one, "
        "or name another --store"
    )
    first.close()
    Store(tmp_path, most_bytes=10**6).close()


def test_records_that_were_given_up_while_they_were_sent_do_not_count_for_the_next_ones(tmp_path: Path) -> None:
    size_bytes = len(line_of(state(10)))
    store = Store(tmp_path, most_bytes=4 * size_bytes)
    store.append([state(10), state(11), state(12)])
    assert [record.number for record in store.oldest(10)] == [10, 11, 12]
    store.append([state(13), state(14), state(15)])
    assert (store.count, store.dropped) == (3, 3)
    store.sent(3)
    assert (store.count, store.dropped) == (3, 0)


def test_sinks_whose_names_differ_in_a_sign_alone_have_folders_of_their_own(tmp_path: Path) -> None:
    texts = [f"jsonl:{tmp_path}/a-b", f"jsonl:{tmp_path}/a_b"]
    station = StationSpec(name="press 1", bundle="none.edge", source="stdin")
    spec = RunSpec(stations=(station,), store=str(tmp_path / "store"))
    outlets = [outlet_of(text, spec, name=text) for text in texts]
    assert len(list((tmp_path / "store").iterdir())) == 2
    for outlet in outlets:
        outlet.close()


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    sink = open_sink(f"jsonl:{path}")
    sink.write([state(1)])
    path.rename(tmp_path / "results.jsonl.1")
    sink.write([state(2)])
    sink.close()
    assert [record_from_line(line).number for line in path.read_bytes().splitlines()] == [2]


def test_a_full_disk_leaves_no_half_line_and_records_wait(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "full").symlink_to("/dev/full")
    outlet = Outlet("full", open_sink(f"jsonl:{tmp_path / 'full'}"), backoff=quick)
    outlet.put(state(1))
    until(lambda: outlet.facts().failures >= 2)
    facts = outlet.facts()
    assert "No space left on device" in facts.fault
    outlet.close(drain_s=0.1)
    assert outlet.facts().dropped == 1


def test_a_connection_that_breaks_is_a_fault_of_its_sink_and_ends_no_run() -> None:
    class Broken(Flaky):
        def write(self, records: Sequence[Record]) -> None:
            if not self.there.is_set():
                raise BrokenPipeError(32, "Broken pipe")
            super().write(records)

    sink = Broken()
    outlet = Outlet("broken", sink, backoff=quick)
    outlet.put(state(1))
    until(lambda: outlet.facts().failures >= 2)
    assert not outlet.is_gone
    sink.there.set()
    outlet.close()
    assert sink.taken == [1]


def test_a_webhook_is_shown_without_its_secret_and_no_two_sinks_alike() -> None:
    hook = "webhook:https://user:pw@hooks.example.com"
    texts = [f"{hook}/services/T0/secret", f"{hook}/services/T1/other#kinds=alarm", "jsonl:a/b.jsonl"]
    assert list(shown_names(texts).values()) == [
        "webhook:https://hooks.example.com",
        "webhook:https://hooks.example.com (2)",
        "jsonl:a/b.jsonl",
    ]
