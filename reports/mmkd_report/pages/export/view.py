"""The page of `mmkd-export`: which artifact to run, and everything that was measured and tried to make it.

Joins the checked document, the sentences, the tables and the figures into the template; decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmkd_report.documents.export import ArtifactReport, ExportDocument, read_export
from mmkd_report.pages.export.answer import answer, key_figures, question, size_text
from mmkd_report.pages.export.charts import (
    Histogram,
    SensitivityRow,
    backends_of,
    histograms,
    pareto,
    precision_role,
    sensitivity_rows,
)
from mmkd_report.pages.export.tables import (
    AttemptRow,
    artifact_rows,
    attempt_rows,
    confidence_tables,
    gate_rows,
    measured_artifacts,
    parity_rows,
    run_rows,
    tried,
)
from mmkd_report.pages.page import render_page
from mmkd_report.words.formats import listed

MOST_OPEN_HISTOGRAMS = 6
"""More of them are folded away: a page is read from the top."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What is told of one artifact that was quantised: its attempts, its layers, and what these read."""

    name: str
    role: str
    verdict: str
    attempts: tuple[AttemptRow, ...]
    sensitivity: tuple[SensitivityRow, ...]
    histograms: tuple[Histogram, ...]
    folded_histograms: tuple[Histogram, ...]


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
            "bundle_size": size_text(export.size_bytes),
            "backends": backends,
            "rows": artifact_rows(export, backends),
            "pareto": pareto(export),
            "gates": gate_rows(export),
            "confidence": confidence_tables(export),
            "quantised": [_quantised(artifact) for artifact in measured if artifact.attempts],
            "float_layers": [
                (artifact.name, list(artifact.float_layers.items())) for artifact in measured if artifact.float_layers
            ],
            "parity": parity_rows(export),
            "runs": run_rows(export),
            "engines": [(engine, size_text(engine.sidecar.size_bytes)) for engine in export.engines],
            "facts": _facts(export),
        },
    )


def _quantised(artifact: ArtifactReport) -> Quantised:
    shown = histograms(artifact)
    return Quantised(
        name=artifact.name,
        role=precision_role(artifact.precision),
        verdict=tried(artifact),
        attempts=attempt_rows(artifact),
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
