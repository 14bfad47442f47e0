"""The assumptions, `cost.toml`, and the formulas from them to money."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from mmkd_documents.cost import CostOption, CostResult, Equipment, EquipmentCosts, Plant
from mmkd_edge.errors import UsageError

_HOURS_PER_YEAR = 8760.0
_MAX_STATIONS = 10_000
_PRICES = ("sensor_price", "node_price")
FRACTIONS = ("discount_rate", "avoidable_fraction", "spares_fraction", "detection", "false_alarms")
"""Numbers that are 1 at most."""
WHOLE = ("stations", "years")
"""Whole numbers: decisions, without a range unless one is given."""
_ABOVE_ZERO = ("stations", "years", "sensor_life_years", "node_life_years", "stations_per_gateway")
_EXAMPLE_PRICES = {"sensor_price": 4000.0, "node_price": 1500.0}
"""Prices of the teacher in the template, which are not the defaults of `EquipmentCosts`."""


class _EnteredEquipment(EquipmentCosts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    detection: float | None = None
    false_alarms: float | None = None


class CostFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `cost.toml`; `ranges` are by path, such as `plant.missed_cost`."""

    version: int
    currency: str = "EUR"
    healthy: tuple[str, ...] = ()
    plant: Plant = Plant()
    teacher: _EnteredEquipment | None = None
    student: _EnteredEquipment | None = None
    rival: _EnteredEquipment | None = None
    ranges: dict[str, tuple[float, float]] = {}


def cost_template() -> str:
    """Return a file of assumptions to fill in."""
    return Path(__file__).with_name("cost.toml").read_text(encoding="utf-8").strip()


def read_cost(file: Path) -> tuple[CostFile, frozenset[str]]:
    """Return a file's assumptions and the paths it contains. Raise UsageError with every problem."""
    if not file.is_file():
        raise UsageError(f"--cost {file}: no such file; mmkd-evaluate --print-cost prints one to fill in")
    content = file.read_bytes()
    try:
        entered, values = msgspec.toml.decode(content, type=CostFile), msgspec.toml.decode(content)
    except msgspec.ValidationError as error:
        raise UsageError(f"--cost {file}: {error}; docs/evaluation.md describes every key") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"--cost {file}: expected TOML, got {error}; correct that line") from error
    except ImportError as error:  # Python 3.10 has no TOML reader
        raise UsageError(f"--cost {file}: reading TOML needs tomli; run: pip install 'mmkd-edge[import]'") from error
    problems = list(_problems(entered))
    if problems:
        raise UsageError(
            f"--cost {file}:" + (f" {problems[0]}" if len(problems) == 1 else "\n  - ".join(["", *problems]))
        )
    paths = frozenset(
        path
        for key, value in values.items()
        for path in ([f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key])
    )
    if entered.teacher is not None:
        missing = {key: price for key, price in _EXAMPLE_PRICES.items() if f"teacher.{key}" not in paths}
        entered = msgspec.structs.replace(entered, teacher=msgspec.structs.replace(entered.teacher, **missing))
    return entered, paths


def values_to_enter(entered: CostFile, paths: frozenset[str], options: Iterable[CostOption]) -> tuple[str, ...]:
    """Return the required paths that the file lacks."""
    deciding = ["plant.missed_cost", *(f"{option}.{key}" for option in options for key in _PRICES)]
    return tuple(([] if entered.healthy else ["healthy"]) + [path for path in deciding if path not in paths])


def _problems(entered: CostFile) -> Iterator[str]:
    if entered.version != 1:
        yield f"'version': expected 1, got {entered.version}; use the mmkd-edge that wrote it"
    sections = {name: getattr(entered, name) for name in ("plant", "teacher", "student", "rival")}
    numbers: dict[str, float | None] = {
        f"{name}.{key}": value
        for name, section in sections.items()
        if section is not None
        for key, value in msgspec.to_builtins(section).items()
    }
    for path, value in numbers.items():
        if value is not None and (problem := _number_problem(path, value)):
            yield f"{path!r}: {problem}"
    for path, (low, high) in entered.ranges.items():
        problem = _number_problem(path, low) or _number_problem(path, high)
        if path not in numbers:
            problem = "expected the path of a number in a section of the file, such as plant.missed_cost; correct it"
        elif not problem and low > high:
            problem = f"expected [low, high], got [{low:g}, {high:g}]; swap them"
        if problem:
            yield f"'ranges.{path}': {problem}"


def _number_problem(path: str, value: float) -> str:
    key = path.partition(".")[2]
    if not 0 <= value < float("inf"):
        return f"expected 0 or more, got {value:g}; correct it"
    if key in FRACTIONS and value > 1:
        return f"expected a fraction of at most 1, got {value:g}; 0.05 is 5 %"
    if key in _ABOVE_ZERO and value == 0:
        return "expected above 0, got 0; correct it"
    if key in WHOLE and value != int(value):
        return f"expected a whole number, got {value:g}; correct it"
    return ""


def evaluate_option(plant: Plant, option: Equipment) -> CostResult:
    """Return all figures of one option."""
    stations = range(1, _MAX_STATIONS + 1)
    pays = (
        count
        for count in stations
        if net_present_value(msgspec.structs.replace(plant, stations=float(count)), option) >= 0
    )
    return CostResult(
        investment=investment(plant, option),
        yearly=yearly(plant, option),
        net_present_value=net_present_value(plant, option),
        payback_month=payback_month(plant, option),
        break_even_stations=next(pays, None),
    )


def investment(plant: Plant, option: Equipment) -> float:
    """Return the initial cost: equipment, gateways and making the model."""
    station = option.sensor_price * (1 + option.spares_fraction) + option.installation + option.node_price
    gateways = math.ceil(plant.stations / option.stations_per_gateway) * option.gateway_price
    people = (option.labelling_hours + option.training_hours) * plant.hourly_rate
    return plant.stations * station + gateways + option.campaign_cost + people


def yearly(plant: Plant, option: Equipment) -> float:
    """Return savings from detected faults less false alarms, energy and maintenance."""
    saved = plant.faults_per_station_year * option.detection * plant.avoidable_fraction * plant.missed_cost
    alarms = plant.checks_per_station_year * option.false_alarms * plant.false_alarm_cost
    watts = option.idle_w + option.inference_mj * option.inferences_per_s / 1000
    energy = watts * _HOURS_PER_YEAR / 1000 * plant.price_per_kwh
    return plant.stations * (saved - alarms - energy - option.maintenance_hours * plant.hourly_rate)


def replacement(plant: Plant, option: Equipment, year: int) -> float:
    """Return the cost of replacements at the end of a year, from 1; 0 for the last."""
    if year >= plant.years:
        return 0.0

    def is_due(life_years: float) -> bool:  # the end of a life lies in (year - 1, year]
        return math.floor(year / life_years) > math.floor((year - 1) / life_years)

    sensors = option.sensor_price + option.installation if is_due(option.sensor_life_years) else 0.0
    return plant.stations * (sensors + (option.node_price if is_due(option.node_life_years) else 0.0))


def net_present_value(plant: Plant, option: Equipment) -> float:
    """Return the discounted sum of all years less the investment."""
    each_year, years = yearly(plant, option), range(1, round(plant.years) + 1)
    sums = ((each_year - replacement(plant, option, year)) / (1 + plant.discount_rate) ** year for year in years)
    return sum(sums) - investment(plant, option)


def payback_month(plant: Plant, option: Equipment) -> int | None:
    """Return the first month, from 1, that pays back all costs; None if never."""
    balance, monthly = -investment(plant, option), yearly(plant, option) / 12
    for month in range(1, round(12 * plant.years) + 1):
        balance += monthly
        if month % 12 == 0:
            balance -= replacement(plant, option, month // 12)
        if balance >= 0:
            return month
    return None
