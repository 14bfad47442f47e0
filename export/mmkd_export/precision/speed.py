"""Which artifacts are worth keeping for their speed, timed on this machine.

A device runs files of one format, so every artifact is compared with the fp32 artifact of its own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TypeVar

import msgspec

from mmkd_edge.backends.base import Backend, check_backend, is_installed, open_backend
from mmkd_edge.bundle.manifest import Precision
from mmkd_export.graph.calibration import Feeds
from mmkd_export.verify.answers import graph_feeds
from mmkd_export.verify.artifacts import ProvenArtifact
from mmkd_export.verify.proof_set import ProofSet
from mmkd_report.schema.export import LeftOutArtifact

LEAST_SPEEDUP = 1.1
"""`auto` keeps an artifact on a CPU from this speedup: below, it costs size and accuracy for nothing."""

_ROUNDS = 400
_LONGEST_S = 6.0
_FEWEST_ROUNDS = 30
_WARM_UP_RUNS = 10

Key = TypeVar("Key")


def without_slow(
    timed: Sequence[ProvenArtifact], optional: Collection[Precision]
) -> tuple[list[ProvenArtifact], list[LeftOutArtifact]]:
    """Divide artifacts into those that stay and those that are left out; see `too_slow`."""
    fast: list[ProvenArtifact] = []
    left_out: list[LeftOutArtifact] = []
    for proven in timed:
        precision, file_format = proven.artifact.precision, proven.artifact.format
        latencies = {
            (run.backend, other.artifact.precision): run.latency_us
            for other in timed
            for run in other.report.backends
            if other.artifact.format == file_format and run.latency_us is not None
        }
        reason = too_slow(optional, latencies).get(precision)
        if reason is None:
            fast.append(proven)
        else:
            left_out.append(
                LeftOutArtifact(precision=precision, format=file_format, reason=reason, artifact=proven.report)
            )
    return fast, left_out


def too_slow(
    optional: Collection[Precision], latencies_us: Mapping[tuple[str, Precision], float]
) -> dict[Precision, str]:
    """Return the optional precisions that are not `LEAST_SPEEDUP` times as fast as fp32, with the reason.

    Args:
        optional: precisions that only `auto` requested.
        latencies_us: median latency of every precision in every backend that runs files of one format; the fastest
            backend of each precision counts.
    """
    best: dict[Precision, float] = {}
    for (_, precision), latency_us in latencies_us.items():
        best[precision] = min(latency_us, best.get(precision, latency_us))
    speedups = {precision: best["fp32"] / best[precision] for precision in best if precision in optional}
    return {
        precision: f"{speedup:.2f} times as fast as fp32 on this machine; auto keeps it from {LEAST_SPEEDUP} times"
        for precision, speedup in speedups.items()
        if speedup < LEAST_SPEEDUP
    }


def with_latencies(artifacts: Sequence[ProvenArtifact], proof_set: ProofSet) -> list[ProvenArtifact]:
    """Time artifacts in every installed backend that they were run in, and add the medians to their reports."""
    opened: dict[tuple[str, Precision], Backend] = {}
    try:
        for proven in artifacts:
            for run in proven.report.backends:
                name = check_backend(run.backend)
                if name != "auto" and is_installed(name):
                    opened[name, proven.artifact.precision] = open_backend(name, proven.model, threads=1)
        latencies = paired_latency_us(opened, list(graph_feeds(proof_set.real.windows, proof_set.modality)))
    finally:
        for backend in opened.values():
            backend.close()

    def timed(proven: ProvenArtifact) -> ProvenArtifact:
        medians = [latencies.get((run.backend, proven.artifact.precision)) for run in proven.report.backends]
        runs = tuple(
            msgspec.structs.replace(run, latency_us=None if latency_us is None else round(latency_us, 1))
            for run, latency_us in zip(proven.report.backends, medians, strict=True)
        )
        return replace(proven, report=msgspec.structs.replace(proven.report, backends=runs))

    return [timed(proven) for proven in artifacts]


def paired_latency_us(backends: Mapping[Key, Backend], feeds: Sequence[Feeds]) -> dict[Key, float]:
    """Return the median time of one `run` of every backend in microseconds, measured in turns.

    In every round each backend runs the same window; its first run of the round brings its weights back into the cache
    and is not timed.
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
        if number >= _FEWEST_ROUNDS and time.perf_counter() - started > _LONGEST_S:
            break
    return {key: median(times) / 1000 for key, times in samples.items()}
