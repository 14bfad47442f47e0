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
_MORE = 4


def ask_quickly(bundle: Bundle, engine: Engine) -> None:
    """Ask an engine a few golden windows of its student, as many as time allows.

    Args:
        bundle: has the windows.
        engine: of one of its students.

    Raises:
        GateError: an answer differs by more than the stored tolerance.
        BackendError: the backend failed.
        BundleError: the golden windows cannot be read.
    """
    begun = time.perf_counter()
    run_selftest(engine, bundle, most=1)
    spent_s = time.perf_counter() - begun
    more = min(_MOST_WINDOWS, int((QUESTIONS_S - spent_s) / spent_s))
    if more > 1:
        run_selftest(engine, bundle, most=more)


def ask_thoroughly(bundle: Bundle, engine: Engine, *, limit_s: float) -> None:
    """Ask an engine all golden windows of its student, fewer only where they would take longer than this.

    Each round asks four times as many as the last, whose time says whether there is enough: the first of all is slow on
    a machine that does much else, and would say little of the others.

    Raises:
        GateError: an answer differs by more than the stored tolerance.
        BackendError: the backend failed.
        BundleError: the golden windows cannot be read.
    """
    end, most, spent_s = time.perf_counter() + limit_s, 1, 0.0
    while time.perf_counter() + _MORE * spent_s < end:
        begun = time.perf_counter()
        if run_selftest(engine, bundle, most=most).windows < most:
            return
        spent_s = time.perf_counter() - begun
        most *= _MORE
