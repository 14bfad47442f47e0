"""Which backend answers a student fastest on this machine: settled in a moment, when a bundle is opened.

Owns who takes part, for how long, and what counts as the same answer. The backend that would be taken without a
contest is open already and costs nothing more; what the others cost, their import included, is what the contest may
take. An import cannot be stopped once it has begun: a backend whose opening is not expected to fit is not begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.backends.forks import ForkedError
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import BackendError, MmkdError
from mmkd_edge.predict.engine import Engine
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.predict.profile import MeasuredWay, UnmeasuredWay, best_trial
from mmkd_edge.predict.selftest import run_selftest
from mmkd_edge.predict.setup import Setup

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Feeds = Mapping[str, NDArray[Any]]

CONTEST_S = 0.3
"""What all contests of one opening may take together."""

_TIMING_S = 0.05  # of that, kept for the timing
_MOST_TIMING_S = 0.1
_MOST_PACE = 50.0
_ASKED_WINDOWS = 8  # golden ones, which are compared and timed
_BURST = 4  # timed calls in a row, after one that finds the caches as another engine left them
_MIN_ROUNDS = 2


class ContestResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a contest ended.

    Attributes:
        engine: the fastest; all others are closed.
        trials: what was measured, of the first engine too; none where nobody else could take part.
        left_out: who cannot take part here, and why.
        untried: who was not tried, for lack of time for one, and why.
        spent_s: what it took.
    """

    engine: Engine
    trials: tuple[MeasuredWay, ...]
    left_out: tuple[UnmeasuredWay, ...]
    untried: tuple[str, ...]
    spent_s: float


def hold_contest(
    bundle: Bundle,
    first: Engine,
    others: Sequence[Setup],
    *,
    opened: Callable[[Setup], Engine],
    first_s: float,
    limit_s: float,
    ratio: float = 1.0,
) -> ContestResult:
    """Open the other backends as far as time allows, compare answers, and time all in turn.

    Args:
        bundle: has the golden windows.
        first: is open already; it is closed where another wins, and by the caller where this raises.
        others: the other ways to run the same student.
        opened: opens one of them.
        first_s: what opening the first took.
        limit_s: what the contest may take.
        ratio: of the first in earlier trials, which the new ones join.

    Raises:
        BundleError: the golden windows cannot be read.
    """
    begun = time.perf_counter()
    end = begun + limit_s
    left_out: list[UnmeasuredWay] = []
    untried: list[str] = []
    rivals: list[Engine] = []
    pace = _pace(first, first_s)
    try:
        for setup in sorted(others, key=_cost_s):
            cost_s = pace * _cost_s(setup)
            if cost_s > end - time.perf_counter() - _TIMING_S:
                untried.append(f"no time for {setup.backend!r}, which may take {1e3 * cost_s:.0f} ms to open")
                continue
            try:
                rivals.append(_rival(setup, first, bundle, opened))
            except ForkedError as error:
                untried.append(str(error))
            except MmkdError as error:
                left_out.append(_left_out(first, setup, error))
        runners = [first, *rivals]
        if rivals:
            try:
                _check_answers(first, bundle)
            except MmkdError as error:
                left_out.append(_left_out(first, _setup_of(first), error))
                runners = rivals
        trials = _trials(runners, bundle, end=end, ratio=ratio) if rivals or left_out else ()
    except BaseException:
        _close(rivals)
        raise
    best = best_trial(trials, model=first.entry.name)
    winner = first if best is None else runners[trials.index(best)]
    _close(engine for engine in (first, *rivals) if engine is not winner)
    return ContestResult(
        engine=winner,
        trials=trials,
        left_out=tuple(left_out),
        untried=tuple(untried),
        spent_s=time.perf_counter() - begun,
    )


def _setup_of(engine: Engine) -> Setup:
    assert engine.setup is not None
    return engine.setup


def _cost_s(setup: Setup) -> float:
    return BACKENDS[setup.backend].opening_s


def _pace(first: Engine, first_s: float) -> float:
    """How many times as long as expected this machine takes; the build of an engine tells nothing of others."""
    setup = _setup_of(first)
    return 1.0 if BACKENDS[setup.backend].on_gpu else min(_MOST_PACE, max(1.0, first_s / _cost_s(setup)))


def _rival(setup: Setup, first: Engine, bundle: Bundle, opened: Callable[[Setup], Engine]) -> Engine:
    engine = opened(setup)
    try:
        _check_answers(engine, bundle)
        _check_steps(engine, first)
    except BaseException:
        engine.close()
        raise
    return engine


def _check_answers(engine: Engine, bundle: Bundle) -> None:
    run_selftest(engine, bundle, most=_ASKED_WINDOWS)


def _check_steps(engine: Engine, first: Engine) -> None:
    if first.step is not None and engine.step is None:
        raise BackendError(f"backend {engine.backend.name!r} cannot take this student's steps, which streams need")


def _left_out(first: Engine, setup: Setup, error: MmkdError) -> UnmeasuredWay:
    return UnmeasuredWay(model=first.entry.name, backend=setup.backend, precision=setup.precision, reason=str(error))


def _close(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.close()


def _trials(runners: Sequence[Engine], bundle: Bundle, *, end: float, ratio: float) -> tuple[MeasuredWay, ...]:
    windows = bundle.golden(runners[0].entry.name).windows[:_ASKED_WINDOWS]
    feeds = [runners[0].feeds(*prepare(window, runners[0].modality)) for window in windows]
    times_us = _times_us([engine.backend.run for engine in runners], feeds, end=end)
    medians = [float(np.median(times)) for times in times_us]
    return tuple(
        MeasuredWay(
            model=engine.entry.name,
            backend=_setup_of(engine).backend,
            precision=_setup_of(engine).precision,
            threads=_setup_of(engine).threads,
            options=_setup_of(engine).options,
            p50_us=median,
            p99_us=float(np.quantile(times, 0.99)),
            ratio=ratio * median / medians[0],
            calls=len(times),
        )
        for engine, times, median in zip(runners, times_us, medians, strict=True)
    )


def _times_us(calls: Sequence[Callable[[Feeds], object]], feeds: Sequence[Feeds], *, end: float) -> list[list[float]]:
    """How long each call took: a few in a row, in turns, each round in the opposite order of the last."""
    clock = time.perf_counter
    times: list[list[float]] = [[] for _ in calls]
    turns = list(zip(calls, times, strict=True))
    end = min(end, clock() + _MOST_TIMING_S)
    rounds = 0
    while rounds < _MIN_ROUNDS or clock() < end:
        feed = feeds[rounds % len(feeds)]
        for call, kept in turns:
            call(feed)
            for _ in range(_BURST):
                before = clock()
                call(feed)
                kept.append(1e6 * (clock() - before))
        turns.reverse()
        rounds += 1
    return times
