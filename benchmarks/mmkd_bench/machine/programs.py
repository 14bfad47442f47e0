"""Programs that report on the machine: `nvidia-smi`, `tegrastats`, `nvpmodel`, `jetson_clocks`.

Source: `nvidia-smi --help-query-gpu`, `--help-query-compute-apps`: memory in MiB, power in W, unknown is `[N/A]`.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from mmkd_edge.errors import UnavailableError

TIMEOUT_S = 10.0
GPU_PROGRAM = "nvidia-smi"
GPU_FORM = "--format=csv,noheader,nounits"


def find_program(name: str) -> str | None:
    """Return the path of a program; `/usr/sbin` is often missing in the search path."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def run_program(name: str, *arguments: str) -> str | None:
    """Return the output of a program; None if it is absent, fails or does not answer."""
    program = find_program(name)
    if program is None:
        return None
    try:
        answer = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


class ProgramLines:
    """Lines of a program that repeats its answer; it ends with the `with` block."""

    def __init__(self, name: str, *arguments: str, subject: str = "") -> None:
        program = find_program(name)
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
        """Wait for the next line; raise UnavailableError if the program has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UnavailableError(self._end)
        return line


def read_gpus() -> tuple[tuple[str, str, float | None], ...]:
    """Return name, driver and memory in MB of each GPU; None if it shares the main memory."""
    return parse_gpus(run_program(GPU_PROGRAM, "--query-gpu=name,driver_version,memory.total", GPU_FORM) or "")


def gpu_names() -> tuple[str, ...]:
    """Return name, driver and memory of each GPU in words."""
    return tuple(
        f"{name}, driver {driver}" + (f", {memory_mb:.0f} MB" if memory_mb is not None else "")
        for name, driver, memory_mb in read_gpus()
    )


def parse_gpus(text: str) -> tuple[tuple[str, str, float | None], ...]:
    """Return the GPUs in the answer to `--query-gpu=name,driver_version,memory.total`."""
    rows = [[cell.strip() for cell in line.rsplit(",", 2)] for line in text.splitlines() if line.count(",") >= 2]
    return tuple((name, driver, number_of(memory)) for name, driver, memory in rows)


def process_memory_mb() -> tuple[float | None, str]:
    """Return the memory of this process on all GPUs, or None and the reason."""
    if find_program(GPU_PROGRAM) is None:
        return None, f"{GPU_PROGRAM} is not installed"
    text = run_program(GPU_PROGRAM, "--query-compute-apps=pid,used_memory", GPU_FORM)
    if text is None:
        return None, f"{GPU_PROGRAM} does not answer"
    memory_mb = parse_process_memory(text, os.getpid())
    return (None, "this process is on no GPU") if memory_mb is None else (memory_mb, "")


def parse_process_memory(text: str, pid: int) -> float | None:
    """Return the memory of a process in the answer to `--query-compute-apps=pid,used_memory`."""
    rows = [line.partition(",") for line in text.splitlines()]
    values = [number_of(memory) for row_pid, _, memory in rows if row_pid.strip() == str(pid)]
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def number_of(text: str) -> float | None:
    """Return the number in a cell, or None."""
    try:
        return float(text)
    except ValueError:
        return None
