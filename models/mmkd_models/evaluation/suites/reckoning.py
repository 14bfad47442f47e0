"""From an evaluation and `cost.toml` to the reckoning: ways to equip, ranges, tornado, and who wins how often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import FEWEST_GROUPS, interval_of
from mmkd_models.evaluation.suites.answering import AskedModel
from mmkd_models.evaluation.suites.cost import net_present_value, result_of
from mmkd_models.evaluation.suites.cost_file import CostFile, read_cost, values_to_enter
from mmkd_models.evaluation.suites.detection import Detection, Floats, detection_of, faults_of, healthy_labels
from mmkd_report.schema.cost import (
    EITHER_WAY,
    SHARES,
    WAYS,
    WHOLE,
    Assumption,
    CostFacts,
    CostWay,
    Equipment,
    Mark,
    Plant,
    Swing,
)

_DRAWS = 1000
_RATES = ("detection", "false_alarms")


def check_cost(windows: Windows, file: Path) -> None:
    """Raises UsageError where the file breaks a rule, or faults cannot be counted among these windows."""
    faults_of(windows, healthy_labels(windows, read_cost(file)[0].healthy))


def judge_cost(
    models: Sequence[AskedModel], windows: Windows, *, file: Path, baseline: str | None, seed: int
) -> CostFacts:
    """Reckons what each way to equip comes to.

    Raises:
        UsageError: the file breaks a rule, or faults cannot be counted.
    """
    entered, said = read_cost(file)
    healthy = healthy_labels(windows, entered.healthy)
    found = {
        way: detection_of(windows, one.answers(windows), healthy) for way, one in ways_of(models, baseline).items()
    }
    equipment = {way: made for way in WAYS if (made := _equipment(entered, way, found.get(way))) is not None}
    drawn = {
        path: rates
        for path, rates in _drawn_rates(found, seed).items()
        if path not in said and path not in entered.ranges
    }
    assumptions = tuple(_assumptions(entered, equipment, said, drawn))
    return CostFacts(
        currency=entered.currency,
        unit="windows" if windows.episodes is None else "episodes",
        healthy=healthy,
        plant=entered.plant,
        equipment=equipment,
        assumptions=assumptions,
        results={way: result_of(entered.plant, one) for way, one in equipment.items()},
        swings=tuple(swings_of(entered.plant, equipment, assumptions)),
        to_enter=values_to_enter(entered, said, equipment),
        student_beats_teacher=_student_beats_teacher(entered.plant, equipment, assumptions, drawn, seed),
    )


def ways_of(models: Sequence[AskedModel], baseline: str | None) -> dict[CostWay, AskedModel]:
    """Gives who stands for which way: the first student, the first teacher, and labels alone, else the first rival."""
    found: dict[CostWay, AskedModel] = {}
    for one in models:
        way: CostWay = "student"
        if one.facts.role == "teacher":
            way = "teacher"
        elif one.facts.name == baseline or one.facts.role == "rival":
            way = "rival"
        found.setdefault(way, one)
    return found


def _equipment(entered: CostFile, way: CostWay, found: Detection | None) -> Equipment | None:
    """A way's numbers; None where the file has no section for it, or nobody knows what it sees."""
    section = entered.entered(way)
    if section is None:
        return None
    values = msgspec.to_builtins(section)
    if found is not None:
        whole = found.rates(np.ones((1, len(found.faults))))
        for key, rate in zip(_RATES, whole, strict=True):
            values[key] = float(rate[0]) if values[key] is None else values[key]
    return None if values["detection"] is None or values["false_alarms"] is None else Equipment(**values)


def _drawn_rates(found: Mapping[CostWay, Detection], seed: int) -> dict[str, Floats]:
    """By path, `student.detection`, the rate under each draw of groups, the same for all ways; empty of few groups."""
    drawn: dict[str, Floats] = {}
    for way, one in found.items():
        groups = len(one.faults)
        if groups >= FEWEST_GROUPS:
            rng = np.random.default_rng(seed)
            weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=_DRAWS).astype(np.float64)
            for key, rate in zip(_RATES, one.rates(weights), strict=True):
                drawn[f"{way}.{key}"] = rate
    return drawn


def _assumptions(
    entered: CostFile,
    equipment: Mapping[CostWay, Equipment],
    said: frozenset[str],
    drawn: Mapping[str, Floats],
) -> Iterator[Assumption]:
    for section, values in (("plant", entered.plant), *equipment.items()):
        for key, value in msgspec.to_builtins(values).items():
            path = f"{section}.{key}"
            mark: Mark = "entered" if path in said else "default"
            if path not in said and key in _RATES:
                mark = "measured"
            assumption = assumed(path, float(value), mark)
            reach = entered.ranges.get(path) or (interval_of(drawn[path]) if path in drawn else None)
            if reach is not None:
                assumption = msgspec.structs.replace(assumption, low=reach[0], high=reach[1], follows=False)
            yield assumption


def assumed(path: str, value: float, mark: Mark) -> Assumption:
    """Gives an assumption with the range of one that has none of its own."""
    key = path.partition(".")[2]
    reach = 0.0 if key in WHOLE else EITHER_WAY
    high = value * (1 + reach)
    return Assumption(
        path=path,
        value=value,
        mark=mark,
        low=value * (1 - reach),
        high=min(1.0, high) if key in SHARES else high,
        follows=True,
    )


def changed(plant: Plant, way: Equipment, name: CostWay, path: str, value: float) -> tuple[Plant, Equipment]:
    """Gives the same assumptions with one number changed, where it is the plant's or this way's."""
    section, _, key = path.partition(".")
    if section == "plant":
        return msgspec.structs.replace(plant, **{key: value}), way
    return plant, msgspec.structs.replace(way, **{key: value}) if section == name else way


def swings_of(plant: Plant, equipment: Mapping[CostWay, Equipment], assumptions: Sequence[Assumption]) -> list[Swing]:
    """Gives the tornado of the student, or of the first way there is: what moves its net present value, widest first.

    `templates/cost.js` has the same, and a test holds both equal.
    """
    if not equipment:
        return []
    name: CostWay = "student" if "student" in equipment else next(iter(equipment))
    found = []
    for one in assumptions:
        if one.low < one.high and one.path.partition(".")[0] in ("plant", name):
            ends = [
                net_present_value(*changed(plant, equipment[name], name, one.path, value))
                for value in (one.low, one.high)
            ]
            if ends[0] != ends[1]:
                found.append(Swing(path=one.path, at_low=ends[0], at_high=ends[1]))
    return sorted(found, key=lambda one: -abs(one.at_high - one.at_low))


def _student_beats_teacher(
    plant: Plant,
    equipment: Mapping[CostWay, Equipment],
    assumptions: Sequence[Assumption],
    drawn: Mapping[str, Floats],
    seed: int,
) -> float | None:
    """Share of draws in which the student is worth more: ranges evenly, rates by groups, the same ones for both."""
    if not {"student", "teacher"} <= set(equipment):
        return None
    rng = np.random.default_rng(seed)
    of_ranges = {one.path: rng.uniform(one.low, one.high, _DRAWS) for one in assumptions}
    values = {one.path: drawn.get(one.path, of_ranges[one.path]) for one in assumptions}
    wins = [
        _drawn_value(plant, equipment["student"], "student", values, number)
        > _drawn_value(plant, equipment["teacher"], "teacher", values, number)
        for number in range(_DRAWS)
    ]
    return float(np.mean(wins))


def _drawn_value(plant: Plant, way: Equipment, name: CostWay, values: Mapping[str, Floats], number: int) -> float:
    """The net present value of a draw; a rate that a draw cannot tell is as it was."""
    mine: dict[str, dict[str, float]] = {"plant": {}, name: {}}
    for path, drawn in values.items():
        section, _, key = path.partition(".")
        if section in mine and np.isfinite(drawn[number]):
            mine[section][key] = float(drawn[number])
    return net_present_value(
        msgspec.structs.replace(plant, **mine["plant"]), msgspec.structs.replace(way, **mine[name])
    )
