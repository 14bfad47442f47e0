"""GPUs through `nvidia-smi`: names and memory of a process.

The GPU of a Jetson shares the main memory, which resident memory counts. Source: `nvidia-smi --help-query-gpu` and
`--help-query-compute-apps`: memory in MiB, power in W; values that a GPU does not report are `[N/A]`.
"""

from __future__ import annotations

import os

from mmkd_bench.machine.programs import find_program, run_program

GPU_PROGRAM = "nvidia-smi"
GPU_FORM = "--format=csv,noheader,nounits"


def read_gpus() -> tuple[tuple[str, str, float | None], ...]:
    """Name, driver and memory in MB of each GPU; the memory is None where it shares the main memory."""
    return parse_gpus(run_program(GPU_PROGRAM, "--query-gpu=name,driver_version,memory.total", GPU_FORM) or "")


def gpu_names() -> tuple[str, ...]:
    """Name, driver and memory of each GPU in words."""
    return tuple(
        f"{name}, driver {driver}" + (f", {memory_mb:.0f} MB" if memory_mb is not None else "")
        for name, driver, memory_mb in read_gpus()
    )


def parse_gpus(text: str) -> tuple[tuple[str, str, float | None], ...]:
    """GPUs in the answer to `--query-gpu=name,driver_version,memory.total`.

    >>> parse_gpus("NVIDIA H100 80GB HBM3, 570.86.15, 81559")
    (('NVIDIA H100 80GB HBM3', '570.86.15', 81559.0),)
    """
    rows = [[cell.strip() for cell in line.rsplit(",", 2)] for line in text.splitlines() if line.count(",") >= 2]
    return tuple((name, driver, number_of(memory)) for name, driver, memory in rows)


def process_memory_mb() -> tuple[float | None, str]:
    """Memory of this process on all GPUs, or None and the reason."""
    if find_program(GPU_PROGRAM) is None:
        return None, f"{GPU_PROGRAM} is not installed"
    text = run_program(GPU_PROGRAM, "--query-compute-apps=pid,used_memory", GPU_FORM)
    if text is None:
        return None, f"{GPU_PROGRAM} does not answer"
    memory_mb = parse_process_memory(text, os.getpid())
    return (None, "this process is on no GPU") if memory_mb is None else (memory_mb, "")


def parse_process_memory(text: str, pid: int) -> float | None:
    r"""Memory of a process over all GPUs in the answer to `--query-compute-apps=pid,used_memory`.

    >>> parse_process_memory("7, 312\n8, 100\n7, 88", 7)
    400.0
    """
    rows = [line.partition(",") for line in text.splitlines()]
    values = [number_of(memory) for row_pid, _, memory in rows if row_pid.strip() == str(pid)]
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def number_of(text: str) -> float | None:
    """The number in a cell; None where the GPU does not report it."""
    try:
        return float(text)
    except ValueError:
        return None
