"""Every script explains itself and is listed in the README; and what single scripts compute and print."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from checks import against_before, endurance
from checks.alarms import cells, follow
from checks.emulation import root
from checks.install_size import Installed, import_time_ms, weigh
from checks.script import head, row
from checks.shipped_table import ahead, gains_over, main
from mmkd_edge import Bundle, example_bundle
from mmkd_edge.spec import ReplayedRecording

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "checks"
SCRIPTS = [path.stem for path in sorted(FOLDER.glob("*.py")) if "def main(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_explains_itself(name, capsys, monkeypatch):
    script = importlib.import_module(f"checks.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {name}.py ")


def test_the_readme_lists_every_script_and_no_other():
    listed = re.findall(
        r"^\| `([\w/]+)\.py` \|", (FOLDER / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    helpers = {"faulty_process"}  # faulty_load.py starts it
    assert sorted(listed) == sorted({*SCRIPTS, "study/distillation"} - helpers)


def test_tables_folds_and_ratios_of_checks_by_hand():
    assert head("a", "b", "c", texts=2) == "| a | b | c |\n|---|---|---:|"
    assert row("x", 1) == "| x | 1 |"
    # Two events in an hour: 0.242 to 7.225 (Garwood, 1936). 36 of 87: 31 to 52 % (Clopper and Pearson).
    counts = ("normal_hours", "false_alarms", "recordings", "detected")
    folds = [SimpleNamespace(**dict(zip(counts, fold, strict=True))) for fold in ((0.25, 2, 40, 16), (0.75, 0, 47, 20))]
    expected = "| worn | episodes | 2 | 1.00 | 2.00 | 0.24 to 7.22 | 36 of 87 | 31 to 52 % |"
    assert cells("worn", "episodes", folds) == expected
    rounds = [({"step, µs": 10.0}, {"step, µs": 20.0}), ({"step, µs": 40.0}, {"step, µs": 30.0})] * 2
    assert against_before.table(rounds).splitlines()[-1] == "| step, µs | 25 | 25 | 1.38 | 0.75 to 2.00 |"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None, reason="needs mosquitto")
def test_stations_lose_no_record_while_the_process_its_broker_and_its_disk_fail(tmp_path, capsys, monkeypatch):
    pytest.importorskip("paho.mqtt.client")
    options = ["--hours", "0.007", "--stations", "3", "--every-s", "5"]
    monkeypatch.setattr(sys, "argv", ["endurance.py", str(tmp_path / "made"), *options])
    with pytest.raises(SystemExit) as end:
        endurance.main()
    output = capsys.readouterr().out
    assert end.value.code == 0, output
    assert " kill |" in output
    assert "\n3 stations, 6 starts of a station, 0 gaps\n" in output


@pytest.mark.slow
def test_a_checkout_beside_itself(capsys, monkeypatch):
    causal = ROOT / "tests" / "files" / "causal.edge"
    options = ["--before", str(ROOT), "--causal", str(causal), "--rounds", "1", "--seconds", "0.05"]
    monkeypatch.setattr(sys, "argv", ["against_before.py", *options])
    against_before.main()
    names = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(names) == 10
    assert {"import, ms", "open to answer, ms", "predict over session.run, µs", "step, µs"} < set(names)


def test_files_are_weighed_distributions_counted_and_a_module_imported_from_the_folder_alone(tmp_path):
    sizes = {"mmkd_edge/__init__.py": 10, "mmkd_edge/bundles/a.edge": 30, "mmkd_edge-1.0.dist-info/METADATA": 5}
    for name, size_bytes in (sizes | {"numpy/core.so": 100, "numpy-2.0.dist-info/METADATA": 7}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size_bytes))
    # Of the project's own files the 45 bytes that lie in its folders, its metadata among them.
    assert weigh(tmp_path) == Installed(size_bytes=152, own_bytes=45, packages=["mmkd_edge", "numpy"])
    (tmp_path / "slow_module.py").write_text("import time; time.sleep(0.2)")
    assert import_time_ms(tmp_path, "slow_module", repeats=1) > 100  # half of it


RESULTS = ROOT / "docs" / "results"
GROUPS = "watch_exercises-2groups noneeg_affect-4groups zema_hydraulic-28groups rosa_rotor30-46groups spsw_har-4groups"


def test_every_line_stands_in_the_results(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shipped_table.py", *(str(RESULTS / f"{name}.json") for name in GROUPS.split())])
    main()
    page = " ".join((RESULTS / "demo.md").read_text(encoding="utf-8").split()).lower()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) >= 2 + 6 + 1 + 3  # a head, a row a sensor, the mean; costs, the gain, and rivals ahead
    for line in printed:
        assert " ".join(line.split()).lower() in page


def test_rivals_ahead_and_gains_over_earlier_students_are_judged_over_folds():
    def document(name, student, rocket):
        folds = {"student": student, "mini_rocket": rocket, "extra_trees": [0.1] * 3, "rocket_and_trees": [0.1] * 3}
        one = {key: {"balanced_accuracy": {"per_seed": values}} for key, values in folds.items()}
        return {"dataset": {"name": name}, "students": {"acc": {**one, "distilled_rocket": {"reason": "too short"}}}}

    behind, level = document("a", [0.5, 0.6, 0.7], [0.51, 0.62, 0.73]), document("b", [0.5] * 3, [0.5] * 3)
    # 1, 2 and 3 points: their mean 2, its standard error 0.577, and Student's t of two degrees of freedom 4.303.
    assert ahead([behind, level]) == ["ahead of the student: a acc MiniRocket +2.0 (-0.5 to +4.5)"]
    assert ahead([level]) == ["no rival is ahead of a student"]
    earlier = [document("a", [0.48, 0.58, 0.67, 0.1], [0.0] * 4), document("b", [0.49, 0.5], [0.0] * 2)]
    assert gains_over(earlier, [behind, level]) == [
        "gain over before: a acc +2.3 (+0.9 to +3.8)",
        "gain over before: b acc +0.5 (-5.9 to +6.9)",
        "gain over before, mean over datasets: +1.4 (+0.5 to +2.4)",
    ]


def test_a_root_that_was_begun_is_not_taken_as_whole(tmp_path, monkeypatch):
    def unpacked(packages):
        def unpack(folder, **_):
            (folder / "usr/bin").mkdir(parents=True)
            (folder / "usr/bin/python3").touch()
            if packages < 2:
                raise subprocess.CalledProcessError(1, "dpkg")
            (folder / "usr/bin/more").touch()

        return unpack

    monkeypatch.setattr(root, "_unpack", unpacked(1))
    with pytest.raises(subprocess.CalledProcessError):
        root.make_root(tmp_path / "arm64", suite="trixie", mirror=None)
    monkeypatch.setattr(root, "_unpack", unpacked(2))
    made = root.make_root(tmp_path / "arm64", suite="trixie", mirror=None)
    assert (made.folder / "usr/bin/more").exists()
    assert not (tmp_path / "arm64.begun").exists()


def test_a_station_follows_faults_between_normal_running(tmp_path, native_engine):
    """Of eight normal recordings and three faults the first and the second fault are in the line, fifth and tenth."""
    shutil.copy(example_bundle(), tmp_path / "s.edge")
    with Bundle.open(example_bundle()) as bundle:
        golden = bundle.golden("acc")
    # The surest windows of the first label and of the second, four times each: a result every 4 s.
    certain = golden.probabilities * ~np.isnan(golden.windows).any((1, 2))[:, None]
    quiet, worn = (np.tile(golden.windows[certain[:, label].argmax()], (4, 1)) for label in (0, 1))
    recordings = [
        ReplayedRecording(rows=rows, name="", label=label, group="", split="test")
        for rows, label in [(quiet, "normal")] * 8 + [(worn, "worn")] * 3
    ]
    score = follow(
        tmp_path / "s.edge", recordings, "normal", ["--alarm=ABD", "--confirm=2/2", "--cooldown=0", "--hop=200"]
    )
    assert (score.recordings, score.detected, score.delay_s) == (2, 2, pytest.approx(2 * 4, abs=0.03))
    assert (score.false_alarms, score.normal_hours) == (0, pytest.approx(8 * 4 * 4 / 3600))
    rows = np.loadtxt(tmp_path / "s.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(rows[:, 0], np.arange(10 * 800) / 50)
    np.testing.assert_allclose(rows[:, 1:].reshape(10, 800, 3)[[3, 4, 9]], [quiet, worn, worn], rtol=1e-5)
