"""What the cost suite reckons with and what comes of it: the content of `cost.toml`, and figures for each way to equip.

Money is in `currency`, shares run from 0 to 1, rates are a year and a station. Defaults without a source are examples
to be replaced; the page and the document mark each as a default.
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
    """What is the same however stations are equipped.

    Attributes:
        stations: that are equipped.
        years: that are looked at.
        discount_rate: of a year.
        price_per_kwh: of electricity.
        faults_per_station_year: that the model could see coming.
        avoidable_share: of the cost of a missed fault that is saved where it is seen.
        missed_cost: of a fault that nobody saw coming.
        false_alarm_cost: of looking for a fault that is none.
        checks_per_station_year: how often somebody acts on an answer, if it is an alarm.
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
    """One way to equip every station, but for what it sees: the one place of what is not entered.

    Attributes:
        sensor_price: of all sensors of a station.
        installation: of a station.
        sensor_life_years: after which sensors are bought and installed anew.
        spares_share: of the sensors that lie on the shelf.
        node_price: of the computer of a station.
        node_life_years: after which it is bought anew.
        gateway_price: of a gateway, which serves `stations_per_gateway`.
        idle_w: power of sensors and node at rest.
        inference_mj: energy of one answer beyond it.
        inferences_per_s: answers a second.
        campaign_cost: of the recordings that train it.
        labelling_hours: for all of them.
        training_hours: of an engineer.
        maintenance_hours: a year and a station.
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
    """One way to equip every station.

    Attributes:
        detection: share of the faults that are seen.
        false_alarms: share of the checks of a healthy station that raise an alarm.
    """

    detection: float
    false_alarms: float


class Assumption(msgspec.Struct, frozen=True, kw_only=True):
    """One number that the reckoning stands on; `low` and `high` are its range.

    Attributes:
        follows: whether the range is `EITHER_WAY` of the number, and moves with it.
    """

    path: str
    value: float
    mark: Mark
    low: float
    high: float
    follows: bool = False


class CostResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one way to equip comes to, beside doing nothing.

    Attributes:
        investment: before the first year.
        yearly: saved less spent in a year without replacements.
        net_present_value: of all years.
        payback_month: first month in which what was spent is back, not discounted; None where that is never.
        break_even_stations: fewest stations with which it pays; None where no number up to 10,000 does.
        cost_per_station_year: of everything that is spent, as an equal sum each year.
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
    """The reckoning.

    Attributes:
        unit: what detection and false alarms are counted in: episodes, or windows where nobody knows those.
        healthy: the labels that need no action.
        equipment: by way; what is missing was neither measured nor entered.
        swings: the widest first.
        student_beats_teacher: share of draws of groups and ranges in which it does; None without both.
        to_enter: paths of values that decide and were not entered; while there are any, the table is an example.
    """

    currency: str
    unit: Literal["episodes", "windows"]
    healthy: tuple[str, ...]
    plant: Plant
    equipment: dict[CostOption, Equipment]
    assumptions: tuple[Assumption, ...]
    results: dict[CostOption, CostResult]
    swings: tuple[Swing, ...]
    student_beats_teacher: float | None
    to_enter: tuple[str, ...] = ()


def example_text(to_enter: Sequence[str]) -> str:
    """Return why a table of costs is an example, and how to make it a verdict."""
    return f"The costs are an example and no verdict: enter {', '.join(to_enter)} in the file of --cost"
