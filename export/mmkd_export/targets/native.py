"""The target `native`: a file for the runtime's own engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_export.plan import PLATFORMS as ALL_PLATFORMS
from mmkd_export.student import ProvenStudent
from mmkd_export.verify.artifacts import prove_fp32
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
