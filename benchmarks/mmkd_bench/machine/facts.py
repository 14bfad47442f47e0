"""Facts that decide a latency, from `/proc`, `/sys` and vendor programs; None if unknown.

Sources: NVIDIA Jetson Linux Developer Guide, "Maximizing Jetson Performance"; Linux kernel documentation,
admin-guide/pm/cpufreq.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.errors import UnavailableError
from mmkd_edge.machine import ROOT, board_name, cpu_name, read_text, usable_cores
from mmkd_report.schema.bench import Clocks, MachineFacts

_POWER_MODE = re.compile(r"\bNV Power Mode: *(\S.*?) *$", re.MULTILINE)
_CPU = re.compile(r"^(cpu\d+):\s+Online=(\d)\s.*?\bMinFreq=(\d+)\s+MaxFreq=(\d+)", re.MULTILINE)
_GPU = re.compile(r"^GPU MinFreq=(\d+) MaxFreq=(\d+)", re.MULTILINE)
_EMC = re.compile(r"^EMC MinFreq=(\d+) MaxFreq=(\d+).*?\bFreqOverride=(\d)", re.MULTILINE)


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
        memory_limit_mb=_memory_limit_mb(root),
        governors=tuple(sorted(name for name in governors if name)),
        virtual="hypervisor" in cpuinfo,
        container=_in_container(root),
        power_mode=read_power_mode(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=_versions(),
        clocks=read_clocks(root),
        gpus=gpu_names(),
    )


def read_power_mode() -> str | None:
    """Return a Jetson's power mode, or None."""
    match = _POWER_MODE.search(_run_program("nvpmodel", "-q") or "")
    return match[1] if match else None


def read_clocks(root: Path = ROOT) -> Clocks | None:
    """Return clocks that may move, by `jetson_clocks` (as root) or the kernel."""
    return parse_jetson_clocks(_run_program("jetson_clocks", "--show") or "") or _kernel_clocks(root)


def parse_jetson_clocks(text: str) -> Clocks | None:
    """Return clocks that may move in the output of `jetson_clocks --show`; None if it names none.

    Cores and GPU are held if minimum equals maximum, memory (EMC) if overridden.
    """
    cpus, gpu, emc = _CPU.findall(text), _GPU.search(text), _EMC.search(text)
    if not (cpus or gpu):
        return None
    moving = [
        f"{name} {int(low) / 1e3:.0f} to {int(high) / 1e3:.0f} MHz"
        for name, online, low, high in cpus
        if online == "1" and low != high
    ]
    if gpu and gpu[1] != gpu[2]:
        moving.append(f"GPU {int(gpu[1]) / 1e6:.0f} to {int(gpu[2]) / 1e6:.0f} MHz")
    if emc and emc[3] != "1" and emc[1] != emc[2]:
        moving.append(f"EMC {int(emc[1]) / 1e6:.0f} to {int(emc[2]) / 1e6:.0f} MHz")
    return Clocks(source="jetson_clocks", moving=tuple(moving))


def _kernel_clocks(root: Path) -> Clocks | None:
    """Return limits of cores from cpufreq (kHz) and GPUs from devfreq (Hz)."""
    cores = [(path.parent.name, path, "scaling_{}_freq", 1e3) for path in _cores(root, "cpufreq")]
    gpus = [("GPU", path, "{}_freq", 1e6) for path in sorted((root / "sys/class/devfreq").glob("*gpu*"))]
    found, moving = False, []
    for name, folder, file, per_mhz in [*cores, *gpus]:
        low, high = (read_number(folder / file.format(end)) for end in ("min", "max"))
        found = found or low is not None
        if low is not None and high is not None and low < high:
            moving.append(f"{name} {low / per_mhz:.0f} to {high / per_mhz:.0f} MHz")
    return Clocks(source="kernel", moving=tuple(moving)) if found else None


def read_number(path: Path) -> float | None:
    """Return the number in a one-value kernel file, or None."""
    return parse_number(read_text(path) or "")


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


def _memory_limit_mb(root: Path) -> float | None:
    text = read_text(root / "sys/fs/cgroup/memory.max") or ""
    return int(text) / 2**20 if text.isdigit() else None  # "max" without a limit


def _in_container(root: Path) -> bool:
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return True
    groups = read_text(root / "proc/1/cgroup") or ""
    return any(word in groups for word in ("docker", "kubepods", "containerd", "lxc"))


def _versions() -> dict[str, str]:
    versions = {}
    engines = [row.library()[1] for row in BACKENDS.values()]
    for name in ("mmkd-edge", "numpy", "msgspec", *engines, "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


_TIMEOUT_S = 10.0
GPU_PROGRAM = "nvidia-smi"
GPU_FORM = "--format=csv,noheader,nounits"


def _find_program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def _run_program(name: str, *arguments: str) -> str | None:
    program = _find_program(name)
    if program is None:
        return None
    try:
        answer = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


class ProgramLines:
    """Lines of a program that repeats its answer, ended with the block."""

    def __init__(self, name: str, *arguments: str, subject: str = "") -> None:
        program = _find_program(name)
        if program is None:
            raise UnavailableError(f"{subject}{name} is not installed")
        self._end = f"{subject}{name} ended without a line"
        self._process = subprocess.Popen(
            [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> ProgramLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self) -> str:
        """Wait for a line; raise UnavailableError if the program has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UnavailableError(self._end)
        return line


def read_gpus() -> tuple[tuple[str, str, float | None], ...]:
    """Return name, driver and memory in MB of each GPU; None if memory is shared."""
    text = _run_program(GPU_PROGRAM, "--query-gpu=name,driver_version,memory.total", GPU_FORM) or ""
    rows = [[cell.strip() for cell in line.rsplit(",", 2)] for line in text.splitlines() if line.count(",") >= 2]
    return tuple((name, driver, parse_number(memory)) for name, driver, memory in rows)


def gpu_names() -> tuple[str, ...]:
    """Return a description of each GPU."""
    return tuple(
        f"{name}, driver {driver}" + (f", {memory_mb:.0f} MB" if memory_mb is not None else "")
        for name, driver, memory_mb in read_gpus()
    )


def process_memory_mb() -> tuple[float | None, str]:
    """Return memory on all GPUs, or None and the reason."""
    if _find_program(GPU_PROGRAM) is None:
        return None, f"{GPU_PROGRAM} is not installed"
    text = _run_program(GPU_PROGRAM, "--query-compute-apps=pid,used_memory", GPU_FORM)
    if text is None:
        return None, f"{GPU_PROGRAM} does not answer"
    rows = [line.partition(",") for line in text.splitlines()]
    values = [parse_number(memory) for pid, _, memory in rows if pid.strip() == str(os.getpid())]
    known = [value for value in values if value is not None]
    return (sum(known), "") if known else (None, "this process is on no GPU")


def parse_number(text: str) -> float | None:
    """Return a cell's number, or None."""
    try:
        return float(text)
    except ValueError:
        return None
