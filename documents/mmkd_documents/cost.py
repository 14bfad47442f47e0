"""Assumptions and results of the suite `cost`; defaults without a source are examples.

Money is in `currency`, fractions run from 0 to 1, rates are per year and station.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

CostOption = Literal["teacher", "student", "rival"]
Mark = Literal["measured", "entered", "default"]


class Plant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Assumptions about all options."""

    stations: float = 20
    years: float = 5
    discount_rate: float = 0.08
    price_per_kwh: float = 0.190
    faults_per_station_year: float = 0.5
    avoidable_fraction: float = 0.5  # part of a missed fault's cost that detection saves
    missed_cost: float = 20_000.0  # cost of a fault without an alarm
    false_alarm_cost: float = 150.0  # cost of a search for nothing
    checks_per_station_year: float = 365.0  # how often an alarm would be acted on
    hourly_rate: float = 60.0  # labour


class EquipmentCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A station's equipment, without its detection."""

    sensor_price: float = 300.0  # all sensors of a station
    installation: float = 200.0
    sensor_life_years: float = 10.0
    spares_fraction: float = 0.05  # fraction of sensors in stock
    node_price: float = 400.0  # the computer of a station
    node_life_years: float = 5.0
    gateway_price: float = 0.0
    stations_per_gateway: float = 10.0
    idle_w: float = 10.0  # power of sensors and node at rest
    inference_mj: float = 0.0  # additional energy per prediction
    inferences_per_s: float = 0.0
    campaign_cost: float = 10_000.0  # the training recordings
    labelling_hours: float = 80.0
    training_hours: float = 40.0
    maintenance_hours: float = 1.0


class Equipment(EquipmentCosts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One option: a station's equipment and its detection."""

    detection: float  # of the faults
    false_alarms: float  # of a healthy station's checks


class Assumption(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its range, and the net present value of the student, or of the first option, at its ends."""

    path: str
    value: float
    mark: Mark
    low: float
    high: float
    at_low: float | None = None  # None if the range is a point, or of another option
    at_high: float | None = None


class CostResult(msgspec.Struct, frozen=True, kw_only=True):
    """One option, compared with doing nothing."""

    investment: float
    yearly: float  # savings less costs in a year without replacements
    net_present_value: float
    payback_month: int | None  # first month of payback, not discounted; None if never
    break_even_stations: int | None  # smallest number that pays; None above 10,000


class CostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Results of the suite `cost`."""

    currency: str
    unit: Literal["episodes", "windows"]  # of detection and false alarms
    healthy: tuple[str, ...]  # labels that need no action
    plant: Plant
    equipment: dict[CostOption, Equipment]  # only measured or entered options
    assumptions: tuple[Assumption, ...]
    results: dict[CostOption, CostResult]
    to_enter: tuple[str, ...] = ()  # values missing for a verdict; with any, the table is an example


def example_text(to_enter: Sequence[str]) -> str:
    """Return why a cost table is an example, and how to make it a verdict."""
    return f"The costs are an example and no verdict: enter {', '.join(to_enter)} in the file of --cost"
