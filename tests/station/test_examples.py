"""The examples of a running line: files that other programs read, and a PLC."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mmkd_station.spec import read_run_spec
from tests.station.rig import ENVIRONMENT, MMKD_RUN, free_port, until

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_stations_of_the_example_are_stations() -> None:
    spec = read_run_spec(EXAMPLES / "live" / "stations.toml")
    assert [station.name for station in spec.stations] == ["press 1", "press 2"]
    assert spec.sinks == ("mqtt://broker/line1", "jsonl:/kept/results.jsonl")


def test_the_services_of_the_example_name_each_other_and_their_files() -> None:
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((EXAMPLES / "live" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"broker", "mmkd", "prometheus"}
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source == "kept" or (EXAMPLES / "live" / source).exists(), volume
        # Reached from this machine alone.
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    scraped = yaml.safe_load((EXAMPLES / "live" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert scraped[0]["static_configs"] == [{"targets": ["mmkd:8090"]}]


def _in_place(text: str, places: Mapping[str, object]) -> str:
    """A configuration with the addresses and folders of containers as those of this machine."""
    for name, place in places.items():
        text = text.replace(name, str(place))
    return text


@contextlib.contextmanager
def _running(*command: object, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=ENVIRONMENT | environment,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.terminate()
        child.communicate(timeout=30)


def answers(ask: Callable[[], Any]) -> Any:
    with contextlib.suppress(OSError):
        return ask()


@pytest.mark.slow
def test_the_commands_and_files_of_the_services_work_together(bundle_path: Path, tmp_path: Path) -> None:
    """Each service as a process of its own, with its command and files; only addresses and folders are others."""
    yaml, mqtt = pytest.importorskip("yaml"), pytest.importorskip("paho.mqtt.client")
    pytest.importorskip("uvicorn")
    mosquitto = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    prometheus, promtool = shutil.which("prometheus"), shutil.which("promtool")
    if None in (mosquitto, prometheus, promtool):
        pytest.skip("needs Debian's mosquitto and prometheus")
    services = yaml.safe_load((EXAMPLES / "live" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    broker, page, server = free_port(), free_port(), free_port()
    (tmp_path / "token").write_text("a token of the line\n")
    (tmp_path / "kept").mkdir()
    assert bundle_path == tmp_path / "student.edge"
    places = {
        "listener 1883": f"listener {broker} 127.0.0.1", "mqtt://broker/": f"mqtt://127.0.0.1:{broker}/",
        "/kept": tmp_path / "kept", "/line/": f"{tmp_path}/", "/run/secrets/token": tmp_path / "token",
        "0.0.0.0:8090": f"0.0.0.0:{page}", "mmkd:8090": f"127.0.0.1:{page}", "15s": "1s",
    }  # fmt: skip
    for name in ("mosquitto.conf", "stations.toml", "prometheus.yml"):
        text = (EXAMPLES / "live" / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(_in_place(text, places))
    subprocess.run([str(promtool), "check", "config", tmp_path / "prometheus.yml"], check=True, capture_output=True)
    environment = re.search(r"ENV XDG_CACHE_HOME=(\S+)", (EXAMPLES / "live" / "Dockerfile").read_text(encoding="utf-8"))
    program, *arguments = [_in_place(part, places) for part in services["mmkd"]["command"]]
    assert program == "mmkd-run"
    run = [*MMKD_RUN, *arguments]
    heard: list[Any] = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = lambda *given: heard.append(json.loads(given[2].payload))
    with (
        _running(mosquitto, "-c", tmp_path / "mosquitto.conf"),
        _running(*run, XDG_CACHE_HOME=_in_place(environment[1], places)) as child,
        _running(
            prometheus, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{server}",
        ),
    ):  # fmt: skip
        until(lambda: answers(lambda: client.connect("127.0.0.1", broker) == 0))
        client.loop_start()
        client.subscribe("line1/#")

        def answered() -> bool:
            assert child.poll() is None, child.stderr
            client.publish("plant/press1/acc", json.dumps({"x": [1.0] * 20, "y": [0.0] * 20, "z": [0.0] * 20}))
            return any(one["kind"] == "result" and one["status"] == "ok" for one in heard if isinstance(one, dict))

        until(answered)
        asked = urllib.parse.quote('mmkd_predictions_total{predictor="press 1",status="ok"}')

        def scraped() -> Any:
            with urllib.request.urlopen(f"http://127.0.0.1:{server}/api/v1/query?query={asked}", timeout=5) as answer:
                return json.load(answer)["data"]["result"]

        assert float(until(lambda: answers(scraped))[0]["value"][1]) >= 1
        client.loop_stop()
        client.disconnect()
    assert (tmp_path / "kept" / "results.jsonl").read_bytes().count(b'"kind":"result"') >= 1
    assert child.returncode == 0


def test_the_unit_watches_the_program_reloads_it_and_gives_it_little() -> None:
    lines = (EXAMPLES / "systemd" / "mmkd-run.service").read_text(encoding="utf-8").splitlines()
    assert {
        "Type=notify",
        "WatchdogSec=30",
        "Restart=on-failure",
        "OOMPolicy=continue",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
    } <= set(lines)


def test_a_trial_that_needs_too_much_memory_does_not_end_the_program_of_a_station() -> None:
    lines = (EXAMPLES / "systemd" / "mmkd-station.service").read_text(encoding="utf-8").splitlines()
    assert "OOMPolicy=continue" in lines


@pytest.mark.slow
def test_a_plc_is_read_through_modbus() -> None:
    pytest.importorskip("pymodbus")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "live" / "plc.py"],
        capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Of ten seconds; a busy machine starts in seven of them.
    assert done.stdout.count('"kind":"result"') >= 2
    assert '"state":"stopped"' in done.stdout
