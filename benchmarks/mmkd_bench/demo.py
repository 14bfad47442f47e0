"""The figures of a report that the demo's page shows."""

from __future__ import annotations

from mmkd_report.schema.bench import BenchReport
from mmkd_report.schema.demo import DemoBenchmark, LatencyPercentiles


def demo_benchmark(report: BenchReport) -> DemoBenchmark:
    """The figures of a report that the demo's page shows; percentiles that had too few samples are None."""
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
    )
