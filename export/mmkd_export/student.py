"""The student on its way into a bundle, from a checkpoint or from an earlier bundle.

Owns what the two have in common, so that everything behind it is the same for both. A bundle needs no torch: its fp32
graph was proven when it was made, and its golden windows hold the checkpoint's answers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np

from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.golden import Golden
from mmkd_edge.bundle.manifest import REPORT_FILE, Artifact, BatchRange, ModelEntry, Precision, Streaming
from mmkd_edge.drift.features import GroupReference
from mmkd_edge.errors import BundleError, CheckpointError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_graph import multiply_adds
from mmkd_export.judge.artifacts import JudgedArtifact, TaskGate, judge_again, judge_fp32, rescored, task_gate
from mmkd_export.judge.confidence import fit_temperature
from mmkd_export.judge.gate import Judging
from mmkd_export.judge.parity import (
    FP32_TOLERANCE,
    Answers,
    answers_from_backend,
    compare,
    require_parity,
    with_missing_samples,
)
from mmkd_export.judge.reference_answers import Evidence, judging_of
from mmkd_export.judge.tolerance import with_tolerance
from mmkd_export.judge.windows import (
    RealWindows,
    check_fit,
    others_than,
    windows_from_checkpoint,
    windows_from_path,
    windows_from_statistics,
)
from mmkd_export.plan import ExportPlan, only_student
from mmkd_export.report import ExportReport, StepReport, StudentFacts, WindowFacts, decode_report
from mmkd_export.step import StepGraph, step_from_checkpoint, stored_step
from mmkd_models.metrics.scores import AnyMetric, metrics_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint

_GAPS_SEED = 0
_NO_LICENCE = "not stated by the dataset"
_FROM_TORCH = ("mmkd-edge", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")
_FROM_BUNDLE = ("mmkd-edge", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A student with its proven fp32 graph.

    Attributes:
        modality: what it takes.
        task: what it answers.
        facts: where it comes from.
        licence: of the weights and the windows.
        tools: versions of what made the fp32 graph.
        evidence: what every artifact is judged by.
        fp32: the proven graph.
        others: artifacts of other precisions that an earlier bundle had.
        streaming: how a causal student steps, but for the artifacts; None of a windowed one.
        steps: its step graphs.
        group_reference: how the groups of its training differ from each other; None where nobody measured it.
    """

    modality: ModalitySpec
    task: TaskSpec
    facts: StudentFacts
    licence: str
    tools: dict[str, str]
    evidence: Evidence
    fp32: JudgedArtifact
    others: tuple[JudgedArtifact, ...] = ()
    streaming: Streaming | None = None
    steps: tuple[StepGraph, ...] = ()
    group_reference: GroupReference | None = None

    @property
    def batch(self) -> BatchRange | None:
        """How many windows its graphs take at once; None for one."""
        return self.fp32.artifact.batch

    @property
    def model_id(self) -> str:
        """What people call the bundle: dataset, modality, size, and the start of the checkpoint's hash."""
        facts = self.facts
        return f"{facts.dataset}-{facts.modality}-{facts.preset}-{facts.checkpoint_sha256[:8]}"


def temperature_of(plan: ExportPlan, checkpoint: StudentCheckpoint) -> float:
    """Gives the temperature that fits the windows of a plan that calibrate.

    1 where they are too few or drawn, and for tasks that are no classification.
    """
    from mmkd_export.graph.onnx_from_student import answers_from_student

    if checkpoint.task.kind != "classification":
        return 1.0
    real = _real_windows(plan, checkpoint)
    rows = np.flatnonzero(~real.judge & (real.labels >= 0))
    if len(rows) == 0:
        return 1.0
    return fit_temperature(answers_from_student(checkpoint, real.windows[rows]).logits, real.labels[rows])


def subject_from_checkpoint(
    plan: ExportPlan, checkpoint: StudentCheckpoint, graph: bytes, *, temperature: float
) -> Subject:
    """Holds a checkpoint's graph against torch.

    Args:
        plan: names the windows.
        checkpoint: the student.
        graph: what `onnx_from_student` gave for it.
        temperature: in the graph.

    Raises:
        UsageError: there are no real windows.
        GateError: the graph does not answer as the checkpoint does.
    """
    from mmkd_export.graph.onnx_from_student import answers_from_student, steps_of
    from mmkd_models.training.checkpoint import file_sha256

    def answer(windows: NDArray[np.float32]) -> Answers:
        return answers_from_student(checkpoint, windows, temperature=temperature)

    real = _real_windows(plan, checkpoint)
    evidence = _evidence(
        plan, checkpoint.modality, checkpoint.task, real=real, answers=answer(real.windows), answer=answer
    )
    evidence = replace(evidence, temperature=temperature)
    return Subject(
        modality=checkpoint.modality,
        task=checkpoint.task,
        facts=_student_facts(checkpoint, graph, checkpoint_sha256=file_sha256(plan.source)),
        licence=checkpoint.facts.licence or _NO_LICENCE,
        tools={name: version(name) for name in _FROM_TORCH},
        evidence=evidence,
        fp32=judge_fp32(graph, evidence, batch=plan.batch),
        streaming=steps_of(checkpoint) if checkpoint.config.causal else None,
        steps=(step_from_checkpoint(checkpoint, evidence),) if checkpoint.config.causal else (),
        group_reference=with_tolerance(
            _named_reference(plan, checkpoint.modality) or checkpoint.facts.group_reference or None,
            real,
            task=checkpoint.task,
            answer=answer,
        ),
    )


def subject_from_bundle(plan: ExportPlan, *, remade: Collection[Precision]) -> Subject:
    """Reads an earlier bundle and checks that this machine computes the answers stored in it.

    Args:
        plan: names the bundle, and windows where others than the stored ones shall judge or calibrate.
        remade: precisions whose artifacts will be made anew, so that the earlier ones are left out.

    Raises:
        UsageError: the windows named in the plan do not fit.
        BundleError: the bundle is damaged, or has no fp32 graph.
        GateError: this machine computes other answers, or an earlier artifact fails on the windows that judge now.
    """
    with Bundle.open(plan.source) as bundle:
        manifest = bundle.manifest
        entry = only_student(bundle)
        report = decode_report(bundle.read(REPORT_FILE))
        golden = bundle.golden(entry.name)
        stored = _stored_artifacts(bundle, entry, report)
        step_files = entry.streaming.artifacts if entry.streaming else ()
        step_models = [bundle.read(artifact.file) for artifact in step_files]
    replaced = {"fp32", *remade}
    graphs = [judged for judged in stored if judged.artifact.format == "onnx"]
    fp32 = next((judged for judged in graphs if judged.artifact.precision == "fp32"), None)
    if fp32 is None:
        raise UsageError(f"{plan.source}: expected a bundle with an fp32 graph, got one without; export the checkpoint")
    if report.windows.synthetic and plan.calibration is None and _lower_precisions(plan):
        raise UsageError(
            f"{plan.source}: --precision {_lower_precisions(plan)[0]}: expected recorded windows, got a bundle whose "
            "windows are synthetic; name some with --calib DATA or --calib FILE.npz"
        )
    evidence = _evidence_from_golden(plan, entry, golden, fp32.model, windows=report.windows)
    if fp32.artifact.confidence is not None:
        evidence = replace(evidence, temperature=fp32.artifact.confidence.temperature)
    gate = task_gate(report.student.metric, plan)
    return Subject(
        modality=entry.modality,
        task=entry.task,
        facts=report.student,
        licence=manifest.licence,
        tools=report.tools | {name: version(name) for name in _FROM_BUNDLE},
        evidence=evidence,
        fp32=rescored(fp32, evidence),
        others=(
            *(_kept_litert(judged, evidence, gate, plan) for judged in stored if judged.artifact.format == "tflite"),
            *(judge_again(judged, evidence, gate) for judged in graphs if judged.artifact.precision not in replaced),
        ),
        streaming=entry.streaming,
        steps=tuple(
            stored_step(model, artifact, entry.streaming, _step_report(report, artifact), evidence)
            for model, artifact in zip(step_models, step_files, strict=True)
            if entry.streaming is not None
        ),
        group_reference=_reference_of_bundle(plan, entry, evidence, graph=fp32.model),
    )


def _reference_of_bundle(
    plan: ExportPlan, entry: ModelEntry, evidence: Evidence, *, graph: bytes
) -> GroupReference | None:
    """The spread between groups that the plan names, else that of the earlier bundle as it is."""
    named = _named_reference(plan, entry.modality)
    if named is None:
        return entry.group_reference
    backend = OrtBackend(graph)
    try:
        return with_tolerance(
            named,
            evidence.real,
            task=entry.task,
            answer=lambda windows: answers_from_backend(backend, windows, entry.modality),
        )
    finally:
        backend.close()


def _named_reference(plan: ExportPlan, modality: ModalitySpec) -> GroupReference | None:
    """The spread between the groups of the dataset that the plan names; None where it names none."""
    if plan.drift_reference is None:
        return None
    from mmkd_models.data.dataset import open_dataset
    from mmkd_models.training.drift_reference import group_reference

    dataset = open_dataset(plan.drift_reference)
    check_fit(dataset.spec.modality(modality.name), modality, where=str(plan.drift_reference))
    return group_reference(dataset.split("train"), dataset.split("valid"), modality.name)


def _step_report(report: ExportReport, artifact: Artifact) -> StepReport:
    found = next((step for step in report.steps if step.file == artifact.file), None)
    if found is None:
        raise BundleError(f"report.json: expected a report of {artifact.file}, got none; export the checkpoint again")
    return found


def _kept_litert(judged: JudgedArtifact, evidence: Evidence, gate: TaskGate, plan: ExportPlan) -> JudgedArtifact:
    """An earlier `.tflite`, proven on the same golden windows; it is judged by others where LiteRT is there."""
    if plan.evaluation is None and plan.calibration is None and judged.artifact.confidence is not None:
        return judged
    if importlib.util.find_spec("ai_edge_litert") is not None:
        return rescored(judged, evidence) if judged.report.gate is None else judge_again(judged, evidence, gate)
    if plan.evaluation is None:
        return judged
    return replace(judged, report=msgspec.structs.replace(judged.report, scores=None, confidence=None))


def _evidence_from_golden(
    plan: ExportPlan, entry: ModelEntry, golden: Golden, graph: bytes, *, windows: WindowFacts
) -> Evidence:
    """Evidence from stored answers; windows that have none are answered by the proven graph."""
    backend = OrtBackend(graph)

    def answer(windows: NDArray[np.float32]) -> Answers:
        return answers_from_backend(backend, windows, entry.modality)

    answers = Answers(logits=golden.logits, probabilities=golden.probabilities)
    what = f"{plan.source}: fp32 graph on this machine"
    parity = compare(answers, answer(golden.windows), task=entry.task)
    require_parity(parity, tolerance=FP32_TOLERANCE, what=what)
    real = RealWindows(
        windows=golden.windows,
        labels=golden.labels,
        judge=golden.judge,
        source=windows.source,
        synthetic=windows.synthetic,
    )
    evidence = _evidence(plan, entry.modality, entry.task, real=real, answers=answers, answer=answer)
    if plan.calibration is not None:
        named = windows_from_path(plan.calibration, modality=entry.modality, task=entry.task)
        if windows.synthetic and plan.evaluation is None:  # the named windows judge too, so they are halved
            evidence = replace(evidence, judging=judging_of(named, answer(named.windows)))
        rows = others_than(named.windows, evidence.judging.windows)
        evidence = replace(evidence, calibration=named.windows[rows], calibration_labels=named.labels[rows])
    backend.close()
    return evidence


def _evidence(
    plan: ExportPlan,
    modality: ModalitySpec,
    task: TaskSpec,
    *,
    real: RealWindows,
    answers: Answers,
    answer: Callable[[NDArray[np.float32]], Answers],
) -> Evidence:
    gaps = with_missing_samples(real.windows, seed=_GAPS_SEED)
    calibrate = np.flatnonzero(~real.judge & (not real.synthetic))
    judging = judging_of(real, answers)
    if plan.evaluation is not None:
        chosen = windows_from_path(plan.evaluation, modality=modality, task=task, most=None)
        rows = others_than(chosen.windows, real.windows[calibrate])
        if len(rows) == 0:
            raise UsageError(
                f"{plan.evaluation}: --eval: expected windows that do not calibrate, got {len(chosen.windows)} that "
                "all do; name others"
            )
        windows = chosen.windows[rows]
        judging = Judging(windows=windows, labels=chosen.labels[rows], answers=answer(windows), source=chosen.source)
    return Evidence(
        modality=modality,
        task=task,
        real=real,
        answers=answers,
        gaps=gaps,
        gap_answers=answer(gaps),
        judging=judging,
        calibration=real.windows[calibrate],
        calibration_labels=real.labels[calibrate],
    )


def _stored_artifacts(bundle: Bundle, entry: ModelEntry, report: ExportReport) -> list[JudgedArtifact]:
    reports = {artifact.file: artifact for artifact in report.artifacts}
    return [
        JudgedArtifact(model=bundle.read(artifact.file), artifact=artifact, report=reports[artifact.file])
        for artifact in entry.artifacts
        if artifact.file in reports
    ]


def require_windows(plan: ExportPlan, checkpoint: StudentCheckpoint) -> None:
    """Checks that there will be windows, before the network is converted.

    Raises:
        UsageError: lower precision is asked for, the checkpoint carries none and the plan names none; or those that
            the plan names do not fit.
    """
    _real_windows(plan, checkpoint)


def _real_windows(plan: ExportPlan, checkpoint: StudentCheckpoint) -> RealWindows:
    if plan.calibration is not None:
        return windows_from_path(plan.calibration, modality=checkpoint.modality, task=checkpoint.task)
    carries = checkpoint.carried is not None and len(checkpoint.carried.windows) > 0
    if carries or _lower_precisions(plan):
        return windows_from_checkpoint(checkpoint.carried, checkpoint=plan.source)
    front = {name: checkpoint.state[f"encoder.front.{name}"].tolist() for name in ("mean", "std")}
    return windows_from_statistics(checkpoint.modality, checkpoint.task, mean=front["mean"], std=front["std"])


def _lower_precisions(plan: ExportPlan) -> list[str]:
    return [precision for precision in plan.precisions if precision != "fp32"]


def _metric(name: str, task: TaskSpec) -> AnyMetric:
    known = metrics_of(task.kind)
    if name not in known:
        raise CheckpointError(f"checkpoint: metric: expected one of {', '.join(known)}, got {name!r}; train again")
    return cast("AnyMetric", name)


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
        further_teachers_sha256=facts.teachers_sha256[1:],
        metric=_metric(facts.metric, checkpoint.task),
        score=facts.score,
        trained_with=facts.versions,
    )
