"""The page of `mmkd-evaluate --sensors` on normal running. Terminals print the same sentences."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from mmkd_report.page import Facts, Page, Row, Section, render, table
from mmkd_report.schema.judging import MonitorRow, NormalSensorRow, NormalSensorsDocument
from mmkd_report.words import count, decimal, percent

_REDUNDANT = 0.9  # of a sensor's movement, which others predict
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
            sections=[_alike(sensors), _reactions(sensors), _monitor(sensors)],
            document="sensors.json beside this page",
        )
    )


def reaction(row: NormalSensorRow) -> float:
    """Return a sensor's mean AUROC over synthetic faults."""
    return fmean(row.synthetic.values())


def verdict(sensors: NormalSensorsDocument) -> Iterator[str]:
    """Yield what is redundant, reacts most and watches best, without full stops."""
    redundant = [row for row in sensors.rows if row.explained >= _REDUNDANT]
    for row in redundant:
        yield f"{row.sensor} is redundant: the others predict {percent(row.explained, 0)} % of its movement"
    if not redundant:
        most = max(sensors.rows, key=lambda row: row.explained)
        yield f"No sensor is redundant: the others predict at most {percent(most.explained, 0)} % of one, {most.sensor}"
    best = max(sensors.rows, key=reaction)
    least = min(best.synthetic, key=best.synthetic.__getitem__)
    yield (
        f"{best.sensor} reacts most to synthetic faults: AUROC {reaction(best):.2f} on average, and "
        f"{best.synthetic[least]:.2f} for {_words(least)}. {NO_ACCURACY}"
    )
    known = (
        f"AUROC {sensors.monitor.auroc:.2f} on known faults" if sensors.monitor.auroc is not None else "no known fault"
    )
    yield (
        f"As a monitor on a workstation, {MONITOR}: {percent(sensors.monitor.groups_above, 0)} % of groups have more "
        f"than 10 % false alarms; {known}"
    )


def _words(fault: str) -> str:
    return fault.replace("_", " ")


def _alike(sensors: NormalSensorsDocument) -> Section:
    names = [row.sensor for row in sensors.rows]
    rows = [
        [row.sensor, percent(row.explained, 0), *(percent(row.alike.get(name), 0) for name in names)]
        for row in sensors.rows
    ]
    heads = ["Sensor", "All others", *names]
    lead = (
        "How much of a sensor's movement on windows that no model saw a ridge predicts from all others, and from one."
    )
    shown = table(heads, rows, caption="Predicted, %", style="results")
    return Section("alike", "Which sensors look alike?", [shown], lead)


def _reactions(sensors: NormalSensorsDocument) -> Section:
    faults = dict.fromkeys(fault for row in sensors.rows for fault in row.synthetic)
    rows = [[_words(fault), *(decimal(row.synthetic.get(fault), 2) for row in sensors.rows)] for fault in faults]
    rows.append(["mean", *(f"{reaction(row):.2f}" for row in sensors.rows)])
    heads = ["Synthetic fault", *(row.sensor for row in sensors.rows)]
    lead = f"AUROC of broken windows against the same ones intact: 0.5 is no reaction. {NO_ACCURACY}."
    shown = table(heads, rows, caption="AUROC, synthetic faults at full severity", style="results")
    return Section("synthetic", "How does each react to synthetic faults?", [shown], lead)


def _monitor(sensors: NormalSensorsDocument) -> Section:
    rows = [Row([row.sensor, *_figures(row.own)]) for row in sensors.rows]
    rows.append(Row([MONITOR, *_figures(sensors.monitor)], role="teacher"))
    heads = [
        "Score of",
        "False alarms, % of test windows",
        "Groups above 10 %, %",
        "AUROC, known faults",
        "Detected, %",
    ]
    lead = (
        "Each alarms at a p-value of 0.05 among the validation windows. All sensors together stay on the workstation."
    )
    shown = table(heads, rows, caption="Alarms at 5 %", style="results")
    origin = Facts(
        [(sensors.name, f"SHA-256 {sensors.sha256}"), ("Known faults", f"{count(sensors.faults)} test windows")]
    )
    return Section("monitor", "What do they see together?", [shown, origin], lead)


def _figures(row: MonitorRow) -> list[str]:
    return [percent(row.window_rate), percent(row.groups_above, 0), decimal(row.auroc, 2), percent(row.detection, 0)]
