"""Ctrl-C while a command loads its libraries: one line and exit 130."""

from __future__ import annotations

import os
import sys

INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, as shells report it


class loading:  # noqa: N801 - reads as what it does: `with loading("mmkd-train"):`
    """Ends the process at once on Ctrl-C in this block, unless it has another handler.

    In the command's own process also from then on, until `raise_interrupts`: nobody catches what is raised between a
    module's imports and its `main`. A library may swallow an interrupt during its import, so this imports only what
    Python has already loaded.
    """

    _raises = False  # `raise_interrupts` was called

    def __init__(self, command: str) -> None:
        self._command = command
        self._handler: object = None  # to restore

    def __enter__(self) -> None:
        try:
            import signal

            handler = signal.getsignal(signal.SIGINT)
            if handler is signal.default_int_handler or isinstance(getattr(handler, "__self__", None), loading):
                signal.signal(signal.SIGINT, self._end)
                self._handler = handler
        except KeyboardInterrupt:
            self._end()
        except ValueError:  # only the main thread may
            pass

    def __exit__(self, *_: object) -> None:
        is_command = sys.argv[0].removesuffix(".exe").rpartition(os.sep)[2] == self._command
        if self._handler is not None and (loading._raises or not is_command):
            import signal

            signal.signal(signal.SIGINT, self._handler)  # type: ignore[arg-type] # as it was

    def _end(self, *_: object) -> None:
        os.write(2, f"{self._command}: interrupted\n".encode())
        os._exit(INTERRUPTED_EXIT_CODE)


def raise_interrupts() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, which `run_command` catches."""
    import signal

    loading._raises = True
    if isinstance(getattr(signal.getsignal(signal.SIGINT), "__self__", None), loading):
        signal.signal(signal.SIGINT, signal.default_int_handler)
