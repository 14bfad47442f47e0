"""A few golden windows, asked when a bundle is opened: does this machine compute what the checkpoint did?

Owns how many are asked, and that nothing is asked again of a way that has passed here. The whole self-test is
`mmkd_edge.predict.selftest`, and a user's to ask for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.machine import this_machine
from mmkd_edge.predict.engine import Engine
from mmkd_edge.predict.selftest import run_selftest
from mmkd_edge.trust.verdicts import passed_before, remember_passed

QUESTIONS_S = 0.02
"""What the windows of one student may take together; one is always asked, and read with all others before."""

_MOST_WINDOWS = 8


def ask_quickly(bundle: Bundle, engine: Engine) -> None:
    """Ask an engine a few golden windows of its student, as many as time allows.

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


def with_verdict(bundle: Bundle, engines: Sequence[Engine]) -> tuple[Engine, ...]:
    """The engines, tested where they have not passed here before, and saying so.

    Raises:
        GateError, BackendError, BundleError: see `ask_quickly`.
    """
    machine, known = this_machine().key, passed_before(bundle.sha256)
    ways = [way_of(engine, machine) for engine in engines]
    new = tuple(way for way in ways if way not in known)
    for engine, way in zip(engines, ways, strict=True):
        if way in new:
            ask_quickly(bundle, engine)
    why = remember_passed(bundle.sha256, new) if new else ""
    told = "passed now" + (f" and at each start, since it cannot be remembered: {why}" if why else "")
    return tuple(
        msgspec.structs.replace(engine, selftest=told if way in new else "passed at an earlier start")
        for engine, way in zip(engines, ways, strict=True)
    )


def way_of(engine: Engine, machine: str) -> str:
    """How a student is run here, in one line: what must be the same for a verdict to hold."""
    setup, backend = engine.setup, engine.backend
    assert setup is not None
    options = msgspec.json.encode(setup.options).decode()
    return f"{engine.entry.name} {setup.precision} {backend.version} threads={setup.threads} {options} {machine}"
