"""Several students in one bundle: the order in which a device asks them, by whose sensor lives.

Owns what they must have in common and how their bundles become one. Every student passes its own gates before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import README_FILE, REPORT_FILE, Manifest, ModelEntry, member_files
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import labels_text
from mmkd_export.packing.contents import file_entry
from mmkd_export.packing.seal import write_sealed
from mmkd_export.plan import Seal
from mmkd_export.report import read_report
from mmkd_report.schema.export import ExportReport, encode_document


def join_bundles(paths: Sequence[Path], output: Path, *, seal: Seal = Seal()) -> None:  # noqa: B008 - it is frozen
    """Writes one bundle with the students of several, in their order.

    Args:
        paths: bundles, the best student first.
        output: the bundle that is written; an earlier one is replaced when the new one is complete.
        seal: which release it is, and who signs it.

    Raises:
        UsageError: two students take the same modality, or do not answer the same labels, or a file cannot be written.
        BundleError: a bundle is damaged.
    """
    manifests: list[Manifest] = []
    reports: list[ExportReport] = []
    cards: list[str] = []
    members: dict[str, bytes] = {}
    for path in paths:
        with Bundle.open(path) as bundle:
            manifests.append(bundle.manifest)
            reports.append(read_report(bundle))
            cards.append(bundle.read(README_FILE).decode())
            members |= {entry.file: bundle.read(entry.file) for entry in member_files(bundle.manifest)}
    models = [model for manifest in manifests for model in manifest.models]
    check_students([(model.modality.name, labels_text(model.task)) for model in models])
    texts = {
        REPORT_FILE: encode_document(msgspec.structs.replace(reports[0], others=_others(reports))),
        README_FILE: _card(models, cards).encode(),
    }
    manifest = Manifest(
        model_id="+".join(manifest.model_id for manifest in manifests),
        models=tuple(models),
        tools={name: version for found in reversed(manifests) for name, version in found.tools.items()},
        licence="; ".join(dict.fromkeys(manifest.licence for manifest in manifests)),
        files=tuple(file_entry(name, data) for name, data in texts.items()),
    )
    write_sealed(output, manifest=manifest, members=members | texts, seal=seal)


def check_students(students: Sequence[tuple[str, str]]) -> None:
    """Refuses students that cannot stand in for each other.

    Args:
        students: of each the modality's name and the labels, joined by commas.

    Raises:
        UsageError: two take the same modality, or they do not answer the same labels.
    """
    twice = [name for name, count in Counter(name for name, _ in students).items() if count > 1]
    if twice:
        raise UsageError(
            f"modality {twice[0]!r}: expected one student for each modality, got several; "
            "a student stands in for another when the other's sensor is dead"
        )
    for name, labels in students[1:]:
        if labels != students[0][1]:
            raise UsageError(
                f"modality {name!r}: expected the first student's labels {students[0][1]}, got {labels}; "
                "students of one bundle answer the same question"
            )


def _others(reports: Sequence[ExportReport]) -> tuple[ExportReport, ...]:
    """All reports after the first, each without others of its own."""
    flat = [one for report in reports for one in (report, *report.others)]
    return tuple(msgspec.structs.replace(report, others=()) for report in flat[1:])


def _card(models: Sequence[ModelEntry], cards: Sequence[str]) -> str:
    order = "\n".join(f"{number}. `{model.modality.name}`" for number, model in enumerate(models, 1))
    return (
        f"# {len(models)} students, asked in this order\n\nThe first whose sensor lives answers:\n\n{order}\n\n"
        "Each is described below.\n\n" + "\n".join(cards)
    )
