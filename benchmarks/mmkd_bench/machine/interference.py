"""Disturbances of a measurement, from kernel counters; None raises no suspicion."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_bench.machine.facts import highest_mhz, hottest_celsius, read_number
from mmkd_documents.bench import Interference, MachineFacts
from mmkd_edge.machine import ROOT, read_text

_MAX_OTHERS_CORES = 0.05
_MAX_STEAL_CORES = 0.01
_MAX_THROTTLED_FRACTION = 0.01
_MAX_FREQUENCY_DROP = 0.05


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Counters at one moment; `busy_s` is core time of all processes, `own_s` of this one."""

    time_s: float
    busy_s: float | None
    steal_s: float | None
    own_s: float
    throttled_s: float | None
    thermal_events: float | None
    frequency_mhz: float | None
    celsius: float | None


def read_counters(root: Path = ROOT) -> Counters:
    """Read the counters."""
    busy_s, steal_s = None, None  # core seconds (proc(5))
    first = (read_text(root / "proc/stat") or "").partition("\n")[0].split()
    if len(first) >= 9 and first[0] == "cpu":
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in first[1:9])
        ticks = os.sysconf("SC_CLK_TCK")
        busy_s, steal_s = (user + nice + system + irq + softirq) / ticks, steal / ticks
    lines = (read_text(root / "sys/fs/cgroup/cpu.stat") or "").splitlines()
    control = dict(line.split() for line in lines if len(line.split()) == 2)
    paths = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    events = [value for path in paths if (value := read_number(path)) is not None]
    return Counters(
        time_s=time.monotonic(),
        busy_s=busy_s,
        steal_s=steal_s,
        own_s=time.process_time(),
        throttled_s=int(control["throttled_usec"]) / 1e6 if "throttled_usec" in control else None,
        thermal_events=sum(events) if events else None,
        frequency_mhz=highest_mhz(root),
        celsius=hottest_celsius(root),
    )


def interference(before: Counters, after: Counters) -> Interference:
    """Return the difference of two readings."""

    def rise(name: str) -> float | None:
        first, second = getattr(before, name), getattr(after, name)
        return None if first is None or second is None else second - first

    def per_second(name: str, *, without: float = 0.0) -> float | None:
        risen = rise(name)
        return None if risen is None else max(0.0, risen - without) / max(after.time_s - before.time_s, 1e-9)

    events = rise("thermal_events")
    fallen_mhz = rise("frequency_mhz")
    return Interference(
        others_cores=per_second("busy_s", without=after.own_s - before.own_s),
        steal_cores=per_second("steal_s"),
        throttled_fraction=per_second("throttled_s"),
        thermal_events=None if events is None else round(events),
        frequency_drop=None if not before.frequency_mhz or fallen_mhz is None else -fallen_mhz / before.frequency_mhz,
        celsius_before=before.celsius,
        celsius_after=after.celsius,
    )


def worst(measurements: Sequence[Interference]) -> Interference:
    """Return each field's largest value."""

    def largest(name: str) -> Any:
        values = [value for measurement in measurements if (value := getattr(measurement, name)) is not None]
        return max(values, default=None)

    return Interference(**{name: largest(name) for name in Interference.__struct_fields__})


def suspicions(beside: Interference, machine: MachineFacts) -> tuple[str, ...]:
    """Return causes of unsteady latency, the most likely first."""
    sentences = []
    if beside.thermal_events:
        sentences.append(f"cores slowed down because of heat ({beside.thermal_events} events)")
    if (beside.throttled_fraction or 0) > _MAX_THROTTLED_FRACTION:
        sentences.append(
            f"the control group's CPU limit held the process back {beside.throttled_fraction:.0%} of the time"
        )
    if (beside.steal_cores or 0) > _MAX_STEAL_CORES:
        sentences.append(f"the hypervisor took {beside.steal_cores:.0%} of a core for other guests")
    if (beside.others_cores or 0) > _MAX_OTHERS_CORES:
        sentences.append(f"other processes used {beside.others_cores:.0%} of a core")
    if (beside.frequency_drop or 0) > _MAX_FREQUENCY_DROP:
        sentences.append(f"the core frequency fell by {beside.frequency_drop:.0%}")
    moving = [name for name in machine.governors if name != "performance"]
    if moving:
        sentences.append(f"governor '{moving[0]}' lets the core frequency move")
    return tuple(sentences)
