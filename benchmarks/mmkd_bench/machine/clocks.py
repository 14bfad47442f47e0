"""Whether clocks are held or may move: `jetson_clocks --show` on a Jetson, else what the kernel shows of the processor.

Reads and asks; never changes a clock. A run with clocks that move measures the governor as well.

Source: NVIDIA Jetson Linux Developer Guide, "Maximizing Jetson Performance" (`jetson_clocks`: minimum raised to the
maximum, memory held by an override); Linux kernel documentation, admin-guide/pm/cpufreq.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mmkd_bench.machine.facts import read_number
from mmkd_edge.machine import ROOT
from mmkd_report.schema.bench import Clocks

PROGRAM = "jetson_clocks"
TIMEOUT_S = 10.0

_CPU = re.compile(r"^(cpu\d+):\s+Online=(\d)\s.*?\bMinFreq=(\d+)\s+MaxFreq=(\d+)", re.MULTILINE)
_GPU = re.compile(r"^GPU MinFreq=(\d+) MaxFreq=(\d+)", re.MULTILINE)
_EMC = re.compile(r"^EMC MinFreq=(\d+) MaxFreq=(\d+).*?\bFreqOverride=(\d)", re.MULTILINE)


def parse_jetson_clocks(text: str) -> Clocks | None:
    """Which clocks may move in the output of `jetson_clocks --show`; None where it names no clock.

    A processor core and the GPU are held when their minimum is their maximum, the memory (EMC) when it is overridden.
    """
    moving = [*_moving_cores(text), *_moving_parts(text)]
    if not (_CPU.search(text) or _GPU.search(text)):
        return None
    return Clocks(source=PROGRAM, moving=tuple(moving))


def _moving_cores(text: str) -> Iterator[str]:
    for name, online, low, high in _CPU.findall(text):
        if online == "1" and low != high:
            yield f"{name} {int(low) / 1e3:.0f} to {int(high) / 1e3:.0f} MHz"


def _moving_parts(text: str) -> Iterator[str]:
    gpu, emc = _GPU.search(text), _EMC.search(text)
    if gpu and gpu[1] != gpu[2]:
        yield f"GPU {int(gpu[1]) / 1e6:.0f} to {int(gpu[2]) / 1e6:.0f} MHz"
    if emc and emc[3] != "1" and emc[1] != emc[2]:
        yield f"EMC {int(emc[1]) / 1e6:.0f} to {int(emc[2]) / 1e6:.0f} MHz"


def read_clocks(root: Path = ROOT) -> Clocks | None:
    """Which clocks may move; None where neither `jetson_clocks` nor the kernel tells.

    `jetson_clocks` answers root alone. Without it the kernel's limits of the processor and of GPU devices are read.
    """
    program = shutil.which(PROGRAM)
    if program is not None:
        try:
            answer = subprocess.run([program, "--show"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            answer = None
        told = None if answer is None else parse_jetson_clocks(answer.stdout)
        if told is not None:
            return told
    return _kernel_clocks(root)


def _kernel_clocks(root: Path) -> Clocks | None:
    """Limits in cpufreq (kHz) and, of GPUs, in devfreq (Hz)."""
    found, moving = False, []
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        low, high = (read_number(folder / f"scaling_{end}_freq") for end in ("min", "max"))
        found = found or low is not None
        if low is not None and high is not None and low < high:
            moving.append(f"{folder.parent.name} {low / 1e3:.0f} to {high / 1e3:.0f} MHz")
    for folder in sorted((root / "sys/class/devfreq").glob("*gpu*")):
        low, high = (read_number(folder / f"{end}_freq") for end in ("min", "max"))
        found = found or low is not None
        if low is not None and high is not None and low < high:
            moving.append(f"GPU {low / 1e6:.0f} to {high / 1e6:.0f} MHz")
    return Clocks(source="kernel", moving=tuple(moving)) if found else None
