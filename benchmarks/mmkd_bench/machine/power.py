"""What power sensors say: INA3221 and INA238 rails in sysfs, tegrastats, RAPL, and the power mode of a Jetson.

Parsers and readers; changes no setting. A sensor that is absent or may not be read has a reason in words, never a zero.

Sources: NVIDIA Jetson Linux Developer Guide, "Tegrastats Utility" and "Software-Based Power Consumption Modeling" of
the boards (rails and what they feed); Linux kernel documentation, hwmon/ina3221, hwmon/ina238, hwmon/sysfs-interface
(mV, mA, µW) and power/powercap/powercap (µJ, counters wrap at `max_energy_range_uj`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mmkd_bench.machine.facts import read_number
from mmkd_bench.machine.gpu import GpuSensor
from mmkd_edge.errors import UnavailableError
from mmkd_edge.machine import ROOT, read_text

# What the whole module or board draws, by the board's rails: the first set of which all rails are there.
# Thor: VIN is the input of the board. Orin NX and Nano, Xavier NX: VDD_IN is the input of the module. AGX Orin has no
# such rail; its VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0, so adding it would count the memory twice. Nano: POM_5V_IN.
TOTAL_RAILS: tuple[tuple[str, ...], ...] = (
    ("VIN",),
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
TEGRASTATS_INTERVAL_MS = 100
POWER_MODE_TIMEOUT_S = 5.0

_HWMON_CHIPS = ("ina3221", "ina238", "ina219", "ina226")
# Now/mean, and on JetPack 7.2 now/mean/highest; before JetPack 5 without a unit. A rail that measures nothing is `NC`.
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (-?\d+)(?:mW)?/-?\d+(?:mW)?(?:/-?\d+mW)?(?=\s|\Z)")
# Memory in use, and swap, look like rails.
_NOT_A_RAIL = re.compile(r"\b(?:RAM|SWAP|IRAM) \d+/\d+[kM]B")
_POWER_MODE = re.compile(r"\bNV Power Mode: *(\S.*?) *$", re.MULTILINE)


class PowerSensor(Protocol):
    """Something that says how much power the machine draws."""

    @property
    def name(self) -> str:
        """Which sensor, for the report."""
        ...

    def read_mw(self) -> float:
        """Power now, or the mean since the last reading, in milliwatts.

        Raises:
            UnavailableError: the sensor stopped answering.
        """
        ...


def tegrastats_rails(line: str) -> dict[str, float]:
    """Power now by rail, in milliwatts, in a line of tegrastats of JetPack 4 to 7; none where it shows none.

    >>> tegrastats_rails("RAM 2/8MB CPU [1%@729,off] VDD_IN 6030mW/6030mW VDD_SOC 1557mW/1557mW NC 0mW/0mW")
    {'VDD_IN': 6030.0, 'VDD_SOC': 1557.0}
    """
    rails = _NOT_A_RAIL.sub("", line)
    return {match[1]: float(match[2]) for match in _RAIL.finditer(rails) if match[1] != "NC"}


def total_power_mw(rails_mw: Mapping[str, float]) -> tuple[tuple[str, ...], float] | None:
    """What the whole board draws, and the rails that it is the sum of; None where the rails do not tell.

    >>> total_power_mw({"VDD_IN": 6030.0, "VDD_CPU_GPU_CV": 1913.0, "VDD_SOC": 1557.0})
    (('VDD_IN',), 6030.0)
    """
    for names in TOTAL_RAILS:
        if all(name in rails_mw for name in names):
            return names, sum(rails_mw[name] for name in names)
    return None


def parse_power_mode(text: str) -> str | None:
    """The mode in the output of `nvpmodel -q`.

    >>> parse_power_mode("NV Power Mode: MAXN_SUPER")
    'MAXN_SUPER'
    """
    found = _POWER_MODE.search(text)
    return found[1] if found else None


def read_power_mode() -> str | None:
    """The power mode of a Jetson; None where `nvpmodel` is absent or does not answer."""
    program = shutil.which("nvpmodel") or shutil.which("nvpmodel", path="/usr/sbin")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, "-q"], capture_output=True, text=True, timeout=POWER_MODE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_power_mode(answer.stdout)


def read_rails(root: Path = ROOT) -> dict[str, float]:
    """Power of every labelled channel of INA chips, by label, in milliwatts."""
    rails: dict[str, float] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(chip / "name") in _HWMON_CHIPS:
            rails |= _chip_rails(chip)
    return rails


def _chip_rails(chip: Path) -> dict[str, float]:
    rails = {}
    for label_file in sorted(chip.glob("in[0-9]*_label")):
        label, channel = read_text(label_file), label_file.name.removeprefix("in").removesuffix("_label")
        millivolts, milliamperes = (read_number(chip / f"{kind}{channel}_input") for kind in ("in", "curr"))
        # INA3221 labels its sums of shunt voltages as well; those have no current.
        if label and label != "NC" and millivolts is not None and milliamperes is not None:
            rails[label] = millivolts * milliamperes / 1e3
    whole = read_text(chip / "label")
    microwatts = read_number(chip / "power1_input")
    if whole and microwatts is not None:
        rails[whole] = microwatts / 1e3
    return rails


def _denied_rails(root: Path) -> list[str]:
    """Why labelled channels cannot be read although they are there."""
    reasons = []
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(chip / "name") not in _HWMON_CHIPS:
            continue
        channels = [path.name.removesuffix("_label").removeprefix("in") for path in chip.glob("in[0-9]*_label")]
        for path in (chip / f"{kind}{channel}_input" for channel in sorted(channels) for kind in ("in", "curr")):
            try:
                path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                reasons.append(f"cannot read {path}: {(error.strerror or str(error)).lower()}")
    return reasons


class RailSensor:
    """INA rails in sysfs: what the whole board draws now."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self.name = f"INA rails {' + '.join(self._read()[0])}"

    def read_mw(self) -> float:
        """Power now; see `PowerSensor.read_mw`."""
        return self._read()[1]

    def _read(self) -> tuple[tuple[str, ...], float]:
        rails = read_rails(self._root)
        total = total_power_mw(rails)
        if total is None:
            seen = [f"the rails {', '.join(rails)} do not tell the whole board's power"] if rails else []
            raise UnavailableError(f"INA rails: {'; '.join([*seen, *_denied_rails(self._root)]) or 'none in sysfs'}")
        return total


class TegrastatsSensor:
    """What a tegrastats process prints."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [program, "--interval", str(TEGRASTATS_INTERVAL_MS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            self.name = f"tegrastats {' + '.join(self._read()[0])}"
        except UnavailableError:
            self.close()
            raise

    def read_mw(self) -> float:
        """Power in the next line, which it waits for; see `PowerSensor.read_mw`."""
        return self._read()[1]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> tuple[tuple[str, ...], float]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise UnavailableError("tegrastats: it ended without a line")
        total = total_power_mw(tegrastats_rails(line))
        if total is None:
            raise UnavailableError("tegrastats: its line has no rail for the whole board; run it as root")
        return total


class RaplSensor:
    """RAPL energy counters of all processor packages."""

    def __init__(self, root: Path = ROOT) -> None:
        self._zones = _rapl_packages(root)
        if not self._zones:
            raise UnavailableError("RAPL: no processor package in sysfs")
        self.name = f"RAPL {' + '.join(read_text(zone / 'name') or zone.name for zone in self._zones)}"
        self._last = [_energy_uj(zone) for zone in self._zones]
        self._last_s = time.monotonic()

    def read_mw(self) -> float:
        """Mean power since the last reading; see `PowerSensor.read_mw`."""
        now = [_energy_uj(zone) for zone in self._zones]
        now_s = time.monotonic()
        rises = [
            counter_rise(before, after, wraps_at=read_number(zone / "max_energy_range_uj"))
            for before, after, zone in zip(self._last, now, self._zones, strict=True)
        ]
        power_mw = sum(rises) / max(now_s - self._last_s, 1e-9) / 1e3
        self._last, self._last_s = now, now_s
        return power_mw


def counter_rise(before: float, after: float, *, wraps_at: float | None) -> float:
    """What a counter rose by between two readings, where it may have started anew at most once.

    >>> counter_rise(90.0, 10.0, wraps_at=100.0)
    20.0

    Raises:
        UnavailableError: it started anew, and where it does so is not known.
    """
    if after >= before:
        return after - before
    if wraps_at is None:
        raise UnavailableError("RAPL: a counter started anew and max_energy_range_uj cannot be read")
    return after - before + wraps_at


def _rapl_packages(root: Path) -> list[Path]:
    """Packages, not their parts: `intel-rapl:0`, not `intel-rapl:0:1`; AMD processors use the same names."""
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    return [zone for zone in zones if (read_text(zone / "name") or "").startswith("package")]


def _energy_uj(zone: Path) -> float:
    path = zone / "energy_uj"
    try:
        return float(path.read_text())
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        raise UnavailableError(f"RAPL: cannot read {path}: {reason}; run as root, or let it be read") from error


class PartsSensor:
    """Several parts of a machine that each have a sensor of their own: their sum."""

    def __init__(self, parts: Sequence[PowerSensor]) -> None:
        self.parts = tuple(parts)
        self.name = " + ".join(part.name for part in parts)

    def read_mw(self) -> float:
        """Power of all parts; see `PowerSensor.read_mw`."""
        return sum(part.read_mw() for part in self.parts)


def find_sensor(root: Path = ROOT) -> PowerSensor:
    """The best sensor of this machine: the board's rails or tegrastats, else the processor's and the GPUs' together.

    Raises:
        UnavailableError: none answers; the message has the reason of each.
    """
    reasons: list[str] = []
    parts: list[PowerSensor] = []
    openers: tuple[tuple[bool, Callable[[], PowerSensor]], ...] = (
        (True, lambda: RailSensor(root)),
        (True, _tegrastats_sensor),
        (False, lambda: RaplSensor(root)),
        (False, GpuSensor),
    )
    for whole, open_sensor in openers:
        try:
            sensor = open_sensor()
        except UnavailableError as error:
            reasons.append(str(error))
            continue
        if whole:
            return sensor
        parts.append(sensor)
    if not parts:
        raise UnavailableError("; ".join(reasons))
    return parts[0] if len(parts) == 1 else PartsSensor(parts)


def _tegrastats_sensor() -> TegrastatsSensor:
    program = shutil.which("tegrastats")
    if program is None:
        raise UnavailableError("tegrastats: not installed")
    return TegrastatsSensor(program)


@contextmanager
def power_sensor(root: Path = ROOT) -> Iterator[PowerSensor]:
    """`find_sensor` for a `with` block: a sensor that is a process ends with it."""
    sensor = find_sensor(root)
    try:
        yield sensor
    finally:
        for part in sensor.parts if isinstance(sensor, PartsSensor) else (sensor,):
            if isinstance(part, TegrastatsSensor | GpuSensor):
                part.close()
