"""The target `native`: files for the runtime's own engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_export.plan import PLATFORMS as ALL_PLATFORMS
from mmkd_export.student import ProvenStudent
from mmkd_export.verify.artifacts import ProvenArtifact, prove_fp32, prove_lower_precision, require_passed
from mmkd_export.verify.gate import GateRule, require_windows
from mmkd_export.verify.step_graph import prove_step

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import StudentCheckpoint

PLATFORMS = tuple(platform.name for platform in ALL_PLATFORMS)  # each has a processor


def add_native(student: ProvenStudent, checkpoint: StudentCheckpoint, source: Path) -> ProvenStudent:
    """Add the `.native` file; raise UsageError if the engine does not support the network."""
    from mmkd_export.graph.native_from_student import native_file
    from mmkd_models.networks.student import ExportStudent

    proof_set = student.proof_set
    network = ExportStudent(checkpoint.network(), temperature=proof_set.temperature, seen=checkpoint.seen).eval()
    model = native_file(network, checkpoint.modality)
    student = replace(student, others=(prove_fp32(model, proof_set, file_format="native"), *student.others))
    if not student.steps:
        return student
    step = prove_step(model, checkpoint, proof_set, file_format="native", mflops=student.steps[0].report.mflops)
    return replace(student, steps=(*student.steps, step))


def make_int8_native(student: ProvenStudent, rule: GateRule) -> ProvenArtifact:
    """Return a `.native` file with int8 weights that passed the gates: smaller, not faster."""
    from mmkd_export.graph.native_from_student import int8_weights

    require_windows(len(student.proof_set.judging.labels), what="int8 .native", rule=rule)
    model = next(proven.model for proven in student.others if proven.artifact.format == "native")
    proven = prove_lower_precision(int8_weights(model), student.proof_set, rule, precision="int8", file_format="native")
    return require_passed(proven, advice="Export without --precision int8, or raise --max-drop-points")
