"""One or several callers of one predictor at the same time, each in a thread of its own: closed or on a schedule.

Owns how loops run beside each other and how their samples become one set. What a loop does is in `timing`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mmkd_bench.measuring.timing import Call, CallTimes, PacedSamples, closed_loop, paced_loop, phases_s

if TYPE_CHECKING:
    from numpy.typing import NDArray

LoopT = TypeVar("LoopT")


@dataclass(frozen=True, kw_only=True)
class ClientCalls:
    """The calls of all clients, in the order of their begins.

    Attributes:
        samples: start and length of each.
        client: who called, (N,), from 0.
        paced: the same with their schedule; None where calls followed each other at once.
    """

    samples: CallTimes
    client: NDArray[np.int64]
    paced: PacedSamples | None

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """The raw samples by name, each (N,)."""
        found = {"client": self.client, "start_ns": self.samples.start_ns, "latency_ns": self.samples.latency_ns}
        return found if self.paced is None else {**found, "lateness_ns": self.paced.lateness_ns}


def call_together(
    calls: Sequence[Call], windows: Sequence[Any], *, rate_hz: float | None, duration_s: float, stop: Event
) -> ClientCalls:
    """A loop per client: back to back, or at a rate with a phase of its own, as sensors do not agree on when to begin.

    Args:
        calls: what each client calls.
        windows: arguments, taken in turn; each client begins with another one.
        rate_hz: calls per second of each client; None calls again at once.
        duration_s: length of the loops in seconds.
        stop: ends them early.

    Raises:
        Exception: whatever a call raised first in any of the threads.
    """

    def turned(client: int) -> Sequence[Any]:
        """The windows, beginning with another one for each client."""
        first = client % len(windows)
        return (*windows[first:], *windows[:first]) if first else windows

    if rate_hz is None:

        def closed(client: int) -> CallTimes:
            """One client."""
            return closed_loop(calls[client], turned(client), duration_s=duration_s, stop=stop)

        samples, client, _ = _merged(beside_each_other(closed, len(calls), stop=stop))
        return ClientCalls(samples=samples, client=client, paced=None)
    phases = phases_s(len(calls), rate_hz=rate_hz) if len(calls) > 1 else np.zeros(1)

    def on_schedule(client: int) -> PacedSamples:
        """One client."""
        phase_s = float(phases[client])
        return paced_loop(
            calls[client], turned(client), rate_hz=rate_hz, duration_s=duration_s, phase_s=phase_s, stop=stop
        )

    loops = beside_each_other(on_schedule, len(calls), stop=stop)
    samples, client, order = _merged([one.samples for one in loops])
    paced = PacedSamples(
        samples=samples,
        lateness_ns=np.concatenate([one.lateness_ns for one in loops])[order],
        overloaded=any(one.overloaded for one in loops),
    )
    return ClientCalls(samples=samples, client=client, paced=paced)


def intervals_ns(arrays: dict[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """The times between the begins of neighbouring calls of one client, of all clients, from `ClientCalls.arrays`."""
    clients = np.unique(arrays["client"])
    return np.concatenate([np.diff(arrays["start_ns"][arrays["client"] == client]) for client in clients])


def beside_each_other(loop: Callable[[int], LoopT], count: int, *, stop: Event) -> list[LoopT]:
    """`loop(0)`, `loop(1)`... at the same time; one alone runs in this thread.

    Raises:
        Exception: whatever was raised first in any of the threads; the others have been stopped.
    """
    if count == 1:
        return [loop(0)]
    barrier = threading.Barrier(count)
    loops: dict[int, LoopT] = {}
    errors: list[Exception] = []

    def client(number: int) -> None:
        """One loop."""
        barrier.wait()
        try:
            loops[number] = loop(number)
        except Exception as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [loops[number] for number in range(count)]


def _merged(loops: Sequence[CallTimes]) -> tuple[CallTimes, NDArray[np.int64], NDArray[np.int64]]:
    """All samples in the order of their begins, who called, and that order."""
    start_ns = np.concatenate([loop.start_ns for loop in loops])
    order = np.argsort(start_ns, kind="stable")
    client = np.concatenate([np.full(len(loop), number, dtype=np.int64) for number, loop in enumerate(loops)])
    samples = CallTimes(
        start_ns=start_ns[order],
        latency_ns=np.concatenate([loop.latency_ns for loop in loops])[order],
        elapsed_ns=max(loop.elapsed_ns for loop in loops),
    )
    return samples, client[order], order
