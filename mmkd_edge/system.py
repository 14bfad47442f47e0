"""Which systems mmkd-edge runs on. Imports the standard library alone, and nothing of it that such a system lacks."""

from __future__ import annotations

import sys

from mmkd_edge.errors import UnavailableError


def check_system() -> None:
    """Refuses a system without POSIX's calls, of which whole files, locks and the limits of a trial are made.

    Raises UnavailableError on Windows.
    """
    try:
        import fcntl  # noqa: F401 - a system that has it has the others
    except ImportError as error:
        raise UnavailableError(
            f"this is {sys.platform}, and mmkd-edge needs Linux or macOS: whole files, locks and limits of processes "
            "are made of POSIX's calls; on Windows run it in WSL 2"
        ) from error
