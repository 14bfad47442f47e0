"""The target `native`: files for the runtime's own engine."""

from __future__ import annotations

from statistics import median
from timeit import repeat
from typing import TYPE_CHECKING

from mmkd_export.graph.native_from_student import native_file
from mmkd_export.graph.onnx_from_student import exported_network

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import StudentCheckpoint
    from mmkd_models.training.inputs import LatencyLimit

_TIMED = 100  # windows of an estimate


def latency_limit(ms: float | None) -> LatencyLimit | None:
    """Return the limit of `--max-latency-ms`; None without one."""
    from mmkd_models.training.inputs import LatencyLimit

    return None if ms is None else LatencyLimit(ms=ms, measure=measure_member)


def measure_member(student: StudentCheckpoint) -> float:
    """Return the median milliseconds of a window in the native engine. Raise UnavailableError without it."""
    import numpy as np

    from mmkd_edge.native import NativeModel

    model = NativeModel(model_of(student, temperature=1.0))
    values = np.ones((1, *model.shape), dtype=np.float32)
    return 1000 * median(repeat(lambda: model.run(values, values), number=1, repeat=_TIMED))


def model_of(checkpoint: StudentCheckpoint, *, temperature: float) -> bytes:
    """Return the `.native` file; raise UsageError if the engine does not support the network."""
    return native_file(exported_network(checkpoint, temperature=temperature), checkpoint.modality)
