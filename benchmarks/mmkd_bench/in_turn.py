"""Ratios and differences that hold on a noisy machine: calls take turns in several processes.

The order alternates, because each call finds the other's caches.
"""

from __future__ import annotations

import itertools
import math
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.measuring.opening import Choice, open_predictor, open_session, predict_argument, raw_windows
from mmkd_bench.measuring.process import START_LIMIT_S, Progress, Work, ignore_progress, run_launches
from mmkd_documents.bench import OverheadReport, PairReport, RepeatSpread
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import read_first
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.predict.preprocess import check_window, prepare, prepare_batch

MAX_LAUNCHES = 100
REPEATS = 5  # parts of a process, each with a ratio
WARM_UP_S = 0.5
MIN_ROUNDS = 20
FIRST, SECOND = "first", "second"
_ZIP_START, _MAX_BYTES = b"PK\x03\x04", 1 << 31
SEED = 0


class InTurnJob(msgspec.Struct, frozen=True, kw_only=True):
    """Calls in turn for `duration_s`, with percentiles per repeat."""

    threads: int
    duration_s: float
    repeats: int


class PairJob(InTurnJob, frozen=True, kw_only=True):
    """Two models, paths of ONNX models or bundles."""

    first: str
    second: str


class OverheadJob(InTurnJob, frozen=True, kw_only=True):
    """`predict` and the bare engine: the backend, or onnxruntime's own `session.run`."""

    choice: Choice
    is_session: bool


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of one call, per repeat."""

    p50_us: tuple[float, ...]
    p90_us: tuple[float, ...]
    p99_us: tuple[float, ...]


class InTurnOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Times of calls in turn, by name; `difference_us` is the first minus the last, pairwise."""

    times: dict[str, Timed]
    difference_us: tuple[float, ...]
    count: int


JobT = TypeVar("JobT", bound=InTurnJob)
OutcomeT = TypeVar("OutcomeT", bound=msgspec.Struct)


def measure_pair(
    first: Path,
    second: Path,
    *,
    threads: int = 1,
    launches: int = 3,
    duration_s: float = 6.0,
    progress: Progress = ignore_progress,
) -> PairReport:
    """Compare two models, ONNX of static shape or a bundle's fp32, through ONNX Runtime. Raises MmkdError."""
    settings = in_turn_settings(threads=threads, launches=launches, duration_s=duration_s)
    machine = read_machine()
    job = PairJob(first=str(first), second=str(second), **settings)
    outcomes = launch_in_turn(time_models, job, InTurnOutcome, launches=launches, progress=progress)
    spreads: dict[str, Any] = {
        f"{name}_{figure}": summarise_repeats(repeats_of(outcomes, name, figure))
        for name in (FIRST, SECOND)
        for figure in Timed.__struct_fields__
    }
    return PairReport(
        first=job.first,
        second=job.second,
        threads=threads,
        count=sum(outcome.count for outcome in outcomes),
        **spreads,
        ratio=ratio_of(outcomes, FIRST, SECOND),
        machine=machine,
    )


def measure_overhead(
    bundle: Path,
    *,
    backend: str | None = None,
    launches: int = 3,
    duration_s: float = 6.0,
    reference: Path | None = None,
    progress: Progress = ignore_progress,
) -> OverheadReport:
    """Measure what `predict` adds to a backend's `run`, or to onnxruntime's; errors as `measure_pair`."""
    settings = in_turn_settings(threads=1, launches=launches, duration_s=duration_s)
    machine = read_machine()
    options = OpenOptions(
        backend=backend or "ort",  # type: ignore[arg-type] # checked there
        precision="fp32",
        threads=1,
        reference=reference and str(reference),
    )
    job = OverheadJob(choice=Choice(bundle=str(bundle), options=options), is_session=backend is None, **settings)
    outcomes = launch_in_turn(time_predict, job, InTurnOutcome, launches=launches, progress=progress)
    return OverheadReport(
        bundle=job.choice.bundle,
        count=sum(outcome.count for outcome in outcomes),
        predict_p50_us=summarise_repeats(repeats_of(outcomes, FIRST)),
        bare="session.run" if backend is None else f"{backend} backend.run",
        bare_p50_us=summarise_repeats(repeats_of(outcomes, SECOND)),
        overhead_us=summarise_repeats([value for outcome in outcomes for value in outcome.difference_us]),
        machine=machine,
    )


def in_turn_settings(*, threads: int, launches: int, duration_s: float) -> dict[str, Any]:
    """Return the fields of an `InTurnJob` for one of several launches. Raises UsageError."""
    if threads < 1:
        raise UsageError(f"--threads: expected a whole number from 1, got {threads}")
    if not 1 <= launches <= MAX_LAUNCHES:
        raise UsageError(f"--launches: expected a whole number from 1 to {MAX_LAUNCHES}, got {launches}")
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise UsageError(f"--duration-s: expected a number above 0, got {duration_s:g}")
    return {"threads": threads, "repeats": REPEATS, "duration_s": duration_s / launches}


def launch_in_turn(
    work: Work[JobT, OutcomeT],
    job: JobT,
    outcome_type: type[OutcomeT],
    *,
    launches: int,
    progress: Progress,
    start_limit_s: float = START_LIMIT_S,
    worker: str | None = None,
) -> list[OutcomeT]:
    """Do a job in several processes; errors as `run_launches`."""
    return run_launches(
        work,
        job,
        outcome_type,
        launches=launches,
        limit_s=start_limit_s + 10 * job.duration_s,
        doing=f"calls in turn for {job.duration_s:.3g} s",
        progress=progress,
        worker=worker,
    ).outcomes


def summarise_repeats(values: Sequence[float]) -> RepeatSpread:
    """Return the spread of at least one value."""
    return RepeatSpread(median=float(np.median(values)), min=min(values), max=max(values), repeats=len(values))


def repeats_of(outcomes: Sequence[InTurnOutcome], name: str, figure: str = "p50_us") -> list[float]:
    """Return a figure of a call from all repeats of all processes."""
    return [value for outcome in outcomes for value in getattr(outcome.times[name], figure)]


def ratio_of(outcomes: Sequence[InTurnOutcome], first: str, second: str) -> RepeatSpread:
    """Return the spread of the ratio of two calls' medians."""
    return summarise_repeats(list(map(truediv, repeats_of(outcomes, first), repeats_of(outcomes, second))))


def time_in_turn(
    calls: Mapping[str, Callable[[], object]], *, repeats: int, duration_s: float, twice: bool = False
) -> InTurnOutcome:
    """Call all in turn; return percentiles per repeat of at least 20 rounds."""
    in_order = tuple(calls.values())
    take_turns(in_order, duration_s=min(WARM_UP_S, duration_s))
    percentiles: list[NDArray[np.float64]] = []
    differences_us, count = [], 0
    for _ in range(repeats):
        lengths = take_turns(in_order, duration_s=duration_s / repeats, twice=twice)
        percentiles.append(np.quantile(lengths, (0.5, 0.9, 0.99), axis=1) / 1e3)  # (3, calls)
        differences_us.append(float(np.median(lengths[0] - lengths[-1])) / 1e3)
        count += len(lengths[0])
    p50_us, p90_us, p99_us = np.stack(percentiles).transpose(1, 2, 0)  # each (calls, repeats)
    return InTurnOutcome(
        times={
            name: Timed(p50_us=tuple(p50.tolist()), p90_us=tuple(p90.tolist()), p99_us=tuple(p99.tolist()))
            for name, p50, p90, p99 in zip(calls, p50_us, p90_us, p99_us, strict=True)
        },
        difference_us=tuple(differences_us),
        count=count,
    )


def take_turns(
    calls: Sequence[Callable[[], object]],
    *,
    duration_s: float,
    twice: bool = False,
    burst: int = 1,
    min_rounds: int = MIN_ROUNDS,
) -> tuple[NDArray[np.int64], ...]:
    """Call all in both orders; return call lengths in ns, (N,). `twice` fills the caches by an extra call first."""
    clock = time.perf_counter_ns
    lengths = tuple(array("q") for _ in calls)
    end = clock() + round(duration_s * 1e9)
    order = tuple(zip(calls, lengths, strict=True))
    rounds = 0
    while rounds < min_rounds or clock() < end:
        for call, times in order:
            if twice:
                call()
            for _ in range(burst):
                before = clock()
                call()
                times.append(clock() - before)
        order = order[::-1]
        rounds += 1
    return tuple(np.array(length, dtype=np.int64) for length in lengths)


def turning(call: Callable[[Any], object], arguments: Sequence[Any]) -> Callable[[], object]:
    """Return `call` without an argument: it cycles through `arguments`."""
    following = itertools.cycle(arguments)
    return lambda: call(next(following))


def time_models(job: PairJob, _: object = None) -> InTurnOutcome:
    """Time two models in ONNX Runtime; see `time_in_turn`."""
    calls = {FIRST: _session_call(Path(job.first), job.threads), SECOND: _session_call(Path(job.second), job.threads)}
    return time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s)


def time_predict(job: OverheadJob, _: object = None) -> InTurnOutcome:
    """Time `predict`, then the bare engine; see `time_in_turn`."""
    with open_predictor(job.choice) as predictor:
        modality, windows = predictor.modality, raw_windows(predictor)
        names = tuple(tensor.name for tensor in predictor.entry.inputs)
        feeds = [
            dict(zip(names, prepare(check_window(window, modality), modality, predictor.reference), strict=True))
            for window in windows
        ]
        # The engine of predict: two sessions of one model differ by more than predict adds.
        backend = predictor.backend
        run: Callable[[Any], object] = backend.run
        if job.is_session:
            run = partial(cast(OrtBackend, backend).session.run, [tensor.name for tensor in predictor.entry.outputs])
        arguments = [predict_argument(predictor, window) for window in windows]
        calls = {FIRST: turning(predictor.predict, arguments), SECOND: turning(run, feeds)}
        return time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s)


def _session_call(path: Path, threads: int) -> Callable[[], object]:
    model = read_first(path, _MAX_BYTES, expected="an ONNX model or a bundle")
    feeds: dict[str, NDArray[Any]] = {}
    if model.startswith(_ZIP_START):
        with Bundle.open(path) as bundle:
            entry = bundle.manifest.models[0]
            model = bundle.read(choose_artifact(entry, "fp32", "ort").file)
            tensors = prepare_batch(bundle.golden(entry.name).windows[:1], entry.modality)
        feeds = {tensor.name: values for tensor, values in zip(entry.inputs, tensors, strict=True)}
    try:
        session = open_session(model, threads=threads)
    except BackendError as error:
        raise BackendError(f"{path}: {error}") from error
    feeds = feeds or {node.name: _random_values(node, path) for node in session.get_inputs()}
    return lambda: session.run(None, feeds)


def _random_values(node: Any, path: Path) -> NDArray[Any]:
    """Presence is ones, other inputs are standard normal."""
    element = node.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(element, element)
    if dtype not in np.sctypeDict:
        raise UsageError(f"{path}: input {node.name!r} has the type {node.type}; expected numbers")
    if not all(isinstance(size, int) and size > 0 for size in node.shape):
        raise UsageError(
            f"{path}: input {node.name!r} has the shape {list(node.shape)}; expected fixed sizes: export a static shape"
        )
    if node.name.endswith("_present"):
        return np.ones(node.shape, dtype=dtype)
    return np.asarray(np.random.default_rng(SEED).standard_normal(node.shape).astype(dtype))
