"""The page of `mmkd-evaluate --sensors` on normal running. Terminals print the same sentences."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from mmkd_app.pages.page import Page, Section, render, table
from mmkd_app.words import Contender, count, decimal, no_clear_winner, percent
from mmkd_documents.figures import MEASURES
from mmkd_documents.judging import NormalSensorRow, NormalSensorsDocument

MONITOR = "all sensors, each predicted from the others"
NO_ACCURACY = "Synthetic faults are made by a program: they rank how a sensor reacts, and are no accuracy"


def render_normal_sensors(sensors: NormalSensorsDocument) -> str:
    """Return HTML."""
    return render(
        Page(
            title=f"Sensors of normal running: {sensors.name}",
            kind="evaluation",
            headline="Which sensor sees what, without a fault?",
            lede=[f"{sensors.name}.", f"{count(sensors.normal)} normal validation windows of {sensors.groups} groups."],
            answer=[f"{sentence}." for sentence in verdict(sensors)],
            sections=list(_sections(sensors)),
            document="sensors.json beside this page",
        )
    )


def reaction(row: NormalSensorRow) -> float:
    """Return a sensor's mean AUROC over synthetic faults."""
    return fmean(row.synthetic.values())


def verdict(sensors: NormalSensorsDocument) -> Iterator[str]:
    """Yield what is redundant, reacts most and watches best, without full stops."""
    redundant = [f"{row.sensor} ({percent(row.explained, 0)} %)" for row in sensors.rows if row.explained >= 0.9]
    most = max(sensors.rows, key=lambda row: row.explained)
    none = f"No sensor is redundant: the others predict at most {percent(most.explained, 0)} % ({most.sensor})"
    yield f"Redundant, because the others predict its movement: {', '.join(redundant)}" if redundant else none
    ranked = sorted(sensors.rows, key=reaction, reverse=True)
    best = ranked[0]
    least = min(best.synthetic, key=best.synthetic.__getitem__)
    close = no_clear_winner([Contender(name=row.sensor, score=reaction(row)) for row in ranked], MEASURES[-1])
    figures = f"{reaction(best):.2f} on average, and {best.synthetic[least]:.2f} for {least.replace('_', ' ')}"
    reacts = f"{close}, AUROC on average over synthetic faults" if close else ""
    yield f"{reacts or f'{best.sensor} reacts most to synthetic faults: AUROC {figures}'}. {NO_ACCURACY}"
    auroc = sensors.monitor.auroc
    faults = "no known fault in test, so no AUROC" if auroc is None else f"AUROC on known faults {auroc:.2f}"
    yield (
        f"As a monitor on a workstation, {MONITOR}: {percent(sensors.monitor.groups_above, 0)} % of groups have more "
        f"than 10 % false alarms; {faults}"
    )


def _sections(sensors: NormalSensorsDocument) -> Iterator[Section]:
    names, rows = [row.sensor for row in sensors.rows], sensors.rows
    alike = [
        [row.sensor, *(percent({"": row.explained, **row.alike}.get(one), 0) for one in ("", *names))] for row in rows
    ]
    yield _section(
        *("Which sensors look alike?", "Predicted, %", ["Sensor", "All others", *names], alike),
        lead="How much of a sensor's movement on validation windows a ridge predicts from all others, or from one.",
    )
    faults = dict.fromkeys(fault for row in rows for fault in row.synthetic)
    reactions = [[fault.replace("_", " "), *(decimal(row.synthetic.get(fault), 2) for row in rows)] for fault in faults]
    reactions.append(["mean", *(f"{reaction(row):.2f}" for row in rows)])
    yield _section(
        *("How does each react to synthetic faults?", "AUROC at full severity", ["Synthetic fault", *names], reactions),
        lead=(
            "AUROC of broken windows against the same ones intact: 0.5 is no reaction, and below it broken ones look "
            f"more normal. {NO_ACCURACY}."
        ),
    )
    watching = {row.sensor: row.own for row in rows} | {MONITOR: sensors.monitor}
    alarms = [
        [
            name,
            *(percent(part, 0) for part in (one.window_rate, one.groups_above, one.detection)),
            decimal(one.auroc, 2),
        ]
        for name, one in watching.items()
    ]
    heads = ["Score of", "False alarms, %", "Groups above 10 %, %", "Detected, %", "AUROC, known faults"]
    yield _section(
        *("What do they see together?", "Alarms at 5 %", heads, alarms),
        lead="On test windows, at a p-value of 0.05 among validation windows. All together are for a workstation.",
    )


def _section(title: str, caption: str, heads: list[str], rows: list[list[str]], *, lead: str) -> Section:
    return Section(title.split()[-1].rstrip("?"), title, [table(heads, rows, caption=caption, style="results")], lead)
