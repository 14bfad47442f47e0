"""Members of a bundle, sealing, and several students in one bundle."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_documents.export import ExportReport, Measures, WindowFacts, decode_report, encode_document
from mmkd_edge.bundle.bundle import Bundle, write_bundle
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.golden import Golden, golden_bytes, novelty_errors
from mmkd_edge.bundle.manifest import README_FILE, REPORT_FILE, FileEntry, Manifest, ModelEntry, member_files
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.errors import GateError, UsageError
from mmkd_edge.health.running import measure_statistics
from mmkd_edge.install.keys import sign
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec, labels_text
from mmkd_export.packing.card import SYNTHETIC, model_card
from mmkd_export.plan import Seal
from mmkd_export.student import ProvenStudent
from mmkd_export.verify.answers import answers_from_model
from mmkd_export.verify.artifacts import ProvenArtifact
from mmkd_export.verify.gate import caution
from mmkd_export.verify.proof_set import ProofSet, golden_from
from mmkd_export.verify.windows import judging_half
from mmkd_models.data.labels import find_strata, is_labelled
from mmkd_models.data.spec import window_bytes
from mmkd_models.metrics.scores import measures_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


_MAX_GOLDEN_BYTES = 1 << 22  # of audio or video: 65 windows of a second at 16 kHz

_MIN_GOLDEN = 8  # of any size: devices compare backends on as many


def pack_bundle(student: ProvenStudent, *, platform: str) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest and other members."""
    artifacts, golden = student.artifacts, recorded_golden(student.proof_set)
    if student.golden is not None:
        golden = _select_stable(student.golden, artifacts, student.modality)
    task, golden_file = student.entry.task, golden_bytes(golden)
    report = ExportReport(
        model_id=student.model_id,
        platform=platform,
        student=student.facts,
        windows=_window_facts(student, carried=len(golden.windows)),
        artifacts=tuple(proven.report for proven in artifacts),
        left_out=student.left_out,
        tools=student.tools,
        steps=tuple(step.report for step in student.steps),
        measures=None
        if task.kind == "classification"
        else msgspec.convert(measures_of(task), Measures, from_attributes=True),
        range_rule=student.range_rule or None,
        twin=student.twin or None,
    )
    entry = _entry(student, golden_file)
    texts = {
        REPORT_FILE: encode_document(report),
        README_FILE: model_card(report, entry, licence=student.licence).encode(),
    }
    manifest = Manifest(
        model_id=student.model_id,
        models=(entry,),
        tools=student.tools,
        licence=student.licence,
        files=tuple(file_entry(name, data) for name, data in texts.items()),
    )
    models = {proven.artifact.file: proven.model for proven in artifacts}
    steps = {step.artifact.file: step.model for step in student.steps}
    return manifest, texts | models | steps | {entry.golden.file: golden_file}


def _window_facts(student: ProvenStudent, *, carried: int) -> WindowFacts:
    real, judging = student.proof_set.real, student.proof_set.judging
    only_synthetic = real.synthetic and judging.source == real.source
    return WindowFacts(
        source=real.source,
        count=len(real.windows),
        judged_by=judging.source,
        judging=len(judging.labels),
        labelled=int(is_labelled(judging.labels).sum()),
        caution=SYNTHETIC if only_synthetic else caution(len(judging.labels)),
        synthetic=real.synthetic,
        golden=None if student.golden is None else "synthetic",
        carried=carried if student.golden is None and carried < len(real.windows) else None,
    )


def _entry(student: ProvenStudent, golden: bytes) -> ModelEntry:
    entry, proof_set = student.entry, student.proof_set
    statistics, streaming = None, entry.streaming
    if not proof_set.real.synthetic:  # no recording is like noise
        prepared = prepare_batch(proof_set.real.windows, proof_set.modality)
        statistics = measure_statistics(*prepared, proof_set.answers.probabilities, task=proof_set.task)
    if streaming is not None:
        streaming = msgspec.structs.replace(streaming, artifacts=tuple(step.artifact for step in student.steps))
    return msgspec.structs.replace(
        entry,
        artifacts=tuple(proven.artifact for proven in student.artifacts),
        golden=file_entry(entry.golden.file, golden),
        statistics=statistics,
        streaming=streaming,
    )


def file_entry(name: str, data: bytes) -> FileEntry:
    """Describe a member other than a model."""
    return FileEntry(file=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def write_sealed(path: Path, *, manifest: Manifest, members: Mapping[str, bytes], seal: Seal) -> None:
    """Write a bundle; raise UsageError if a key cannot sign."""
    if seal.release is not None:
        manifest = msgspec.structs.replace(manifest, release=seal.release)
    signatures = None
    if seal.keys:  # over the manifest with its number
        signatures = sign(new_sha256(encode_manifest(manifest)).hexdigest(), seal.keys)
    write_bundle(path, manifest=manifest, members=members, signatures=signatures)


def join_bundles(paths: Sequence[Path], output: Path, *, seal: Seal = Seal()) -> None:  # noqa: B008 - it is frozen
    """Join students, the best first, or sign one anew; raise UsageError if they do not fit."""
    parts = []
    for path in paths:
        with Bundle.open(path) as bundle:
            members = {entry.file: bundle.read(entry.file) for entry in member_files(bundle.manifest)}
            parts.append((bundle.manifest, members))
    manifest, members = join_parts(parts)
    write_sealed(output, manifest=manifest, members=members, seal=seal)


def join_parts(parts: Sequence[tuple[Manifest, dict[str, bytes]]]) -> tuple[Manifest, dict[str, bytes]]:
    """Return manifest and members of one bundle of several, the best student first; errors as `join_bundles`."""
    if len(parts) == 1:
        return parts[0]
    manifests = [manifest for manifest, _ in parts]
    reports = [decode_report(members[REPORT_FILE]) for _, members in parts]
    cards = [members[README_FILE].decode() for _, members in parts]
    models = [model for manifest in manifests for model in manifest.models]
    others = [other for report in reports for other in (report, *report.others)][1:]
    first = [model for model in models if not model.twin_of]
    check_students([(model.modality.name, labels_text(model.task)) for model in first])
    order = "\n".join(f"{number}. `{model.modality.name}`" for number, model in enumerate(first, 1))
    heading = (
        f"# {len(first)} students, asked in this order\n\nThe first whose sensor works answers:\n\n{order}\n\n"
        "Each is described below.\n\n"
    )
    texts = {
        REPORT_FILE: encode_document(
            msgspec.structs.replace(
                reports[0], others=tuple(msgspec.structs.replace(other, others=()) for other in others)
            )
        ),
        README_FILE: ((heading if len(first) > 1 else "") + "\n".join(cards)).encode(),
    }
    manifest = Manifest(
        model_id="+".join(manifest.model_id for manifest in manifests),
        models=tuple(models),
        tools={name: version for one in reversed(manifests) for name, version in one.tools.items()},
        licence="; ".join(dict.fromkeys(manifest.licence for manifest in manifests)),
        files=tuple(file_entry(name, data) for name, data in texts.items()),
    )
    return manifest, {name: data for _, members in parts for name, data in members.items()} | texts


def check_students(students: Sequence[tuple[str, str]]) -> None:
    """Raise UsageError if students share a modality, or labels differ."""
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


def recorded_golden(proof_set: ProofSet) -> Golden:
    """Return recorded windows; of audio and video a sample of both halves and every class."""
    real, answers = proof_set.real.rows(proof_set.clear), proof_set.answers.rows(proof_set.clear)
    golden = golden_from(real, answers, tolerance=proof_set.tolerance)
    count, modality = len(golden.windows), proof_set.modality
    most = count if modality.kind == "series" else max(_MIN_GOLDEN, _MAX_GOLDEN_BYTES // window_bytes(modality))
    if count <= most:
        return golden
    order = np.lexsort((find_strata(golden.labels), golden.judge))
    return _rows(golden, np.sort(order[np.linspace(0, count - 1, most).round().astype(np.intp)]))


def _rows(golden: Golden, rows: NDArray[np.intp]) -> Golden:
    names = ("windows", "labels", "logits", "probabilities", "judge")
    novelty = None if golden.novelty is None else golden.novelty[rows]
    return msgspec.structs.replace(golden, **{name: getattr(golden, name)[rows] for name in names}, novelty=novelty)


def _select_stable(golden: Golden, artifacts: Sequence[ProvenArtifact], modality: ModalitySpec) -> Golden:
    stable = np.ones(len(golden.windows), dtype=bool)
    for proven in artifacts:
        artifact = proven.artifact
        answers = answers_from_model(proven.model, golden.windows, modality, file_format=artifact.format)
        tolerance = max(golden.tolerance, 0.0 if artifact.precision == "fp32" else artifact.parity.tolerance)
        # Half of it: other machines differ in last digits, INT8 by some steps.
        stable &= np.abs(answers.logits - golden.logits).max(axis=1) <= tolerance / 2
        if artifact.novelty and golden.novelty is not None and answers.novelty is not None:
            stable &= novelty_errors(golden.novelty, answers.novelty) <= artifact.novelty.tolerance / 2
    if not stable.any():
        raise GateError(
            "--golden: expected windows that every artifact answers as the checkpoint does, got none among "
            f"{len(stable)} that were drawn; leave the lower precision out, or take --golden real"
        )
    selected = _rows(golden, np.flatnonzero(stable))
    return msgspec.structs.replace(selected, judge=judging_half(selected.labels))
