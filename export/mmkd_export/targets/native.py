"""The target `native`: files for the runtime's own engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_export.plan import PLATFORMS as ALL_PLATFORMS
from mmkd_export.student import Graph, ProvenStudent

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import StudentCheckpoint

PLATFORMS = tuple(platform.name for platform in ALL_PLATFORMS)  # each has a processor


def convert_native(student: ProvenStudent, checkpoint: StudentCheckpoint, source: Path, graph: Graph) -> bytes:
    """Return the `.native` file, which also steps; raise UsageError if the engine does not support the network."""
    from mmkd_export.graph.native_from_student import native_file
    from mmkd_models.networks.student import ExportStudent

    temperature = student.proof_set.temperature
    network = ExportStudent(checkpoint.network(), temperature=temperature, seen=checkpoint.seen).eval()
    return native_file(network, checkpoint.modality)


def int8_native(model: bytes, graph: bytes) -> bytes:
    """Return a `.native` file with int8 weights: smaller, not faster."""
    from mmkd_export.graph.native_from_student import int8_weights

    return int8_weights(model)
