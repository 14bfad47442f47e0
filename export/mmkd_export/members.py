"""From judged artifacts to the members of a bundle.

Owns the manifest, the golden windows and the report as they are put together. Writes no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mmkd_edge.bundle.golden import Golden, golden_bytes
from mmkd_edge.bundle.manifest import (
    README_FILE,
    REPORT_FILE,
    FileEntry,
    Manifest,
    ModelEntry,
    Streaming,
    graph_inputs,
    graph_outputs,
)
from mmkd_edge.drift.features import InputStatistics
from mmkd_edge.drift.running import measure_statistics
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_export.card import model_card
from mmkd_export.judge.artifacts import JudgedArtifact
from mmkd_export.judge.parity import FP32_TOLERANCE
from mmkd_export.judge.reference_answers import Evidence
from mmkd_export.report import ExportReport, LeftOut, encode_report, window_facts
from mmkd_export.student import Subject
from mmkd_models.metrics.measures import written_measures


@dataclass(frozen=True, kw_only=True)
class BundleContents:
    """What `write_bundle` takes, and the report for the caller."""

    manifest: Manifest
    members: dict[str, bytes]
    report: ExportReport


def bundle_contents(
    subject: Subject,
    artifacts: Sequence[JudgedArtifact],
    *,
    platform: str,
    left_out: Sequence[LeftOut],
    machine: str | None,
) -> BundleContents:
    """Puts a bundle together.

    Args:
        subject: the student, with the windows and answers that become the golden windows.
        artifacts: that passed their gates, the fp32 graph first.
        platform: what it is exported for.
        left_out: precisions that were tried and left out.
        machine: that latencies were measured on; None where nothing was timed.
    """
    report = ExportReport(
        model_id=subject.model_id,
        platform=platform,
        student=subject.facts,
        windows=window_facts(subject.evidence.real, subject.evidence.judging),
        artifacts=tuple(artifact.report for artifact in artifacts),
        left_out=tuple(left_out),
        machine=machine,
        tools=subject.tools,
        steps=tuple(step.report for step in subject.steps),
        measures=written_measures(subject.evidence.task),
    )
    golden = golden_bytes(_golden(subject.evidence))
    entry = _entry(subject, artifacts, golden=golden)
    texts = {
        REPORT_FILE: encode_report(report),
        README_FILE: model_card(report, entry, licence=subject.licence).encode(),
    }
    manifest = Manifest(
        model_id=subject.model_id,
        models=(entry,),
        tools=subject.tools,
        licence=subject.licence,
        files=tuple(_file_entry(name, data) for name, data in texts.items()),
    )
    members = texts | {judged.artifact.file: judged.model for judged in artifacts} | {entry.golden.file: golden}
    members |= {step.artifact.file: step.model for step in subject.steps}
    return BundleContents(manifest=manifest, members=members, report=report)


def _golden(evidence: Evidence) -> Golden:
    return Golden(
        windows=evidence.real.windows,
        labels=evidence.real.labels,
        logits=evidence.answers.logits,
        probabilities=evidence.answers.probabilities,
        judge=evidence.real.judge,
        tolerance=FP32_TOLERANCE,
    )


def _entry(subject: Subject, artifacts: Sequence[JudgedArtifact], *, golden: bytes) -> ModelEntry:
    modality, task, facts, evidence = subject.modality, subject.task, subject.facts, subject.evidence
    return ModelEntry(
        name=modality.name,
        modality=modality,
        task=task,
        inputs=graph_inputs(modality),
        outputs=graph_outputs(task),
        preset=facts.preset,
        parameters=facts.parameters,
        mflops=facts.mflops,
        validation_metric=facts.metric,
        validation_score=facts.score,
        dataset_name=facts.dataset,
        dataset_sha256=facts.dataset_sha256,
        teacher_sha256=facts.teacher_sha256,
        artifacts=tuple(judged.artifact for judged in artifacts),
        golden=_file_entry(f"{modality.name}/golden.npz", golden),
        statistics=_statistics(evidence),
        group_reference=subject.group_reference,
        streaming=_streaming(subject),
    )


def _streaming(subject: Subject) -> Streaming | None:
    if subject.streaming is None:
        return None
    return msgspec.structs.replace(subject.streaming, artifacts=tuple(step.artifact for step in subject.steps))


def _statistics(evidence: Evidence) -> InputStatistics | None:
    """What a device looks for drifts against; None where nothing was recorded, as no recording is like noise."""
    if evidence.real.synthetic:
        return None
    prepared = prepare_batch(evidence.real.windows, evidence.modality)
    return measure_statistics(*prepared, evidence.answers.probabilities, task=evidence.task)


def _file_entry(name: str, data: bytes) -> FileEntry:
    return FileEntry(file=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
