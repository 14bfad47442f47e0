"""How throughput grows with cores: measured on this machine, extrapolated with a stated model and its error.

The model is Amdahl's law in throughput form: X(c) = c X(1) / (1 + s (c - 1)), where s is the share of a prediction that
cannot run beside another (in Python: what holds the interpreter's lock). Source: G. Amdahl, AFIPS 1967; in this form N.
Gunther, Guerrilla Capacity Planning, 2007, eq. 4.31 without its coherence term, which two or four cores cannot show.
It speaks of more cores of the same kind at the same clock, with nothing else on them. Its error is measured by leaving
the largest core count out, predicting it from the others, and comparing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from mmkd_bench.measuring.opening import Choice
from mmkd_bench.measuring.process import Interrupted, Progress, unheard
from mmkd_bench.run import measure_bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import usable_cores
from mmkd_report.schema.bench import BenchReport, Settings
from mmkd_report.schema.bench_others import Forecast, MeasuredThroughput, PlanReport

MAX_CORES = 1024
ROUNDS = 3
"""Every core count is measured so often, in turn, so that the machine's mood meets all of them."""


def throughput_hz(cores: int, *, alone_hz: float, serial_share: float) -> float:
    """The model: throughput of so many cores.

    >>> throughput_hz(4, alone_hz=100.0, serial_share=0.0)
    400.0
    >>> throughput_hz(3, alone_hz=100.0, serial_share=0.25)
    200.0
    """
    return cores * alone_hz / (1 + serial_share * (cores - 1))


def fit_serial_share(by_cores: Mapping[int, float]) -> float:
    """The serial share s of the model, by least squares on c X(1) / X(c) - 1 = s (c - 1), within 0 to 1.

    Args:
        by_cores: throughput by core count; one core must be there.

    >>> round(fit_serial_share({1: 100.0, 2: 160.0, 4: 800 / 3.5}), 3)
    0.25
    """
    more = np.array([cores for cores in by_cores if cores > 1], dtype=np.float64)
    if len(more) == 0:
        return 0.0
    lost = np.array([cores * by_cores[1] / by_cores[int(cores)] - 1 for cores in more])
    share = float((lost * (more - 1)).sum() / ((more - 1) ** 2).sum())
    return min(1.0, max(0.0, share))


def left_out_error(by_cores: Mapping[int, float]) -> float | None:
    """Relative error of the model at the largest core count, fitted to the smaller ones; None with one core.

    >>> left_out_error({1: 100.0, 2: 160.0})
    0.25
    """
    largest = max(by_cores)
    if largest == 1:
        return None
    smaller = {cores: value for cores, value in by_cores.items() if cores < largest}
    predicted_hz = throughput_hz(largest, alone_hz=by_cores[1], serial_share=fit_serial_share(smaller))
    return predicted_hz / by_cores[largest] - 1


def measure_plan(
    choice: Choice,
    *,
    cores: Sequence[int],
    rate_hz: float | None = None,
    duration_s: float = 2.0,
    progress: Progress = unheard,
) -> PlanReport:
    """Measure this machine with 1, 2, 4... callers at once and extrapolate.

    Args:
        choice: what to open; its backend gets one thread.
        cores: core counts of interest.
        rate_hz: windows per second of one stream, to turn throughput into streams.
        duration_s: measured time of one core count in one round.
        progress: gets one line when a measurement begins.

    Raises:
        UsageError: a core count or the rate makes no sense.
        MmkdError: the bundle cannot be opened or run.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a report where something was measured.
    """
    for count in cores:
        if not 1 <= count <= MAX_CORES:
            raise UsageError(f"cores: expected whole numbers from 1 to {MAX_CORES}, got {count}")
    if rate_hz is not None and not rate_hz > 0:
        raise UsageError(f"rate: expected a number above 0, got {rate_hz:g}")
    counts = measured_counts(usable_cores())
    rounds: dict[int, list[float]] = {count: [] for count in counts}
    report: BenchReport | None = None
    try:
        for number, count in itertools.product(range(ROUNDS), counts):
            progress(f"round {number + 1} of {ROUNDS}: {count} at once for {duration_s:g} s")
            report = _measure_count(choice, count, duration_s)
            rounds[count].append(report.result.throughput_hz)
    except KeyboardInterrupt:
        if report is None:
            raise KeyboardInterrupt from None
        raise Interrupted(_report(rounds, report, cores=cores, rate_hz=rate_hz)) from None
    assert report is not None
    return _report(rounds, report, cores=cores, rate_hz=rate_hz)


def _report(
    rounds: Mapping[int, Sequence[float]], last: BenchReport, *, cores: Sequence[int], rate_hz: float | None
) -> PlanReport:
    """What follows from the rounds; `last` is the report of the last measurement."""
    by_cores = {count: float(np.median(values)) for count, values in rounds.items() if values}
    serial_share = fit_serial_share(by_cores) if len(by_cores) == len(rounds) else None
    return PlanReport(
        complete=all(len(values) == ROUNDS for values in rounds.values()),
        subject=last.subject,
        measured=tuple(
            MeasuredThroughput(cores=count, throughput_hz=value, low_hz=min(rounds[count]), high_hz=max(rounds[count]))
            for count, value in by_cores.items()
        ),
        serial_share=serial_share,
        error=None if serial_share is None else left_out_error(by_cores),
        forecasts=()
        if serial_share is None
        else tuple(_forecast(count, by_cores[1], serial_share, rate_hz) for count in cores),
        disturbances=last.stability.disturbances,
        machine=last.machine,
    )


def _forecast(cores: int, alone_hz: float, serial_share: float, rate_hz: float | None) -> Forecast:
    predicted_hz = throughput_hz(cores, alone_hz=alone_hz, serial_share=serial_share)
    return Forecast(
        cores=cores,
        throughput_hz=predicted_hz,
        streams=None if rate_hz is None else int(predicted_hz / rate_hz),
    )


def measured_counts(usable: int) -> list[int]:
    """1, 2, 4... up to the usable cores, and all of them.

    >>> measured_counts(6)
    [1, 2, 4, 6]
    """
    doubled = [2**power for power in range(usable.bit_length()) if 2**power < usable]
    return [*doubled, usable]


def _measure_count(choice: Choice, count: int, duration_s: float) -> BenchReport:
    settings = Settings(launches=1, duration_s=duration_s, clients=count)
    return measure_bundle(choice, settings, energy=False).report
