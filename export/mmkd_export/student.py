"""The student on its way into a bundle, read from a checkpoint or from an earlier bundle.

A bundle needs no torch: its fp32 graph was proven when it was made, and it has the checkpoint's answers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_edge.backends.base import backend_for, is_installed
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.golden import Golden
from mmkd_edge.bundle.manifest import FileEntry, ModelEntry, Precision, graph_inputs, graph_outputs
from mmkd_edge.bundle.statistics import GroupReference
from mmkd_edge.errors import BundleError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_graph import count_mflops
from mmkd_export.plan import ExportPlan, only_student, read_report
from mmkd_export.verify.answers import NetworkAnswers, answers_from_model, answers_from_student
from mmkd_export.verify.artifacts import ProvenArtifact, check_stored, prove_again, prove_fp32, rescore
from mmkd_export.verify.confidence import helpful_temperature
from mmkd_export.verify.gate import GateRule, check_metric
from mmkd_export.verify.golden import NO_RECORDING, golden_without_recordings
from mmkd_export.verify.parity import compare, fp32_tolerance, require_parity
from mmkd_export.verify.plausible import NAMED, RULE, with_named_range
from mmkd_export.verify.proof_set import Answer, ProofSet, build_proof_set, select_judging
from mmkd_export.verify.step_graph import StepGraph, step_from_checkpoint, stored_step
from mmkd_export.verify.tolerance import with_tolerance
from mmkd_export.verify.windows import (
    RealWindows,
    check_fit,
    rows_without,
    windows_from_checkpoint,
    windows_from_path,
    windows_from_statistics,
)
from mmkd_report.schema.export import ExportReport, StepReport, StudentFacts, WindowFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint

_ROUNDING_WINDOWS = 256  # at most so many measure how far float32 is from float64
_FROM_TORCH = ("mmkd-edge", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")
_FROM_BUNDLE = ("mmkd-edge", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class ProvenStudent:
    """A student with its proven fp32 graph.

    Attributes:
        source: the checkpoint or the earlier bundle.
        entry: the manifest's, without artifacts and golden windows; without statistics if they are to be measured.
        licence: of the weights and the windows.
        tools: versions of what made the fp32 graph.
        others: artifacts of an earlier bundle, or of other formats.
        steps: the step graphs of a causal student.
        golden: replaces the windows of the proof set as golden windows.
        range_rule: origin of the range of values, if not the dataset.
        judged_before: the windows that judged an earlier bundle, if that judgement stays valid.
    """

    source: Path
    entry: ModelEntry
    facts: StudentFacts
    licence: str
    tools: dict[str, str]
    proof_set: ProofSet
    fp32: ProvenArtifact
    others: tuple[ProvenArtifact, ...] = ()
    steps: tuple[StepGraph, ...] = ()
    range_rule: str | None = None
    golden: Golden | None = None
    judged_before: WindowFacts | None = None

    @property
    def modality(self) -> ModalitySpec:
        """The student's input."""
        return self.entry.modality

    @property
    def model_id(self) -> str:
        """The name of the bundle: dataset, modality, size, and the start of the checkpoint's hash."""
        facts = self.facts
        return f"{facts.dataset}-{facts.modality}-{facts.preset}-{facts.checkpoint_sha256[:8]}"


def gate_rule(facts: StudentFacts, task: TaskSpec, plan: ExportPlan) -> GateRule:
    """Return the gate for lower precision that a plan requests."""
    return GateRule(
        metric=check_metric(facts.metric, task),
        max_drop_points=plan.max_drop_points,
        accept_unjudged=plan.accept_unjudged,
    )


def real_windows(plan: ExportPlan, checkpoint: StudentCheckpoint) -> RealWindows:
    """Return the windows that a plan names, else those in the checkpoint, else synthetic ones.

    Raises:
        UsageError: lower precision is requested without recorded windows, or those that the plan names do not fit.
    """
    if plan.calibration is not None:
        return windows_from_path(plan.calibration, modality=checkpoint.modality, task=checkpoint.task)
    if plan.lower_precisions or (checkpoint.carried is not None and len(checkpoint.carried.windows) > 0):
        return windows_from_checkpoint(checkpoint.carried, checkpoint=plan.source)
    return windows_from_statistics(checkpoint.modality, checkpoint.task, **checkpoint.normalisation)


def fitted_temperature(checkpoint: StudentCheckpoint, real: RealWindows) -> float:
    """Fit the temperature on the calibrating windows; 1 unless it helps the judging ones."""
    rows = np.flatnonzero(real.labels >= 0) if checkpoint.task.kind == "classification" else ()
    if len(rows) == 0:
        return 1.0
    logits = answers_from_student(checkpoint, real.windows[rows]).logits
    return helpful_temperature(logits, real.labels[rows], real.judge[rows])


def student_from_checkpoint(
    plan: ExportPlan,
    checkpoint: StudentCheckpoint,
    graph: bytes,
    *,
    real: RealWindows,
    temperature: float,
    has_own_range: bool,
) -> ProvenStudent:
    """Compare a checkpoint's fp32 graph with torch.

    Args:
        plan: the export.
        checkpoint: the student, with its range.
        graph: its fp32 ONNX graph.
        real: the windows.
        temperature: in the graph.
        has_own_range: whether the range is the dataset's.

    Raises:
        UsageError: the windows that judge do not fit.
        GateError: the graph does not answer as the checkpoint does.
    """
    from mmkd_models.training.checkpoint import file_sha256

    def answer(windows: NDArray[Any]) -> NetworkAnswers:
        return answers_from_student(checkpoint, windows, temperature=temperature)

    modality, task, facts = checkpoint.modality, checkpoint.task, checkpoint.facts
    answers = answer(real.windows)
    proof_set = build_proof_set(
        real, modality=modality, task=task, answers=answers, answer=answer, evaluation=plan.evaluation
    )
    # Spread over all of them: rows are sorted by group, and rounding depends on a group's level.
    rows = np.unique(np.linspace(0, len(real.windows) - 1, _ROUNDING_WINDOWS).round().astype(np.intp))
    tolerance = fp32_tolerance(
        answers_from_student(checkpoint, real.windows[rows], temperature=temperature, exact=True),
        answers.rows(rows),
        task=task,
        what=str(plan.source),
        is_transformer=checkpoint.config.kind == "transformer",
    )
    scores = () if checkpoint.seen is None else tuple(checkpoint.seen.scores.double().tolist())
    proof_set = replace(proof_set, temperature=temperature, tolerance=tolerance, novelty_scores=scores)
    golden = None
    if plan.golden != "real":
        golden = golden_without_recordings(
            plan.golden, modality, task, **checkpoint.normalisation, answer=answer, tolerance=tolerance
        )
    reference = _named_reference(plan, modality) or facts.group_reference or None
    student_facts = _student_facts(checkpoint, graph, checkpoint_sha256=file_sha256(plan.source))
    return ProvenStudent(
        source=plan.source,
        entry=_model_entry(
            checkpoint, student_facts, group_reference=with_tolerance(reference, real, task=task, answer=answer)
        ),
        facts=student_facts,
        licence=facts.licence or "not stated by the dataset",
        tools={name: version(name) for name in _FROM_TORCH},
        proof_set=proof_set,
        golden=golden,
        fp32=prove_fp32(graph, proof_set, batch=plan.batch),
        steps=(step_from_checkpoint(checkpoint, proof_set),) if checkpoint.config.causal else (),
        range_rule=None if has_own_range else RULE if plan.value_range == "auto" else NAMED,
    )


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
        mflops=count_mflops(model),
        nodes=len(model.graph.node),
        dataset=facts.dataset,
        dataset_sha256=facts.dataset_sha256,
        teacher_sha256=facts.teacher_sha256,
        further_teachers_sha256=facts.teachers_sha256[1:],
        metric=check_metric(facts.metric, checkpoint.task),
        score=facts.score,
        trained_with=facts.versions,
    )


def _model_entry(
    checkpoint: StudentCheckpoint, facts: StudentFacts, *, group_reference: GroupReference | None
) -> ModelEntry:
    from mmkd_export.graph.onnx_from_student import describe_steps

    modality, task, origin = checkpoint.modality, checkpoint.task, checkpoint.facts
    return ModelEntry(
        name=modality.name,
        modality=modality,
        task=task,
        inputs=graph_inputs(modality),
        outputs=graph_outputs(task, novelty=checkpoint.seen is not None),
        preset=facts.preset,
        parameters=facts.parameters,
        mflops=facts.mflops,
        validation_metric=facts.metric,
        validation_score=facts.score,
        dataset_name=facts.dataset,
        dataset_sha256=facts.dataset_sha256,
        teacher_sha256=facts.teacher_sha256,
        artifacts=(),
        golden=FileEntry(file=f"{modality.name}/golden.npz", sha256="", size_bytes=0),
        group_reference=group_reference,
        streaming=describe_steps(checkpoint) if checkpoint.config.causal else None,
        adapted=origin.adapted or msgspec.UNSET,
        fold=origin.fold,
        training_hashes=origin.training_hashes or msgspec.UNSET,
    )


def student_from_bundle(plan: ExportPlan, *, remade: Collection[Precision]) -> ProvenStudent:
    """Read an earlier bundle and check that this machine computes the answers stored in it.

    Args:
        plan: names the bundle, and possibly other windows that judge or calibrate.
        remade: precisions whose artifacts will be made again, so that the earlier ones are left out.

    Raises:
        UsageError: the windows or the range named in the plan do not fit.
        BundleError: the bundle is damaged, or has no fp32 graph.
        GateError: this machine computes other answers, for instance because golden windows are outside the named range,
            or an earlier artifact fails on the windows that judge now.
    """
    with Bundle.open(plan.source) as bundle:
        manifest, entry, report = bundle.manifest, only_student(bundle), read_report(bundle)
        entry = msgspec.structs.replace(entry, modality=with_named_range(entry.modality, plan.value_range))
        golden = bundle.golden(entry.name)
        reports = {artifact.file: artifact for artifact in report.artifacts}
        stored = [
            ProvenArtifact(model=bundle.read(artifact.file), artifact=artifact, report=reports[artifact.file])
            for artifact in entry.artifacts
            if artifact.file in reports
        ]
        streaming = entry.streaming
        steps = [(bundle.read(one.file), one) for one in (streaming.artifacts if streaming else ())]
    windows = _carried_windows(report.windows)
    graphs = [proven for proven in stored if proven.artifact.format == "onnx"]
    fp32 = next((proven for proven in graphs if proven.artifact.precision == "fp32"), None)
    if fp32 is None:
        raise UsageError(f"{plan.source}: expected a bundle with an fp32 graph, got one without; export the checkpoint")
    if windows.synthetic and plan.calibration is None and plan.lower_precisions:
        raise UsageError(
            f"{plan.source}: --precision {plan.lower_precisions[0]}: expected recorded windows, got a bundle whose "
            "windows are synthetic; name some with --calib DATA or --calib FILE.npz"
        )

    def answer(windows: NDArray[Any]) -> NetworkAnswers:
        return answers_from_model(fp32.model, windows, entry.modality)

    proof_set = _proof_set_of_bundle(plan, entry, golden, answer, windows=windows)
    if fp32.artifact.confidence is not None:
        proof_set = replace(proof_set, temperature=fp32.artifact.confidence.temperature)
    if fp32.artifact.novelty:
        proof_set = replace(proof_set, novelty_scores=fp32.artifact.novelty.scores)
    rule = gate_rule(report.student, entry.task, plan)
    carries_fewer = windows.carried is not msgspec.UNSET
    stays_judged = carries_fewer and plan.evaluation is None and plan.calibration is None

    def again(proven: ProvenArtifact) -> ProvenArtifact:
        return check_stored(proven, proof_set) if stays_judged else prove_again(proven, proof_set, rule)

    reference = _named_reference(plan, entry.modality)
    if reference is not None:
        reference = with_tolerance(reference, proof_set.real, task=entry.task, answer=answer)
        entry = msgspec.structs.replace(entry, group_reference=reference)
    range_rule = NAMED if isinstance(plan.value_range, tuple) else None
    return ProvenStudent(
        source=plan.source,
        entry=entry if carries_fewer else msgspec.structs.replace(entry, statistics=None),
        facts=report.student,
        licence=manifest.licence,
        tools=report.tools | {name: version(name) for name in _FROM_BUNDLE},
        proof_set=proof_set,
        fp32=fp32 if stays_judged else rescore(fp32, proof_set),
        others=(
            *(_other_format(proven, proof_set, rule, plan) for proven in stored if proven.artifact.format != "onnx"),
            *(again(proven) for proven in graphs if proven.artifact.precision not in {"fp32", *remade}),
        ),
        steps=tuple(
            stored_step(model, artifact, streaming, _step_report(report, artifact.file), proof_set)
            for model, artifact in steps
            if streaming is not None
        ),
        range_rule=report.range_rule or None if plan.value_range == "auto" else range_rule,
        judged_before=windows if stays_judged else None,
    )


def _carried_windows(windows: WindowFacts) -> WindowFacts:
    """Return the report's facts of the windows that a bundle carries, whatever judged when it was made."""
    if windows.golden is msgspec.UNSET:
        return windows
    source = f"{windows.golden} windows ({NO_RECORDING[windows.golden]})"
    return msgspec.structs.replace(windows, synthetic=True, source=source)


def _named_reference(plan: ExportPlan, modality: ModalitySpec) -> GroupReference | None:
    """Measure how the groups of the dataset differ that the plan names; None if it names none."""
    if plan.drift_reference is None:
        return None
    from mmkd_models.data.dataset import open_dataset
    from mmkd_models.training.references import group_reference

    dataset = open_dataset(plan.drift_reference)
    check_fit(dataset.spec.modality(modality.name), modality, where=str(plan.drift_reference))
    return group_reference(dataset.split("train"), dataset.split("valid"), modality.name)


def _step_report(report: ExportReport, file: str) -> StepReport:
    step = next((step for step in report.steps if step.file == file), None)
    if step is None:
        raise BundleError(f"report.json: expected a report of {file}, got none; export the checkpoint again")
    return step


def _other_format(proven: ProvenArtifact, proof_set: ProofSet, rule: GateRule, plan: ExportPlan) -> ProvenArtifact:
    """Judge a stored artifact of another format on the windows of the plan, if its backend is installed."""
    if plan.evaluation is None and plan.calibration is None and proven.artifact.confidence is not None:
        return proven
    if is_installed(backend_for(proven.artifact.format)):
        return rescore(proven, proof_set) if proven.report.gate is None else prove_again(proven, proof_set, rule)
    if plan.evaluation is None:
        return proven
    return replace(proven, report=msgspec.structs.replace(proven.report, scores=None, confidence=None))


def _proof_set_of_bundle(
    plan: ExportPlan, entry: ModelEntry, golden: Golden, answer: Answer, *, windows: WindowFacts
) -> ProofSet:
    """Build the proof set of stored answers; other windows are answered by the fp32 graph."""
    answers = NetworkAnswers(logits=golden.logits, probabilities=golden.probabilities, novelty=golden.novelty)
    parity = compare(answers, answer(golden.windows), task=entry.task)
    require_parity(parity, tolerance=golden.tolerance, what=f"{plan.source}: fp32 graph on this machine")
    real = RealWindows(
        windows=golden.windows,
        labels=golden.labels,
        judge=golden.judge,
        source=windows.source,
        synthetic=windows.synthetic,
    )
    modality, task = entry.modality, entry.task
    proof_set = build_proof_set(
        real, modality=modality, task=task, answers=answers, answer=answer, evaluation=plan.evaluation
    )
    proof_set = replace(proof_set, tolerance=golden.tolerance)
    if plan.calibration is not None:
        named = windows_from_path(plan.calibration, modality=modality, task=task)
        if windows.synthetic and plan.evaluation is None:  # the named windows judge too, so they are halved
            proof_set = replace(proof_set, judging=select_judging(named, answer(named.windows)))
        rows = rows_without(named.windows, proof_set.judging.windows)
        proof_set = replace(proof_set, calibration=named.windows[rows], calibration_labels=named.labels[rows])
    return proof_set
