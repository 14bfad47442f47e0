"""A trial in a process of its own: started, listened to with a limit, and ended. Owns the limits."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import msgspec

from mmkd_edge.apart import ProcessLimits, ProcessLines, end, end_of, start_apart
from mmkd_edge.errors import UnavailableError
from mmkd_edge.opening.trial import TrialEvent, TrialRequest

WAY_S = 10.0
"""What one way may take: opening, warming up and answering; a student takes tenths of a second."""

BUNDLE_S = 60.0
"""What all ways of a bundle may take together."""

BUILD_S = 600.0
"""The same where it builds an engine: a student takes a minute or two on a small board."""

BUNDLE_BUILD_S = 3600.0
"""The same of all that build engines."""

STARTING_S = 20.0
"""What the process may take until it begins."""

MEMORY_BYTES = 2 << 30
"""What the process may allocate; a student takes a tenth of it."""

BUILD_MEMORY_BYTES = 8 << 30
"""The same where it builds an engine: a library of kernels, and up to 1 GiB to try them in."""

ENGINE_BYTES = 1 << 30
"""What a file may hold where an engine is built: the trial leaves it to the start that asked for it."""

_TOO_LONG = "all students of the bundle together take too long"
_INSTEAD = "install the bundle with mmkd-edge install and open it with trust='installed'"


def limits_of(*, builds: bool) -> ProcessLimits:
    """What the process of a trial may take, where it builds engines and where it does not."""
    if builds:
        return ProcessLimits(step_s=BUILD_S, memory_bytes=BUILD_MEMORY_BYTES, file_bytes=ENGINE_BYTES)
    return ProcessLimits(step_s=WAY_S, memory_bytes=MEMORY_BYTES)


def hold_trial(request: TrialRequest, *, limit_s: float) -> Iterator[TrialEvent | str]:
    """What came of each way in turn; ends early where one ends the process, with a text that says how.

    Args:
        request: the ways.
        limit_s: what all of them may take.

    Raises:
        UnavailableError: no process can be started here.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        raise UnavailableError(f"a trial needs a Python interpreter, and this program has none of its own; {_INSTEAD}")
    end_s = time.monotonic() + limit_s
    if limit_s <= 0:
        yield from [_TOO_LONG] * len(request.ways)
        return
    try:
        process = start_apart("mmkd_edge.opening.trial:main", msgspec.json.encode(request))
    except OSError as error:
        raise UnavailableError(f"a trial cannot start a process: {(error.strerror or str(error)).lower()}") from error
    try:
        reading = ProcessLines(process)
        if reading.next(limit_s=STARTING_S) is None:
            raise UnavailableError(f"the process of a trial does not start: {end_of(process)}; {_INSTEAD}")
        for _ in request.ways:
            line = reading.next(limit_s=min(end_s - time.monotonic(), request.limits.step_s))
            if line is None:
                yield _TOO_LONG if time.monotonic() >= end_s else end_of(process)
                return
            yield msgspec.json.decode(line, type=TrialEvent)
    finally:
        end(process)
