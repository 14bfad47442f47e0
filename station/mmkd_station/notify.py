"""What systemd is told, over the socket that it names: sd_notify(3), without its library."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send `READY=1`, `WATCHDOG=1` or another state; do nothing where systemd did not start the program."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    flags = socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0) | getattr(socket, "SOCK_NONBLOCK", 0)
    try:
        with socket.socket(socket.AF_UNIX, flags) as channel:
            # An address that begins with @ is in the abstract name space.
            channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError:  # systemd is being restarted, or its buffer is full: the next message says the same
        pass


def watchdog_s() -> float | None:
    """Seconds after which systemd restarts a program that said nothing; None where it does not watch this one."""
    told = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    return int(told) / 1e6 if told.isdigit() and int(told) > 0 and meant_for == str(os.getpid()) else None
