"""From judged artifacts to the members of a bundle.

Owns the manifest, the golden windows and the report as they are put together. Writes no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from mmkd_edge.golden import Golden, golden_bytes
from mmkd_edge.manifest import (
    README_FILE,
    REPORT_FILE,
    FileEntry,
    Manifest,
    ModelEntry,
    graph_inputs,
    graph_outputs,
)
from mmkd_export.artifacts import Evidence, JudgedArtifact
from mmkd_export.card import model_card
from mmkd_export.graph import multiply_adds
from mmkd_export.report import ExportReport, StudentFacts, encode_report, window_facts

if TYPE_CHECKING:
    from mmkd_models.checkpoint import StudentCheckpoint

_TOOLS = ("mmkd-edge", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")
_NO_LICENCE = "not stated by the dataset"


@dataclass(frozen=True, kw_only=True)
class BundleContents:
    """What `write_bundle` takes, and the report for the caller."""

    manifest: Manifest
    members: dict[str, bytes]
    report: ExportReport


def bundle_contents(
    checkpoint: StudentCheckpoint,
    evidence: Evidence,
    artifacts: Sequence[JudgedArtifact],
    *,
    checkpoint_sha256: str,
) -> BundleContents:
    """Puts a bundle together; the same checkpoint, windows and library versions give the same bytes.

    Args:
        checkpoint: the student.
        evidence: the windows and the checkpoint's answers, which become the golden windows.
        artifacts: that passed their gates; the first is the fp32 graph.
        checkpoint_sha256: of the checkpoint file.
    """
    tools = {name: version(name) for name in _TOOLS}
    student = _student_facts(checkpoint, artifacts[0].model, checkpoint_sha256=checkpoint_sha256)
    model_id = f"{student.dataset}-{student.modality}-{student.preset}-{checkpoint_sha256[:8]}"
    report = ExportReport(
        model_id=model_id,
        student=student,
        windows=window_facts(evidence.real),
        artifacts=tuple(artifact.report for artifact in artifacts),
        tools=tools,
    )
    golden = golden_bytes(_golden(evidence, tolerance=artifacts[0].artifact.parity.tolerance))
    entry = _entry(checkpoint, student, artifacts, golden=golden)
    licence = checkpoint.facts.licence or _NO_LICENCE
    texts = {
        REPORT_FILE: encode_report(report),
        README_FILE: model_card(report, entry, licence=licence).encode(),
    }
    manifest = Manifest(
        model_id=model_id,
        models=(entry,),
        tools=tools,
        licence=licence,
        files=tuple(_file_entry(name, data) for name, data in texts.items()),
    )
    members = texts | {judged.artifact.file: judged.model for judged in artifacts} | {entry.golden.file: golden}
    return BundleContents(manifest=manifest, members=members, report=report)


def _student_facts(checkpoint: StudentCheckpoint, graph: bytes, *, checkpoint_sha256: str) -> StudentFacts:
    import onnx

    model = onnx.load_from_string(graph)
    facts = checkpoint.facts
    return StudentFacts(
        checkpoint_sha256=checkpoint_sha256,
        modality=checkpoint.modality.name,
        labels=checkpoint.task.labels,
        preset=checkpoint.config.preset,
        parameters=sum(parameter.numel() for parameter in checkpoint.network().parameters()),
        mflops=round(2 * multiply_adds(model) / 1e6, 3),
        nodes=len(model.graph.node),
        dataset=facts.dataset,
        dataset_sha256=facts.dataset_sha256,
        teacher_sha256=facts.teacher_sha256,
        metric=facts.metric,
        score=facts.score,
        trained_with=facts.versions,
    )


def _golden(evidence: Evidence, *, tolerance: float) -> Golden:
    return Golden(
        windows=evidence.real.windows,
        labels=evidence.real.labels,
        logits=evidence.answers.logits,
        probabilities=evidence.answers.probabilities,
        judge=evidence.real.judge,
        tolerance=tolerance,
    )


def _entry(
    checkpoint: StudentCheckpoint, student: StudentFacts, artifacts: Sequence[JudgedArtifact], *, golden: bytes
) -> ModelEntry:
    modality, task = checkpoint.modality, checkpoint.task
    return ModelEntry(
        name=modality.name,
        modality=modality,
        task=task,
        inputs=graph_inputs(modality),
        outputs=graph_outputs(task),
        preset=student.preset,
        parameters=student.parameters,
        mflops=student.mflops,
        validation_metric=student.metric,
        validation_score=student.score,
        dataset_name=student.dataset,
        dataset_sha256=student.dataset_sha256,
        teacher_sha256=student.teacher_sha256,
        artifacts=tuple(judged.artifact for judged in artifacts),
        golden=_file_entry(f"{modality.name}/golden.npz", golden),
    )


def _file_entry(name: str, data: bytes) -> FileEntry:
    return FileEntry(file=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
