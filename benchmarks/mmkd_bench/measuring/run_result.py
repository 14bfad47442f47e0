"""From single launches to the figures of a run: all samples together, medians over launches, the judgement on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmkd_bench.machine.interference import suspicions, worst
from mmkd_bench.measuring.clients import intervals_ns
from mmkd_bench.measuring.launch import pace
from mmkd_bench.measuring.percentiles import summarise
from mmkd_bench.measuring.timing import CallTimes, PacedSamples, is_steady
from mmkd_report.schema.bench import LatencyHistogram, MachineFacts, Pace, ProcessStart, Result, Stability, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.int64]]


HISTOGRAM_BINS = 60


def result_of(
    launches: Sequence[ProcessStart], samples: Sequence[Arrays], deadline_ms: float | None, *, gpu_note: str = ""
) -> Result:
    """The figures of all launches; `samples` are their raw samples, in the same order."""
    latency_ns = np.concatenate([arrays["latency_ns"] for arrays in samples])

    def median(values: Sequence[float]) -> float:
        return float(np.median(values))

    return Result(
        latency=summarise(latency_ns),
        stages=_median_stages(launches),
        pace=_joined_pace(launches, samples, deadline_ms),
        import_ms=median([launch.import_ms for launch in launches]),
        load_ms=median([launch.load_ms for launch in launches]),
        first_call_ms=median([launch.first_call_ms for launch in launches]),
        throughput_hz=median([launch.throughput_hz for launch in launches]),
        cpu_share=median([launch.cpu_share for launch in launches]),
        rss_mb=median([launch.rss_mb for launch in launches]),
        rss_peak_mb=max(launch.rss_peak_mb for launch in launches),
        gpu_memory_mb=max((one.gpu_memory_mb for one in launches if one.gpu_memory_mb is not None), default=None),
        gpu_note=gpu_note,
        histogram=histogram(latency_ns),
    )


def histogram(latency_ns: NDArray[np.int64]) -> LatencyHistogram:
    """The distribution of samples (N,) in bins that grow by one factor, from the smallest sample to the largest."""
    low_ns = max(1.0, float(latency_ns.min()))
    high_ns = max(float(latency_ns.max()), 1.001 * low_ns)
    edges_ns = np.geomspace(low_ns, high_ns, HISTOGRAM_BINS + 1)
    edges_ns[0], edges_ns[-1] = min(low_ns, float(latency_ns.min())), high_ns  # rounding must not lose the extremes
    counts, _ = np.histogram(latency_ns, edges_ns)
    return LatencyHistogram(edges_us=tuple((edges_ns / 1e3).tolist()), counts=tuple(counts.tolist()))


def _median_stages(launches: Sequence[ProcessStart]) -> tuple[Stage, ...]:
    return tuple(
        Stage(
            name=stages[0].name,
            count=sum(stage.count for stage in stages),
            mean_us=float(np.median([stage.mean_us for stage in stages])),
            p50_us=float(np.median([stage.p50_us for stage in stages])),
            p90_us=float(np.median([stage.p90_us for stage in stages])),
        )
        for stages in zip(*(launch.stages for launch in launches), strict=True)
    )


def _joined_pace(launches: Sequence[ProcessStart], samples: Sequence[Arrays], deadline_ms: float | None) -> Pace | None:
    if launches[0].pace is None:
        return None
    together = joined(samples)
    paced = PacedSamples(
        samples=CallTimes(start_ns=together["start_ns"], latency_ns=together["latency_ns"], elapsed_ns=0),
        lateness_ns=together["lateness_ns"],
        overloaded=any(launch.pace is not None and launch.pace.overloaded for launch in launches),
    )
    # The step from one launch to the next is no interval of the schedule.
    intervals = np.concatenate([intervals_ns(arrays) for arrays in samples])
    return pace(paced, intervals, deadline_ms=deadline_ms)


def joined(samples: Sequence[Arrays]) -> Arrays:
    """The samples of all launches, one after another, with the number of the launch of each under `launch`."""
    numbers = [np.full(len(arrays["latency_ns"]), number, dtype=np.int64) for number, arrays in enumerate(samples)]
    names = samples[0].keys()
    return {
        "launch": np.concatenate(numbers),
        **{name: np.concatenate([one[name] for one in samples]) for name in names},
    }


def judge_stability(launches: Sequence[ProcessStart], machine: MachineFacts) -> Stability:
    """Whether thirds of launches, and launches among themselves, agree within 10 %; and who disturbed them."""
    findings = []
    for number, launch in enumerate(launches, start=1):
        if not launch.warm_up.stable:
            findings.append(f"launch {number} was not steady after {launch.warm_up.seconds:.1f} s of warm-up")
        if not is_steady(launch.thirds_p50_us):
            medians = ", ".join(f"{value:.4g}" for value in launch.thirds_p50_us)
            findings.append(f"launch {number}: medians of its thirds were {medians} µs")
        if launch.pace is not None and launch.pace.overloaded:
            findings.append(f"launch {number} could not keep up with the rate")
    medians_us = [float(np.median([window.p50_us for window in launch.windows])) for launch in launches]
    if not is_steady(medians_us):
        findings.append(f"medians of launches ran from {min(medians_us):.4g} to {max(medians_us):.4g} µs")
    return Stability(
        stable=not findings,
        findings=tuple(findings),
        disturbances=suspicions(worst([launch.interference for launch in launches]), machine),
    )
