"""What a device reports of itself, and a folder of such reports."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import msgspec

from mmkd_edge.bundle.strict_json import JsonError, decode_document
from mmkd_edge.errors import BundleError, MmkdError, UsageError, os_reason, printable
from mmkd_edge.install.slots import Slots, check_slot, read_slots
from mmkd_edge.machine import this_machine
from mmkd_edge.spec import stored

STATUS_VERSION = 1


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A device and what is installed; `problem` is why the bundle installed last does not answer, or empty."""

    format_version: int = stored(STATUS_VERSION)
    device: str
    time_utc: str
    version: str
    python: str
    architecture: str
    board: str | None
    free_bytes: int | None
    slots: Slots | None
    problem: str = stored("")
    machines: dict[str, dict[str, str]] | None = None  # `mmkd-edge commission` files there


class Fleet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last report of each device, by name; the reason of each file that is no report."""

    devices: tuple[DeviceStatus, ...]
    unreadable: dict[str, str]


def device_status(state: Path) -> tuple[DeviceStatus, MmkdError | None]:
    """Return this device's status, with the hash of the current bundle checked, and what is wrong."""
    slots: Slots | None = None
    error: MmkdError | None = None
    try:
        slots = read_slots(state)
        check_slot(state, slots.current)
        failed = f"{slots.current} failed: {slots.current.reason}" if slots.current.condition == "failed" else ""
        if reason := "; ".join(filter(None, (slots.returned, failed))):
            error = BundleError(f"{state}: {reason}; install a bundle that starts here")
    except MmkdError as problem:
        error = problem
    machine = this_machine()
    try:
        free_bytes = shutil.disk_usage(state).free
    except OSError:
        free_bytes = None
    status = DeviceStatus(
        device=platform.node(),
        time_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=version("mmkd-edge"),
        python=platform.python_version(),
        architecture=platform.machine(),
        board=machine.board,
        free_bytes=free_bytes,
        slots=slots,
        problem="" if error is None else str(error),
    )
    return status, error


def read_fleet(folder: Path) -> Fleet:
    """Read the reports `*.json` of a folder. Raises UsageError without any."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise UsageError(f"{folder}: expected files of mmkd-edge status --json, found no *.json; check the path")
    devices: dict[str, DeviceStatus] = {}
    unreadable: dict[str, str] = {}
    for path in paths:
        try:
            status = decode_document(path.read_bytes(), DeviceStatus, version=STATUS_VERSION)
        except (JsonError, OSError) as error:
            unreadable[path.name] = os_reason(error) if isinstance(error, OSError) else str(error)
            continue
        if status.device not in devices or devices[status.device].time_utc < status.time_utc:
            devices[status.device] = status
    return Fleet(devices=tuple(devices[name] for name in sorted(devices)), unreadable=unreadable)


def fleet_lines(fleet: Fleet) -> Iterator[str]:
    """Yield a printable line for each device and unreadable file, then one for each current bundle."""
    names = [printable(name) for name in (*(status.device for status in fleet.devices), *fleet.unreadable)]
    width = max(map(len, names))
    counts: dict[str, int] = {}
    for name, status in zip(names, fleet.devices, strict=False):
        bundle = "nothing installed" if status.slots is None else str(status.slots.current)
        counts[bundle] = counts.get(bundle, 0) + 1
        condition = "" if status.slots is None else f"  {status.slots.current.condition}"
        problem = f"  problem: {status.problem}" if status.problem else ""
        line = f"{status.time_utc}  {status.version}  {bundle}{condition}{problem}"
        yield f"{name:<{width}}  {printable(line)}"
    for name, reason in zip(names[len(fleet.devices) :], fleet.unreadable.values(), strict=True):
        yield f"{name:<{width}}  unreadable: {printable(reason)}"
    for bundle, count in sorted(counts.items(), key=lambda item: -item[1]):
        yield f"{count} of {len(fleet.devices)} devices: {printable(bundle)}"
