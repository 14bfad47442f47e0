"""This machine's kind, from `/proc` and `/sys`, without identifying names (host name, serial number)."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.errors import UnavailableError
from mmkd_edge.system import silence_reports

ROOT = Path("/")


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of machine: `board` from the device tree (Jetson, Raspberry Pi), `cores` that this process may use."""

    cpu: str
    board: str | None
    architecture: str
    cores: int

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits for file names."""
        return new_sha256(msgspec.json.encode(self)).hexdigest()[:12]

    def __str__(self) -> str:
        where = f"{self.cpu} ({self.architecture}" + (f", {self.board})" if self.board else ")")
        return f"{where}, {self.cores} core{'' if self.cores == 1 else 's'}"


def this_machine() -> Machine:
    """Describe this machine."""
    return Machine(
        cpu=cpu_name(read_text(ROOT / "proc/cpuinfo") or ""),
        board=board_name(),
        architecture=platform.machine(),
        cores=usable_cores(),
    )


def read_text(path: Path) -> str | None:
    """Return a file's text without the device tree's zero bytes; None if unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\0\n ")
    except OSError:
        return None


def cpu_name(cpuinfo: str) -> str:
    """Return the processor's model name from `/proc/cpuinfo`."""
    fields = [line.partition(":") for line in cpuinfo.splitlines()]
    names = {key.strip(): value.strip() for key, _, value in reversed(fields)}
    return names.get("model name") or names.get("Hardware") or platform.processor() or platform.machine()


def board_name(root: Path = ROOT) -> str | None:
    """Return the board's name in the device tree."""
    return read_text(root / "proc/device-tree/model") or read_text(root / "sys/firmware/devicetree/base/model")


def usable_cores() -> int:
    """Return the number of logical cores for this process."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def require_modules(needs: Sequence[str], *, by: str, extra: str) -> None:
    """Raise UnavailableError, which names the extra, if a module is missing; none is imported, which takes seconds."""
    silence_reports()  # some libraries import ONNX Runtime if installed
    missing = [module for module in needs if find_spec(module) is None]
    if missing:
        raise UnavailableError(
            f"{by} needs {' and '.join(missing)}, which this Python lacks; run: pip install 'mmkd-edge[{extra}]'"
        )
