"""Facts that decide a latency, from `/proc`, `/sys` and vendor programs; None if unknown.

Sources: NVIDIA Jetson Linux Developer Guide, "Maximizing Jetson Performance"; Linux kernel, admin-guide/pm/cpufreq.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from mmkd_documents.bench import MachineFacts
from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.machine import ROOT, board_name, cpu_name, read_text, usable_cores

_POWER_MODE = re.compile(r"\bNV Power Mode: *(\S.*?) *$", re.MULTILINE)
_TIMEOUT_S = 10.0


def read_machine(root: Path = ROOT) -> MachineFacts:
    """Return facts of a machine with its file system at `root`."""
    import psutil

    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    governors = {read_text(path) for path in _cores(root, "cpufreq/scaling_governor")}
    return MachineFacts(
        cpu=cpu_name(cpuinfo),
        board=board_name(root),
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        cpu_quota=cpu_quota(root),
        memory_mb=psutil.virtual_memory().total / 2**20,
        governors=tuple(sorted(name for name in governors if name)),
        virtual="hypervisor" in cpuinfo,
        power_mode=read_power_mode(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=_versions(),
        moving_clocks=moving_clocks(root),
        gpus=tuple(
            filter(None, (_run_program("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines())
        ),
    )


def read_power_mode() -> str | None:
    """Return a Jetson's power mode, or None."""
    match = _POWER_MODE.search(_run_program("nvpmodel", "-q") or "")
    return match[1] if match else None


def moving_clocks(root: Path = ROOT) -> tuple[str, ...] | None:
    """Return clocks that may move, of cores from cpufreq (kHz) and GPUs from devfreq (Hz)."""
    cores = [(path.parent.name, path, "scaling_{}_freq", 1e3) for path in _cores(root, "cpufreq")]
    gpus = [("GPU", path, "{}_freq", 1e6) for path in sorted((root / "sys/class/devfreq").glob("*gpu*"))]
    found, moving = False, []
    for name, folder, file, per_mhz in [*cores, *gpus]:
        low, high = (read_number(folder / file.format(end)) for end in ("min", "max"))
        found = found or low is not None
        if low is not None and high is not None and low < high:
            moving.append(f"{name} {low / per_mhz:.0f} to {high / per_mhz:.0f} MHz")
    return tuple(moving) if found else None


def read_number(path: Path) -> float | None:
    """Return the number in a one-value kernel file, or None."""
    try:
        return float(read_text(path) or "")
    except ValueError:
        return None


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return cores that the control group allows (cgroup v2 `cpu.max`)."""
    limit = (read_text(root / "sys/fs/cgroup/cpu.max") or "").split()
    return float(limit[0]) / float(limit[1]) if len(limit) == 2 and limit[0] != "max" else None


def hottest_celsius(root: Path = ROOT) -> float | None:
    """Return the hottest thermal zone's temperature (kernel documentation, `sysfs-class-thermal`)."""
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    return max((value / 1e3 for path in zones if (value := read_number(path)) is not None), default=None)


def highest_mhz(root: Path) -> float | None:
    """Return the highest current core frequency."""
    paths = _cores(root, "cpufreq/scaling_cur_freq")
    return max((value / 1e3 for path in paths if (value := read_number(path)) is not None), default=None)


def resident_mb(root: Path = ROOT) -> float:
    """Return this process's resident memory."""
    import psutil

    return _status_mb(root, "VmRSS") or psutil.Process().memory_info().rss / 2**20


def resident_peak_mb(root: Path = ROOT) -> float:
    """Return peak memory from `VmHWM`: `getrusage` starts at the parent's size."""
    recorded = _status_mb(root, "VmHWM")
    if recorded is not None:
        return recorded
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def _status_mb(root: Path, name: str) -> float | None:
    lines = (read_text(root / "proc/self/status") or "").splitlines()
    fields = next((line.split() for line in lines if line.startswith(f"{name}:")), None)
    return None if fields is None else int(fields[1]) / 2**10


def _cores(root: Path, name: str) -> list[Path]:
    return sorted((root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/{name}"))


def _versions() -> dict[str, str]:
    versions = {}
    engines = [row.library()[1] for row in BACKENDS.values()]
    for name in ("mmkd-edge", "numpy", "msgspec", *engines, "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _run_program(name: str, *arguments: str) -> str | None:
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if program is None:
        return None
    try:
        answer = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
