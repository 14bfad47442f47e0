"""Several students in one bundle, in the order in which a device asks them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import README_FILE, REPORT_FILE, Manifest, ModelEntry, member_files
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import labels_text
from mmkd_export.packing.contents import file_entry, write_sealed
from mmkd_export.plan import Seal, read_report
from mmkd_report.schema.export import ExportReport, encode_document


def join_bundles(paths: Sequence[Path], output: Path, *, seal: Seal = Seal()) -> None:  # noqa: B008 - it is frozen
    """Write one bundle with the students of several, in their order, the best first.

    Raises:
        UsageError: students do not fit together, or a file cannot be written.
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
    others = [other for report in reports for other in (report, *report.others)][1:]
    check_students([(model.modality.name, labels_text(model.task)) for model in models])
    texts = {
        REPORT_FILE: encode_document(
            msgspec.structs.replace(
                reports[0], others=tuple(msgspec.structs.replace(other, others=()) for other in others)
            )
        ),
        README_FILE: _card(models, cards).encode(),
    }
    manifest = Manifest(
        model_id="+".join(manifest.model_id for manifest in manifests),
        models=tuple(models),
        tools={name: version for one in reversed(manifests) for name, version in one.tools.items()},
        licence="; ".join(dict.fromkeys(manifest.licence for manifest in manifests)),
        files=tuple(file_entry(name, data) for name, data in texts.items()),
    )
    write_sealed(output, manifest=manifest, members=members | texts, seal=seal)


def check_students(students: Sequence[tuple[str, str]]) -> None:
    """Raise UsageError if two students take the same modality, or their labels, joined by commas, differ."""
    (name, count), *_ = Counter(name for name, _ in students).most_common(1)
    if count > 1:
        raise UsageError(
            f"modality {name!r}: expected one student for each modality, got several; "
            "a student stands in for another when the other's sensor is dead"
        )
    for name, labels in students[1:]:
        if labels != students[0][1]:
            raise UsageError(
                f"modality {name!r}: expected the first student's labels {students[0][1]}, got {labels}; "
                "students of one bundle answer the same question"
            )


def _card(models: Sequence[ModelEntry], cards: Sequence[str]) -> str:
    order = "\n".join(f"{number}. `{model.modality.name}`" for number, model in enumerate(models, 1))
    return (
        f"# {len(models)} students, asked in this order\n\nThe first whose sensor works answers:\n\n{order}\n\n"
        "Each is described below.\n\n" + "\n".join(cards)
    )
