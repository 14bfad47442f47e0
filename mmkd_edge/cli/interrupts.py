"""Ctrl-C while a command loads its libraries: one line and exit 130."""

from __future__ import annotations

import os

INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, as shells report it


class loading:  # noqa: N801 - reads as what it does: `with loading("mmkd-train"):`
    """Ends the process at once on Ctrl-C in this block, unless it has another handler.

    A library may swallow an interrupt during its import, so this imports only what Python has already loaded.
    """

    def __init__(self, command: str) -> None:
        self._line = f"{command}: interrupted\n".encode()
        self._set = False

    def __enter__(self) -> None:
        try:
            import signal

            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._end)
                self._set = True
        except KeyboardInterrupt:
            self._end()
        except ValueError:  # only the main thread may
            pass

    def __exit__(self, *_: object) -> None:
        if self._set:
            import signal

            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _end(self, *_: object) -> None:
        os.write(2, self._line)
        os._exit(INTERRUPTED_EXIT_CODE)
