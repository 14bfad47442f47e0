"""The examples of a running line: files that other programs read, and a PLC."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_station.spec import read_run_spec
from tests.station.rig import ENVIRONMENT

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_stations_of_the_example_are_stations():
    spec = read_run_spec(EXAMPLES / "live" / "stations.toml")
    assert [station.name for station in spec.stations] == ["press 1", "press 2"]
    assert spec.sinks == ("mqtt://broker/line1", "influxdb://influxdb/line1?tls=off", "jsonl:/kept/results.jsonl")


def test_the_services_of_the_example_name_each_other_and_their_files():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((EXAMPLES / "live" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"broker", "mmkd", "prometheus", "influxdb", "grafana"}
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in ("kept", "points") or (EXAMPLES / "live" / source).exists(), volume
        # Reached from this machine alone.
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    scraped = yaml.safe_load((EXAMPLES / "live" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert scraped[0]["static_configs"] == [{"targets": ["mmkd:8090"]}]


def test_the_unit_watches_the_program_reloads_it_and_gives_it_little():
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
    # A trial that needs too much memory ends no program of a station.
    assert "OOMPolicy=continue\n" in (EXAMPLES / "systemd" / "mmkd-station.service").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_plc_is_read_through_modbus():
    pytest.importorskip("pymodbus")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "live" / "plc.py"],
        capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Of ten seconds; a busy machine starts in seven of them.
    assert done.stdout.count('"kind":"result"') >= 2
    assert '"state":"stopped"' in done.stdout
