"""Power sensors: INA3221 and INA238 rails, RAPL. An absent one has a reason, never a zero.

Sources: NVIDIA Jetson Linux Developer Guide, "Software-Based Power Consumption Modeling"; Linux kernel
documentation, hwmon/ina3221, hwmon/ina238, hwmon/sysfs-interface (mV, mA, µW), power/powercap (µJ).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmkd_bench.machine.facts import read_number
from mmkd_documents.bench import Energy
from mmkd_edge.errors import UnavailableError
from mmkd_edge.machine import ROOT, read_text

# Rails that add up to the whole module or board: the first complete set counts.
# Thor: VIN is the input of the board. Orin NX and Nano, Xavier NX: VDD_IN is the input of the module. AGX Orin has no
# such rail; its VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0, so adding it would count the memory twice. Nano: POM_5V_IN.
_TOTAL_RAILS: tuple[tuple[str, ...], ...] = (
    ("VIN",),
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
_HWMON_CHIPS = ("ina3221", "ina238", "ina219", "ina226")
_INTERVAL_S = 0.1
IDLE_S = 3.0  # time before the first launch for idle power


@dataclass(frozen=True, kw_only=True)
class PowerSensor:
    """`read_mw` returns power now or since the last reading; raises UnavailableError when it stops."""

    name: str
    read_mw: Callable[[], float]


def power_sensor(root: Path = ROOT) -> PowerSensor:
    """Return the board's rails, else the processor's counters; raise UnavailableError with every reason."""
    reasons: list[str] = []
    for opener in (rail_sensor, rapl_sensor):
        try:
            return opener(root)
        except UnavailableError as error:
            reasons.append(str(error))
    raise UnavailableError("; ".join(reasons))


def rail_sensor(root: Path = ROOT) -> PowerSensor:
    """Measure the whole board by INA rails in sysfs."""

    def read() -> tuple[tuple[str, ...], float]:
        rails = read_rails(root)
        total = total_power_mw(rails)
        if total is None:
            known = f"{', '.join(rails)} are not the whole board's power" if rails else "none to read in sysfs"
            raise UnavailableError(f"INA rails: {known}")
        return total

    return PowerSensor(name=f"INA rails {' + '.join(read()[0])}", read_mw=lambda: read()[1])


def rapl_sensor(root: Path = ROOT) -> PowerSensor:
    """Measure mean power since the last reading by RAPL package counters (`intel-rapl:0`, not `intel-rapl:0:1`)."""
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    packages = [zone for zone in zones if (read_text(zone / "name") or "").startswith("package")]
    if not packages:
        raise UnavailableError("RAPL: no processor package in sysfs")
    last_s, last_uj = time.monotonic(), [_energy_uj(zone) for zone in packages]

    def read_mw() -> float:
        nonlocal last_s, last_uj
        now_uj, now_s = [_energy_uj(zone) for zone in packages], time.monotonic()
        rises = [
            counter_rise(before, after, wraps_at=read_number(zone / "max_energy_range_uj"))
            for before, after, zone in zip(last_uj, now_uj, packages, strict=True)
        ]
        power_mw = sum(rises) / max(now_s - last_s, 1e-9) / 1e3
        last_s, last_uj = now_s, now_uj
        return power_mw

    names = " + ".join(read_text(zone / "name") or zone.name for zone in packages)
    return PowerSensor(name=f"RAPL {names}", read_mw=read_mw)


def total_power_mw(rails_mw: Mapping[str, float]) -> tuple[tuple[str, ...], float] | None:
    """Return the rails that add up to the board's power, and the sum; None if incomplete."""
    for names in _TOTAL_RAILS:
        if all(name in rails_mw for name in names):
            return names, sum(rails_mw[name] for name in names)
    return None


def read_rails(root: Path = ROOT) -> dict[str, float]:
    """Return power in mW of every labelled INA channel."""
    rails = {}
    chips = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    for chip in filter(lambda chip: read_text(chip / "name") in _HWMON_CHIPS, chips):
        for path in sorted(chip.glob("in[0-9]*_label")):
            channel, label = path.name.removeprefix("in").removesuffix("_label"), read_text(path)
            millivolts, milliamperes = (read_number(chip / f"{kind}{channel}_input") for kind in ("in", "curr"))
            # INA3221 also labels sums of shunt voltages, which have no current.
            if label and label != "NC" and millivolts is not None and milliamperes is not None:
                rails[label] = millivolts * milliamperes / 1e3
        whole, microwatts = read_text(chip / "label"), read_number(chip / "power1_input")
        if whole and microwatts is not None:
            rails[whole] = microwatts / 1e3
    return rails


def counter_rise(before: float, after: float, *, wraps_at: float | None) -> float:
    """Return the rise of a counter that may wrap once; raise UnavailableError if unknown."""
    if after >= before:
        return after - before
    if wraps_at is None:
        raise UnavailableError("RAPL: a counter started anew and max_energy_range_uj cannot be read")
    return after - before + wraps_at


def _energy_uj(zone: Path) -> float:
    path = zone / "energy_uj"
    try:
        return float(path.read_text())
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        raise UnavailableError(f"RAPL: cannot read {path}: {reason}; run as root, or let it be read") from error


Span = tuple[float, float]  # begin and end on the monotonic clock


class PowerLog:
    """Reads a sensor in a thread; `fault` is why it stopped."""

    def __init__(self, sensor: PowerSensor, *, interval_s: float = _INTERVAL_S) -> None:
        self.sensor = sensor
        self.fault = ""
        self._interval_s = interval_s
        self._readings: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="power log", daemon=True)

    def __enter__(self) -> PowerLog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mean_mw(self, spans: Sequence[Span]) -> tuple[float, int] | None:
        """Return mean power over spans and the number of readings, if any."""
        inside = [power for at, power in list(self._readings) if any(begin <= at <= end for begin, end in spans)]
        return (float(np.mean(inside)), len(inside)) if inside else None

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                power_mw = self.sensor.read_mw()
            except UnavailableError as error:
                self.fault = str(error)
                return
            self._readings.append((time.monotonic(), power_mw))


@dataclass(frozen=True, kw_only=True)
class MeasuredEnergy:
    """Energy, or why it is unknown; `launches_mj` is per prediction above idle."""

    energy: Energy | None
    note: str
    launches_mj: tuple[float | None, ...]


def compute_energy(log: PowerLog, *, idle: Span, loaded: Sequence[Span], predictions: Sequence[int]) -> MeasuredEnergy:
    """Compute energy per prediction above idle, from values per launch."""
    at_rest, under_load = log.mean_mw([idle]), log.mean_mw(loaded)
    if log.fault or at_rest is None or under_load is None:
        reason = log.fault or f"{log.sensor.name}: no reading in the measured time; measure longer"
        return no_energy(reason, launches=len(loaded))

    def above_idle_mj(mean_mw: float, spans: Sequence[Span], count: int) -> float:
        return (mean_mw - at_rest[0]) * sum(end - begin for begin, end in spans) / count

    energy = Energy(
        sensor=log.sensor.name,
        idle_mw=at_rest[0],
        load_mw=under_load[0],
        above_idle_mj=above_idle_mj(under_load[0], loaded, sum(predictions)),
        readings=under_load[1],
    )
    launches_mj = tuple(
        None if (mean := log.mean_mw([span])) is None else above_idle_mj(mean[0], [span], count)
        for span, count in zip(loaded, predictions, strict=True)
    )
    return MeasuredEnergy(energy=energy, note="", launches_mj=launches_mj)


def no_energy(note: str, *, launches: int) -> MeasuredEnergy:
    """Return unknown energy with the reason."""
    return MeasuredEnergy(energy=None, note=note, launches_mj=(None,) * launches)
