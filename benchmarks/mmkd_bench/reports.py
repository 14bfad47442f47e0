"""Read and write run reports; their figures on the demo's page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmkd_bench.measuring.timing import Arrays
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_report.schema.bench import FORMAT_VERSION, BenchReport
from mmkd_report.schema.demo import DemoBenchmark, LatencyPercentiles


class _Version(msgspec.Struct, frozen=True):
    format_version: int


def encode_report(report: BenchReport) -> bytes:
    """Return the report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def decode_report(data: bytes, *, where: str) -> BenchReport:
    """Parse a report; raise UsageError with the path of a fault."""
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: expected a benchmark report, cannot read it: {error}") from error
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{where}: expected a report of format_version {FORMAT_VERSION}, got {version}; "
            "read it with the mmkd-bench that wrote it"
        )
    try:
        return msgspec.json.decode(data, type=BenchReport)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: not a valid benchmark report: {error}") from error


def read_report(path: Path) -> BenchReport:
    """Read a report; see `decode_report`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected a report of 'mmkd-bench run --json', cannot open it: {reason}") from error
    return decode_report(data, where=str(path))


def write_report(path: Path, report: BenchReport) -> None:
    """Write the report atomically as JSON."""
    write_file(path, encode_report(report))


def write_samples(path: Path, samples: Arrays) -> None:
    """Write raw samples atomically as an uncompressed .npz."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {**samples}
    np.savez(buffer, **arrays)
    write_file(path, buffer.getvalue())


def demo_benchmark(report: BenchReport) -> DemoBenchmark:
    """Return the demo's figures; percentiles with too few samples are None."""
    result, machine = report.result, report.machine
    p50, p90, p99 = (
        None if (value_us := result.latency.value_us(quantile)) is None else value_us / 1e3
        for quantile in (0.5, 0.9, 0.99)
    )
    return DemoBenchmark(
        bundle=report.subject.bundle,
        backend=report.configuration.backend,
        precision=report.configuration.precision,
        threads=report.configuration.threads,
        launches=len(report.launches),
        latency_ms=LatencyPercentiles(p50=p50, p90=p90, p99=p99, samples=result.latency.count),
        stages_us={stage.name: stage.p50_us for stage in result.stages},
        load_ms=result.load_ms,
        first_call_ms=result.first_call_ms,
        rss_mb=result.rss_mb,
        stable=report.stability.stable,
        machine={
            "cpu": machine.name,
            "architecture": machine.architecture,
            "cores": machine.usable_cores,
            "memory_mb": round(machine.memory_mb),
            "os": machine.os,
            "python": machine.python,
            "governor": ", ".join(machine.governors) or None,
            "virtual": machine.virtual,
            "container": machine.container,
        },
    )
