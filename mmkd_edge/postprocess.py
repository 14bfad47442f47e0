"""From the graph's outputs to a `Prediction` that says how far it can be trusted.

A prediction never carries NaN, and never a class that no data stands behind: then it is `invalid` and names none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from mmkd_edge.errors import BackendError
from mmkd_edge.preprocess import all_present
from mmkd_edge.spec import ModalitySpec, TaskSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

Status = Literal["ok", "degraded", "invalid"]

# From this share of missing values on, or with one channel wholly missing, a prediction is degraded. A convention:
# below it single samples are lost, above it a stretch of the signal. A station with another limit compares
# `missing_share`.
DEGRADED_SHARE = 0.1
# Rounding of a softmax in float16 over many classes stays well within.
_SUM_TOLERANCE = 0.01


# A Struct, though it is never read from a file: it is built five times faster than a frozen dataclass.
class Prediction(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The answer for one window.

    Attributes:
        label: name of the most probable class; empty where `status` is invalid.
        index: of that class in the task's labels; -1 where `status` is invalid.
        probability: of that class, 0 to 1; 0 where `status` is invalid.
        probabilities: float32 (K,), in the order of the task's labels; zeros where `status` is invalid.
        status: `ok`; `degraded` where much of the window is missing; `invalid` where there is no answer.
        reason: why `status` is not ok, else empty.
        missing_share: share of the window's values that are missing, 0 to 1.
        modality: which modality answered.
    """

    label: str
    index: int
    probability: float
    probabilities: NDArray[np.float32]
    status: Status
    reason: str
    missing_share: float
    modality: str


def interpret(
    probabilities: NDArray[np.float32], present: NDArray[np.float32], *, modality: ModalitySpec, task: TaskSpec
) -> Prediction:
    """Turn one answer into a `Prediction`.

    Args:
        probabilities: float32 (1, K), the graph's second output; the prediction keeps it.
        present: float32 (1, T, C), what `prepare` gave.
        modality: what was asked about.
        task: its labels.

    Raises:
        BackendError: the answer has another number of classes than the task.
    """
    row = probabilities[0]
    shares: list[float] = row.tolist()
    if len(shares) != len(task.labels):
        raise BackendError(
            f"modality {modality.name!r}: expected {len(task.labels)} probabilities, got {len(shares)}; "
            "the backend runs another model than the manifest describes"
        )
    missing = 0 if present is all_present(modality.shape) else present.size - int(np.count_nonzero(present))
    # NaN and infinities fail the comparison of the sum.
    if missing == present.size or not (abs(sum(shares) - 1) <= _SUM_TOLERANCE and min(shares) >= 0):
        return _invalid(missing, present.size, modality, task)
    status, reason = _quality(missing, present, modality) if missing else ("ok", "")
    probability = max(shares)
    index = shares.index(probability)
    return Prediction(
        label=task.labels[index],
        index=index,
        probability=probability,
        probabilities=row,
        status=status,
        reason=reason,
        missing_share=missing / present.size,
        modality=modality.name,
    )


def _quality(missing: int, present: NDArray[np.float32], modality: ModalitySpec) -> tuple[Status, str]:
    if missing >= modality.samples:  # else no channel can be wholly missing
        live: list[bool] = np.any(present, axis=(0, 1)).tolist()  # (C,)
        dead = [repr(name) for name, alive in zip(modality.channels, live, strict=True) if not alive]
        if dead:
            return "degraded", f"channel {', '.join(dead)} is missing"
    if missing >= DEGRADED_SHARE * present.size:
        return "degraded", f"{missing / present.size:.1%} of the values are missing"
    return "ok", ""


def _invalid(missing: int, total: int, modality: ModalitySpec, task: TaskSpec) -> Prediction:
    reason = "all values are missing" if missing == total else "the model's answer is not a distribution"
    return Prediction(
        label="",
        index=-1,
        probability=0.0,
        probabilities=np.zeros(len(task.labels), dtype=np.float32),
        status="invalid",
        reason=reason,
        missing_share=missing / total,
        modality=modality.name,
    )
