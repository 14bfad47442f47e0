"""From checkpoint to proven student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmkd_documents.export import LeftOutArtifact, StudentFacts, TwinFacts
from mmkd_edge.bundle.golden import Golden
from mmkd_edge.bundle.manifest import ArtifactFormat, FileEntry, ModelEntry, Precision, graph_inputs, graph_outputs
from mmkd_edge.bundle.statistics import GroupReference
from mmkd_edge.errors import GateError, MmkdError
from mmkd_edge.spec import ModalitySpec
from mmkd_export.graph.onnx_graph import count_mflops
from mmkd_export.plan import ExportPlan
from mmkd_export.verify.answers import NetworkAnswers, answers_from_student, clear_rows, fp32_tolerance
from mmkd_export.verify.artifacts import ProvenArtifact, RejectedError, prove_fp32
from mmkd_export.verify.gate import NOTHING_WRITTEN, GateRule, checkpoint_metric
from mmkd_export.verify.proof_set import ProofSet, build_proof_set, golden_from
from mmkd_export.verify.step_graph import StepGraph, step_from_checkpoint
from mmkd_export.verify.windows import (
    NAMED,
    RULE,
    RealWindows,
    check_fit,
    windows_from_checkpoint,
    windows_from_dataset,
    windows_from_statistics,
    with_range,
)
from mmkd_models.data.labels import is_labelled
from mmkd_models.evaluation.confidence import reliability
from mmkd_models.metrics.likelihood import fitted_temperature, probabilities_of
from mmkd_models.metrics.scores import gain_metric, known_score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.networks.config import MemberKind
    from mmkd_models.training.checkpoint import StudentCheckpoint

MIN_WINDOWS = 20  # with fewer labelled windows a fit would be chance
_COLDEST, _HOTTEST = 0.05, 20.0
Graph = Literal["window", "step"]
_ROUNDING_WINDOWS = 256  # windows that compare float32 with float64
_TOOLS = ("mmkd-edge", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class ProvenStudent:
    """A student with its proven fp32 graph."""

    source: Path
    checkpoint: StudentCheckpoint
    entry: ModelEntry  # without artifacts, golden windows and statistics
    facts: StudentFacts
    licence: str
    tools: dict[str, str]
    proof_set: ProofSet
    artifacts: tuple[ProvenArtifact, ...]  # the fp32 graph first, then fp32 of other formats, then lower precision
    steps: tuple[StepGraph, ...] = ()
    left_out: tuple[LeftOutArtifact, ...] = ()
    range_rule: str | None = None  # origin of the value range, if not the dataset
    golden: Golden | None = None  # if not those of the proof set
    twin: TwinFacts | None = None

    @property
    def fp32(self) -> dict[ArtifactFormat, bytes]:
        """Its fp32 models by format."""
        fp32 = [proven for proven in self.artifacts if proven.artifact.precision == "fp32"]
        return {proven.artifact.format: proven.model for proven in fp32}

    @property
    def members(self) -> tuple[MemberKind, ...]:
        """Kinds of its members."""
        return self.checkpoint.config.members

    @property
    def modality(self) -> ModalitySpec:
        """The student's input."""
        return self.entry.modality

    @property
    def model_id(self) -> str:
        """Dataset, modality, size, and start of the checkpoint's hash."""
        facts = self.facts
        return f"{facts.dataset}-{self.entry.name}-{facts.preset}-{facts.checkpoint_sha256[:8]}"

    def without(self, error: MmkdError, precision: Precision, file_format: ArtifactFormat) -> ProvenStudent:
        """Return it with an artifact that failed among those left out."""
        report = error.report if isinstance(error, RejectedError) else None
        if report is not None and (report.gate is None or not report.gate.finite):
            report = None  # its answers are not numbers, which JSON lacks
        reason = str(error).replace(NOTHING_WRITTEN, "")
        failed = LeftOutArtifact(precision=precision, format=file_format, reason=reason, artifact=report)
        return replace(self, left_out=(*self.left_out, failed))

    def check_has_int8(self) -> None:
        """Raise GateError for a student of normal running, whose graph INT8 makes no faster."""
        if self.entry.normal:
            raise GateError(
                "int8: a student of normal running has one product, with a vector, which INT8 makes no faster; "
                "--target native makes a .native that has it in int8 and is smaller"
            )


def read_checkpoint(plan: ExportPlan) -> tuple[StudentCheckpoint, RealWindows, str | None]:
    """Read student, windows and origin of the range; UsageError if the plan does not fit or lacks windows."""
    from mmkd_models.training.checkpoint import read_student

    checkpoint = read_student(plan.source)
    if plan.calibration is not None:
        real = windows_from_dataset(plan.calibration, modality=checkpoint.modality, task=checkpoint.task)
    elif plan.lower_precisions or (checkpoint.carried is not None and len(checkpoint.carried.windows) > 0):
        real = windows_from_checkpoint(checkpoint.carried, checkpoint=plan.source)
    else:
        real = windows_from_statistics(checkpoint.modality, checkpoint.task, **checkpoint.normalisation)
    ranged = with_range(checkpoint, real.windows, plan.value_range)
    if ranged.modality.range == checkpoint.modality.range:
        return ranged, real, None
    return ranged, real, RULE if plan.value_range == "auto" else NAMED


def choose_temperature(checkpoint: StudentCheckpoint, real: RealWindows) -> float:
    """Fit on calibrating windows; 1 unless that helps judging ones."""
    rows = np.flatnonzero(real.labels >= 0) if checkpoint.task.kind == "classification" else ()
    if len(rows) == 0:
        return 1.0
    logits = answers_from_student(checkpoint, real.windows[rows]).logits
    return judged_temperature(logits, real.labels[rows], real.judge[rows])


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Fit T of softmax(logits / T) in [0.05, 20] by log loss, convex in 1 / T, to labels (N,), -1 = unknown."""
    labelled = np.flatnonzero(labels >= 0)
    if len(labelled) < MIN_WINDOWS:
        return 1.0
    temperature = fitted_temperature(logits[labelled], labels[labelled], kind="classification")
    return round(min(max(temperature, _COLDEST), _HOTTEST), 4)


def judged_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64], judge: NDArray[np.bool_]) -> float:
    """Return T fitted where `judge` (N,) is False if it lowers the others' log loss, not raising ECE; else 1."""
    judging = judge & (labels >= 0)
    temperature = fit_temperature(logits[~judge], labels[~judge])
    if temperature == 1.0 or not judging.any():
        return 1.0
    before, after = (
        reliability(probabilities_of(logits[judging] / divisor, kind="classification"), labels[judging])
        for divisor in (1.0, temperature)
    )
    helps = after.log_loss < before.log_loss and after.calibration_error <= before.calibration_error
    return temperature if helps else 1.0


def prove_student(
    plan: ExportPlan,
    checkpoint: StudentCheckpoint,
    graph: bytes,
    *,
    real: RealWindows,
    temperature: float,
    range_rule: str | None,
    twin: TwinFacts | None = None,
) -> ProvenStudent:
    """Compare a fp32 graph with torch: GateError if answers differ, UsageError if judging windows do not fit."""

    def answer(windows: NDArray[Any]) -> NetworkAnswers:
        return answers_from_student(checkpoint, windows, temperature=temperature)

    modality, task, origin = checkpoint.modality, checkpoint.task, checkpoint.facts
    name = modality.name if twin is None else f"{modality.name}-portable"
    proof_set = build_proof_set(
        real,
        modality=modality,
        task=task,
        answer=answer,
        find_clear=lambda windows: clear_rows(checkpoint, windows),
        rule=GateRule(
            metric=checkpoint_metric(origin.metric, task),
            max_drop_points=plan.max_drop_points,
            accept_unjudged=plan.accept_unjudged,
        ),
        evaluation=plan.evaluation,
        temperature=temperature,
        novelty_scores=() if checkpoint.embeddings is None else tuple(checkpoint.embeddings.scores.double().tolist()),
    )
    # Evenly spread: rows are sorted by group, and rounding depends on the group's level.
    rows = np.unique(np.linspace(0, len(real.windows) - 1, _ROUNDING_WINDOWS).round().astype(np.intp))
    tolerance = fp32_tolerance(
        answers_from_student(checkpoint, real.windows[rows], temperature=temperature, exact=True),
        proof_set.answers.rows(rows),
        task=task,
        what=str(plan.source),
        is_transformer=checkpoint.config.members == ("transformer",),
    )
    proof_set = replace(proof_set, tolerance=tolerance, name=name)
    golden = None
    if plan.golden == "synthetic":
        drawn = windows_from_statistics(modality, task, **checkpoint.normalisation)
        golden = golden_from(drawn, answer(drawn.windows), tolerance=tolerance)
    reference = _read_reference(plan, modality) or origin.group_reference or None
    facts = _student_facts(plan, checkpoint, graph)
    return ProvenStudent(
        source=plan.source,
        checkpoint=checkpoint,
        entry=_model_entry(checkpoint, facts, reference, name=name, twin=twin),
        facts=facts,
        licence=origin.licence or "not stated by the dataset",
        tools={name: version(name) for name in _TOOLS},
        proof_set=proof_set,
        golden=golden,
        artifacts=(prove_fp32(graph, proof_set),),
        steps=(step_from_checkpoint(checkpoint, proof_set),) if checkpoint.config.causal else (),
        range_rule=range_rule,
        twin=twin,
    )


def compare_twin(
    checkpoint: StudentCheckpoint, portable: StudentCheckpoint, real: RealWindows, *, lacking: Sequence[str]
) -> TwinFacts:
    """Return what a student's portable twin costs on labelled windows."""
    from mmkd_models.evaluation.gains import gain_on_windows
    from mmkd_models.evaluation.outcome import outcome_of

    task, metric = checkpoint.task, gain_metric(checkpoint.task, checkpoint.facts.metric).name
    known = real.rows(is_labelled(real.labels))
    groups = np.zeros(len(known.labels), dtype=np.int64) if known.groups is None else known.groups
    gain = None
    if len(known.labels):
        decisive = "probabilities" if task.kind == "regression" else "logits"
        first, other = (
            outcome_of(task, known.labels, getattr(answers_from_student(student, known.windows), decisive), groups)
            for student in (checkpoint, portable)
        )
        gain = gain_on_windows(other, first, metric, seed=0)
    return TwinFacts(
        of=checkpoint.modality.name,
        members=portable.config.members,
        lacking=tuple(lacking),
        metric=metric,
        gain=gain,
        windows=len(known.labels),
        groups=0 if known.groups is None else len(np.unique(groups)),
    )


def _student_facts(plan: ExportPlan, checkpoint: StudentCheckpoint, graph: bytes) -> StudentFacts:
    import onnx

    from mmkd_models.networks.student import count_values
    from mmkd_models.training.checkpoint import file_sha256

    modality, task, origin = checkpoint.modality, checkpoint.task, checkpoint.facts
    model = onnx.load_from_string(graph)
    return StudentFacts(
        checkpoint_sha256=file_sha256(plan.source),
        modality=modality.name,
        labels=task.labels,
        preset=checkpoint.config.preset,
        parameters=count_values(checkpoint.network()),
        mflops=count_mflops(model),
        nodes=len(model.graph.node),
        dataset=origin.dataset,
        dataset_sha256=origin.dataset_sha256,
        teacher_sha256=origin.teacher_sha256,
        further_teachers_sha256=origin.teachers_sha256[1:],
        metric=checkpoint_metric(origin.metric, task),
        score=known_score(origin.metric, origin.score),
        trained_with=origin.versions,
    )


def _model_entry(
    checkpoint: StudentCheckpoint,
    facts: StudentFacts,
    reference: GroupReference | None,
    *,
    name: str,
    twin: TwinFacts | None,
) -> ModelEntry:
    from mmkd_export.graph.onnx_from_student import describe_steps

    modality, task, origin = checkpoint.modality, checkpoint.task, checkpoint.facts
    return ModelEntry(
        name=name,
        modality=modality,
        task=task,
        inputs=graph_inputs(modality),
        outputs=graph_outputs(task, novelty=checkpoint.embeddings is not None),
        preset=facts.preset,
        parameters=facts.parameters,
        mflops=facts.mflops,
        validation_metric=facts.metric,
        validation_score=origin.score,
        dataset_name=facts.dataset,
        dataset_sha256=facts.dataset_sha256,
        teacher_sha256=facts.teacher_sha256,
        artifacts=(),
        golden=FileEntry(file=f"{name}/golden.npz", sha256="", size_bytes=0),
        group_reference=reference,
        streaming=describe_steps(checkpoint) if checkpoint.config.causal else None,
        adapted=origin.adapted or None,
        fold=origin.fold,
        training_hashes=origin.training_hashes or None,
        normal=origin.normal,
        over_time=origin.over_time,
        members=checkpoint.config.members,
        twin_of=None if twin is None else twin.of,
    )


def _read_reference(plan: ExportPlan, modality: ModalitySpec) -> GroupReference | None:
    if plan.drift_reference is None:
        return None
    from mmkd_models.data.dataset import open_dataset
    from mmkd_models.training.references import group_reference

    dataset = open_dataset(plan.drift_reference)
    check_fit(dataset.spec.modality(modality.name), modality, where=str(plan.drift_reference))
    return group_reference(dataset.split("train"), dataset.split("valid"), modality.name)
