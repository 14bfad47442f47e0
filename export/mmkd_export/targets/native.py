"""The target `native`: files for the runtime's own engine."""

from __future__ import annotations

from statistics import median
from timeit import repeat
from typing import TYPE_CHECKING

from mmkd_export.plan import PLATFORMS as ALL_PLATFORMS
from mmkd_export.student import Graph, ProvenStudent

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import StudentCheckpoint
    from mmkd_models.training.inputs import LatencyLimit

_TIMED = 100  # windows of an estimate
PLATFORMS = tuple(platform.name for platform in ALL_PLATFORMS)  # each has a processor


def convert_native(student: ProvenStudent, graph: Graph) -> bytes:
    """Return the `.native` file, which also steps; raise UsageError if the engine does not support the network."""
    return _model_of(student.checkpoint, temperature=student.proof_set.temperature)


def latency_limit(ms: float | None) -> LatencyLimit | None:
    """Return the limit of `--max-latency-ms`; None without one."""
    from mmkd_models.training.inputs import LatencyLimit

    return None if ms is None else LatencyLimit(ms=ms, measure=measure_member)


def measure_member(student: StudentCheckpoint) -> float:
    """Return the median milliseconds of a window in the native engine. Raise UnavailableError without it."""
    import numpy as np

    from mmkd_edge.native import NativeModel

    model = NativeModel(_model_of(student, temperature=1.0))
    values = np.ones((1, *model.shape), dtype=np.float32)
    return 1000 * median(repeat(lambda: model.run(values, values), number=1, repeat=_TIMED))


def _model_of(checkpoint: StudentCheckpoint, *, temperature: float) -> bytes:
    from mmkd_export.graph.native_from_student import native_file
    from mmkd_models.networks.student import ExportStudent

    network = ExportStudent(checkpoint.network(), temperature=temperature, embeddings=checkpoint.embeddings)
    return native_file(network.eval(), checkpoint.modality)


def int8_native(model: bytes, graph: bytes) -> bytes:
    """Return a `.native` file with int8 weights: smaller, not faster."""
    from mmkd_export.graph.native_from_student import int8_weights

    return int8_weights(model)
