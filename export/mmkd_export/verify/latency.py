"""Latency of artifacts beside each other on this machine, to decide which is worth keeping.

Owns one fair comparison: turns interleaved, medians, one thread. What a device will do is `mmkd-bench`'s to say.
"""

from __future__ import annotations

import platform as host
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

from mmkd_edge.backends.base import Backend
from mmkd_export.graph.calibration import Feeds

Key = TypeVar("Key")

_ROUNDS = 400
_LONGEST_S = 6.0
_FEWEST_ROUNDS = 30
_WARM_UP_RUNS = 10


def paired_latency_us(backends: Mapping[Key, Backend], feeds: Sequence[Feeds]) -> dict[Key, float]:
    """Gives the median time of one `run` of every backend in microseconds, measured in turns.

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
    return {key: median(found) / 1000 for key, found in samples.items()}


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Gives the processor's name as the kernel has it; its architecture where the kernel has none."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    for field in ("model name", "Model"):  # x86 and most ARM; boards that only name themselves
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == field and value.strip():
                return value.strip()
    return host.machine()
