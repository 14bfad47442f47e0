"""What the page's server answers, and whom it refuses."""

import contextlib
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor, ModalitySpec, TaskSpec, UsageError, example_bundle
from mmkd_edge.health.prometheus import metrics_text
from mmkd_edge.install.slots import install
from mmkd_edge.testing import fake_predictor
from mmkd_station.board import Board
from mmkd_station.monitor.access import Access, read_address, read_proxy, token_from
from mmkd_station.monitor.app import PageFollower
from mmkd_station.monitor.metrics import service_metrics
from mmkd_station.protocols.files import stdin_source
from mmkd_station.records import result_record
from mmkd_station.service import Service
from tests.edge.said import said
from tests.station.rig import alarm, end, feed, next_record, page_of, start, station_of, until, wanted

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


@contextlib.contextmanager
def running(*arguments):
    """A station with a page; gives its address, and what is said of its token."""
    child = start(example_bundle(), "--source", "stdin", "--name", "press 1", "--monitor", *arguments)
    try:
        url, token = page_of(child)
        yield url, child, token.removeprefix("its token: ")
    finally:
        child.terminate()
        child.communicate(timeout=30)
    assert child.returncode == 0


def ask(url, body=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=named), timeout=20) as answer:
            return answer.status, answer.read(1 << 20).decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def post(url, document, **headers):
    return ask(url, json.dumps(document).encode(), content_type="application/json", **headers)


EPISODE, NO_EPISODE = {"station": "press 1", "episode": 1}, (404, '{"error":"there is no such episode that waits"}')


def test_a_start_that_returned_to_the_bundle_before_is_refused_in_the_records_and_a_warning_of_health(
    kit, acc, tmp_path
):
    state = tmp_path / "state"
    for number in (1, 2):
        bundle = kit.parts(acc).with_manifest(release=number).write(tmp_path / f"{number}.edge")
        slots = install(state, bundle, prove=lambda _: None)
    path = slots.current.path(state)
    path.write_bytes(b"")
    fault = f"{path}: expected a bundle written by mmkd-export, got an empty file"
    reason = f"returned to {slots.previous}, since {slots.current} failed: {fault}"
    child = start(state, "--source", "stdin", "--name", "press 1", "--sink", "-", "--monitor", "127.0.0.1:0")
    try:
        url, _ = page_of(child)
        records = [next_record(child.stdout, kind="state") for _ in range(2)]
        assert [(record["state"], record["reason"].partition(":")[0]) for record in records] == [
            ("started", "made-up-acc"),
            ("refused", reason.partition(":")[0]),
        ]
        assert records[1]["reason"] == reason
        status, document = ask(f"{url}healthz")
        warned = {"well": True, "stations": {"press 1": "refused"}, "returned": {"press 1": reason}}
        assert (status, json.loads(document)) == (200, warned)
    finally:
        end(child)


def test_health_and_metrics_are_answered_on_this_machine_and_name_windows_far_from_the_training():
    far = "6 of 6 windows are far from the training data; check unit and scale of acc"
    unlike = f'{{"well":true,"stations":{{"press 1":"started"}},"unlike_training":{{"press 1":"{far}"}}}}'
    with running("127.0.0.1:0") as (url, child, token):
        assert ask(f"{url}healthz") == (200, '{"well":true,"stations":{"press 1":"started"}}')
        feed(child, "[0, 0, 100]\n" * 450 + "no sample\n")  # a first window of 200 samples, and one a second
        metrics = ('mmkd_live_samples_total{station="press 1"} 450.0', "mmkd_latency_seconds_bucket")
        until(lambda: all(one in ask(f"{url}metrics")[1] for one in metrics))
        until(lambda: ask(f"{url}healthz") == (200, unlike))
        text = ask(f"{url}metrics")[1]
        assert 'mmkd_live_garbage_total{station="press 1"} 1.0' in text
        assert 'mmkd_predictions_total{predictor="press 1",status="ok"}' in text

        # A page of another site, and a name of another site that was made to point here.
        other = (403, '{"error":"asked from another origin, or by another name"}')
        assert ask(f"{url}login", b"{}", origin="http://evil.example") == other
        assert ask(f"{url}healthz", host="evil.example") == other
        assert ask(f"{url}events", sec_fetch_site="cross-site", sec_fetch_mode="cors") == other
        assert ask(url, sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200  # a link on another page

        needs = (401, '{"error":"this needs the token that mmkd-run named at its start"}')
        assert post(f"{url}acknowledge", EPISODE) == needs
        assert post(f"{url}acknowledge", EPISODE, authorization=f"Bearer {token}") == NO_EPISODE
        assert ask(f"{url}static/../app.py")[0] == 404
        assert [post(f"{url}login", {"token": "x"})[0] for _ in range(7)] == [401] * 5 + [429] * 2


def test_an_episode_that_an_operator_calls_false_is_a_record_and_its_windows_are_kept(tmp_path):
    options = ["--alarm", "ER", "--confirm", "1/1", "--min-probability", "0", "--uncertain-below", "0"]
    kept = ["--keep-uncertain", "10MB", "--keep-in", f"{tmp_path}/kept", "--sink", f"jsonl:{tmp_path}/log"]
    with running("127.0.0.1:0", *options, *kept) as (url, child, token):
        wrong, bearer = EPISODE | {"false": True}, f"Bearer {token}"
        assert post(f"{url}acknowledge", wrong)[0] == 401
        feed(child, "[0, 0, 1]\n" * 450)  # at 50 Hz, a result a second: ER each time
        until(lambda: post(f"{url}acknowledge", wrong, authorization=bearer)[0] == 200)
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    alarms = [(one["event"], one["episode"], one["label"]) for one in records if one["kind"] == "alarm"]
    assert alarms == [("raised", 1, "ER"), ("contradicted", 1, "ER")]
    (file,) = (tmp_path / "kept").iterdir()
    with np.load(file) as arrays:
        assert set(arrays["column_reason"]) == {"contradicted"}
        assert set(arrays["column_answer"]) == {"ER"}
        assert arrays["x_acc"][0].tolist() == [[0, 0, 1]] * 200


TOKEN = "a token of the plant"
BEARER = f"Bearer {TOKEN}"
SESSION = f"mmkd_session={Access(TOKEN, read_address('127.0.0.1:1'), is_open=False).session}"


@pytest.fixture(scope="module")
def token_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"{TOKEN}\n")
    return str(file)


def test_beyond_this_machine_everything_asks_for_the_token(token_file):
    with running("0.0.0.0:0", "--monitor-token", token_file) as (url, *_):
        here = url.replace("0.0.0.0", "127.0.0.1")
        for path in ("events", "healthz", "metrics"):
            assert ask(here + path)[0] == 401, path
        assert 'id="login"' in ask(here)[1]
        assert ask(f"{here}healthz", authorization=BEARER)[0] == 200
        assert 'id="stations"' in ask(here, cookie=SESSION)[1]


def test_with_a_token_only_a_probe_on_this_machine_learns_without_it_that_all_is_well(token_file):
    with running("127.0.0.1:0", "--monitor-token", token_file) as (url, *_):
        assert ask(f"{url}healthz") == (200, '{"well":true}')
        assert ask(f"{url}healthz", authorization=BEARER) == (200, '{"well":true,"stations":{"press 1":"started"}}')
        assert ask(f"{url}healthz", x_forwarded_for="10.0.0.9")[0] == 401
        assert ask(f"{url}healthz", host="evil.example")[0] == 401
        assert ask(f"{url}healthz", authorization="Bearer wrong")[0] == 401  # else it would answer guesses
        assert ask(f"{url}events")[0] == 401

        # Behind a proxy that passes on the Host of the browser, everything works with the token.
        sent = {"host": "plant.example", "origin": "https://plant.example", "sec_fetch_site": "same-origin"}
        assert [ask(url + path, **sent)[0] for path in ("events", "healthz", "metrics")] == [401] * 3
        assert 'id="login"' in ask(url, host="plant.example")[1]
        assert post(f"{url}login", {"token": TOKEN}, **sent) == (200, '{"ok":true}')
        assert post(f"{url}acknowledge", EPISODE, cookie=SESSION, **sent) == NO_EPISODE
        assert ask(f"{url}healthz", origin="http://evil.example", authorization=BEARER)[0] == 403


def may_look(address, headers, *, is_open=True):
    access = Access(TOKEN, read_address(address), is_open=is_open)
    return access.is_from_here(headers) and access.may_look(headers, {})


def test_what_was_forwarded_and_a_page_with_a_token_of_its_own_ask_for_it_here_too():
    here = {"host": "127.0.0.1:1"}
    bearer = {"authorization": BEARER}
    assert may_look("127.0.0.1:1", here)
    for name in ("forwarded", "via", "x-forwarded-for", "x-forwarded-proto", "x-real-ip"):
        assert not may_look("127.0.0.1:1", here | {name: ""})
        assert may_look("127.0.0.1:1", here | {name: "10.0.0.7"} | bearer)
    assert not may_look("127.0.0.1:1", here, is_open=False)
    assert may_look("127.0.0.1:1", here | bearer, is_open=False)
    assert may_look("127.0.0.2:1", {"host": "127.0.0.2:1"})  # every address of the loopback interface is its name
    assert not may_look("127.0.0.2:1", {"host": "127.0.0.3:1"})


def guess(url, number, client):
    """The answers to a guess in each place that takes a token, in turn."""
    places = [
        ("login", {}),
        ("metrics", {"authorization": f"Bearer {number}"}),
        ("events", {"cookie": "mmkd_session=x"}),
    ]
    path, headers = places[number % 3]
    body = b'{"token": "x"}' if path == "login" else None
    sent = dict.fromkeys(("x_forwarded_for", "x_real_ip"), client) | {"forwarded": f"for={client}"}
    return ask(url + path, body, content_type="application/json", **headers, **sent)[0]


def test_a_client_that_names_other_addresses_is_limited_and_logged_by_its_own():
    with running("127.0.0.1:0") as (url, child, _):
        answers = [guess(url, number, f"203.0.113.{number}") for number in range(60)]
        assert answers[:5] == [401] * 5
        assert answers.count(429) > 50
        assert [ask(f"{url}metrics", **{name: "10.0.0.9"})[0] for name in ("x_real_ip", "via")] == [401] * 2
        child.terminate()
        log = child.stderr.read()
    assert "page: /metrics answers 429: too many wrong tokens; wait a few seconds (from 127.0.0.1)" in log
    assert "203.0.113." not in log


def test_a_named_proxy_names_the_clients_and_all_of_them_together_are_limited():
    with running("127.0.0.1:0", "--behind-proxy", "127.0.0.1") as (url, child, token):
        assert [ask(url + path)[0] for path in ("metrics", "events", "healthz")] == [401, 401, 200]
        # What a client claimed stands before the address that the proxy saw.
        answers = [guess(url, number, f"198.51.100.{number}, 203.0.113.1") for number in range(7)]
        assert answers == [401] * 5 + [429] * 2
        others = [guess(url, number, f"203.0.113.{number}") for number in range(2, 100)]
        assert others[:20] == [401] * 20
        assert others.count(429) > 30
        assert post(f"{url}login", {"token": token}, x_forwarded_for="203.0.113.1") == (200, '{"ok":true}')
        child.terminate()
        log = child.stderr.read()
    assert "page: /login answers 429: too many wrong tokens; wait a few seconds (from 203.0.113.1)" in log
    assert "198.51.100." not in log


def test_only_the_last_address_of_the_last_header_of_a_named_proxy_is_believed():
    access = Access(TOKEN, read_address("127.0.0.1:1"), is_open=True, proxy=read_proxy("10.0.0.0/24"))
    cases = {
        ("10.0.0.7", "192.0.2.1"): "192.0.2.1",
        ("::ffff:10.0.0.7", "192.0.2.1"): "192.0.2.1",
        ("10.0.0.7", "192.0.2.1, 192.0.2.2", "192.0.2.3,2001:DB8::1"): "2001:db8::1",
        ("10.0.0.7", "192.0.2.1, unknown"): "10.0.0.7",
        ("10.0.0.7",): "10.0.0.7",
        ("10.0.1.7", "192.0.2.1"): "10.0.1.7",
        ("", "192.0.2.1"): "",
    }
    assert {case: access.address(case[0], case[1:]) for case in cases} == cases
    assert said(UsageError, read_proxy, "nginx") == (
        "--behind-proxy nginx: expected the IP address or network that the proxy connects from, such as "
        "127.0.0.1 or 172.17.0.0/16, got another text; write it so"
    )


def test_the_shipped_nginx_conf_replaces_every_header_that_names_a_client():
    text = (Path(__file__).parents[2] / "examples/live/nginx.conf").read_text()
    set_headers = dict(re.findall(r"proxy_set_header (\S+) (\S+);", text))
    assert set_headers == {
        "Host": "$http_host",
        "X-Forwarded-For": "$remote_addr",
        "X-Forwarded-Proto": "$scheme",
        "X-Real-IP": "$remote_addr",
        "Forwarded": '""',
    }
    assert "--behind-proxy 127.0.0.1" in text


def test_addresses_and_tokens_that_cannot_be_are_refused(tmp_path):
    assert (read_address("8090").host, read_address(":8090").port) == ("127.0.0.1", 8090)
    assert read_address("[::1]:80").host == "::1"
    loopback = {"127.0.0.1": True, "::1": True, "localhost": True, "0.0.0.0": False, "press1": False}
    assert {host: read_address(f"{host}:1").is_loopback for host in loopback} == loopback
    assert said(UsageError, read_address, "localhost") == (
        "--monitor localhost: expected HOST:PORT, such as 127.0.0.1:8090, got no port; write it so"
    )
    with pytest.raises(UsageError, match="--monitor :\u00b2: expected HOST:PORT, "):
        read_address(":\u00b2")
    (tmp_path / "token").write_text("short")
    with pytest.raises(UsageError, match="expected a token of 16 characters or more, got 5; make it longer"):
        token_from(tmp_path / "token")
    assert len(token_from(None)) >= 24


ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=100.0, samples=20)
GYRO = ModalitySpec(name="gyro", channels=("x",), rate_hz=100.0, samples=20)


def asked_station(name, predictor):
    return station_of(predictor, stdin_source("stdin", "", wanted(ACC)), name=name)


def test_stations_with_one_bundle_count_their_own_answers_and_share_its_other_figures():
    with EdgePredictor.open(example_bundle(), backend="ort") as shared:
        shared.predict(np.zeros((200, 3)))
        stations = [asked_station(name, shared) for name in ("press 1", "press 2")]
        text = service_metrics(Service(stations=stations, outlets=[], predictors=[]))
    for pattern in (r'mmkd_predictions_total\{predictor="(.*)",status="ok"\} (.*)', r'mmkd_reopens_.*="(.*)"\} (.*)'):
        assert re.findall(pattern, text) == [("press 1", "0.0"), ("press 2", "0.0")]


def test_a_page_shows_the_drift_of_the_student_of_its_sensor():
    station = asked_station("press 1", fake_predictor([0.5, 0.5], modality=ACC, labels=("ok", "worn")))
    service = Service(stations=[station], outlets=[], predictors=[])
    for modality, is_known in ((ACC, True), (GYRO, False)):  # no student takes gyro
        station.board = Board([modality], TaskSpec(labels=("ok", "worn")))
        assert bool(PageFollower(service, station).update()["station"]["drift"]) is is_known


def news(board, after_bin=-1):
    return board.news(sensor=0, after_bin=after_bin, after_result=-1)


@pytest.fixture
def board():
    return Board([ACC], TaskSpec(labels=("ok", "worn")))


def test_a_board_shows_tenths_of_a_second_what_is_unknown_and_stays_small(board):
    rows = np.array([[1, np.nan], [5, np.nan], [3, 7]], dtype=np.float32)
    board.samples(np.array([10.01, 10.05, 10.11]), rows, sensor=0)
    board.samples(np.array([10.15]), np.array([[-2, 8]], dtype=np.float32), sensor=0)
    found = news(board).bins
    assert [(one.number, one.time_s) for one in found] == [(100, 10.0), (101, 10.1)]
    np.testing.assert_array_equal(found[0].lowest, [1, np.nan])
    np.testing.assert_array_equal(found[0].highest, [5, np.nan])
    assert (found[1].lowest, found[1].highest) == ((-2.0, 7.0), (3.0, 8.0))
    assert [one.number for one in news(board, 101).bins] == [101]
    predictor = fake_predictor([0.5, 0.5], modality=ACC, labels=("ok", "worn"), novelty=2.0)
    prediction = predictor.predict(np.zeros(ACC.shape))
    board.record(result_record(prediction, station="press 1", number=1, time_s=1.0, decided_s=1.0))
    (shown,) = news(board).results
    assert (shown.status, shown.novelty) == ("unknown", 0.5)
    assert 'mmkd_predictions_total{predictor="mmkd",status="unknown"} 1.0' in metrics_text(predictor)
    times = np.arange(0, 300, 0.01)
    board.samples(times, np.zeros((len(times), 2), dtype=np.float32), sensor=0)
    assert len(news(board).bins) == 600
    for _ in range(5):  # the clock was set
        board.samples(np.array([5.0]), np.zeros((1, 2), dtype=np.float32), sensor=0)
    assert [one.time_s for one in news(board, 2999).bins] == [5.0]


def test_a_page_draws_the_sensor_that_answers_and_begins_anew_when_another_does():
    predictor = fake_predictor([0.5, 0.5], modality=ACC, labels=("ok", "worn"))
    station, board = asked_station("press 1", predictor), Board([ACC, GYRO], TaskSpec(labels=("ok", "worn")))
    station.board = board
    follower = PageFollower(Service(stations=[station], outlets=[], predictors=[]), station)

    def result(number, modality):
        prediction = msgspec.structs.replace(predictor.predict(np.zeros(ACC.shape)), modality=modality)
        board.record(result_record(prediction, station="press 1", number=number, time_s=1.0, decided_s=1.0))

    def shown():
        update = follower.update()
        detail = update["station"]
        seen = detail["seen"]
        bins, results = [one.number for one in seen.bins], [one.number for one in seen.results]
        return update["first"], detail["modality"], detail["channels"], bins, results

    board.samples(np.array([10.01]), np.zeros((1, 2), dtype=np.float32), sensor=0)
    board.samples(np.array([50.01]), np.zeros((1, 1), dtype=np.float32), sensor=1)
    assert shown() == (True, "acc", ("x", "y"), [100], [])
    result(1, "acc")
    assert shown() == (False, "acc", ("x", "y"), [100], [1])
    result(2, "gyro")
    assert shown() == (True, "gyro", ("x",), [500], [1, 2])
    assert shown() == (False, "gyro", ("x",), [500], [])


def test_late_samples_clear_nothing(board):
    for times in ([10.01, 10.11, 10.31], [10.05], [10.25], [3.0], [10.41]):  # of a bin, of a gap, and of long ago
        board.samples(np.array(times), np.zeros((len(times), 2), dtype=np.float32), sensor=0)
    assert [one.number for one in news(board).bins] == [100, 101, 103, 104]


def test_an_episode_waits_until_somebody_takes_note_of_it(board):
    raised = alarm(1, event="raised", windows=3)
    board.record(raised)
    assert (board.unacknowledged(), board.alarm(1), board.alarm(2)) == (1, raised, None)
    board.record(alarm(2, event="acknowledged", windows=4))
    board.record(alarm(3, event="cleared", windows=5, decided_s=14.0))
    (episode,) = news(board).episodes
    assert (episode.acknowledged, episode.cleared_s, episode.alarm.windows) == (True, 14.0, 5)
    assert (board.unacknowledged(), board.alarm(1)) == (0, None)
