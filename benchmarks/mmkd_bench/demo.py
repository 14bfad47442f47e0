"""The figures of a report that the demo's page shows, as plain JSON values."""

from __future__ import annotations

from typing import Any

from mmkd_report.documents.bench import BenchReport


def demo_document(report: BenchReport) -> dict[str, Any]:
    """The figures of a report that the demo's page shows, as plain JSON values.

    Percentiles that had too few samples are None.
    """
    result = report.result
    latency_ms: dict[str, Any] = {
        name: None if (value_us := result.latency.value_us(quantile)) is None else value_us / 1e3
        for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    }
    machine = report.machine
    return {
        "bundle": report.subject.bundle,
        "backend": report.configuration.backend,
        "precision": report.configuration.precision,
        "threads": report.configuration.threads,
        "launches": len(report.launches),
        "latency_ms": {**latency_ms, "samples": result.latency.count},
        "stages_us": {stage.name: stage.p50_us for stage in result.stages},
        "load_ms": result.load_ms,
        "first_call_ms": result.first_call_ms,
        "rss_mb": result.rss_mb,
        "stable": report.stability.stable,
        "machine": {
            "cpu": machine.board or machine.cpu,
            "architecture": machine.architecture,
            "cores": machine.usable_cores,
            "memory_mb": round(machine.memory_mb),
            "os": machine.os,
            "python": machine.python,
            "governor": ", ".join(machine.governors) or None,
            "virtual": machine.virtual,
            "container": machine.container,
        },
    }
