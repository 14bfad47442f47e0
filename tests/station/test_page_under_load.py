"""The page's server against clients that wait, flood, guess and send nonsense: real servers and real sockets."""

import contextlib
import json
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import pytest

from mmkd_edge import example_bundle
from mmkd_station.monitor import access
from mmkd_station.monitor.access import Guesses
from tests.station.rig import ENVIRONMENT, MMKD_RUN, until

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
HALF_A_BODY = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
EVENTS = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
WELL = (200, '{"well":true,"stations":{"press 1":"started"}}')
WAITS_SHORTLY = f"from mmkd_station.monitor import server; server.WAIT_LIMIT_S = 0.5; {MMKD_RUN[2]}"


class Page:
    """A `mmkd-run` with a page, and the log that it writes."""

    def __init__(self, port, token, log, process):
        self.port = port
        self.token = token
        self._log = log
        self._process = process

    def ask(self, path, body=None, *, kind="", source="127.0.0.1"):
        client = HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(source, 0))
        with contextlib.closing(client):
            client.request("GET" if body is None else "POST", path, body, {"Content-Type": kind} if kind else {})
            answer = client.getresponse()
            return answer.status, answer.read().decode()

    def log_in(self, token, *, source="127.0.0.1"):
        body = json.dumps({"token": token}).encode()
        return self.ask("/login", body, kind="application/json", source=source)

    def connect(self, sent=b""):
        client = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        client.sendall(sent)
        return client

    def sockets(self):
        """How many sockets the process has."""
        return sum("socket:" in str(path.resolve()) for path in Path(f"/proc/{self._process}/fd").iterdir())

    def log(self):
        return re.sub(r"(?m)^\d\d:\d\d:\d\d ", "", self._log.read_text())


@contextlib.contextmanager
def running(folder, program=MMKD_RUN[2]):
    options = ["--source", "stdin", "--name", "press 1", "--backend", "ort", "--monitor", "127.0.0.1:0"]
    log = folder / "log"
    with log.open("w") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-c", program, example_bundle(), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=ENVIRONMENT,
        )
    try:
        while (found := re.search(r"page: http://127.0.0.1:(\d+)/ \(its token: (.*)\)", log.read_text())) is None:
            assert child.poll() is None, log.read_text()
            time.sleep(0.05)
        yield Page(int(found[1]), found[2], log, child.pid)
    finally:
        child.terminate()
        child.communicate(timeout=60)
    assert child.returncode == 0


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with running(tmp_path_factory.mktemp("page")) as found:
        yield found


def is_closed(client, *, within_s):
    """Whether the server closes a connection, of which nothing is read."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(within_s * 1000))


NONSENSE = {
    "deep login": ("/login", b'{"token":' * 400, "application/json", 400),
    "brackets login": ("/login", b'{"token":' + b"[" * 4000, "application/json", 400),
    "kind": ("/login", b"{}", "text/plain", 415),
    "size": ("/login", b"x" * 5000, "application/json", 413),
    "station": ("/events?station=%0a%ff", None, "", 404),
    "file": ("/static/%2e%2e", None, "", 404),
}


def test_what_a_client_does_wrong_is_an_answer_of_4xx_and_one_log_line_a_cause(page):
    for _ in range(5):
        found = {name: page.ask(path, body, kind=kind)[0] for name, (path, body, kind, _) in NONSENSE.items()}
        assert found == {name: code for name, (*_, code) in NONSENSE.items()}
        with page.connect(b"no HTTP\r\n\r\n") as client:
            assert client.recv(24) == b"HTTP/1.1 400 Bad Request"
        with page.connect(HALF_A_BODY):
            pass
    lines = [line for line in page.log().splitlines() if not line.startswith("page: http")]
    causes = [re.sub(r"(answers \d+|request received).*", r"\1", line) for line in lines if "press 1" not in line]
    floods = re.compile("answers (401|429|503)$")  # other tests of this page may have come before
    assert sorted(cause for cause in causes if not floods.search(cause)) == [
        "INFO page: /events answers 404",
        "INFO page: /login answers 400",
        "INFO page: /login answers 413",
        "INFO page: /login answers 415",
        "INFO page: /static/{name} answers 404",
        "WARNING:  Invalid HTTP request received",
    ]
    assert "INFO page: /login answers 415: expected application/json (from 127.0.0.1)" in lines


def test_health_is_answered_while_hundreds_of_connections_are_silent_or_half_sent(page):
    with contextlib.ExitStack() as held:
        clients = []
        for number in range(600):
            clients.append(held.enter_context(page.connect((b"", HALF_A_HEAD, HALF_A_BODY)[number % 3])))
            if number % 60 == 59:
                assert page.ask("/healthz") == WELL
        assert is_closed(clients[0], within_s=60)  # the one that has waited longest gave way
        assert not is_closed(clients[-1], within_s=0)
    assert "Traceback" not in page.log()


def test_a_connection_is_closed_that_sends_no_whole_request_or_does_not_read(tmp_path):
    with running(tmp_path, WAITS_SHORTLY) as page, contextlib.ExitStack() as held:
        reading = held.enter_context(page.connect(EVENTS))
        assert reading.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        before = page.sockets()
        clients = [held.enter_context(page.connect(sent)) for sent in (b"", HALF_A_HEAD, HALF_A_BODY)]
        deaf = held.enter_context(page.connect())
        deaf.setblocking(False)
        request = b"GET /static/page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with contextlib.suppress(BlockingIOError, ConnectionError):
            for _ in range(100_000):  # answers pile up until the server cannot send
                deaf.send(request)
        assert all(is_closed(client, within_s=60) for client in clients)
        until(lambda: page.sockets() == before)
        for _ in range(3):
            assert reading.recv(1 << 16)  # a page that is looked at stays
        assert page.ask("/healthz") == WELL
        assert "Traceback" not in page.log()


def test_as_many_pages_are_open_as_may_be_and_each_that_closes_makes_room(page):
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(page.connect()) for _ in range(40)]
        threads = [threading.Thread(target=client.sendall, args=(EVENTS,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        heads = Counter(client.recv(15) for client in clients)
        assert heads == {b"HTTP/1.1 200 OK": 32, b"HTTP/1.1 503 Se": 8}
    while (client := page.connect(EVENTS)).recv(15) != b"HTTP/1.1 200 OK":
        client.close()
    client.close()


def test_the_right_token_gets_in_while_somebody_guesses_and_each_address_is_limited_for_itself(page):
    wrong = 401, '{"error":"this is not the token"}'
    limited = 429, '{"error":"too many wrong tokens; wait a few seconds"}'
    answers = Counter(page.log_in("x" * 20, source="127.0.0.2") for _ in range(60))
    assert answers[wrong] >= 5
    assert answers[wrong] + answers[limited] == 60
    assert answers[limited] > 40  # one more is let through every five seconds
    assert page.log_in("x" * 20) == wrong
    for source in ("127.0.0.1", "127.0.0.2"):
        assert page.log_in(page.token, source=source) == (200, '{"ok":true}')


def test_of_more_addresses_than_are_remembered_the_earliest_is_forgotten(monkeypatch):
    monkeypatch.setattr(access, "_MAX_GUESSES_OF_ALL", 3000.0)
    guesses = Guesses()
    assert [guesses.take("10.0.0.1") for _ in range(6)] == [True] * 5 + [False]
    for number in range(1023):
        assert guesses.take(f"fe80::{number:x}")
    assert not guesses.take("10.0.0.1")
    for number in range(1024):
        assert guesses.take(f"fe90::{number:x}")
    assert guesses.take("10.0.0.1")
