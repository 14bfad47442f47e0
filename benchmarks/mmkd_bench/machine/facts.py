"""What this machine is: the facts that decide a latency and that a reader needs to repeat it.

Reads files below `/proc` and `/sys` and asks the interpreter. Needs no rights, starts no process, changes nothing, and
takes no name that identifies the machine (no host name, no user, no serial number). What cannot be read is None or
empty: containers and virtual machines hide much. Every reader takes the root of the tree: it reads recorded trees too.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.machine import ROOT, board_name, cpu_name, read_text, usable_cores
from mmkd_report.schema.bench import Clocks, MachineFacts, Temperature

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "GOMP_CPU_AFFINITY",
)


def read_machine(
    root: Path = ROOT, *, power_mode: str | None = None, clocks: Clocks | None = None, gpus: tuple[str, ...] = ()
) -> MachineFacts:
    """Facts of the machine whose file system begins at `root`; what the vendor's tools say is handed in."""
    import psutil

    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    load = (read_text(root / "proc/loadavg") or "").split()
    return MachineFacts(
        cpu=cpu_name(cpuinfo),
        board=board_name(root),
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        cpu_quota=cpu_quota(root),
        memory_mb=psutil.virtual_memory().total / 2**20,
        memory_limit_mb=_memory_limit_mb(root),
        governors=_governors(root / "sys/devices/system/cpu"),
        frequency_mhz=highest_mhz(root, "scaling_cur_freq"),
        frequency_max_mhz=highest_mhz(root, "cpuinfo_max_freq"),
        virtual="hypervisor" in cpuinfo,
        container=_in_container(root),
        power_mode=power_mode,
        load_1min=float(load[0]) if load else None,
        temperatures=read_temperatures(root),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=_versions(),
        thread_variables={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        clocks=clocks,
        gpus=gpus,
    )


def read_number(path: Path) -> float | None:
    """The number in a one-value file of the kernel; None where it is absent, may not be read or is no number."""
    text = read_text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the control group allows (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`)."""
    unified = (read_text(root / "sys/fs/cgroup/cpu.max") or "").split()
    if len(unified) == 2:
        return None if unified[0] == "max" else float(unified[0]) / float(unified[1])
    quota = read_number(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = read_number(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return quota / period if quota is not None and period and quota > 0 else None


def read_temperatures(root: Path = ROOT) -> tuple[Temperature, ...]:
    """Every thermal zone that answers (kernel documentation, `sysfs-class-thermal`: millidegrees Celsius)."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=lambda path: (len(path.name), path.name))
    read = ((read_text(zone / "type") or zone.name, read_number(zone / "temp")) for zone in zones)
    return tuple(Temperature(zone=name, celsius=value / 1e3) for name, value in read if value is not None)


def highest_mhz(root: Path, name: str) -> float | None:
    """The highest of all cores' frequencies; `name` is a file of the kernel's cpufreq folder, which counts in kHz."""
    paths = (root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}")
    values = [value for path in paths if (value := read_number(path)) is not None]
    return max(values) / 1e3 if values else None


def resident_mb(root: Path = ROOT) -> float:
    """Resident memory of this process."""
    import psutil

    return _status_mb(root, "VmRSS") or psutil.Process().memory_info().rss / 2**20


def resident_peak_mb(root: Path = ROOT) -> float:
    """Largest resident memory of this process so far.

    From `VmHWM` where there is one: `getrusage` starts from the size of the process that started this one.
    """
    recorded = _status_mb(root, "VmHWM")
    if recorded is not None:
        return recorded
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def _status_mb(root: Path, name: str) -> float | None:
    """A field of `/proc/self/status` that counts in kB (proc(5)), in MB."""
    lines = (read_text(root / "proc/self/status") or "").splitlines()
    found = next((line.split() for line in lines if line.startswith(f"{name}:")), None)
    return None if found is None else int(found[1]) / 2**10


def _memory_limit_mb(root: Path) -> float | None:
    text = read_text(root / "sys/fs/cgroup/memory.max")
    if text is None:
        text = read_text(root / "sys/fs/cgroup/memory/memory.limit_in_bytes")
    # cgroup v1 writes "no limit" as a page-rounded 2^63.
    unlimited = text is None or not text.isdigit() or int(text) >= 2**62
    return None if unlimited else int(text or 0) / 2**20


def _governors(cpus: Path) -> tuple[str, ...]:
    found = {read_text(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return tuple(sorted(name for name in found if name))


def _in_container(root: Path) -> bool:
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return True
    groups = read_text(root / "proc/1/cgroup") or ""
    return any(word in groups for word in ("docker", "kubepods", "containerd", "lxc"))


def _versions() -> dict[str, str]:
    found = {}
    engines = [row.library()[1] for row in BACKENDS.values()]
    for name in ("mmkd-edge", "numpy", "msgspec", *engines, "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
