"""Does the runtime hold on this machine? Threads, hot swaps, a long stream, many calls, and what starting costs.

    python benchmarks/proofs/runtime_proof.py threads STUDENT.edge           every backend and precision under 8 threads
    python benchmarks/proofs/runtime_proof.py swaps STUDENT.edge OTHER.edge  hot swaps back to back under 8 threads
    python benchmarks/proofs/runtime_proof.py soak STUDENT.edge              ten minutes of samples at 1 kHz
    python benchmarks/proofs/runtime_proof.py calls STUDENT.edge             200,000 predictions, 50,000 refused calls
    python benchmarks/proofs/runtime_proof.py start STUDENT.edge             import and open in fresh processes

Each prints one table in Markdown and ends with 1 where something was wrong. Linux; needs `mmkd-edge[ort]`, and takes
whatever other backends are installed.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, InputError, MmkdError, UsageError
from mmkd_edge.backends.base import BACKENDS, RUN_PRECISIONS, is_installed
from proofs.script import head, parser_of, row

THREADS = 8
WINDOWS = 16
INVALID_EVERY = 50
RATE_HZ = 1000.0
SAMPLES_PER_PUSH = 10
WARM_UP_S = 20.0

Windows = Sequence[NDArray[np.float32]]


def main() -> int:
    """Carry out one proof; gives the exit code."""
    parser = parser_of(__doc__)
    proofs = parser.add_subparsers(dest="proof", required=True)
    for name, seconds in (("threads", 20.0), ("swaps", 30.0), ("soak", 600.0), ("calls", 0.0), ("start", 0.0)):
        proof = proofs.add_parser(name)
        proof.add_argument("bundle", type=Path, metavar="STUDENT.edge")
        if name == "swaps":
            proof.add_argument("other", type=Path, metavar="OTHER.edge")
        if name == "start":
            proof.add_argument("--repeats", type=int, default=7)
        elif name == "calls":
            proof.add_argument("--count", type=int, default=200_000)
        else:
            proof.add_argument("--seconds", type=float, default=seconds)
        if name in ("swaps", "soak", "calls"):
            proof.add_argument("--backend", default="ort")
    options = parser.parse_args()
    if options.proof == "threads":
        return prove_threads(options.bundle, seconds=options.seconds)
    if options.proof == "swaps":
        return prove_swaps(options.bundle, options.other, seconds=options.seconds, backend=options.backend)
    if options.proof == "soak":
        return prove_soak(options.bundle, seconds=options.seconds, backend=options.backend)
    if options.proof == "calls":
        return prove_calls(options.bundle, count=options.count, backend=options.backend)
    return prove_start(options.bundle, repeats=options.repeats)


def windows_of(predictor: EdgePredictor) -> Windows:
    """The first golden windows of the bundle: real recordings."""
    assert predictor.bundle is not None
    return list(predictor.bundle.golden(predictor.entry.name).windows[:WINDOWS])


def answer(predictor: EdgePredictor, window: NDArray[np.float32]) -> tuple[str, bytes]:
    """What must be the same whoever asks, and when."""
    prediction = predictor.predict(window)
    return prediction.status, prediction.probabilities.tobytes()


# ---- threads


@dataclass
class Tally:
    """What the threads saw.

    Attributes:
        answers: valid windows that were answered.
        different: answers that were not one of the right ones.
        refused: invalid windows that were refused as they should be.
        failed: calls that raised something else, in words.
    """

    answers: int = 0
    different: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)


def ask_until(
    stop: threading.Event,
    predictor: EdgePredictor,
    windows: Windows,
    right: Sequence[set[tuple[str, bytes]]],
    first: int,
) -> Tally:
    """Ask for window after window; each INVALID_EVERY-th call before one is a wrong window, or an empty one."""
    tally = Tally()
    wrong_shape = windows[0][:-1]
    empty = np.full_like(windows[0], np.nan)
    for turn in itertools.count():
        if stop.is_set():
            return tally
        number = (first + turn) % len(windows)
        try:
            if turn % INVALID_EVERY == 0 and not refuses(predictor, wrong_shape, empty):
                tally.different += 1
            tally.refused += turn % INVALID_EVERY == 0
            tally.different += answer(predictor, windows[number]) not in right[number]
            tally.answers += 1
        except Exception as error:  # whatever a thread meets is the finding
            tally.failed.append(f"{type(error).__name__}: {error}")
    raise AssertionError("the loop has no end of its own")


def refuses(predictor: EdgePredictor, wrong_shape: NDArray[np.float32], empty: NDArray[np.float32]) -> bool:
    """Whether a window of another length is an error, and one without a value gets no answer."""
    try:
        predictor.predict(wrong_shape)
    except InputError:
        return predictor.predict(empty).status == "invalid"
    return False


def under_threads(
    predictor: EdgePredictor,
    windows: Windows,
    right: Sequence[set[tuple[str, bytes]]],
    meanwhile: Callable[[], object],
) -> Tally:
    """All threads ask while something else goes on in this one."""
    stop, tallies = threading.Event(), []
    threads = [
        threading.Thread(target=lambda first=n: tallies.append(ask_until(stop, predictor, windows, right, first)))
        for n in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    try:
        meanwhile()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return Tally(
        answers=sum(tally.answers for tally in tallies),
        different=sum(tally.different for tally in tallies),
        refused=sum(tally.refused for tally in tallies),
        failed=[text for tally in tallies for text in tally.failed],
    )


def openings(bundle: Path) -> Iterator[tuple[str, str, EdgePredictor]]:
    """Every backend and precision that opens here; why another does not is printed on stderr."""
    for backend, precision in itertools.product(BACKENDS, RUN_PRECISIONS):
        if not is_installed(backend):
            continue
        try:
            predictor = EdgePredictor.open(bundle, backend=backend, precision=precision, threads=1)
        except (MmkdError, UsageError) as error:
            print(f"{backend} {precision}: {error}", file=sys.stderr)
            continue
        with predictor:
            yield backend, precision, predictor


def prove_threads(bundle: Path, *, seconds: float) -> int:
    """Every backend and precision under 8 threads against its answers to one."""
    names = ("answers per second", "answers", "different", "invalid calls refused", "errors")
    print(head("backend", "precision", *names, texts=2))
    wrong = 0
    for backend, precision, predictor in openings(bundle):
        windows = windows_of(predictor)
        right = [{answer(predictor, window)} for window in windows]
        begin = time.monotonic()
        tally = under_threads(predictor, windows, right, lambda: time.sleep(seconds))
        rate = tally.answers / (time.monotonic() - begin)
        wrong += tally.different + len(tally.failed)
        figures = (f"{rate:,.0f}", f"{tally.answers:,}", tally.different, f"{tally.refused:,}", len(tally.failed))
        print(row(backend, precision, *figures), flush=True)
        for text in sorted(set(tally.failed)):
            print(text, file=sys.stderr)
    return int(wrong > 0)


# ---- swaps


def prove_swaps(bundle: Path, other: Path, *, seconds: float, backend: Any) -> int:
    """Swap two bundles back to back under 8 threads; every answer must be that of one of them."""
    with EdgePredictor.open(bundle, backend=backend) as predictor:
        windows = windows_of(predictor)
        with EdgePredictor.open(other, backend=backend) as alone:
            right = [{answer(predictor, window), answer(alone, window)} for window in windows]

        def swap() -> None:
            end = time.monotonic() + seconds
            for path in itertools.cycle((other, bundle)):
                if time.monotonic() >= end:
                    return
                predictor.swap(path)

        tally = under_threads(predictor, windows, right, swap)
        swaps = predictor.health().swaps
    told_apart = sum(len(one) == 2 for one in right)
    print(head("backend", "swaps", "answers", "wrong", "dropped", "windows that tell the bundles apart"))
    figures = (swaps, f"{tally.answers:,}", tally.different, len(tally.failed), f"{told_apart} of {len(windows)}")
    print(row(backend, *figures))
    return int(tally.different > 0 or len(tally.failed) > 0)


# ---- a long stream


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What this process holds.

    Attributes:
        rss_kb: resident memory.
        threads: of the process.
        descriptors: that are open.
    """

    rss_kb: int
    threads: int
    descriptors: int

    def grew_to(self, after: Footprint, *, by_kb: int) -> bool:
        """Whether memory grew by so much, or threads or descriptors at all. One that has ended is no leak."""
        return (
            after.rss_kb - self.rss_kb >= by_kb or after.threads > self.threads or after.descriptors > self.descriptors
        )


def footprint() -> Footprint:
    """Read it from /proc."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Footprint(
        rss_kb=int(status["VmRSS"].split()[0]),
        threads=int(status["Threads"]),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
    )


def prove_soak(bundle: Path, *, seconds: float, backend: Any) -> int:
    """Push samples at 1 kHz, ten at a time on schedule, and look at what grows."""
    period_s = SAMPLES_PER_PUSH / RATE_HZ
    pushes = max(1, round(seconds / period_s))
    lengths_us = np.zeros(pushes, dtype=np.float32)
    late_us = np.zeros(pushes, dtype=np.float32)
    with EdgePredictor.open(bundle, backend=backend) as predictor:
        rows = np.concatenate(windows_of(predictor))
        stream = predictor.stream(hop=SAMPLES_PER_PUSH)
        warm_up = min(round(WARM_UP_S / period_s), pushes // 2)
        before, answers = footprint(), 0
        begin = time.perf_counter()
        for number in range(pushes):
            due = begin + number * period_s
            time.sleep(max(0.0, due - time.perf_counter()))
            start = number * SAMPLES_PER_PUSH % (len(rows) - SAMPLES_PER_PUSH)
            called = time.perf_counter()
            answers += len(stream.push(rows[start : start + SAMPLES_PER_PUSH]))
            ended = time.perf_counter()
            lengths_us[number], late_us[number] = (ended - called) * 1e6, (called - due) * 1e6
            if number == warm_up:
                before = footprint()
        after = footprint()
    p50, p99, p999 = np.quantile(lengths_us[warm_up:], (0.5, 0.99, 0.999))
    print(head("what", "figure"))
    print(f"| samples, pushed {SAMPLES_PER_PUSH} at a time at {RATE_HZ:g} Hz | {pushes * SAMPLES_PER_PUSH:,} |")
    print(f"| predictions | {answers:,} |")
    print(f"| push p50, p99, p99.9, longest | {p50:.0f}, {p99:.0f}, {p999:.0f}, {lengths_us[warm_up:].max():.0f} µs |")
    print(f"| pushes that began a period late or more | {int((late_us[warm_up:] >= period_s * 1e6).sum())} |")
    print(f"| RSS after warm-up, at the end | {before.rss_kb / 1024:.1f}, {after.rss_kb / 1024:.1f} MB |")
    print(f"| threads | {before.threads}, {after.threads} |")
    print(f"| descriptors | {before.descriptors}, {after.descriptors} |")
    return int(before.grew_to(after, by_kb=1024))


# ---- many calls


def prove_calls(bundle: Path, *, count: int, backend: Any) -> int:
    """Predict so often, refuse a call after every fourth, and look at what grows and whether answers stay."""
    with EdgePredictor.open(bundle, backend=backend, threads=1) as predictor:
        windows = windows_of(predictor)
        right = [answer(predictor, window) for window in windows]
        wrong_shape, empty = windows[0][:-1], np.full_like(windows[0], np.nan)
        before, refused, wrong = footprint(), 0, 0
        for number in range(count):
            wrong += answer(predictor, windows[number % len(windows)]) != right[number % len(windows)]
            if number % 4 == 3:
                refused += refuses(predictor, wrong_shape, empty)
            if number == count // 20:
                before = footprint()
        after = footprint()
    growth_kb = after.rss_kb - before.rss_kb
    print(head("backend", "predictions", "other answers", "refused calls", "RSS grew by", "threads", "descriptors"))
    counts = (f"{count:,}", wrong, f"{refused:,}", f"{growth_kb / 1024:.1f} MB")
    print(row(backend, *counts, f"{before.threads}, {after.threads}", f"{before.descriptors}, {after.descriptors}"))
    return int(wrong > 0 or refused != count // 4 or before.grew_to(after, by_kb=4096))


# ---- starting


IMPORT = """
import json, resource, time
import numpy
rss = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
kept, begin = rss(), time.perf_counter()
from mmkd_edge import EdgePredictor  # the package alone imports nothing
print(json.dumps({"ms": (time.perf_counter() - begin) * 1e3, "mb": rss() - kept}))
"""
OPEN = """
import json, sys, time
import numpy
import mmkd_edge
from mmkd_edge.backends.ort import import_onnxruntime
import_onnxruntime()
window = numpy.zeros(eval(sys.argv[2]), numpy.float32)
begin = time.perf_counter()
predictor = mmkd_edge.EdgePredictor.open(sys.argv[1], backend="ort")
predictor.predict(window)
print(json.dumps({"ms": (time.perf_counter() - begin) * 1e3}))
"""


def fresh(script: str, *arguments: str, compiled: str) -> dict[str, float]:
    """What a script prints in a fresh interpreter, which keeps and finds compiled modules in a folder."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def prove_start(bundle: Path, *, repeats: int) -> int:
    """What import adds to numpy, and how long opening takes once onnxruntime is imported.

    With modules compiled, as pip leaves them: the first process of each kind compiles and is not counted.
    """
    with EdgePredictor.open(bundle, backend="ort") as predictor:
        shape = repr(predictor.modality.shape)
    with tempfile.TemporaryDirectory() as folder:
        imports = [fresh(IMPORT, compiled=folder) for _ in range(repeats + 1)][1:]
        openings_ms = [fresh(OPEN, str(bundle), shape, compiled=folder)["ms"] for _ in range(repeats + 1)][1:]
    rows = (
        ("`from mmkd_edge import EdgePredictor` after `import numpy`, ms", [found["ms"] for found in imports], 60.0),
        ("memory that it adds, MB", [found["mb"] for found in imports], 10.0),
        ("`open` to the first prediction, onnxruntime imported, ms", openings_ms, 150.0),
    )
    print(head(f"fresh processes, {repeats} each", "median", "smallest", "largest", "limit"))
    for name, values, limit in rows:
        spread = (f"{figure:.1f}" for figure in (np.median(values), min(values), max(values)))
        print(row(name, *spread, f"{limit:g}"))
    return int(any(np.median(values) >= limit for _, values, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
