"""The student on its way into a bundle, from a checkpoint or from an earlier bundle.

Owns what the two have in common, so that everything behind it is the same for both. A bundle needs no torch: its fp32
graph was proven when it was made, and its golden windows hold the checkpoint's answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_edge.backends.base import backend_for, is_installed
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.golden import Golden
from mmkd_edge.bundle.manifest import Adapted, Artifact, BatchRange, ModelEntry, Precision, Streaming
from mmkd_edge.drift.features import GroupReference, InputStatistics
from mmkd_edge.errors import BundleError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_graph import mflops_of
from mmkd_export.plan import ExportPlan, only_student
from mmkd_export.report import read_report
from mmkd_export.verify.artifacts import ProvenArtifact, answers_as_before, prove_again, prove_fp32, rescored
from mmkd_export.verify.confidence import helpful_temperature
from mmkd_export.verify.gate import GateRule, JudgingWindows, check_metric
from mmkd_export.verify.golden_choice import SAID, golden_without_recordings
from mmkd_export.verify.parity import (
    NetworkAnswers,
    answers_from_backend,
    compare,
    fp32_tolerance,
    require_parity,
    with_missing_samples,
)
from mmkd_export.verify.plausible import NAMED, with_named_range
from mmkd_export.verify.proof_set import ProofSet, judging_of
from mmkd_export.verify.step_graph import StepGraph, step_from_checkpoint, stored_step
from mmkd_export.verify.tolerance import with_tolerance
from mmkd_export.verify.windows import (
    RealWindows,
    check_fit,
    others_than,
    windows_from_checkpoint,
    windows_from_path,
    windows_from_statistics,
)
from mmkd_report.schema.export import ExportReport, StepReport, StudentFacts, WindowFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint

_GAPS_SEED = 0
_ROUNDED = 256  # windows at most that tell how far float32 is from float64
_NO_LICENCE = "not stated by the dataset"
_FROM_TORCH = ("mmkd-edge", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")
_FROM_BUNDLE = ("mmkd-edge", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class ProvenStudent:
    """A student with its proven fp32 graph.

    Attributes:
        licence: of the weights and the windows.
        tools: versions of what made the fp32 graph.
        proof_set: what every artifact is held against.
        others: artifacts of other precisions that an earlier bundle had.
        streaming: how a causal student steps, but for the artifacts; None of a windowed one.
        steps: its step graphs.
        group_reference: how the groups of its training differ from each other; None where nobody measured it.
        golden: what a device tests itself with, in place of the windows of the proof set; None for those.
        range_rule: where the range of its values comes from; None where the dataset declares it.
        adapted: to which domains it was adapted, in order.
        fold: whose windows trained it, as in the manifest.
        training_hashes: of what trained it, as in the manifest.
        judged_before: the windows that an earlier bundle was judged by, where its judgement holds.
        statistics: of the windows that an earlier bundle was made with, where it carries fewer; None to measure them.
    """

    modality: ModalitySpec
    task: TaskSpec
    facts: StudentFacts
    licence: str
    tools: dict[str, str]
    proof_set: ProofSet
    fp32: ProvenArtifact
    others: tuple[ProvenArtifact, ...] = ()
    streaming: Streaming | None = None
    steps: tuple[StepGraph, ...] = ()
    group_reference: GroupReference | None = None
    range_rule: str | None = None
    golden: Golden | None = None
    adapted: tuple[Adapted, ...] = ()
    fold: int | msgspec.UnsetType | None = msgspec.UNSET
    training_hashes: bytes | msgspec.UnsetType = msgspec.UNSET
    judged_before: WindowFacts | None = None
    statistics: InputStatistics | None = None

    @property
    def batch(self) -> BatchRange | None:
        """How many windows its graphs take at once; None for one."""
        return self.fp32.artifact.batch

    @property
    def has_novelty(self) -> bool:
        """Whether its graphs give a novelty score."""
        return self.proof_set.answers.novelty is not None

    @property
    def model_id(self) -> str:
        """What people call the bundle: dataset, modality, size, and the start of the checkpoint's hash."""
        facts = self.facts
        return f"{facts.dataset}-{facts.modality}-{facts.preset}-{facts.checkpoint_sha256[:8]}"


def fitted_temperature(checkpoint: StudentCheckpoint, real: RealWindows) -> float:
    """The temperature that fits the calibrating windows and helps the judging ones; 1 where there is none."""
    from mmkd_export.verify.torch_answers import answers_from_student

    if checkpoint.task.kind != "classification":
        return 1.0
    rows = np.flatnonzero(real.labels >= 0)
    if len(rows) == 0:
        return 1.0
    logits = answers_from_student(checkpoint, real.windows[rows]).logits
    return helpful_temperature(logits, real.labels[rows], real.judge[rows])


def student_from_checkpoint(
    plan: ExportPlan, checkpoint: StudentCheckpoint, graph: bytes, *, real: RealWindows, temperature: float
) -> ProvenStudent:
    """Holds a checkpoint's graph against torch.

    Raises:
        UsageError: the windows that judge do not fit.
        GateError: the graph does not answer as the checkpoint does.
    """
    from mmkd_export.graph.onnx_from_student import steps_of
    from mmkd_export.verify.torch_answers import answers_from_student
    from mmkd_models.training.checkpoint import file_sha256

    def answer(windows: NDArray[Any]) -> NetworkAnswers:
        return answers_from_student(checkpoint, windows, temperature=temperature)

    proof_set = _proof_set(
        plan, checkpoint.modality, checkpoint.task, real=real, answers=answer(real.windows), answer=answer
    )
    # Spread over all of them: rows stand group by group, and rounding depends on a group's level.
    some = np.unique(np.linspace(0, len(real.windows) - 1, _ROUNDED).round().astype(np.intp))
    exact = answers_from_student(checkpoint, real.windows[some], temperature=temperature, exact=True)
    proof_set = replace(
        proof_set,
        temperature=temperature,
        tolerance=fp32_tolerance(
            exact,
            proof_set.answers.rows(some),
            task=checkpoint.task,
            what=str(plan.source),
            is_transformer=checkpoint.config.kind == "transformer",
        ),
        novelty_scores=_scores_of(checkpoint),
    )
    golden: Golden | None = None
    if plan.golden != "real":
        golden = golden_without_recordings(
            plan.golden,
            checkpoint.modality,
            checkpoint.task,
            **checkpoint.normalisation,
            answer=answer,
            tolerance=proof_set.tolerance,
        )
    return ProvenStudent(
        modality=checkpoint.modality,
        task=checkpoint.task,
        facts=_student_facts(checkpoint, graph, checkpoint_sha256=file_sha256(plan.source)),
        licence=checkpoint.facts.licence or _NO_LICENCE,
        tools={name: version(name) for name in _FROM_TORCH},
        proof_set=proof_set,
        golden=golden,
        fp32=prove_fp32(graph, proof_set, batch=plan.batch),
        streaming=steps_of(checkpoint) if checkpoint.config.causal else None,
        steps=(step_from_checkpoint(checkpoint, proof_set),) if checkpoint.config.causal else (),
        group_reference=with_tolerance(
            _named_reference(plan, checkpoint.modality) or checkpoint.facts.group_reference or None,
            real,
            task=checkpoint.task,
            answer=answer,
        ),
        adapted=checkpoint.facts.adapted or (),
        fold=checkpoint.facts.fold,
        training_hashes=checkpoint.facts.training_hashes,
    )


def _scores_of(checkpoint: StudentCheckpoint) -> tuple[float, ...]:
    """The novelty scores of its validation windows."""
    return () if checkpoint.seen is None else tuple(checkpoint.seen.scores.double().tolist())


def student_from_bundle(plan: ExportPlan, *, remade: Collection[Precision]) -> ProvenStudent:
    """Reads an earlier bundle and checks that this machine computes the answers stored in it.

    Args:
        plan: names the bundle, and windows where others than the stored ones shall judge or calibrate.
        remade: precisions whose artifacts will be made anew, so that the earlier ones are left out.

    Raises:
        UsageError: the windows or the range named in the plan do not fit.
        BundleError: the bundle is damaged, or has no fp32 graph.
        GateError: this machine computes other answers, as where golden windows are outside the range that was named, or
            an earlier artifact fails on the windows that judge now.
    """
    with Bundle.open(plan.source) as bundle:
        manifest = bundle.manifest
        entry = _with_named_range(only_student(bundle), plan)
        report = read_report(bundle)
        golden = bundle.golden(entry.name)
        stored = _stored_artifacts(bundle, entry, report)
        step_files = entry.streaming.artifacts if entry.streaming else ()
        step_models = [bundle.read(artifact.file) for artifact in step_files]
    windows = _as_carried(report.windows)
    replaced = {"fp32", *remade}
    graphs = [proven for proven in stored if proven.artifact.format == "onnx"]
    fp32 = _fp32_of(plan, graphs)
    _check_recorded(plan, windows)
    proof_set = _as_calibrated(_proof_set_of_bundle(plan, entry, golden, fp32.model, windows=windows), fp32.artifact)
    rule = _rule(report.student, entry.task, plan)
    fewer = windows.carried is not msgspec.UNSET
    holds = fewer and plan.evaluation is None and plan.calibration is None

    def again(proven: ProvenArtifact) -> ProvenArtifact:
        return answers_as_before(proven, proof_set) if holds else prove_again(proven, proof_set, rule)

    return ProvenStudent(
        modality=entry.modality,
        task=entry.task,
        facts=report.student,
        licence=manifest.licence,
        tools=report.tools | {name: version(name) for name in _FROM_BUNDLE},
        proof_set=proof_set,
        fp32=fp32 if holds else rescored(fp32, proof_set),
        others=(
            *(_kept(proven, proof_set, rule, plan) for proven in stored if proven.artifact.format != "onnx"),
            *(again(proven) for proven in graphs if proven.artifact.precision not in replaced),
        ),
        streaming=entry.streaming,
        steps=tuple(
            stored_step(model, artifact, entry.streaming, _step_report(report, artifact), proof_set)
            for model, artifact in zip(step_models, step_files, strict=True)
            if entry.streaming is not None
        ),
        group_reference=_reference_of_bundle(plan, entry, proof_set, graph=fp32.model),
        range_rule=_range_rule(report, plan),
        adapted=entry.adapted or (),
        fold=entry.fold,
        training_hashes=entry.training_hashes,
        judged_before=windows if holds else None,
        statistics=entry.statistics if fewer else None,
    )


def _fp32_of(plan: ExportPlan, graphs: Sequence[ProvenArtifact]) -> ProvenArtifact:
    fp32 = next((proven for proven in graphs if proven.artifact.precision == "fp32"), None)
    if fp32 is None:
        raise UsageError(f"{plan.source}: expected a bundle with an fp32 graph, got one without; export the checkpoint")
    return fp32


def _check_recorded(plan: ExportPlan, windows: WindowFacts) -> None:
    if windows.synthetic and plan.calibration is None and plan.lower_precisions:
        raise UsageError(
            f"{plan.source}: --precision {plan.lower_precisions[0]}: expected recorded windows, got a bundle whose "
            "windows are synthetic; name some with --calib DATA or --calib FILE.npz"
        )


def _as_calibrated(proof_set: ProofSet, fp32: Artifact) -> ProofSet:
    """With the temperature and the novelty scores that an earlier export found."""
    if fp32.confidence is not None:
        proof_set = replace(proof_set, temperature=fp32.confidence.temperature)
    return replace(proof_set, novelty_scores=fp32.novelty.scores) if fp32.novelty else proof_set


def _with_named_range(entry: ModelEntry, plan: ExportPlan) -> ModelEntry:
    return msgspec.structs.replace(entry, modality=with_named_range(entry.modality, plan.value_range))


def _range_rule(report: ExportReport, plan: ExportPlan) -> str | None:
    if plan.value_range == "auto":
        return report.range_rule or None
    return None if plan.value_range == "none" else NAMED


def _as_carried(windows: WindowFacts) -> WindowFacts:
    """What a report says of the windows that a bundle carries, whatever judged when it was made."""
    if windows.golden is msgspec.UNSET:
        return windows
    return msgspec.structs.replace(windows, synthetic=True, source=f"{windows.golden} windows ({SAID[windows.golden]})")


def _reference_of_bundle(
    plan: ExportPlan, entry: ModelEntry, proof_set: ProofSet, *, graph: bytes
) -> GroupReference | None:
    """The spread between groups that the plan names, else that of the earlier bundle as it is."""
    named = _named_reference(plan, entry.modality)
    if named is None:
        return entry.group_reference
    backend = OrtBackend(graph)
    try:
        return with_tolerance(
            named,
            proof_set.real,
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


def _kept(proven: ProvenArtifact, proof_set: ProofSet, rule: GateRule, plan: ExportPlan) -> ProvenArtifact:
    """An artifact of another format, proven on the same golden windows; others judge it where its backend is there."""
    if plan.evaluation is None and plan.calibration is None and proven.artifact.confidence is not None:
        return proven
    if is_installed(backend_for(proven.artifact.format)):
        return rescored(proven, proof_set) if proven.report.gate is None else prove_again(proven, proof_set, rule)
    if plan.evaluation is None:
        return proven
    return replace(proven, report=msgspec.structs.replace(proven.report, scores=None, confidence=None))


def _proof_set_of_bundle(
    plan: ExportPlan, entry: ModelEntry, golden: Golden, graph: bytes, *, windows: WindowFacts
) -> ProofSet:
    """The proof set of stored answers; windows without any are answered by the fp32 graph."""
    backend = OrtBackend(graph)

    def answer(windows: NDArray[Any]) -> NetworkAnswers:
        return answers_from_backend(backend, windows, entry.modality)

    answers = NetworkAnswers(logits=golden.logits, probabilities=golden.probabilities, novelty=golden.novelty)
    what = f"{plan.source}: fp32 graph on this machine"
    parity = compare(answers, answer(golden.windows), task=entry.task)
    require_parity(parity, tolerance=golden.tolerance, what=what)
    real = RealWindows(
        windows=golden.windows,
        labels=golden.labels,
        judge=golden.judge,
        source=windows.source,
        synthetic=windows.synthetic,
    )
    proof_set = _proof_set(plan, entry.modality, entry.task, real=real, answers=answers, answer=answer)
    proof_set = replace(proof_set, tolerance=golden.tolerance)
    if plan.calibration is not None:
        named = windows_from_path(plan.calibration, modality=entry.modality, task=entry.task)
        if windows.synthetic and plan.evaluation is None:  # the named windows judge too, so they are halved
            proof_set = replace(proof_set, judging=judging_of(named, answer(named.windows)))
        rows = others_than(named.windows, proof_set.judging.windows)
        proof_set = replace(proof_set, calibration=named.windows[rows], calibration_labels=named.labels[rows])
    backend.close()
    return proof_set


def _proof_set(
    plan: ExportPlan,
    modality: ModalitySpec,
    task: TaskSpec,
    *,
    real: RealWindows,
    answers: NetworkAnswers,
    answer: Callable[[NDArray[np.float32]], NetworkAnswers],
) -> ProofSet:
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
        judging = JudgingWindows(
            windows=windows, labels=chosen.labels[rows], answers=answer(windows), source=chosen.source
        )
    return ProofSet(
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


def _stored_artifacts(bundle: Bundle, entry: ModelEntry, report: ExportReport) -> list[ProvenArtifact]:
    reports = {artifact.file: artifact for artifact in report.artifacts}
    return [
        ProvenArtifact(model=bundle.read(artifact.file), artifact=artifact, report=reports[artifact.file])
        for artifact in entry.artifacts
        if artifact.file in reports
    ]


def real_windows(plan: ExportPlan, checkpoint: StudentCheckpoint) -> RealWindows:
    """Gives the windows that a plan names for a checkpoint, else those that it carries, else drawn ones.

    Raises:
        UsageError: lower precision is asked for, the checkpoint carries none and the plan names none; or those that
            the plan names do not fit.
    """
    if plan.calibration is not None:
        return windows_from_path(plan.calibration, modality=checkpoint.modality, task=checkpoint.task)
    carries = checkpoint.carried is not None and len(checkpoint.carried.windows) > 0
    if carries or plan.lower_precisions:
        return windows_from_checkpoint(checkpoint.carried, checkpoint=plan.source)
    scale = checkpoint.normalisation
    return windows_from_statistics(checkpoint.modality, checkpoint.task, mean=scale["mean"], std=scale["std"])


def gate_rule(student: ProvenStudent, plan: ExportPlan) -> GateRule:
    """The gate that a plan asks for."""
    return _rule(student.facts, student.task, plan)


def _rule(facts: StudentFacts, task: TaskSpec, plan: ExportPlan) -> GateRule:
    return GateRule(
        metric=check_metric(facts.metric, task),
        max_drop_points=plan.max_drop_points,
        accept_unjudged=plan.accept_unjudged,
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
        mflops=mflops_of(model),
        nodes=len(model.graph.node),
        dataset=facts.dataset,
        dataset_sha256=facts.dataset_sha256,
        teacher_sha256=facts.teacher_sha256,
        further_teachers_sha256=facts.teachers_sha256[1:],
        metric=check_metric(facts.metric, checkpoint.task),
        score=facts.score,
        trained_with=facts.versions,
    )
