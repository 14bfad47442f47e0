"""What processes take of memory, as Linux tells it in proc(5)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any


def resident_bytes() -> int:
    """Gives the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peaks(process: subprocess.Popen[Any], *, every_s: float) -> tuple[int, int]:
    """Gives the most bytes that were resident until the process ended, and the most that are no file's pages."""
    resident = own = 0
    while process.poll() is None:
        found = _status(process.pid)
        resident = max(resident, found.get("VmRSS", 0))
        own = max(own, found.get("RssAnon", 0))
        time.sleep(every_s)
    return resident, own


def _status(pid: int) -> dict[str, int]:
    """The sizes in a process's status, in bytes; none where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}
