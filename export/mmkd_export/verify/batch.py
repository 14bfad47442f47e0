"""A batch axis that may vary: `--dim`, and the proof that a graph really takes every size.

A declared axis proves nothing: exporters write graphs that run with the size they were traced with and fail, or answer
wrongly, with another. So every size in the range is run.
"""

from __future__ import annotations

import re

import numpy as np

from mmkd_edge.bundle.golden import answer_scale
from mmkd_edge.bundle.manifest import MOST_WINDOWS_AT_ONCE, BatchRange
from mmkd_edge.errors import GateError, UsageError, first_line
from mmkd_export.graph.calibration import cpu_session
from mmkd_export.verify.answers import graph_feeds, open_format
from mmkd_export.verify.proof_set import ProofSet

_RANGE = re.compile(r"batch=(\d+):(\d+):(\d+)\Z")


def batch_from_dim(text: str) -> BatchRange:
    """Parse `batch=MIN:OPT:MAX`.

    Example:
        >>> batch_from_dim("batch=1:1:8").maximum
        8
    """
    match = _RANGE.match(text)
    least, optimum, most = (int(size) for size in match.groups()) if match else (0, 0, 0)
    if not (1 == least <= optimum <= most <= MOST_WINDOWS_AT_ONCE and most > 1):
        raise UsageError(
            f"--dim {text!r}: expected batch=1:OPT:MAX with 1 <= OPT <= MAX and MAX from 2 to {MOST_WINDOWS_AT_ONCE}; "
            "the runtime gives one window at a time, and the length of a window belongs to the student"
        )
    return BatchRange(minimum=least, optimum=optimum, maximum=most)


def require_batches(model: bytes, batch: BatchRange, proof_set: ProofSet, *, tolerance: float, what: str) -> float:
    """Run every size of the range in onnxruntime, and compare each answer with that for its window alone.

    Args:
        model: the ONNX graph.
        batch: the range.
        proof_set: real windows, and copies of them that miss samples.
        tolerance: largest difference of a logit or a probability.
        what: the artifact, for the error message.

    Returns:
        The largest difference.

    Raises:
        GateError: the graph fails with a size, or answers differently.
    """
    real, gaps = proof_set.real.windows, proof_set.gaps
    # Windows with and without gaps in turn, repeated if there are too few.
    turns = [(gaps if place % 2 else real)[place // 2 % len(real)] for place in range(batch.maximum)]
    windows = np.ma.stack(turns) if real.dtype == np.uint8 else np.stack(turns)
    feeds = list(graph_feeds(windows, proof_set.modality))
    single = open_format(model, "onnx")
    together = np.concatenate([np.concatenate(single.run(window), axis=1) for window in feeds])  # (N, 2 K) or one more
    single.close()
    classes = len(proof_set.task.labels)
    scale = np.ones_like(together)
    scale[:, classes : 2 * classes] = answer_scale(proof_set.task, together[:, classes : 2 * classes])
    scale[:, 2 * classes :] += together[:, 2 * classes :]  # novelty, whose tolerance is relative
    declared = f"{what}: the batch axis is declared {batch.minimum} to {batch.maximum}"
    worst = 0.0
    session = cpu_session(model)
    for size in range(batch.minimum, batch.maximum + 1):
        try:
            answers = session.run(
                None, {name: np.concatenate([one[name] for one in feeds[:size]]) for name in feeds[0]}
            )
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
