"""Assumptions and results of the suite `cost`.

Money is in `currency`, fractions run from 0 to 1, rates are per year and station. Defaults without a
source are examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

CostOption = Literal["teacher", "student", "rival"]
Mark = Literal["measured", "entered", "default"]
SHARES = ("discount_rate", "avoidable_share", "spares_share", "detection", "false_alarms")
"""Numbers that are 1 at most."""
WHOLE = ("stations", "years")
"""Whole numbers, which are decided and not assumed: nothing is drawn of them unless a range says so."""
EITHER_WAY = 0.3
"""How far a number without a range of its own may be off, as a share of it."""


class Plant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Assumptions that do not depend on the equipment.

    Attributes:
        avoidable_share: fraction of the cost of a missed fault that detection saves.
        missed_cost: of a fault that nobody saw coming.
        false_alarm_cost: of looking for a fault that does not exist.
        checks_per_station_year: how often somebody would act on an alarm.
        hourly_rate: of people.
    """

    stations: float = 20
    years: float = 5
    discount_rate: float = 0.08
    price_per_kwh: float = 0.190
    faults_per_station_year: float = 0.5
    avoidable_share: float = 0.5
    missed_cost: float = 20_000.0
    false_alarm_cost: float = 150.0
    checks_per_station_year: float = 365.0
    hourly_rate: float = 60.0


class Priced(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Equipment of every station, without its detection.

    Attributes:
        sensor_price: of all sensors of a station.
        spares_share: fraction of the sensors that is kept as spares.
        node_price: of the computer of a station.
        idle_w: power of sensors and node at rest.
        inference_mj: additional energy per prediction.
        campaign_cost: of the training recordings.
        maintenance_hours: per year and station.
    """

    sensor_price: float = 300.0
    installation: float = 200.0
    sensor_life_years: float = 10.0
    spares_share: float = 0.05
    node_price: float = 400.0
    node_life_years: float = 5.0
    gateway_price: float = 0.0
    stations_per_gateway: float = 10.0
    idle_w: float = 10.0
    inference_mj: float = 0.0
    inferences_per_s: float = 0.0
    campaign_cost: float = 10_000.0
    labelling_hours: float = 80.0
    training_hours: float = 40.0
    maintenance_hours: float = 1.0


class Equipment(Priced, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One option: equipment of every station, and its detection.

    Attributes:
        detection: fraction of the faults that are detected.
        false_alarms: fraction of the checks of a healthy station that raise an alarm.
    """

    detection: float
    false_alarms: float


class Assumption(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its range; if `follows`, the range is `EITHER_WAY` of the number and moves with it."""

    path: str
    value: float
    mark: Mark
    low: float
    high: float
    follows: bool = False


class CostResult(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one option, compared with doing nothing.

    Attributes:
        yearly: savings less costs in a year without replacements.
        payback_month: first month in which the costs are paid back, not discounted; None if never.
        break_even_stations: fewest stations with which it pays; None if 10,000 are not enough.
        cost_per_station_year: of all costs, as an equal sum each year.
    """

    investment: float
    yearly: float
    net_present_value: float
    payback_month: int | None
    break_even_stations: int | None
    cost_per_station_year: float


class Swing(msgspec.Struct, frozen=True, kw_only=True):
    """The student's net present value with one assumption at the ends of its range."""

    path: str
    at_low: float
    at_high: float


class CostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Results of the suite `cost`.

    Attributes:
        unit: detection and false alarms are counted per episode, or per window without episodes.
        healthy: labels that need no action.
        equipment: by option; without those that were neither measured nor entered.
        swings: the widest first.
        to_enter: paths of values that a verdict needs; while there are any, the table is an example.
    """

    currency: str
    unit: Literal["episodes", "windows"]
    healthy: tuple[str, ...]
    plant: Plant
    equipment: dict[CostOption, Equipment]
    assumptions: tuple[Assumption, ...]
    results: dict[CostOption, CostResult]
    swings: tuple[Swing, ...]
    to_enter: tuple[str, ...] = ()


def example_text(to_enter: Sequence[str]) -> str:
    """Return why a table of costs is an example, and how to make it a verdict."""
    return f"The costs are an example and no verdict: enter {', '.join(to_enter)} in the file of --cost"
