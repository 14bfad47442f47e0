"""Jobs as tasks of a Ray cluster: that of RAY_ADDRESS, else one on this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from mmkd_edge.errors import MmkdError, UnavailableError

Executor = Literal["local", "ray"]
"""Processes of this machine, or tasks of Ray."""

_POLL_S = 0.5

Job = TypeVar("Job")


def run_on_ray(
    make: Callable[[Job], None],
    jobs: Sequence[Job],
    *,
    processors: int,
    at_a_time: int,
    on_end: Callable[[int], None] = lambda number: None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Makes all jobs, begun in this order; every node finds the same files under the same paths.

    Args:
        make: a job, in any process: it can be pickled, as jobs can.
        processors: that a job asks Ray for.
        at_a_time: jobs that are begun and not ended, at most.
        on_end: told the number of a job that is made.
        watch: called often while the work goes on.

    Raises:
        UnavailableError: Ray is not installed.
        MmkdError: what a job raised, or that its process died.
    """
    try:
        import ray
    except ImportError as error:
        raise UnavailableError(
            "--executor ray needs ray, which this Python lacks; run: pip install 'mmkd-edge[ray]'"
        ) from error
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    try:
        task = ray.remote(num_cpus=processors)(_make)  # takes functions alone, no partial ones
        waiting, begun = deque(enumerate(jobs)), dict[object, int]()
        while waiting or begun:
            while waiting and len(begun) < at_a_time:
                number, job = waiting.popleft()
                begun[task.remote(make, job)] = number
            done, _ = ray.wait(list(begun), timeout=_POLL_S)
            for result in done:
                _raise_of(ray.get, result)
                on_end(begun.pop(result))
            watch()
    finally:
        if started_here:
            ray.shutdown()


def _make(make: Callable[[Job], None], job: Job) -> None:
    make(job)


def _raise_of(get: Callable[[object], object], result: object) -> None:
    """Waits for a task; what its job raised comes wrapped, and is raised as it was."""
    try:
        get(result)
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, MmkdError):
            raise cause from error
        raise MmkdError(f"a Ray task failed: {str(error).splitlines()[-1]}; the same command continues") from error
