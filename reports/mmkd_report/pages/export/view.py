"""The page of `mmkd-export`: which artifact to run, and everything that was measured and tried to make it.

Joins the checked document, the sentences, the tables and the figures into the template; decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmkd_report.documents.export import ArtifactReport, ExportDocument, read_export
from mmkd_report.pages.export.answer import answer, error_text, key_figures, latency_text, question, size_text
from mmkd_report.pages.export.charts import (
    ClippingHistogram,
    SensitivityRow,
    backends_of,
    histograms,
    pareto,
    precision_role,
    sensitivity_rows,
)
from mmkd_report.pages.export.tables import (
    METHOD_NAMES,
    artifact_rows,
    calibration_text,
    drop_text,
    measured_artifacts,
    tried,
)
from mmkd_report.pages.page import render_page
from mmkd_report.words.formats import listed

MOST_OPEN_HISTOGRAMS = 6
"""More of them are folded away: a page is read from the top."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What is told of one artifact that was quantised: how that went, its layers, and what these read."""

    artifact: ArtifactReport
    role: str
    verdict: str
    sensitivity: tuple[SensitivityRow, ...]
    histograms: tuple[ClippingHistogram, ...]
    folded_histograms: tuple[ClippingHistogram, ...]


def render_export(document: Mapping[str, Any]) -> str:
    """The page of one export as HTML: one file without scripts or requests, for light, dark and paper.

    Args:
        document: What `mmkd-export --json` writes.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    export = read_export(document)
    report = export.report
    backends = backends_of(export)
    measured = [artifact for artifact, _ in measured_artifacts(export)]
    return render_page(
        "export.html.j2",
        {
            "export": export,
            "report": report,
            "student": report.student,
            "question": question(export),
            "answer": answer(export),
            "key_figures": key_figures(export),
            "labels": listed(report.student.labels),
            "backends": backends,
            "rows": artifact_rows(export, backends),
            "pareto": pareto(export),
            "measured": measured,
            "gated": [artifact for artifact in measured if artifact.gate is not None],
            "calibrated": [artifact for artifact in report.artifacts if artifact.confidence is not None],
            "quantised": [_quantised(artifact) for artifact in measured if artifact.attempts],
            "facts": _facts(export),
            "role_of": precision_role,
            "size": size_text,
            "error": error_text,
            "latency": latency_text,
            "drop": drop_text,
            "calibration": calibration_text,
            "range_names": METHOD_NAMES,
        },
    )


def _quantised(artifact: ArtifactReport) -> Quantised:
    shown = histograms(artifact)
    return Quantised(
        artifact=artifact,
        role=precision_role(artifact.precision),
        verdict=tried(artifact),
        sensitivity=sensitivity_rows(artifact),
        histograms=shown[:MOST_OPEN_HISTOGRAMS],
        folded_histograms=shown[MOST_OPEN_HISTOGRAMS:],
    )


def _facts(export: ExportDocument) -> list[tuple[str, list[tuple[str, str]]]]:
    """Where everything comes from, in named groups of names and values."""
    report, student = export.report, export.report.student
    taught = ", ".join(student.teachers_sha256) or "none: trained on labels alone"
    groups = [
        ("Bundle", [("file", export.bundle), ("SHA-256", export.sha256), ("platform", report.platform)]),
        (
            "Student",
            [
                ("checkpoint", student.checkpoint_sha256),
                ("teacher", taught),
                ("dataset", f"{student.dataset}, {student.dataset_sha256}"),
            ],
        ),
        ("Made with", sorted(report.tools.items())),
        ("Trained with", sorted(student.trained_with.items())),
    ]
    return [(name, rows) for name, rows in groups if rows]
