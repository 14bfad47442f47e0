"""Engines that do not live on in the child of a fork: their threads stay behind, and whoever waits for them hangs."""

from __future__ import annotations

import os
from functools import cache

from mmkd_edge.errors import UnavailableError


class ForkedError(UnavailableError):
    """The backend may well work in another process of this machine: nothing to remember against it."""


@cache
def _home(library: str) -> int:
    """The process that asked first; a child inherits the answer."""
    return os.getpid()


def refuse_in_child(backend: str, library: str) -> None:
    """Nothing in a process that starts an engine's library itself; remembers that it has.

    Raises:
        ForkedError: this is the child of a process that had started it before the fork.
    """
    started, here = _home(library), os.getpid()
    if started != here:
        raise ForkedError(
            f"backend {backend!r}: {library} was started in process {started} and cannot be used in its child {here}; "
            "start workers with multiprocessing's 'spawn', or open bundles only in them"
        )
