import os
import time
from pathlib import Path

import pytest

from mmkd_bench.machine import power
from mmkd_bench.machine.facts import read_power_mode
from mmkd_bench.machine.power import (
    MeasuredEnergy,
    PowerLog,
    PowerSensor,
    compute_energy,
    counter_rise,
    power_sensor,
    rail_sensor,
    rapl_sensor,
    read_rails,
    total_power_mw,
)
from mmkd_edge.errors import UnavailableError
from tests.edge.said import said
from tests.station.rig import until

RECORDED = Path(__file__).parents[1] / "recorded"


def _write(root, folder, files):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / folder / name).write_text(text)
    return root


def _on_path(root, monkeypatch, name, lines):
    """A program of that name, a shell script, before all others."""
    path = root / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


@pytest.fixture
def orin_nano(tmp_path):
    """The INA3221 of an Orin Nano as kernel 5.15 shows it, beside a chip that is no power monitor."""
    files = {"name": "ina3221\n", "in7_label": "sum of shunt voltages\n", "in7_input": "120\n"}
    for channel, (label, millivolts, milliamperes) in enumerate(
        [("VDD_IN", 5008, 1204), ("VDD_CPU_GPU_CV", 5008, 382), ("VDD_SOC", 5000, 311)], start=1
    ):
        files[f"in{channel}_label"] = f"{label}\n"
        files[f"in{channel}_input"] = f"{millivolts}\n"
        files[f"curr{channel}_input"] = f"{milliamperes}\n"
    _write(tmp_path, "sys/class/hwmon/hwmon1", files)
    return _write(
        tmp_path,
        "sys/class/hwmon/hwmon0",
        {"name": "tmp451\n", "in1_label": "VIN\n", "in1_input": "9\n", "curr1_input": "9\n"},
    )


@pytest.mark.parametrize(
    ("rails_mw", "names", "total_mw"),
    [
        ({"VDD_GPU_SOC": 4788.0, "VDD_CPU_CV": 798.0, "VIN_SYS_5V0": 3842.0, "VDDQ_VDD2_1V8AO": 707.0}, 3, 9428.0),
        ({"VDD_IN": 6030.0, "VDD_CPU_GPU_CV": 1913.0, "VDD_SOC": 1557.0}, 1, 6030.0),
        ({"VDD_GPU": 1962.0, "VDD_CPU_SOC_MSS": 5887.0, "VIN_SYS_5V0": 5635.0, "VIN": 19780.0}, 1, 19780.0),
    ],
)
def test_the_whole_boards_power_counts_no_rail_twice(rails_mw, names, total_mw):
    total = total_power_mw(rails_mw)
    assert (len(total[0]), total[1]) == (names, total_mw)


def test_the_power_mode_is_read_and_none_in_other_text_and_without_nvpmodel(tmp_path, monkeypatch):
    recorded = {"jp4_xavier_nx": "MODE_15W_6CORE", "jp4_verbose": "MODE_15W_6CORE", "jp6_agx_orin": "MAXN"}
    for name, mode in recorded.items():
        _on_path(tmp_path, monkeypatch, "nvpmodel", [f'test "$1" = -q && cat {RECORDED / f"nvpmodel_{name}"}.txt'])
        assert read_power_mode() == mode
    _on_path(tmp_path, monkeypatch, "nvpmodel", ["echo 'NVPM ERROR: optMask is 1, no request for power mode'"])
    assert read_power_mode() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_power_mode() is None


def test_rails_are_volts_times_amperes(orin_nano):
    rails = read_rails(orin_nano)
    assert rails == pytest.approx({"VDD_IN": 6029.632, "VDD_CPU_GPU_CV": 1913.056, "VDD_SOC": 1555.0})
    sensor = rail_sensor(orin_nano)
    assert sensor.name == "INA rails VDD_IN"
    assert sensor.read_mw() == pytest.approx(6029.632)


def test_rails_have_labels_and_tell_the_whole_or_are_named(tmp_path):
    rail = {"name": "ina3221\n", "in1_label": "NC\n", "in1_input": "5000\n", "curr1_input": "0\n"}
    assert read_rails(_write(tmp_path, "sys/class/hwmon/hwmon0", rail)) == {}  # it is not connected
    whole = {"name": "ina238\n", "label": "VIN\n", "power1_input": "19780000\n", "in1_input": "12000\n"}
    assert read_rails(_write(tmp_path / "whole", "sys/class/hwmon/hwmon4", whole)) == {"VIN": 19780.0}
    _write(tmp_path, "sys/class/hwmon/hwmon0", rail | {"in1_label": "VDD_SOC\n", "curr1_input": "100\n"})
    assert said(UnavailableError, rail_sensor, tmp_path) == "INA rails: VDD_SOC are not the whole board's power"


def _rapl(root, energies_uj):
    for number, energy_uj in enumerate(energies_uj):
        files = {"name": f"package-{number}\n", "energy_uj": f"{energy_uj}\n", "max_energy_range_uj": "262143328850\n"}
        _write(root, f"sys/class/powercap/intel-rapl:{number}", files)
    core = {"name": "core\n", "energy_uj": "999\n", "max_energy_range_uj": "262143328850\n"}
    return _write(root, "sys/class/powercap/intel-rapl:0:0", core)


def test_rapl_is_the_rise_of_all_packages_over_time_also_of_counters_that_started_anew(tmp_path, monkeypatch):
    seconds = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr(power.time, "monotonic", lambda: next(seconds))
    sensor = rapl_sensor(_rapl(tmp_path, (1_000_000, 262_133_000_000)))
    assert sensor.name == "RAPL package-0 + package-1"
    _rapl(tmp_path, (31_000_000, 262_143_000_000))
    assert sensor.read_mw() == pytest.approx(20_000.0)  # 30 J and 10 J in 2 s
    _rapl(tmp_path, (31_000_000, 671_150))
    assert sensor.read_mw() == pytest.approx(1000.0)
    told = "RAPL: a counter started anew and max_energy_range_uj cannot be read"
    assert said(UnavailableError, counter_rise, 5.0, 4.0, wraps_at=None) == told


def test_rapl_that_may_not_be_read_says_so(tmp_path):
    _rapl(tmp_path, (1,))
    path = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    path.unlink()
    path.mkdir()  # fails to be read for every user, root included
    assert (
        said(UnavailableError, rapl_sensor, tmp_path)
        == f"RAPL: cannot read {path}: is a directory; run as root, or let it be read"
    )


def test_the_board_comes_first_then_the_processor_else_every_reason(tmp_path, orin_nano):
    _rapl(orin_nano, (1_000_000,))
    assert power_sensor(orin_nano).name == "INA rails VDD_IN"
    assert power_sensor(_rapl(tmp_path / "pc", (1_000_000,))).name == "RAPL package-0"
    none = "INA rails: none to read in sysfs; RAPL: no processor package in sysfs"
    assert said(UnavailableError, power_sensor, tmp_path / "empty") == none


class Dial:
    """A sensor that shows what it was set to."""

    def __init__(self, power_mw):
        self.power_mw = power_mw
        self.sensor = PowerSensor(name="dial", read_mw=lambda: self.power_mw)


def _span_of(log, *, readings):
    begin_s = time.monotonic()
    until(lambda: (log.mean_mw([(begin_s, time.monotonic())]) or (0, 0))[1] >= readings)
    return begin_s, time.monotonic()


def test_energy_is_power_above_idle_over_predictions_of_each_launch_and_of_all():
    dial = Dial(1000.0)
    with PowerLog(dial.sensor, interval_s=0.005) as log:
        idle = _span_of(log, readings=3)
        spans = []
        for power_mw in (3000.0, 5000.0):
            dial.power_mw = power_mw
            _span_of(log, readings=2)  # a reading that was on its way when the dial was turned is over
            spans.append(_span_of(log, readings=4))
        unread = (spans[1][1] + 1000, spans[1][1] + 1001)
        spent = compute_energy(log, idle=idle, loaded=[*spans, unread], predictions=[10, 40, 1])
        alone = compute_energy(log, idle=idle, loaded=spans[:1], predictions=[10])
        never = compute_energy(log, idle=idle, loaded=[unread], predictions=[1])
    lengths_s = [end - begin for begin, end in spans]
    expected = (2000.0 * lengths_s[0] / 10, 4000.0 * lengths_s[1] / 40)
    assert spent.launches_mj[:2] == pytest.approx(expected)
    assert (spent.launches_mj[2], spent.note, spent.energy.idle_mw, spent.energy.sensor) == (None, "", 1000.0, "dial")
    assert (alone.energy.load_mw, alone.energy.above_idle_mj) == (3000.0, pytest.approx(expected[0]))
    assert (never.energy, never.note) == (None, "dial: no reading in the measured time; measure longer")


def test_a_rail_that_vanishes_is_a_fault_and_its_reason(tmp_path):
    files = {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1000"}
    sensor = rail_sensor(_write(tmp_path, "sys/class/hwmon/hwmon0", files))
    with PowerLog(sensor, interval_s=0.005) as log:
        idle = _span_of(log, readings=1)
        (tmp_path / "sys/class/hwmon/hwmon0/curr1_input").unlink()
        until(lambda: log.fault)
        spent = compute_energy(log, idle=idle, loaded=[idle, idle], predictions=[1, 1])
    assert spent == MeasuredEnergy(energy=None, note="INA rails: none to read in sysfs", launches_mj=(None, None))
