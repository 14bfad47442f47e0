"""Whether artifacts are fast enough on this machine to include."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TypeVar, cast

import msgspec

from mmkd_edge.backends.base import Backend, BackendName, open_backend
from mmkd_edge.bundle.manifest import Precision
from mmkd_export.graph.calibration import Feeds
from mmkd_export.verify.answers import graph_feeds
from mmkd_export.verify.artifacts import ProvenArtifact
from mmkd_export.verify.proof_set import ProofSet
from mmkd_report.schema.export import LeftOutArtifact

# Minimum speedup on a CPU for `auto`: below, size and accuracy are wasted
MIN_SPEEDUP = 1.1

_ROUNDS = 400
_MAX_S = 6.0
_MIN_ROUNDS = 30
_WARM_UP_RUNS = 10
Key = TypeVar("Key")


def without_slow(
    timed: Sequence[ProvenArtifact], optional: Collection[Precision]
) -> tuple[list[ProvenArtifact], list[LeftOutArtifact]]:
    """Leave out optional artifacts below `MIN_SPEEDUP` times the fp32 speed."""
    fast: list[ProvenArtifact] = []
    left_out: list[LeftOutArtifact] = []
    best = {
        (proven.artifact.format, proven.artifact.precision): min(latencies)
        for proven in timed
        if (latencies := [run.latency_us for run in proven.report.backends if run.latency_us is not None])
    }
    for proven in timed:
        precision, file_format = proven.artifact.precision, proven.artifact.format
        fp32, own = best.get((file_format, "fp32")), best.get((file_format, precision))
        if precision not in optional or fp32 is None or own is None or fp32 / own >= MIN_SPEEDUP:
            fast.append(proven)
            continue
        reason = f"{fp32 / own:.2f} times as fast as fp32 on this machine; auto keeps it from {MIN_SPEEDUP} times"
        left_out.append(LeftOutArtifact(precision=precision, format=file_format, reason=reason, artifact=proven.report))
    return fast, left_out


def with_latencies(artifacts: Sequence[ProvenArtifact], proof_set: ProofSet) -> list[ProvenArtifact]:
    """Add median latencies by backend to the reports."""
    opened: dict[tuple[str, Precision], Backend] = {}
    try:
        for proven in artifacts:
            for run in proven.report.backends:
                backend = open_backend(cast("BackendName", run.backend), proven.model, threads=1)
                opened[run.backend, proven.artifact.precision] = backend
        latencies = paired_latency_us(opened, list(graph_feeds(proof_set.real.windows, proof_set.modality)))
    finally:
        for backend in opened.values():
            backend.close()

    timed = []
    for proven in artifacts:
        runs = tuple(
            msgspec.structs.replace(run, latency_us=round(latencies[run.backend, proven.artifact.precision], 1))
            for run in proven.report.backends
        )
        timed.append(replace(proven, report=msgspec.structs.replace(proven.report, backends=runs)))
    return timed


def paired_latency_us(backends: Mapping[Key, Backend], feeds: Sequence[Feeds]) -> dict[Key, float]:
    """Return each backend's median time of a `run`, in µs, measured in turns.

    Each round runs a window twice: the first run refills the cache.
    """
    samples: dict[Key, list[int]] = {key: [] for key in backends}
    for backend in backends.values():
        for _ in range(_WARM_UP_RUNS):
            backend.run(feeds[0])
    started = time.perf_counter()
    for number in range(_ROUNDS):
        window = feeds[number % len(feeds)]
        for key, backend in backends.items():
            backend.run(window)
            before = time.perf_counter_ns()
            backend.run(window)
            samples[key].append(time.perf_counter_ns() - before)
        if number >= _MIN_ROUNDS and time.perf_counter() - started > _MAX_S:
            break
    return {key: median(times) / 1000 for key, times in samples.items()}
