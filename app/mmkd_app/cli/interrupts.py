"""Ctrl-C while a command loads its libraries: one line and exit 130."""

from __future__ import annotations

import os
import sys

INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, as shells report it


def end_on_interrupt() -> None:
    """In a command's own process, end it at once on Ctrl-C until `raise_interrupts`, unless it has another handler.

    Nobody catches what is raised between a module's imports and its `main`, and a library may swallow an interrupt
    during its import; so this imports only what Python has already loaded.
    """
    if _name().partition("-")[0] != "mmkd":
        return
    try:
        import signal

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, end)
    except KeyboardInterrupt:
        end()
    except ValueError:  # only the main thread may
        pass


def raise_interrupts() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, which `run_command` catches."""
    import signal

    if signal.getsignal(signal.SIGINT) is end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end(*_: object, name: str | None = None) -> None:
    """End the process with one line."""
    os.write(2, f"{name or _name()}: interrupted\n".encode())
    os._exit(INTERRUPTED_EXIT_CODE)


def _name() -> str:
    return sys.argv[0].removesuffix(".exe").rpartition(os.sep)[2]
