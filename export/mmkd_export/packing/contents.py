"""From proven artifacts to the members of a bundle.

Owns the manifest, the golden windows and the report as they are put together. Writes no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
from mmkd_edge.spec import TaskSpec
from mmkd_export.packing.card import model_card
from mmkd_export.plan import GoldenChoice
from mmkd_export.student import ProvenStudent
from mmkd_export.verify.artifacts import ProvenArtifact
from mmkd_export.verify.gate import caution
from mmkd_export.verify.golden_choice import most_golden, of_each_kind, steady
from mmkd_export.verify.proof_set import ProofSet
from mmkd_models.data.labels import is_labelled
from mmkd_models.metrics.measures import measures_of
from mmkd_report.schema.export import ExportReport, LeftOutArtifact, Measures, WindowFacts, encode_document

_SYNTHETIC = (
    "synthetic windows show that the graph computes what the network computes, and nothing of what it does on "
    "recordings; name some with --calib DATA"
)


def pack_bundle(
    student: ProvenStudent,
    artifacts: Sequence[ProvenArtifact],
    *,
    golden: GoldenChoice = "real",
    platform: str,
    left_out: Sequence[LeftOutArtifact],
    machine: str | None,
) -> tuple[Manifest, dict[str, bytes]]:
    """Gives what `write_bundle` takes: the manifest, and the bundle's other members.

    Args:
        student: with the windows and answers that become the golden windows.
        artifacts: that passed their gates, the fp32 graph first.
        golden: what its golden windows are.
        platform: what it is exported for.
        left_out: precisions that were tried and left out.
        machine: that latencies were measured on; None where nothing was timed.
    """
    if student.golden is None:
        stored = of_each_kind(_golden(student.proof_set), most_golden(student.modality))
    else:
        stored = steady(student.golden, artifacts, student.modality, most=1 if golden == "none" else None)
    report = ExportReport(
        model_id=student.model_id,
        platform=platform,
        student=student.facts,
        windows=_window_facts(student, golden, carried=len(stored.windows)),
        artifacts=tuple(artifact.report for artifact in artifacts),
        left_out=tuple(left_out),
        machine=machine,
        tools=student.tools,
        steps=tuple(step.report for step in student.steps),
        measures=_measures(student.task),
        range_rule=student.range_rule or msgspec.UNSET,
    )
    golden_file = golden_bytes(stored)
    entry = _entry(student, artifacts, golden=golden_file)
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
    members = texts | {proven.artifact.file: proven.model for proven in artifacts} | {entry.golden.file: golden_file}
    members |= {step.artifact.file: step.model for step in student.steps}
    return manifest, members


def _measures(task: TaskSpec) -> Measures | msgspec.UnsetType:
    """What a report says of its figures: nothing where they are those of classes, as reports always had."""
    if task.kind == "classification":
        return msgspec.UNSET
    return msgspec.convert(measures_of(task), Measures, from_attributes=True)


def _window_facts(student: ProvenStudent, golden: GoldenChoice, *, carried: int) -> WindowFacts:
    if student.judged_before is not None:
        return student.judged_before
    real, judging = student.proof_set.real, student.proof_set.judging
    own = real.synthetic and judging.source == real.source
    return WindowFacts(
        source=real.source,
        count=len(real.windows),
        judged_by=judging.source,
        judging=len(judging.labels),
        labelled=int(is_labelled(judging.labels).sum()),
        caution=_SYNTHETIC if own else caution(len(judging.labels)),
        synthetic=real.synthetic,
        golden=msgspec.UNSET if golden == "real" else golden,
        carried=carried if golden == "real" and carried < len(real.windows) else msgspec.UNSET,
    )


def _golden(proof_set: ProofSet) -> Golden:
    return Golden(
        windows=proof_set.real.windows,
        labels=proof_set.real.labels,
        logits=proof_set.answers.logits,
        probabilities=proof_set.answers.probabilities,
        judge=proof_set.real.judge,
        tolerance=proof_set.tolerance,
        novelty=proof_set.answers.novelty,
    )


def _entry(student: ProvenStudent, artifacts: Sequence[ProvenArtifact], *, golden: bytes) -> ModelEntry:
    modality, task, facts, proof_set = student.modality, student.task, student.facts, student.proof_set
    return ModelEntry(
        name=modality.name,
        modality=modality,
        task=task,
        inputs=graph_inputs(modality),
        outputs=graph_outputs(task, novelty=student.has_novelty),
        preset=facts.preset,
        parameters=facts.parameters,
        mflops=facts.mflops,
        validation_metric=facts.metric,
        validation_score=facts.score,
        dataset_name=facts.dataset,
        dataset_sha256=facts.dataset_sha256,
        teacher_sha256=facts.teacher_sha256,
        artifacts=tuple(proven.artifact for proven in artifacts),
        golden=file_entry(f"{modality.name}/golden.npz", golden),
        statistics=student.statistics or _statistics(proof_set),
        group_reference=student.group_reference,
        streaming=_streaming(student),
        adapted=student.adapted or msgspec.UNSET,
        fold=student.fold,
        training_hashes=student.training_hashes or msgspec.UNSET,
    )


def _streaming(student: ProvenStudent) -> Streaming | None:
    if student.streaming is None:
        return None
    return msgspec.structs.replace(student.streaming, artifacts=tuple(step.artifact for step in student.steps))


def _statistics(proof_set: ProofSet) -> InputStatistics | None:
    """What a device looks for drifts against; None where nothing was recorded, as no recording is like noise."""
    if proof_set.real.synthetic:
        return None
    prepared = prepare_batch(proof_set.real.windows, proof_set.modality)
    return measure_statistics(*prepared, proof_set.answers.probabilities, task=proof_set.task)


def file_entry(name: str, data: bytes) -> FileEntry:
    """What the manifest says of a member that is no model."""
    return FileEntry(file=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
