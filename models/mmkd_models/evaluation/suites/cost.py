"""What a way to equip stations costs and saves: pure functions from assumptions to money.

Owns the formulas; `templates/cost.js` has the same ones for the page, and a test holds them equal. Detection and false
alarms come from outside. Everything is reckoned beside doing nothing, which costs and saves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from mmkd_report.schema.cost import CostResult, Equipment, Plant

HOURS_PER_YEAR = 8760.0
_SECONDS_PER_YEAR = 3600.0 * HOURS_PER_YEAR
_MILLIJOULES_PER_KWH = 3.6e9
_MOST_STATIONS = 10_000


def result_of(plant: Plant, way: Equipment) -> CostResult:
    """Gives everything that one way to equip comes to."""
    return CostResult(
        investment=investment(plant, way),
        yearly=yearly(plant, way),
        net_present_value=net_present_value(plant, way),
        payback_month=payback_month(plant, way),
        break_even_stations=break_even_stations(plant, way),
        cost_per_station_year=cost_per_station_year(plant, way),
    )


def investment(plant: Plant, way: Equipment) -> float:
    """Gives what is spent before the first year: equipment of all stations, gateways, and making the model."""
    station = way.sensor_price * (1 + way.spares_share) + way.installation + way.node_price
    gateways = math.ceil(plant.stations / way.stations_per_gateway) * way.gateway_price
    people = (way.labelling_hours + way.training_hours) * plant.hourly_rate
    return plant.stations * station + gateways + way.campaign_cost + people


def kwh_per_station_year(way: Equipment) -> float:
    """Gives the energy of a station in a year: at rest, and of its answers."""
    return (
        way.idle_w * HOURS_PER_YEAR / 1000
        + way.inference_mj * way.inferences_per_s * _SECONDS_PER_YEAR / _MILLIJOULES_PER_KWH
    )


def savings(plant: Plant, way: Equipment) -> float:
    """Gives what seen faults save in a year."""
    return plant.stations * plant.faults_per_station_year * way.detection * plant.avoidable_share * plant.missed_cost


def running(plant: Plant, way: Equipment) -> float:
    """Gives what is spent in a year without replacements: false alarms, energy and maintenance."""
    alarms = plant.checks_per_station_year * way.false_alarms * plant.false_alarm_cost
    energy = kwh_per_station_year(way) * plant.price_per_kwh
    return plant.stations * (alarms + energy + way.maintenance_hours * plant.hourly_rate)


def yearly(plant: Plant, way: Equipment) -> float:
    """Gives what is saved less what is spent in a year without replacements."""
    return savings(plant, way) - running(plant, way)


def replacement(plant: Plant, way: Equipment, year: int) -> float:
    """Gives what is bought anew at the end of a year, from 1; nothing at the end of the last one."""
    if year >= plant.years:
        return 0.0
    sensors = way.sensor_price + way.installation if _is_due(year, way.sensor_life_years) else 0.0
    node = way.node_price if _is_due(year, way.node_life_years) else 0.0
    return plant.stations * (sensors + node)


def _is_due(year: int, life_years: float) -> bool:
    """Whether the end of a life lies in this year: in (year - 1, year]."""
    return math.floor(year / life_years) > math.floor((year - 1) / life_years)


def net_present_value(plant: Plant, way: Equipment) -> float:
    """Gives what all years are worth today: each year's sum at its end, discounted, less the investment."""
    return _discounted(plant, lambda year: yearly(plant, way) - replacement(plant, way, year)) - investment(plant, way)


def payback_month(plant: Plant, way: Equipment) -> int | None:
    """Gives the first month, from 1, in which what was spent is back; not discounted, None where that is never."""
    balance, monthly = -investment(plant, way), yearly(plant, way) / 12
    for month in range(1, round(12 * plant.years) + 1):
        balance += monthly
        if month % 12 == 0:
            balance -= replacement(plant, way, month // 12)
        if balance >= 0:
            return month
    return None


def break_even_stations(plant: Plant, way: Equipment) -> int | None:
    """Gives the fewest stations with which the net present value is not below 0; None where 10,000 are not enough."""
    return next(
        (
            stations
            for stations in range(1, _MOST_STATIONS + 1)
            if net_present_value(msgspec.structs.replace(plant, stations=float(stations)), way) >= 0
        ),
        None,
    )


def cost_per_station_year(plant: Plant, way: Equipment) -> float:
    """Gives everything that is spent as an equal sum for each year and station, discounted alike."""
    spent = investment(plant, way) + _discounted(
        plant, lambda year: running(plant, way) + replacement(plant, way, year)
    )
    return spent / (plant.stations * _discounted(plant, lambda year: 1.0))


def _discounted(plant: Plant, of_year: Callable[[int], float]) -> float:
    return sum(of_year(year) / (1 + plant.discount_rate) ** year for year in range(1, round(plant.years) + 1))
