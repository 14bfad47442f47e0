"""What disturbed a measurement: kernel counters before and after it, and the sentences that follow from them.

Reads files below `/proc` and `/sys` only. Counters that a machine does not show are None and raise no suspicion.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_bench.machine.facts import highest_mhz, read_number, read_temperatures
from mmkd_edge.machine import ROOT, read_text
from mmkd_report.schema.bench import Interference, MachineFacts

OTHERS_SHARE = 0.05
STEAL_SHARE = 0.01
THROTTLED_SHARE = 0.01
FREQUENCY_DROP = 0.05
MICROSECONDS_PER_SECOND = 1e6


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Counters of the machine, its control group and this process at one moment; None where not shown.

    Attributes:
        time_s: monotonic clock.
        busy_s: core time of all processes together.
        steal_s: core time that the hypervisor gave to others.
        own_s: core time of this process.
        throttled_s: time for which the control group was held back.
        switches: involuntary context switches of this process.
        thermal_events: times a core slowed down because of heat.
        frequency_mhz: highest current core frequency.
        celsius: the hottest thermal zone.
    """

    time_s: float
    busy_s: float | None
    steal_s: float | None
    own_s: float
    throttled_s: float | None
    switches: float | None
    thermal_events: float | None
    frequency_mhz: float | None
    celsius: float | None


def read_counters(root: Path = ROOT) -> Counters:
    """The counters now."""
    busy_s, steal_s = _core_times(root)
    cores = root / "sys/devices/system/cpu"
    temperatures = read_temperatures(root)
    return Counters(
        time_s=time.monotonic(),
        busy_s=busy_s,
        steal_s=steal_s,
        own_s=time.process_time(),
        throttled_s=_throttled_s(root),
        switches=_status_field(root, "nonvoluntary_ctxt_switches"),
        thermal_events=_total(cores, "thermal_throttle/core_throttle_count"),
        frequency_mhz=highest_mhz(root, "scaling_cur_freq"),
        celsius=max((entry.celsius for entry in temperatures), default=None),
    )


def interference(before: Counters, after: Counters) -> Interference:
    """What lies between two readings."""
    wall_s = max(after.time_s - before.time_s, 1e-9)
    busy_s, own_s = _rise(before.busy_s, after.busy_s), after.own_s - before.own_s
    events = _rise(before.thermal_events, after.thermal_events)
    return Interference(
        others_share=None if busy_s is None else max(0.0, busy_s - own_s) / wall_s,
        steal_share=_share(_rise(before.steal_s, after.steal_s), wall_s),
        throttled_share=_share(_rise(before.throttled_s, after.throttled_s), wall_s),
        switches_hz=_share(_rise(before.switches, after.switches), wall_s),
        thermal_events=None if events is None else round(events),
        frequency_drop=_drop(before.frequency_mhz, after.frequency_mhz),
        celsius_before=before.celsius,
        celsius_after=after.celsius,
    )


def worst(found: Sequence[Interference]) -> Interference:
    """For each field the largest value over several measurements."""

    def largest(name: str) -> Any:
        values = [value for one in found if (value := getattr(one, name)) is not None]
        return max(values, default=None)

    return Interference(**{name: largest(name) for name in Interference.__struct_fields__})


def suspicions(found: Interference, machine: MachineFacts) -> tuple[str, ...]:
    """Likely causes of unsteady latency, most telling first; empty when the counters accuse nobody."""
    sentences = []
    if found.thermal_events:
        sentences.append(f"cores slowed down because of heat ({found.thermal_events} events)")
    if _exceeds(found.throttled_share, THROTTLED_SHARE):
        sentences.append(f"the control group's CPU limit held the process back {found.throttled_share:.0%} of the time")
    if _exceeds(found.steal_share, STEAL_SHARE):
        sentences.append(f"the hypervisor took {found.steal_share:.0%} of a core for other guests")
    if _exceeds(found.others_share, OTHERS_SHARE):
        sentences.append(f"other processes used {found.others_share:.0%} of a core")
    if _exceeds(found.frequency_drop, FREQUENCY_DROP):
        sentences.append(f"the core frequency fell by {found.frequency_drop:.0%}")
    moving = [name for name in machine.governors if name != "performance"]
    if moving:
        sentences.append(f"governor '{moving[0]}' lets the core frequency move")
    return tuple(sentences)


def _exceeds(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _rise(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _share(rise: float | None, wall_s: float) -> float | None:
    return None if rise is None else rise / wall_s


def _drop(before: float | None, after: float | None) -> float | None:
    return None if not before or after is None else (before - after) / before


def _core_times(root: Path) -> tuple[float | None, float | None]:
    """Busy and stolen core seconds (proc(5), `/proc/stat`: user nice system idle iowait irq softirq steal)."""
    first = (read_text(root / "proc/stat") or "").partition("\n")[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in first[1:9])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks


def _throttled_s(root: Path) -> float | None:
    """Throttled time of the control group: cgroup v2 `throttled_usec`, v1 `throttled_time` in nanoseconds."""
    unified = _fields(root / "sys/fs/cgroup/cpu.stat").get("throttled_usec")
    if unified is not None:
        return unified / MICROSECONDS_PER_SECOND
    legacy = _fields(root / "sys/fs/cgroup/cpu/cpu.stat").get("throttled_time")
    return None if legacy is None else legacy / 1e9


def _status_field(root: Path, name: str) -> float | None:
    return _fields(root / "proc/self/status").get(name)


def _fields(path: Path) -> dict[str, float]:
    pairs = (line.replace(":", " ").split() for line in (read_text(path) or "").splitlines())
    return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _total(cores: Path, name: str) -> float | None:
    values = [value for path in cores.glob(f"cpu[0-9]*/{name}") if (value := read_number(path)) is not None]
    return sum(values) if values else None
