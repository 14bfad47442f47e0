"""The page of `mmkd-evaluate --suite`: the verdict, and a section for each suite.

Owns which sections there are; `faults` and its siblings make what stands in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd_report.documents.judging import JudgedModel, JudgingDocument, read_judging
from mmkd_report.pages.judging.confidence import confidence_section
from mmkd_report.pages.judging.cost import cost_section
from mmkd_report.pages.judging.faults import faults_section
from mmkd_report.pages.judging.groups import groups_section
from mmkd_report.pages.judging.shift import shift_section
from mmkd_report.pages.page import render_page
from mmkd_report.words.formats import magnitude


def render_judging(document: Mapping[str, Any]) -> str:
    """The page of models that were judged side by side, as HTML for light, dark and paper.

    Args:
        document: What `mmkd-evaluate --suite ... --json` writes.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    found = read_judging(document)
    roles = roles_of(found)
    return render_page(
        "judging.html.j2",
        {
            "found": found,
            "roles": [(role, name) for name, role in roles.items()],
            "models": [(one, _about(one)) for one in found.models],
            "confidence": None if found.confidence is None else confidence_section(found, found.confidence),
            "cost": None if found.cost is None else cost_section(found.cost),
            "shift": None if found.shift is None else shift_section(found.shift),
            "groups": None if found.groups is None else groups_section(found, found.groups),
            "faults": None if found.faults is None else faults_section(found, found.faults, roles),
        },
    )


def roles_of(found: JudgingDocument) -> dict[str, str]:
    """By model the role that draws it: a teacher, the judged one, labels alone, another, and dotted all after that."""
    roles: dict[str, str] = {}
    for number, one in enumerate(found.models):
        if one.role == "teacher":
            roles[one.name] = "teacher"
        elif number == 0:
            roles[one.name] = "student"
        elif one.name == found.baseline:
            roles[one.name] = "baseline"
        else:
            roles[one.name] = "another" if "other" in roles.values() else "other"
    return roles


def _about(one: JudgedModel) -> str:
    taught = {
        "teacher": "teacher",
        "distilled": "taught by a teacher",
        "labels alone": "taught by labels alone",
        "rival": "a rival that learnt from the same labels",
    }
    what = f"artifact of a bundle, {taught[one.role]}" if one.artifact else taught[one.role]
    size = "" if one.parameters is None else f", {magnitude(one.parameters)} parameters"
    file = f"; {one.path}, SHA-256 {one.sha256}" if one.path else ""
    return f"{what}, {' + '.join(one.modalities)}{size}{file}"
