"""Jobs in processes or tasks of a Ray cluster, of one thread each, so that results do not depend on their number."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import count as count_up
from multiprocessing.queues import SimpleQueue
from typing import Any, Literal, TypeVar

from mmkd_edge.errors import MmkdError, UnavailableError
from mmkd_models.train_config import OnStep, TrainingProgress

Executor = Literal["local", "ray"]
Job = TypeVar("Job")
Make = Callable[[Job, OnStep], None]
"""Makes a job and reports its training steps. Both can be pickled."""

# glibc reads these when a process begins (mallopt(3)); keeping the memory of a training step for the next saves 8 %.
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
_REPORT_EVERY_S = 0.5


@contextmanager
def torch_threads() -> Iterator[None]:
    """Let torch use one thread in the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workers:
    """Processes that run jobs; a single worker is this process.

    Leaving the `with` ends them, at once after an error; so does the end of this process, by whatever signal.

    `ray` uses the cluster of RAY_ADDRESS, else one on this machine, without steps; every node needs the same files and
    paths.
    """

    def __init__(self, count: int, *, executor: Executor = "local") -> None:
        self.count = count
        self._executor, self._numbers = executor, count_up()
        self._steps: SimpleQueue[tuple[int, TrainingProgress]] | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._ray: Any = None  # ray, if it was started here

    def __enter__(self) -> Workers:
        if self._executor == "ray":
            self._task = self._ray_task()
        elif self.count > 1:
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
            self._steps = context.SimpleQueue()
            self._pool = ProcessPoolExecutor(
                self.count, mp_context=context, initializer=_begin_process, initargs=(self._steps,)
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()) if kind is not None else ():
                process.terminate()
            self._pool.shutdown(cancel_futures=True)
        if self._ray is not None:
            self._ray.shutdown()

    def run(
        self,
        make: Make[Job],
        jobs: Iterable[Job],
        *,
        on_step: Callable[[Job, TrainingProgress], None] = lambda job, progress: None,
        on_end: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """Run all jobs in order. Raise MmkdError if a job did or a process died."""
        if self._executor == "local" and self._pool is None:
            for job in jobs:
                with torch_threads():
                    make(job, _rarely(partial(on_step, job)))
                on_end(job)
            return
        waiting, running = iter(jobs), dict[Future[None], tuple[int, Job]]()
        while True:
            while len(running) < self.count and (following := next(waiting, None)) is not None:
                number = next(self._numbers)
                running[self._submit(make, following, number)] = number, following
            if not running:
                return
            ended, _ = wait(running, timeout=_REPORT_EVERY_S, return_when=FIRST_COMPLETED)
            while self._steps is not None and not self._steps.empty():
                number, progress = self._steps.get()
                on_step(dict(running.values())[number], progress)
            for future in ended:
                _raise_error(future)
                on_end(running.pop(future)[1])

    def _submit(self, make: Make[Job], job: Job, number: int) -> Future[None]:
        if self._pool is None:
            future: Future[None] = self._task.remote(make, job, number).future()
            return future
        with _ignore_interrupts(), _environment(_KEEP_MEMORY):  # a process keeps both as they are when it begins
            return self._pool.submit(_make_in_process, make, job, number)

    def _ray_task(self) -> Any:
        try:
            import ray
        except ImportError as error:
            raise UnavailableError(
                "--executor ray needs ray, which this Python lacks; run: pip install 'mmkd-edge[ray]'"
            ) from error
        if not ray.is_initialized():
            ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
            self._ray = ray
        return ray.remote(num_cpus=1)(_make_in_process)


_steps_of_process: SimpleQueue[tuple[int, TrainingProgress]] | None = None


def _begin_process(steps: SimpleQueue[tuple[int, TrainingProgress]]) -> None:
    global _steps_of_process
    _steps_of_process = steps
    threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # returns however it ended
    os._exit(1)


def _make_in_process(make: Make[Job], job: Job, number: int) -> None:
    def report(progress: TrainingProgress) -> None:
        if _steps_of_process is not None:
            _steps_of_process.put((number, progress))

    with torch_threads():
        make(job, _rarely(report))


def _raise_error(future: Future[None]) -> None:
    try:
        future.result()
    except (MmkdError, OSError):
        raise
    except BrokenProcessPool as error:
        raise MmkdError(
            "workers: expected processes that end their work, one died; the same command continues; where memory is "
            "short give --workers 1"
        ) from error
    except Exception as error:
        cause = getattr(error, "cause", error)  # Ray wraps it
        if isinstance(cause, MmkdError):
            raise cause from error
        raise


def _rarely(report: OnStep) -> OnStep:
    last = -_REPORT_EVERY_S

    def on_step(progress: TrainingProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if progress.step == progress.steps or now - last >= _REPORT_EVERY_S:
            last = now
            report(progress)

    return on_step


@contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, which reaches every process; this one ends the others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
