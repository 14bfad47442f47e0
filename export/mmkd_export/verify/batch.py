"""A batch axis that may vary: what `--dim` asks for, and the proof that a graph really does it.

Owns the proof. A declared axis proves nothing: exporters write graphs that run with the size they were traced with and
fail, or answer wrongly, with another. So every size in the range is run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.golden import answer_scale
from mmkd_edge.bundle.manifest import MOST_WINDOWS_AT_ONCE, BatchRange
from mmkd_edge.errors import GateError, UsageError, first_line
from mmkd_export.graph.calibration import Feeds, cpu_session
from mmkd_export.verify.proof_set import ProofSet, feeds_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RANGE = re.compile(r"batch=(\d+):(\d+):(\d+)\Z")


def batch_from_dim(text: str) -> BatchRange:
    """Reads `batch=MIN:OPT:MAX`.

    Raises:
        UsageError: it is another axis, or no range that starts at 1.

    Example:
        >>> batch_from_dim("batch=1:1:8").maximum
        8
    """
    found = _RANGE.match(text)
    sizes = tuple(int(size) for size in found.groups()) if found else (0, 0, 0)
    if not (1 == sizes[0] <= sizes[1] <= sizes[2] <= MOST_WINDOWS_AT_ONCE and sizes[2] > 1):
        raise UsageError(
            f"--dim {text!r}: expected batch=1:OPT:MAX with 1 <= OPT <= MAX and MAX from 2 to {MOST_WINDOWS_AT_ONCE}; "
            "the runtime gives one window at a time, and the length of a window belongs to the student"
        )
    return BatchRange(minimum=sizes[0], optimum=sizes[1], maximum=sizes[2])


def require_batches(model: bytes, batch: BatchRange, proof_set: ProofSet, *, tolerance: float, what: str) -> float:
    """Runs every size of the range in onnxruntime, and holds each answer against that for its window alone.

    Args:
        model: the graph.
        batch: the range.
        proof_set: real windows, and copies of them that miss samples.
        tolerance: largest difference of a logit or a probability.
        what: the artifact, for the error message.

    Returns:
        The largest difference.

    Raises:
        GateError: the graph fails with a size, or answers otherwise.
    """
    windows = _windows(proof_set, batch.maximum)
    feeds = list(feeds_of(windows, proof_set.modality))
    single = OrtBackend(model)
    expected = [np.concatenate(single.run(window), axis=1) for window in feeds]  # each (1, 2 K), or one more
    single.close()
    together, classes = np.concatenate(expected), len(proof_set.task.labels)
    scale = np.ones_like(together)
    scale[:, classes : 2 * classes] = answer_scale(proof_set.task, together[:, classes : 2 * classes])
    scale[:, 2 * classes :] += together[:, 2 * classes :]  # novelty, whose tolerance is wider than its share here
    declared = f"{what}: the batch axis is declared {batch.minimum} to {batch.maximum}"
    worst = 0.0
    session = cpu_session(model)
    for size in range(batch.minimum, batch.maximum + 1):
        try:
            answers = session.run(None, _joined(feeds[:size]))
            difference = np.abs(np.concatenate(answers, axis=1) - together[:size])
            error = float((difference / scale[:size]).max())
        except Exception as fault:  # onnxruntime's own types, and shapes that do not fit
            raise GateError(
                f"{declared}, and the graph fails with {size} windows at once: {first_line(fault)}; "
                "no bundle was written. Export without --dim"
            ) from fault
        if not error <= tolerance:
            raise GateError(
                f"{declared}, and {size} windows at once are answered otherwise than one by one: a difference of "
                f"{error:.3g}, where {tolerance:.3g} is allowed; no bundle was written. Export without --dim"
            )
        worst = max(worst, error)
    return worst


def _windows(proof_set: ProofSet, count: int) -> NDArray[Any]:
    """Real windows and copies with gaps in turns, repeated where there are too few."""
    real, gaps = proof_set.real.windows, proof_set.gaps
    rows = np.arange(count) // 2 % len(real)
    turns = [real[row] if place % 2 == 0 else gaps[row] for place, row in enumerate(rows)]
    return np.ma.stack(turns) if real.dtype == np.uint8 else np.stack(turns)


def _joined(feeds: list[Feeds]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([window[name] for window in feeds]) for name in feeds[0]}
