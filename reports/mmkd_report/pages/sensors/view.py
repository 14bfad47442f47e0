"""The page of `mmkd-evaluate --sensors`: the verdict, the table that decides what is bought, and pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd_report.documents.judging import read_sensors
from mmkd_report.pages.page import render_page
from mmkd_report.pages.sensors.answer import cells, headings, verdict
from mmkd_report.words.measures import figure


def render_sensors(document: Mapping[str, Any]) -> str:
    """The page of sensors side by side, as HTML for light, dark and paper.

    Args:
        document: What `mmkd-evaluate --sensors --json` writes.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    found = read_sensors(document)
    return render_page(
        "sensors.html.j2",
        {
            "found": found,
            "verdict": list(verdict(found)),
            "headings": headings(found),
            "rows": [(row.sensors[0], found.pages.get(row.sensors[0]), cells(row, found)) for row in found.rows],
            "pairs": [
                (" + ".join(row.sensors), figure(row.scores["teacher"].mean, found.measure)) for row in found.pairs
            ],
        },
    )
