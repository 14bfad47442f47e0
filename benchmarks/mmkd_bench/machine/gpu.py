"""What NVIDIA's management library says of GPUs, through `nvidia-smi`: names, memory of a process, power.

Asks the vendor's program, which comes with the driver; no library is loaded and no setting changed. The GPU of a Jetson
shares the main memory, which resident memory counts already, and its power is on the board's rails (see `power`).

Source: `nvidia-smi --help-query-gpu` and `--help-query-compute-apps`: memory in MiB, power in W; what a GPU does not
tell is `[N/A]` or `[Not Supported]`.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import msgspec

from mmkd_edge.errors import UnavailableError

PROGRAM = "nvidia-smi"
TIMEOUT_S = 10.0
INTERVAL_MS = 100


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU; `memory_mb` is None where it shares the main memory."""

    name: str
    driver: str
    memory_mb: float | None


def read_gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; none where `nvidia-smi` is absent or does not answer."""
    text = _ask("--query-gpu=name,driver_version,memory.total")
    return () if text is None else parse_gpus(text)


def gpu_names() -> tuple[str, ...]:
    """Name, driver and memory of each GPU, in words."""
    return tuple(
        f"{gpu.name}, driver {gpu.driver}" + (f", {gpu.memory_mb:.0f} MB" if gpu.memory_mb is not None else "")
        for gpu in read_gpus()
    )


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs in the answer to `--query-gpu=name,driver_version,memory.total`.

    >>> parse_gpus("NVIDIA H100 80GB HBM3, 570.86.15, 81559")[0].memory_mb
    81559.0
    """
    rows = [[cell.strip() for cell in line.rsplit(",", 2)] for line in text.splitlines() if line.count(",") >= 2]
    return tuple(Gpu(name=name, driver=driver, memory_mb=_number(memory)) for name, driver, memory in rows)


def process_memory_mb() -> tuple[float | None, str]:
    """Memory of this process on all GPUs, or why it is not known: None and the reason."""
    if shutil.which(PROGRAM) is None:
        return None, f"{PROGRAM} is not installed"
    text = _ask("--query-compute-apps=pid,used_memory")
    if text is None:
        return None, f"{PROGRAM} does not answer"
    found = parse_process_memory(text, os.getpid())
    return (None, "this process is on no GPU") if found is None else (found, "")


def parse_process_memory(text: str, pid: int) -> float | None:
    r"""Memory of a process over all GPUs in the answer to `--query-compute-apps=pid,used_memory`.

    >>> parse_process_memory("7, 312\n8, 100\n7, 88", 7)
    400.0
    """
    rows = [line.partition(",") for line in text.splitlines()]
    values = [_number(memory) for found, _, memory in rows if found.strip() == str(pid)]
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def parse_power_mw(line: str) -> float | None:
    """Power in one line of `--query-gpu=power.draw`; None where the GPU does not tell it.

    >>> parse_power_mw("69.52"), parse_power_mw("[N/A]")
    (69520.0, None)
    """
    watts = _number(line)
    return None if watts is None else 1e3 * watts


class GpuSensor:
    """What all GPUs of the machine draw, without the processor: an `nvidia-smi` that repeats its answer."""

    def __init__(self) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise UnavailableError(f"GPU: {PROGRAM} is not installed")
        gpus = read_gpus()
        if not gpus:
            raise UnavailableError(f"GPU: {PROGRAM} shows none")
        self._count = len(gpus)
        self._process = subprocess.Popen(
            [program, "--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--loop-ms={INTERVAL_MS}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            self.read_mw()
        except UnavailableError:
            self.close()
            raise
        self.name = f"{' + '.join(gpu.name for gpu in gpus)} ({PROGRAM}, without the processor)"

    def read_mw(self) -> float:
        """Power in the next lines, one per GPU, which it waits for; see `PowerSensor.read_mw`."""
        total_mw = 0.0
        for _ in range(self._count):
            line = self._process.stdout.readline() if self._process.stdout else ""
            if not line:
                raise UnavailableError(f"GPU: {PROGRAM} ended without a line")
            power_mw = parse_power_mw(line)
            if power_mw is None:
                raise UnavailableError(f"GPU: {PROGRAM} gives no power, but {line.strip()!r}")
            total_mw += power_mw
        return total_mw

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _ask(query: str) -> str | None:
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    command = [program, query, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


def _number(text: str) -> float | None:
    try:
        return float(text.strip())
    except ValueError:
        return None
