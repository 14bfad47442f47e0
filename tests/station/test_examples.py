"""The examples of a running line: files that other programs read, and a PLC."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_app.cli.options import plain_parser
from mmkd_app.commands.edge import COMMANDS
from mmkd_app.commands.run import run_mmkd
from mmkd_edge import example_bundle
from mmkd_edge.install.slots import read_slots
from mmkd_station.spec import read_run_spec
from tests.station.rig import ENVIRONMENT

EXAMPLES = Path(__file__).parents[2] / "examples"
GUIDE = EXAMPLES.parent / "docs" / "running-live.md"


@pytest.mark.slow
def test_the_commands_of_the_live_guide_run_without_a_sensor(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for name in ("student.edge", "new.edge"):
        shutil.copy(example_bundle(), name)
    for language, block in blocks:
        if language == "python":
            exec(compile(block, str(GUIDE), "exec"), {})
        elif language == "toml":
            Path("stations.toml").write_text(block, encoding="utf-8")
    lines = [line for language, block in blocks if language == "sh" for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("mmkd-run")]
    local = [command[1:] for command in commands if not any(re.search("://|cam:", word) for word in command)]
    assert len(local) > 7
    for command in local:
        with pytest.raises(SystemExit, match="0"):
            run_mmkd([word.replace(":8090", ":0") for word in command] + ["--for", "2s"] * ("--source" in command))
    printed = capsys.readouterr().out
    for text in ("alarms: 4 ROW", "69 uncertain windows kept", "shadow run of ", "press 2: ", "next: mmkd-run "):
        assert text in printed
    assert Path("results.csv").stat().st_size > 0


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
    watched = {"Type=notify", "WatchdogSec=30", "Restart=on-failure", "ExecReload=/bin/kill -HUP $MAINPID"}
    assert watched | {"NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="} <= set(lines)


def test_the_playbook_returns_only_from_a_bundle_that_it_installed_and_its_commands_exist():
    yaml = pytest.importorskip("yaml")
    install, collect = yaml.safe_load((EXAMPLES / "fleet" / "playbook.yml").read_text(encoding="utf-8"))
    copied, guarded = install["tasks"]
    assert (copied["register"], guarded["when"]) == ("copied", "copied is changed")
    assert guarded["block"][0]["register"] == "installed"
    assert [task.get("when") for task in guarded["rescue"]] == ["installed is succeeded"] * 2 + [None] * 2
    tasks = [*guarded["block"], *guarded["rescue"], *collect["tasks"]]
    commands = [task["ansible.builtin.command"]["argv"] for task in tasks if "ansible.builtin.command" in task]
    assert [command[1] for command in commands] == ["install", "rollback", "status"]
    for command in commands:
        plain_parser("mmkd-edge", COMMANDS).parse_args(command[1:])


def test_the_module_of_mender_installs_a_bundle_and_returns_only_from_one_that_it_installed(kit, tmp_path):
    program = tmp_path / "mmkd-edge"
    program.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'from mmkd_app.commands.edge import main; main()' \"$@\"\n"
    )
    program.chmod(0o755)
    state, restarts = tmp_path / "state", tmp_path / "restarts"
    settings = {"MMKD_STATE": str(state), "MMKD": str(program), "MMKD_RESTART": f"touch {restarts}"}

    def call(step, release):
        command = [EXAMPLES / "fleet" / "mender-module", step, tmp_path / str(release)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT | settings)
        return done.returncode, done.stdout

    def installed():
        return read_slots(state).current.release

    for release in (1, 2, 3):
        for folder in ("files", "tmp"):
            (tmp_path / str(release) / folder).mkdir(parents=True)
        parts = kit.parts(kit.modality).with_manifest(release=release)
        parts.write(tmp_path / str(release) / "files" / "student.edge")
    assert [call(step, 1) for step in ("NeedsArtifactReboot", "SupportsRollback")] == [(0, "No\n"), (0, "Yes\n")]
    assert [call("ArtifactInstall", release) for release in (1, 2)] == [(0, "")] * 2
    assert restarts.exists()
    damaged = tmp_path / "3" / "files" / "student.edge"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert call("ArtifactInstall", 3)[0] == 6
    assert (call("ArtifactRollback", 3), installed()) == ((0, ""), 2)
    assert (call("ArtifactRollback", 2), installed()) == ((0, ""), 1)


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
