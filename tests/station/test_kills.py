"""`mmkd-run` is killed again and again while a webhook answers, refuses and hangs: no record is lost or changed."""

import contextlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from mmkd_station.records import AlarmRecord, record_from_line
from tests.station.rig import ENVIRONMENT, MMKD_RUN, http_server, until

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


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
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
