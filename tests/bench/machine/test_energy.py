from __future__ import annotations

import time
from pathlib import Path

import pytest

from mmkd_bench.machine.power import MeasuredEnergy, PowerLog, PowerSensor, Span, compute_energy, rail_sensor
from mmkd_edge.errors import UnavailableError


class Dial:
    """A sensor that shows what it was set to."""

    def __init__(self, power_mw: float) -> None:
        self.power_mw = power_mw
        self.broken = False
        self.sensor = PowerSensor(name="dial", read_mw=self.read_mw)

    def read_mw(self) -> float:
        if self.broken:
            raise UnavailableError("dial: it fell off")
        return self.power_mw


def _span_of(log: PowerLog, *, readings: int) -> Span:
    begin_s = time.monotonic()
    while (found := log.mean_mw([(begin_s, time.monotonic())])) is None or found[1] < readings:
        time.sleep(0.002)
        assert time.monotonic() - begin_s < 10
    return begin_s, time.monotonic()


def test_energy_is_power_above_idle_over_predictions() -> None:
    dial = Dial(2000.0)
    with PowerLog(dial.sensor, interval_s=0.005) as log:
        idle = _span_of(log, readings=5)
        dial.power_mw = 5000.0
        loaded = _span_of(log, readings=5)
        spent = compute_energy(log, idle=idle, loaded=[loaded], predictions=[100])
    energy = spent.energy
    assert spent.note == ""
    assert energy is not None
    assert (energy.idle_mw, energy.sensor) == (2000.0, "dial")
    # One reading may have been on its way when the dial was turned.
    assert 4000.0 < energy.load_mw <= 5000.0
    seconds = loaded[1] - loaded[0]
    assert energy.above_idle_mj == pytest.approx((energy.load_mw - 2000.0) * seconds / 100)
    assert spent.launches_mj == (pytest.approx(energy.above_idle_mj),)


def test_every_launch_has_its_own_energy() -> None:
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
    lengths_s = [end - begin for begin, end in spans]
    expected = (2000.0 * lengths_s[0] / 10, 4000.0 * lengths_s[1] / 40)
    assert spent.launches_mj[:2] == pytest.approx(expected)
    assert spent.launches_mj[2] is None


def test_a_sensor_that_breaks_gives_its_reason() -> None:
    dial = Dial(2000.0)
    with PowerLog(dial.sensor, interval_s=0.005) as log:
        idle = _span_of(log, readings=2)
        dial.broken = True
        time.sleep(0.05)
        spent = compute_energy(log, idle=idle, loaded=[idle, idle], predictions=[1, 1])
    assert spent == MeasuredEnergy(energy=None, note="dial: it fell off", launches_mj=(None, None))


def test_too_short_a_measurement_is_no_measurement() -> None:
    with PowerLog(Dial(1.0).sensor, interval_s=0.005) as log:
        idle = _span_of(log, readings=2)
        never = (idle[1] + 1000, idle[1] + 1001)
        spent = compute_energy(log, idle=idle, loaded=[never], predictions=[1])
    assert spent.energy is None
    assert spent.note == "dial: no reading in the measured time; measure longer"


def test_a_rail_that_vanishes_is_a_fault(tmp_path: Path) -> None:
    chip = tmp_path / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    for name, text in (("name", "ina3221"), ("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "1000")):
        (chip / name).write_text(text)
    sensor = rail_sensor(tmp_path)
    with PowerLog(sensor, interval_s=0.005) as log:
        idle = _span_of(log, readings=1)
        (chip / "curr1_input").unlink()
        time.sleep(0.05)
        assert compute_energy(log, idle=idle, loaded=[idle], predictions=[1]).note == "INA rails: none to read in sysfs"
