"""A few golden windows, asked when a bundle is opened: does this machine compute what the checkpoint did?

Owns how many are asked. The whole self-test is `mmkd_edge.predict.selftest`, and a user's to ask for.
"""

from __future__ import annotations

import time

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.predict.engine import Engine
from mmkd_edge.predict.selftest import run_selftest

QUESTIONS_S = 0.02
"""What the windows of one student may take together; one is always asked, and read with all others before."""

_MOST_WINDOWS = 8


def ask_quickly(
    bundle: Bundle, engine: Engine, *, limit_s: float = QUESTIONS_S, most: int | None = _MOST_WINDOWS
) -> None:
    """Ask an engine a few golden windows of its student, as many as time allows.

    Args:
        bundle: has the windows.
        engine: of one of its students.
        limit_s: what they may take together.
        most: how many to ask; None for all.

    Raises:
        GateError: an answer differs by more than the stored tolerance.
        BackendError: the backend failed.
        BundleError: the golden windows cannot be read.
    """
    begun = time.perf_counter()
    run_selftest(engine, bundle, most=1)
    spent_s = time.perf_counter() - begun
    more = int((limit_s - spent_s) / spent_s)
    if most is not None:
        more = min(most, more)
    if more > 1:
        run_selftest(engine, bundle, most=more)
