"""`cost.toml`: the template, and the gate that a file of assumptions passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_report.schema.cost import SHARES, WHOLE, CostWay, Plant, Priced

TEMPLATE = """\
# Assumptions of mmkd-evaluate --suite cost --cost cost.toml. Replace what is yours; what is left out is a default.
# A verdict needs your own values of the lines marked "enter": remove their '#'. Until then the table is an example.
# Money is in the currency. Sources: (1) Eurostat nrg_pc_205, EU non-household consumers, first half of 2025.
# (2) f7i.ai, a vendor: wireless MEMS 150-400 USD, piezo 1,200-2,500 USD a point, gateway 1,500-5,000 USD.
# (3) ifactoryapp.com, a vendor: CPU node 10-35 W, Jetson 15-75 W, GPU node 70-150 W. Without a number: an example.
version = 1
currency = "EUR"
# healthy = ["ok"]                # enter: the labels that need no action; else the first label

[plant]
stations = 20
years = 5
discount_rate = 0.08
price_per_kwh = 0.190             # (1)
faults_per_station_year = 0.5
avoidable_share = 0.5             # of the cost of a missed fault that is saved where it is seen
# missed_cost = 20000             # enter: of a fault that nobody saw coming
false_alarm_cost = 150
checks_per_station_year = 365     # how often somebody acts on an answer, if it is an alarm
hourly_rate = 60

[teacher]                         # every sensor at every station
# sensor_price = 4000             # enter: (2) two piezo points
installation = 800
sensor_life_years = 10
spares_share = 0.05
# node_price = 1500               # enter
node_life_years = 5
gateway_price = 0                 # (2) for wireless sensors
stations_per_gateway = 10
idle_w = 70                       # (3) GPU node
inference_mj = 0                  # mmkd-bench run measures it
inferences_per_s = 0
campaign_cost = 10000
labelling_hours = 80
training_hours = 40
maintenance_hours = 2             # a year and a station
# detection = 0.9                 # else from the evaluation
# false_alarms = 0.01             # share of the checks of a healthy station

[student]                         # one sensor, taught by the teacher
# sensor_price = 300              # enter: (2) wireless MEMS
installation = 200
# node_price = 400                # enter
idle_w = 10                       # (3) CPU node
campaign_cost = 10000
labelling_hours = 80
training_hours = 60
maintenance_hours = 1

[rival]                           # the same sensor, taught by labels alone
# sensor_price = 300              # enter: (2)
installation = 200
# node_price = 400                # enter
idle_w = 10                       # (3)
campaign_cost = 5000
labelling_hours = 80
training_hours = 40
maintenance_hours = 1

[ranges]                          # for the tornado and the chance that the student wins; else 30 % either way
# "plant.missed_cost" = [10000, 40000]
"plant.faults_per_station_year" = [0.2, 1.0]
"""

_PRICES = ("sensor_price", "node_price")
_EXAMPLE_PRICES: dict[CostWay, dict[str, float]] = {"teacher": {"sensor_price": 4000.0, "node_price": 1500.0}}
"""Of the template, where they are not the defaults of `Priced`."""

_ABOVE_ZERO = ("stations", "years", "sensor_life_years", "node_life_years", "stations_per_gateway")


class EnteredEquipment(Priced, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As `Equipment`; what it sees is measured where it is not entered."""

    detection: float | None = None
    false_alarms: float | None = None


class CostFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `cost.toml`; `ranges` are by path, `plant.missed_cost`."""

    version: int
    currency: str = "EUR"
    healthy: tuple[str, ...] = ()
    plant: Plant = Plant()
    teacher: EnteredEquipment | None = None
    student: EnteredEquipment | None = None
    rival: EnteredEquipment | None = None
    ranges: dict[str, tuple[float, float]] = {}

    def entered(self, way: CostWay) -> EnteredEquipment | None:
        """What the file says of a way to equip; None where it has no such section."""
        found: EnteredEquipment | None = getattr(self, way)
        return found


def read_cost(file: Path) -> tuple[CostFile, frozenset[str]]:
    """Reads and checks assumptions; gives them with the paths of those that the file says.

    Prices that it does not say are those of the template.

    Raises UsageError where there is no such file or it breaks a rule; the message lists every problem found.
    """
    if not file.is_file():
        raise UsageError(f"--cost {file}: found no such file; mmkd-evaluate --print-cost prints one to fill in")
    content = file.read_bytes()
    try:
        found, said = msgspec.toml.decode(content, type=CostFile), msgspec.toml.decode(content)
    except msgspec.ValidationError as error:
        raise UsageError(f"--cost {file}: {error}; docs/evaluation.md describes every key") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"--cost {file}: expected TOML, got {error}; correct that line") from error
    except ImportError as error:  # Python 3.10 has no TOML reader of its own
        raise UsageError(f"--cost {file}: reading TOML needs tomli; run: pip install 'mmkd-edge[import]'") from error
    problems = list(_problems(found))
    if problems:
        raise UsageError(
            "\n  - ".join([f"--cost {file}:", *problems]) if len(problems) > 1 else f"--cost {file}: {problems[0]}"
        )
    paths = frozenset(_paths(said))
    for way, prices in _EXAMPLE_PRICES.items():
        section = found.entered(way)
        if section is not None:
            missing = {key: price for key, price in prices.items() if f"{way}.{key}" not in paths}
            found = msgspec.structs.replace(found, **{way: msgspec.structs.replace(section, **missing)})
    return found, paths


def values_to_enter(found: CostFile, said: frozenset[str], ways: Iterable[CostWay]) -> tuple[str, ...]:
    """Paths of the values that decide between these ways and were not entered: a verdict needs all of them."""
    entered = said if found.healthy else said - {"healthy"}
    deciding = ("healthy", "plant.missed_cost", *(f"{way}.{key}" for way in ways for key in _PRICES))
    return tuple(path for path in deciding if path not in entered)


def _paths(said: dict[str, Any]) -> Iterator[str]:
    for key, value in said.items():
        if isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in value)
        else:
            yield key


def _problems(found: CostFile) -> Iterator[str]:
    if found.version != 1:
        yield f"'version': expected 1, got {found.version}; use the mmkd-edge that wrote it"
    sections = {"plant": found.plant, "teacher": found.teacher, "student": found.student, "rival": found.rival}
    numbers: dict[str, float | None] = {}
    for name, section in sections.items():
        if section is not None:
            values = msgspec.to_builtins(section)
            numbers |= {f"{name}.{key}": value for key, value in values.items()}
    for path, value in numbers.items():
        if value is not None:
            yield from (f"{path!r}: {text}" for text in _number_problems(path.partition(".")[2], value))
    for path, ends in found.ranges.items():
        if path not in numbers:
            yield (
                f"'ranges.{path}': expected the path of a number, as plant.missed_cost, in a section of the file, got "
                "another; correct it"
            )
        else:
            yield from (f"'ranges.{path}': {text}" for text in _range_problems(path.partition(".")[2], *ends))


def _range_problems(key: str, low: float, high: float) -> list[str]:
    found = list(dict.fromkeys(text for end in (low, high) for text in _number_problems(key, end)))
    return found or ([] if low <= high else [f"expected [low, high], got [{low:g}, {high:g}]; swap them"])


def _number_problems(key: str, value: float) -> Iterator[str]:
    if not 0 <= value < float("inf"):
        yield f"expected 0 or more, got {value:g}; correct it"
    elif key in SHARES and value > 1:
        yield f"expected a share of at most 1, got {value:g}; 0.05 is five per cent"
    elif key in _ABOVE_ZERO and value == 0:
        yield "expected above 0, got 0; correct it"
    elif key in WHOLE and value != int(value):
        yield f"expected a whole number, got {value:g}; correct it"
