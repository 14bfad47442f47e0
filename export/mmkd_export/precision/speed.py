"""Which artifacts are worth keeping for their speed, timed on this machine.

A device runs files of one format, so every artifact is held against the fp32 artifact of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import msgspec

from mmkd_edge.backends.base import Backend, check_backend, is_installed, open_backend
from mmkd_edge.bundle.manifest import Precision
from mmkd_export.verify.artifacts import ProvenArtifact
from mmkd_export.verify.latency import paired_latency_us
from mmkd_export.verify.proof_set import ProofSet, feeds_of
from mmkd_report.schema.export import LeftOutArtifact

LEAST_SPEEDUP = 1.1
"""What an artifact must gain in speed for `auto` to keep it on a CPU: below, it costs size and accuracy for nothing."""


def without_slow(
    timed: Sequence[ProvenArtifact], optional: Collection[Precision]
) -> tuple[list[ProvenArtifact], list[LeftOutArtifact]]:
    """Gives the artifacts without those that are too slow to be kept, and what is left out; see `too_slow`."""
    kept: list[ProvenArtifact] = []
    left_out: list[LeftOutArtifact] = []
    for proven in timed:
        precision, kind = proven.artifact.precision, proven.artifact.format
        latencies = {
            (run.backend, other.artifact.precision): run.latency_us
            for other in timed
            for run in other.report.backends
            if other.artifact.format == kind and run.latency_us is not None
        }
        reason = too_slow(optional, latencies).get(precision)
        if reason is None:
            kept.append(proven)
        else:
            left_out.append(LeftOutArtifact(precision=precision, format=kind, reason=reason, artifact=proven.report))
    return kept, left_out


def too_slow(
    optional: Collection[Precision], latencies_us: Mapping[tuple[str, Precision], float]
) -> dict[Precision, str]:
    """Gives those of the optional precisions that are not `LEAST_SPEEDUP` times as fast as fp32, with the reason.

    Args:
        optional: precisions that only `auto` asked for.
        latencies_us: median latency of every precision in every backend that runs files of one format; the best backend
            of each precision counts.
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


def timed(artifacts: Sequence[ProvenArtifact], proof_set: ProofSet) -> list[ProvenArtifact]:
    """Gives the artifacts with their median latency in every backend that they were run in, measured in turns.

    A backend that is not here, as an earlier bundle may have had more, is left out.
    """
    opened: dict[tuple[str, Precision], Backend] = {}
    try:
        for proven in artifacts:
            for run in proven.report.backends:
                name = check_backend(run.backend)
                if name != "auto" and is_installed(name):
                    opened[name, proven.artifact.precision] = open_backend(name, proven.model, threads=1)
        latencies = paired_latency_us(opened, list(feeds_of(proof_set.real.windows, proof_set.modality)))
    finally:
        for backend in opened.values():
            backend.close()
    return [_with_latencies(proven, latencies) for proven in artifacts]


def _with_latencies(proven: ProvenArtifact, latencies_us: Mapping[tuple[str, Precision], float]) -> ProvenArtifact:
    runs = []
    for run in proven.report.backends:
        latency_us = latencies_us.get((run.backend, proven.artifact.precision))
        rounded = None if latency_us is None else round(latency_us, 1)
        runs.append(msgspec.structs.replace(run, latency_us=rounded))
    return replace(proven, report=msgspec.structs.replace(proven.report, backends=tuple(runs)))
