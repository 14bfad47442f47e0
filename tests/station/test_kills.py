"""`mmkd-run` is killed again and again while its sinks refuse, hang and die: no record is lost or changed."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest

from mmkd_station.records import AlarmRecord, record_from_line
from mmkd_station.store import Store
from tests.station.rig import ENVIRONMENT, MMKD_RUN, http_server, run, until

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
RULE = ("--alarm", "raise", "--confirm", "2/3", "--release", "2", "--cooldown", "0s", "--min-probability", "0.3")
REST, RAISE = b"[1, 0, 0]\n", b"[0, 1, 0]\n"
MODES = ("answers", "refuses", "hangs")


@pytest.fixture
def hook():
    """A webhook that answers, refuses or hangs: its mode, its address, and the records that it accepted."""
    hook = SimpleNamespace(mode="answers", taken=[])

    def answer(_, body):
        mode = hook.mode
        if mode == "hangs":
            time.sleep(60)
        if mode == "answers":
            hook.taken += [record_from_line(json.dumps(one).encode()) for one in json.loads(body)]
        return (200 if mode == "answers" else 503), {}

    with http_server(answer) as hook.address:
        yield hook


def feed(child, samples, stop):
    with contextlib.suppress(OSError, ValueError):
        for sample in samples:
            child.stdin.write(sample)
            child.stdin.flush()
            if stop.wait(0.002):
                return


def first_of_each(records):
    """Records by what names them forever, in the order in which each came first; the same name is the same record."""
    found = {}
    for record in records:
        assert found.setdefault((record.station, record.boot, record.number), record) == record
    return found


def check_complete(records):
    """The records of each boot have no gap, and those of all boots are whole episodes; returns how many."""
    for boot, own in itertools.groupby(records, key=lambda name: name[1]):
        numbers = [number for _, _, number in own]
        assert numbers == list(range(1, len(numbers) + 1)), boot
    state, episode = "cleared", 0
    for record in records.values():
        if not isinstance(record, AlarmRecord):
            continue
        expected = {"raised": ("cleared", episode + 1), "continued": ("open", episode), "cleared": ("open", episode)}
        assert (state, record.episode) == expected[record.event], record
        state, episode = "cleared" if record.event == "cleared" else "open", record.episode
    return episode


class Run:
    """One process of `mmkd-run` that is fed; its standard error goes to a file."""

    def __init__(self, command, samples, log):
        self._log = log
        with log.open("wb") as errors:
            self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=errors, stderr=errors, env=ENVIRONMENT)
        self._stop = threading.Event()
        self._feeding = threading.Thread(target=feed, args=(self.child, samples, self._stop))
        self._feeding.start()

    def wait_until_longer(self, path, size_bytes):
        end_s = time.monotonic() + 60
        while not path.exists() or path.stat().st_size == size_bytes:
            assert time.monotonic() < end_s
            assert self.child.poll() is None, self._log.read_text()
            time.sleep(0.01)

    def end(self, *, kill):
        self.child.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self._stop.set()
        self._feeding.join()
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        code = self.child.wait(60)
        assert code == (-signal.SIGKILL if kill else 0), self._log.read_text()


class Fickle:
    """A server that answers, hangs or is killed, as `set_mode` says."""

    def __init__(self, server):
        self.server, self._mode = server, "answers"

    def set_mode(self, mode):
        if self._mode == "dies":
            self.server.start()
        elif self._mode == "hangs":
            self._signal(signal.SIGCONT)
        if mode == "dies":
            self._signal(signal.SIGTERM if self.is_broker else signal.SIGKILL)  # a broker saves its sessions at its end
            self.server.process.wait()
        elif mode == "hangs":
            self._signal(signal.SIGSTOP)
        self._mode = mode

    @property
    def is_broker(self):
        return not hasattr(self.server, "folder")

    def _signal(self, number):
        (os.kill if self.is_broker else os.killpg)(self.server.process.pid, number)


@pytest.mark.slow
@pytest.mark.skipif(MOSQUITTO is None, reason="needs Debian's mosquitto")
@pytest.mark.parametrize("kills", [10, 100])
def test_each_of_four_sinks_has_every_record_in_order_after_kills_while_they_refuse_hang_and_die(
    kills, hook, bundle_path, tmp_path, record_property
):
    pytest.importorskip("paho.mqtt.client")
    pytest.importorskip("psycopg")
    from tests.station.test_databases import POSTGRES, Postgres
    from tests.station.test_mqtt import Broker, Client

    if POSTGRES is None:
        pytest.skip("needs Debian's postgresql")
    dice, log = random.Random(kills), tmp_path / "all.jsonl"
    broker = Broker(
        tmp_path, "allow_anonymous true", "user root", "persistence true", f"persistence_location {tmp_path}/",
        "max_queued_messages 0",
    )  # fmt: skip
    postgres, client = Postgres(), Client(broker.port, "plant/press 1/#", client_id="reader", clean_session=False)
    servers = [Fickle(broker), Fickle(postgres)]
    command = [
        *MMKD_RUN, bundle_path, "--backend", "ort", "--name", "press 1", "--source", "stdin", "--hop", "5", *RULE,
        "--sink", f"jsonl:{log}", "--sink", f"webhook:http://{hook.address}/", "--sink", postgres.sink,
        "--sink", f"mqtt://127.0.0.1:{broker.port}/plant", "--store", tmp_path / "store",
    ]  # fmt: skip

    def change_modes(*, all_answer=False):
        hook.mode = "answers" if all_answer else dice.choice(MODES)
        for server in servers:
            server.set_mode("answers" if all_answer else dice.choice(("answers", "hangs", "dies")))

    def published():
        heard = [payload for _, payload, is_retained in client.heard if payload and not is_retained]
        return first_of_each(map(record_from_line, heard))

    def has_arrived(name):
        everywhere = published().keys() & first_of_each(hook.taken).keys()
        return name in everywhere and name[1:] in postgres.names("press 1")

    def last():
        record = record_from_line(log.read_bytes().rpartition(b"\n")[0].splitlines()[-1])
        return record.station, record.boot, record.number

    try:
        for left in range(kills, -1, -1):
            size_bytes = log.stat().st_size if log.exists() else 0
            change_modes(all_answer=not left)
            run = Run(command, itertools.cycle([REST] * 40 + [RAISE] * 40), tmp_path / "errors.txt")
            if not left or dice.random() < 0.9:  # else it is killed while it starts
                run.wait_until_longer(log, size_bytes)
            time.sleep(dice.uniform(0, 0.7))
            if left:
                change_modes()
                time.sleep(dice.uniform(0, 0.7))
            else:
                until(partial(has_arrived, last()))
            run.end(kill=left > 0)
        written = first_of_each([record_from_line(line) for line in log.read_bytes().splitlines()])
        posted = first_of_each(hook.taken)
        until(lambda: len(published()) >= len(written))
        rows = postgres.ask("SELECT record FROM mmkd_records")
    finally:
        change_modes(all_answer=True)
        client.close()
        broker.kill()
        postgres.close()
    assert check_complete(written) >= kills / 4
    assert list(posted.items()) == list(written.items())
    assert list(published().items()) == list(written.items())
    inserted = first_of_each(record_from_line(json.dumps(record).encode()) for (record,) in rows)
    assert (len(rows), inserted) == (len(written), written)
    record_property("records", len(written))
    record_property("repeats", [len(hook.taken) - len(posted), len(client.heard) - len(written)])


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_no_record_is_lost_and_no_name_has_two_contents_however_often_the_process_is_killed(
    kills, hook, bundle_path, tmp_path, record_property
):
    dice, log = random.Random(kills), tmp_path / "all.jsonl"
    command = [
        *MMKD_RUN, bundle_path, "--backend", "ort", "--name", "press 1", "--source", "stdin", "--hop", "5", *RULE,
        "--sink", f"jsonl:{log}", "--sink", f"webhook:http://{hook.address}/",
        "--store", tmp_path / "store",
    ]  # fmt: skip
    for left in range(kills, -1, -1):
        hook.mode = dice.choice(MODES) if left else "answers"
        size_bytes = log.stat().st_size if log.exists() else 0
        run = Run(command, itertools.cycle([REST] * 40 + [RAISE] * 40), tmp_path / "errors.txt")
        if not left or dice.random() < 0.9:  # else it is killed while it starts
            run.wait_until_longer(log, size_bytes)
        time.sleep(dice.uniform(0, 0.7))
        hook.mode = dice.choice(MODES) if left else "answers"
        time.sleep(dice.uniform(0, 0.7))
        run.end(kill=left > 0)
    written = first_of_each([record_from_line(line) for line in log.read_bytes().splitlines()])
    posted = first_of_each(hook.taken)
    first_of_each([*written.values(), *posted.values()])
    episodes = check_complete(written)
    assert check_complete(posted) == episodes >= kills / 4
    assert list(written) == list(posted)  # every record, in the same order
    alarms = sum(isinstance(one, AlarmRecord) for one in written.values())
    for name, value in {"episodes": episodes, "alarms": alarms, "records": len(written)}.items():
        record_property(name, value)


def test_a_store_that_another_process_has_is_refused_at_the_start(bundle_path, tmp_path):
    with contextlib.closing(Store(tmp_path / "store", most_bytes=10**6)):
        ran = run(bundle_path, "--source", "stdin", "--store", tmp_path / "store")
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == (
        f"mmkd-run: {tmp_path}/store: expected a folder for the records of one mmkd-run, got one that another mmkd-run "
        "has; stop that one, or name another --store"
    )


@pytest.mark.skipif(MOSQUITTO is None, reason="needs Debian's mosquitto")
@pytest.mark.parametrize(
    ("has_store", "kill", "events"),
    [
        (True, True, ["raised", "continued", "cleared"]),
        (True, False, ["raised", "continued", "cleared"]),
        (False, True, ["raised", None]),
    ],
)
def test_an_alarm_that_a_broker_keeps_ends_after_a_restart_on_normal_data(
    has_store, kill, events, bundle_path, tmp_path
):
    pytest.importorskip("paho.mqtt.client")
    from tests.station.test_mqtt import Broker, Client

    broker = Broker(tmp_path)
    client = Client(broker.port, "plant/press 1/alarm/#")

    def heard():
        alarms = [json.loads(payload or b"{}") for _, payload, _ in client.heard]
        return list(dict.fromkeys((alarm.get("event"), alarm.get("episode")) for alarm in alarms))  # one may come twice

    store = ("--store", str(tmp_path / "store")) if has_store else ()
    command = [
        *MMKD_RUN, bundle_path, "--backend", "ort", "--name", "press 1", "--source", "stdin", "--hop", "5", *RULE,
        "--sink", f"mqtt://127.0.0.1:{broker.port}/plant", *store,
    ]  # fmt: skip
    try:
        run = Run(command, itertools.repeat(RAISE), tmp_path / "errors.txt")
        until(lambda: len(heard()) == 1)
        run.end(kill=kill)
        run = Run(command, itertools.repeat(REST), tmp_path / "errors.txt")
        until(lambda: len(heard()) == len(events))
        run.end(kill=False)
        assert heard() == [(event, None if event is None else 1) for event in events]
    finally:
        client.close()
        broker.kill()
