"""A process that answers while everything around a window fails; see `faulty_load.py`, which starts and ends it.

    python benchmarks/checks/faulty_process.py STUDENT.edge OTHER.edge STATE TALLY SEED

Every answer is held against those that either student gave before anything was broken. Meanwhile, at random: sensors
that send nothing, NaN, infinities or impossible values; windows, ages and deadlines that are wrong; an engine that
raises, returns too little, nothing or NaN, or stalls; swaps to either student, to damaged ones and to what is
installed, rollbacks, reopenings and self-tests; signals whose handler calls the predictor; streams with jitter, gaps,
duplicates and clocks that are set.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checks.script import script_parser
from mmkd_bench.measuring.jobs import Demand
from mmkd_bench.measuring.load import offer_load
from mmkd_edge import EdgePredictor, InputError, MmkdError, Prediction, UsageError
from mmkd_edge.backends.ort import OrtBackend

SERVERS, STREAMS = 4, 2
THREADS = SERVERS + STREAMS
RATE_HZ, ASKERS = 2.0, 24  # of the load: windows per second of each, and how many ask
ROUND_S = 5.0
COLUMNS = ("asked", "right", "refused", "said", "wrong")
"""Of a thread's tally: a call is right, refused as it must be, answered by saying that the engine failed, or wrong."""

FAILURE_SHARE = 1 / 200

FAILURES = ("the engine failed", "the model's answer is not a distribution")
Told = tuple[str, bytes]


def main() -> None:
    """Answer until SIGTERM; prints at its end what else it did."""
    parser = script_parser(__doc__)
    for name in ("bundle", "other", "state", "tally"):
        parser.add_argument(name, type=Path)
    parser.add_argument("seed", type=int)
    serve(parser.parse_args())


@dataclass(frozen=True)
class Case:
    """A window, the other arguments of `predict`, and the right answers: none if it must be refused."""

    window: object
    named: dict[str, float]
    right: set[Told]


def told_of(prediction: Prediction) -> Told:
    """What must be the same whoever asks, and when."""
    return prediction.status, prediction.probabilities.tobytes()


def is_failure(prediction: Prediction) -> bool:
    """Whether an answer says that the engine failed, and claims nothing."""
    return prediction.status == "invalid" and any(reason in prediction.reason for reason in FAILURES)


class Breaking:
    """Breaks the engine of threads that did not ask to be spared."""

    def __init__(self, dice: random.Random) -> None:
        self.spared = threading.local()
        self.broken: Counter[str] = Counter()
        self._dice = dice
        self._run = OrtBackend.run

    def run(self, backend: OrtBackend, feeds: Any) -> Any:
        """What `OrtBackend.run` becomes."""
        if getattr(self.spared, "yes", False) or self._dice.random() > FAILURE_SHARE:
            return self._run(backend, feeds)
        way = self._dice.choice(("raises", "stalls", "nothing", "a list", "NaN", "another shape"))
        self.broken[f"engine failures: {way}"] += 1
        if way == "raises":
            raise RuntimeError("the proof broke it")
        if way == "stalls":
            time.sleep(0.05)
            return self._run(backend, feeds)
        outputs = self._run(backend, feeds)
        match way:
            case "NaN":
                return tuple(np.full_like(output, np.nan) for output in outputs)
            case "another shape":
                return tuple(output[:, :1] for output in outputs)
            case "a list":
                return [outputs[0].tolist()]
        return None


def serve(options: argparse.Namespace) -> None:
    """Open the students, break the engine, and let all threads begin."""
    dice = random.Random(options.seed)
    tally = np.memmap(options.tally, dtype=np.int64, mode="r+", shape=(THREADS, len(COLUMNS)))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    breaking = Breaking(dice)
    breaking.spared.yes = True
    with (
        EdgePredictor.open(options.bundle, backend="ort", threads=1) as one,
        EdgePredictor.open(options.other, backend="ort", threads=1) as two,
        EdgePredictor.open(options.state, backend="ort", threads=1) as predictor,
    ):
        cases = cases_of((one, two), dice)
        setattr(OrtBackend, "run", lambda backend, feeds: breaking.run(backend, feeds))  # noqa: B010 - of its type not
        given = [0] * len(tally)  # predictions, by thread
        handled: Counter[str] = Counter()
        signal.signal(signal.SIGUSR1, lambda *_: ask_in_a_handler(predictor, cases[0], handled))
        work = [
            threading.Thread(target=stream_until, args=(stop, predictor, (one, two), breaking, tally, place, given))
            for place in range(SERVERS, len(tally))
        ]
        disturbing = Disturbing(predictor, options, random.Random(options.seed + 1))
        work.append(threading.Thread(target=disturbing.until, args=(stop, breaking)))
        for thread in work:
            thread.start()
        offered = load_until(stop, predictor, cases, tally, given)
        for thread in work:
            thread.join()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        counted = sum(predictor.health().predictions.values())
    asked = sum(given) + handled["predictions in a signal handler"]
    disturbing.done["BAD: predictions that the runtime did not count"] = abs(counted - asked)
    print(json.dumps(disturbing.done | breaking.broken | handled | offered))


def ask_in_a_handler(predictor: EdgePredictor, case: Case, handled: Counter[str]) -> None:
    """Call a predictor inside a signal handler, as an application that is told to stop may."""
    handled["signals"] += 1
    try:
        predictor.health()
        predictor.predict(case.window, **case.named)
        handled["predictions in a signal handler"] += 1
    except (InputError, UsageError):  # a case that must be refused is refused here too
        handled["refusals in a signal handler"] += 1
    except Exception as error:
        tell_bad(f"in a signal handler: {type(error).__name__}: {error}")


def cases_of(alone: Sequence[EdgePredictor], dice: random.Random) -> list[Case]:
    """Golden windows as they are and broken in every way, and calls that must be refused."""
    assert alone[0].bundle is not None
    cases = []
    for window in alone[0].bundle.golden(alone[0].entry.name).windows[:16]:
        for broken in (window, window, *_broken(window, dice)):
            right = {told_of(predictor.predict(broken)) for predictor in alone}
            cases.append(Case(broken, {}, right))
        stale = {told_of(predictor.predict(window, deadline_s=time.monotonic() - 1)) for predictor in alone}
        cases.append(Case(window, {"deadline_s": time.monotonic() - 1}, stale))
        cases += [Case(wrong, {}, set()) for wrong in (window[:-1], window.T, None, "text", window.astype(str), 7)]
        cases += [Case(window, {"deadline_s": np.nan}, set()), Case(window, {"input_age_s": np.nan}, set())]
    dice.shuffle(cases)
    return cases


def _broken(window: Any, dice: random.Random) -> list[Any]:
    found = []
    for value in (np.nan, np.inf, -np.inf, 1e38, 0.0):
        for whole in (True, False):
            broken = window.copy()
            channel = dice.randrange(window.shape[1])
            begin = 0 if whole else dice.randrange(len(window) // 2)
            broken[begin : len(window) if whole else begin + dice.randrange(1, len(window) // 2), channel] = value
            found.append(broken)
    found.append(np.full_like(window, np.nan))
    return found


def load_until(
    stop: threading.Event, predictor: EdgePredictor, cases: Sequence[Case], tally: Any, given: list[int]
) -> dict[str, int]:
    """Offer the load in rounds, as `mmkd-bench` does; gives what was due and given up for want of time."""
    places: dict[int, int] = {}
    claiming = threading.Lock()

    def asked(case: Case) -> None:
        with claiming:
            place = places.setdefault(threading.get_ident(), len(places) % SERVERS)
        one_call(predictor, case, tally[place], given, place)

    demand = Demand(rate_hz=RATE_HZ, deadline_ms=1e3 * ROUND_S, servers=SERVERS)
    rounds = 0
    while not stop.is_set():
        places.clear()
        offer_load(asked, cases, streams=ASKERS, demand=demand, duration_s=ROUND_S)
        rounds += 1
    return {"rounds of load": rounds}


def one_call(predictor: EdgePredictor, case: Case, tally: Any, given: list[int], place: int) -> None:
    """Ask once, and count what came of it."""
    tally[0] += 1
    try:
        prediction = predictor.predict(case.window, **case.named)
    except (InputError, UsageError) as error:
        tally[4 if case.right else 2] += 1
        if case.right:
            tell_bad(f"refused: {error}")
        return
    except Exception as error:
        tally[4] += 1
        tell_bad(f"{type(error).__name__}: {error}")
        return
    given[place] += 1
    tally[column_of(prediction, case.right)] += 1


def column_of(prediction: Prediction, right: set[Told]) -> int:
    """Which column of a tally counts an answer, where some would be right."""
    if told_of(prediction) in right:
        return 1
    if right and is_failure(prediction):
        return 3
    answer = prediction.probabilities
    away = [float(np.abs(np.frombuffer(told, dtype=answer.dtype) - answer).max()) for _, told in right]
    expected = sorted({status for status, _ in right})
    tell_bad(f"answered {prediction.status} {prediction.reason}, expected {expected}, which is {away} away")
    return 4


def tell_bad(what: str) -> None:
    """Print what went wrong; whoever started this process counts it."""
    print(json.dumps({f"BAD: {what}": 1}), flush=True)


def stream_until(
    stop: threading.Event,
    predictor: EdgePredictor,
    alone: Sequence[EdgePredictor],
    breaking: Breaking,
    tally: Any,
    place: int,
    given: list[int],
) -> None:
    """Push recordings with every fault of time, and hold the answers against those of the students by themselves."""
    dice = random.Random(time.monotonic_ns())
    assert alone[0].bundle is not None
    rows = np.concatenate(alone[0].bundle.golden(alone[0].entry.name).windows)
    while not stop.is_set():
        pushes = _pushes(rows, alone[0].modality.rate_hz, dice)
        hop = dice.randrange(10, 80)
        breaking.spared.yes = True
        right = [_streamed(one, pushes, hop) for one in alone]
        breaking.spared.yes = False
        found = _streamed(predictor, pushes, hop)
        given[place] += len(found)
        tally[place, 0] += max(len(found), *map(len, right))
        for number in range(max(len(found), *map(len, right))):
            may_be = {told_of(one[number]) for one in right if number < len(one)}
            tally[place, column_of(found[number], may_be) if number < len(found) else 4] += 1
        stop.wait(dice.uniform(0, 0.5))


def _streamed(predictor: EdgePredictor, pushes: Sequence[tuple[Any, Any]], hop: int) -> list[Prediction]:
    stream = predictor.stream(hop=hop)
    found = [one for rows, times in pushes for one in stream.push(rows, times)]
    return [*found, *stream.flush()]


def _pushes(rows: Any, rate_hz: float, dice: random.Random) -> list[tuple[Any, Any]]:
    """Some seconds of samples with jitter, gaps, duplicates, strays and a clock that is set."""
    rows = np.tile(rows, (1 + 2400 // len(rows), 1))  # a small bundle carries few windows
    begin = dice.randrange(len(rows) - 1200)
    samples = rows[begin : begin + 1200].copy()
    steps = np.array([dice.uniform(0.7, 1.3) for _ in samples]) / rate_hz
    for _ in range(3):
        steps[dice.randrange(len(steps))] = dice.choice((0.0, 0.5, 5.0, 3600.0, -3600.0, -0.5))
        samples[dice.randrange(len(samples))] = dice.choice((np.nan, np.inf, 1e38))
    times = 1e9 + np.cumsum(steps)
    ends = sorted({dice.randrange(1, 1200) for _ in range(20)} | {1200})
    return [(samples[a:b], times[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


class Disturbing:
    """Swaps, rollbacks and the rest, from a thread of its own.

    Attributes:
        done: how often each was done, and what went wrong.
    """

    def __init__(self, predictor: EdgePredictor, options: argparse.Namespace, dice: random.Random) -> None:
        self.done: dict[str, int] = {}
        self._predictor = predictor
        self._dice = dice
        damaged = sorted(options.state.parent.glob("damaged*.edge"))
        self._actions: tuple[tuple[str, Callable[[], object]], ...] = (
            ("swaps", lambda: predictor.swap(options.bundle)),
            ("swaps", lambda: predictor.swap(options.other)),
            ("swaps to what is installed", lambda: predictor.swap(options.state)),
            ("swaps to damaged bundles", lambda: self._swap_damaged(dice.choice(damaged))),
            ("swaps back", self._roll_back),
            ("reopenings", predictor.reopen),
            ("self-tests", predictor.selftest),
            ("looks at the health", predictor.health),
        )

    def until(self, stop: threading.Event, breaking: Breaking) -> None:
        """Do one after the other."""
        breaking.spared.yes = True  # what it breaks is answers; a swap that fails over it would be right to
        while not stop.wait(self._dice.uniform(0.1, 1.5)):
            name, action = self._dice.choice(self._actions)
            self.done[name] = self.done.get(name, 0) + 1
            try:
                action()
            except Exception as error:
                bad = f"BAD: {name}: {type(error).__name__}: {error}"
                self.done[bad] = self.done.get(bad, 0) + 1

    def _swap_damaged(self, path: Path) -> None:
        try:
            self._predictor.swap(path)
        except MmkdError:
            return
        raise AssertionError("a damaged bundle took over")

    def _roll_back(self) -> None:
        with suppress(UsageError):
            self._predictor.rollback()


if __name__ == "__main__":
    main()
