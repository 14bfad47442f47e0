"""Answer windows while everything around them fails; `faulty_load.py` starts and ends this process.

    python benchmarks/checks/faulty_process.py STUDENT.edge OTHER.edge STATE TALLY SEED

Every answer is compared with those of both students before anything broke. At random: sensors that send nothing, NaN,
infinities or impossible values; invalid windows, ages and deadlines; an engine that raises, stalls, or returns too
little, nothing or NaN; swaps to either student, to a damaged one and to the installed one, rollbacks, reopenings and
self-tests; signals whose handler calls the predictor; streams with jitter, gaps, duplicates and clocks that are set.
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
from mmkd_bench.capacity import Demand, offer_load
from mmkd_edge import EdgePredictor, InputError, MmkdError, Prediction, UsageError
from mmkd_edge.backends.ort import OrtBackend

SERVERS, STREAMS = 4, 2
THREADS = SERVERS + STREAMS
RATE_HZ, LOAD_STREAMS = 2.0, 24  # of the load: windows per second of each stream, and streams
ROUND_S = 5.0
COLUMNS = ("asked", "right", "refused", "said", "wrong")
"""A thread's tally: calls; right answers, refusals that are right, answers that say that the engine failed, faults."""
CALLS, RIGHT, REFUSED, ENGINE_FAILED, WRONG = range(len(COLUMNS))

FAILURE_SHARE = 1 / 200

AnswerKey = tuple[str, bytes]


def main() -> None:
    """Answer until SIGTERM; then print how often each disturbance happened."""
    parser = script_parser(__doc__)
    for name in ("bundle", "other", "state", "tally"):
        parser.add_argument(name, type=Path)
    parser.add_argument("seed", type=int)
    serve(parser.parse_args())


@dataclass(frozen=True)
class Case:
    """A window, further arguments of `predict`, and the right answers: none if it must be refused."""

    window: object
    options: dict[str, float]
    right: set[AnswerKey]


def answer_key(prediction: Prediction) -> AnswerKey:
    """Return the parts of an answer that no thread or time may change."""
    return prediction.status, prediction.probabilities.tobytes()


class Breaking:
    """Breaks the engine, except in threads that set `spared.yes`."""

    def __init__(self, dice: random.Random) -> None:
        self.spared = threading.local()
        self.broken: Counter[str] = Counter()
        self._dice = dice
        self._run = OrtBackend.run

    def run(self, backend: OrtBackend, feeds: Any) -> Any:
        """Replace `OrtBackend.run`."""
        if getattr(self.spared, "yes", False) or self._dice.random() > FAILURE_SHARE:
            return self._run(backend, feeds)
        failure = self._dice.choice(("raises", "stalls", "nothing", "a list", "NaN", "another shape"))
        self.broken[f"engine failures: {failure}"] += 1
        if failure == "raises":
            raise RuntimeError("broken by the check")
        if failure == "stalls":
            time.sleep(0.05)
            return self._run(backend, feeds)
        outputs = self._run(backend, feeds)
        match failure:
            case "NaN":
                return tuple(np.full_like(output, np.nan) for output in outputs)
            case "another shape":
                return tuple(output[:, :1] for output in outputs)
            case "a list":
                return [outputs[0].tolist()]
        return None


def serve(options: argparse.Namespace) -> None:
    """Open the students, break the engine, and run all threads until SIGTERM."""
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
        cases = make_cases((one, two), dice)
        setattr(OrtBackend, "run", lambda backend, feeds: breaking.run(backend, feeds))  # noqa: B010 - of its type not
        counts = [0] * len(tally)  # predictions, by thread
        handled: Counter[str] = Counter()
        signal.signal(signal.SIGUSR1, lambda *_: ask_in_a_handler(predictor, cases[0], handled))
        threads = [
            threading.Thread(target=stream_until, args=(stop, predictor, (one, two), breaking, tally, place, counts))
            for place in range(SERVERS, len(tally))
        ]
        disturbing = Disturbing(predictor, options, random.Random(options.seed + 1))
        threads.append(threading.Thread(target=disturbing.until, args=(stop, breaking)))
        for thread in threads:
            thread.start()
        offered = load_until(stop, predictor, cases, tally, counts)
        for thread in threads:
            thread.join()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        counted = sum(predictor.health().predictions.values())
    answered = sum(counts) + handled["predictions in a signal handler"]
    disturbing.done["BAD: predictions that the runtime did not count"] = abs(counted - answered)
    print(json.dumps(disturbing.done | breaking.broken | handled | offered))


def ask_in_a_handler(predictor: EdgePredictor, case: Case, handled: Counter[str]) -> None:
    """Call a predictor inside a signal handler, as an application may that is being stopped."""
    handled["signals"] += 1
    try:
        predictor.health()
        predictor.predict(case.window, **case.options)
        handled["predictions in a signal handler"] += 1
    except (InputError, UsageError):  # a case that must be refused is refused here too
        handled["refusals in a signal handler"] += 1
    except Exception as error:
        report_fault(f"in a signal handler: {type(error).__name__}: {error}")


def make_cases(alone: Sequence[EdgePredictor], dice: random.Random) -> list[Case]:
    """Return golden windows, intact and broken in every way, and calls that must be refused."""
    assert alone[0].bundle is not None
    cases = []
    for window in alone[0].bundle.golden(alone[0].entry.name).windows[:16]:
        for broken in (window, window, *_broken(window, dice)):
            right = {answer_key(predictor.predict(broken)) for predictor in alone}
            cases.append(Case(broken, {}, right))
        stale = {answer_key(predictor.predict(window, deadline_s=time.monotonic() - 1)) for predictor in alone}
        cases.append(Case(window, {"deadline_s": time.monotonic() - 1}, stale))
        cases += [Case(wrong, {}, set()) for wrong in (window[:-1], window.T, None, "text", window.astype(str), 7)]
        cases += [Case(window, {"deadline_s": np.nan}, set()), Case(window, {"input_age_s": np.nan}, set())]
    dice.shuffle(cases)
    return cases


def _broken(window: Any, dice: random.Random) -> list[Any]:
    windows = []
    for value in (np.nan, np.inf, -np.inf, 1e38, 0.0):
        for whole in (True, False):
            broken = window.copy()
            channel = dice.randrange(window.shape[1])
            begin = 0 if whole else dice.randrange(len(window) // 2)
            broken[begin : len(window) if whole else begin + dice.randrange(1, len(window) // 2), channel] = value
            windows.append(broken)
    windows.append(np.full_like(window, np.nan))
    return windows


def load_until(
    stop: threading.Event, predictor: EdgePredictor, cases: Sequence[Case], tally: Any, counts: list[int]
) -> dict[str, int]:
    """Offer the load in rounds, as `mmkd-bench` does; return the number of rounds."""
    places: dict[int, int] = {}
    claiming = threading.Lock()

    def call(case: Case) -> None:
        with claiming:
            place = places.setdefault(threading.get_ident(), len(places) % SERVERS)
        call_once(predictor, case, tally[place], counts, place)

    demand = Demand(rate_hz=RATE_HZ, deadline_ms=1e3 * ROUND_S, servers=SERVERS)
    rounds = 0
    while not stop.is_set():
        places.clear()
        offer_load(call, cases, streams=LOAD_STREAMS, demand=demand, duration_s=ROUND_S)
        rounds += 1
    return {"rounds of load": rounds}


def call_once(predictor: EdgePredictor, case: Case, tally: Any, counts: list[int], place: int) -> None:
    """Predict one case, and count the outcome."""
    tally[CALLS] += 1
    try:
        prediction = predictor.predict(case.window, **case.options)
    except (InputError, UsageError) as error:
        tally[WRONG if case.right else REFUSED] += 1
        if case.right:
            report_fault(f"refused: {error}")
        return
    except Exception as error:
        tally[WRONG] += 1
        report_fault(f"{type(error).__name__}: {error}")
        return
    counts[place] += 1
    tally[choose_column(prediction, case.right)] += 1


def choose_column(prediction: Prediction, right: set[AnswerKey]) -> int:
    """Return the column of the tally that counts an answer."""
    if answer_key(prediction) in right:
        return RIGHT
    if right and prediction.status == "invalid" and prediction.failure:
        return ENGINE_FAILED
    answer = prediction.probabilities
    errors = [float(np.abs(np.frombuffer(data, dtype=answer.dtype) - answer).max()) for _, data in right]
    expected = sorted({status for status, _ in right})
    report_fault(f"answered {prediction.status} {prediction.reason}, expected {expected}; largest errors {errors}")
    return WRONG


def report_fault(fault: str) -> None:
    """Print a fault, for `faulty_load.py` to count."""
    print(json.dumps({f"BAD: {fault}": 1}), flush=True)


def stream_until(
    stop: threading.Event,
    predictor: EdgePredictor,
    alone: Sequence[EdgePredictor],
    breaking: Breaking,
    tally: Any,
    place: int,
    counts: list[int],
) -> None:
    """Push recordings with every fault of time, and compare the answers with those of each student."""
    dice = random.Random(time.monotonic_ns())
    assert alone[0].bundle is not None
    rows = np.concatenate(alone[0].bundle.golden(alone[0].entry.name).windows)
    while not stop.is_set():
        pushes = _pushes(rows, alone[0].modality.rate_hz, dice)
        hop = dice.randrange(10, 80)
        breaking.spared.yes = True
        expected = [_stream(student, pushes, hop) for student in alone]
        breaking.spared.yes = False
        answers = _stream(predictor, pushes, hop)
        counts[place] += len(answers)
        longest = max(len(answers), *map(len, expected))
        tally[place, CALLS] += longest
        for number in range(longest):
            right = {answer_key(each[number]) for each in expected if number < len(each)}
            tally[place, choose_column(answers[number], right) if number < len(answers) else WRONG] += 1
        stop.wait(dice.uniform(0, 0.5))


def _stream(predictor: EdgePredictor, pushes: Sequence[tuple[Any, Any]], hop: int) -> list[Prediction]:
    stream = predictor.stream(hop=hop)
    answers = [prediction for rows, times in pushes for prediction in stream.push(rows, times)]
    return [*answers, *stream.flush()]


def _pushes(rows: Any, rate_hz: float, dice: random.Random) -> list[tuple[Any, Any]]:
    """Return some seconds of samples with jitter, gaps, duplicates, strays and a clock that is set."""
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
    """Swaps, rollbacks and other calls from a thread of their own; `done` counts them and their faults."""

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
        """Make random calls, one after the other."""
        breaking.spared.yes = True  # only answers may break: a swap would rightly fail
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
