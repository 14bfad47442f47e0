"""Jobs side by side, in processes of this machine or as tasks of a Ray cluster.

Each job has a fixed number of threads, so that results do not depend on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Literal, TypeVar

from mmkd_edge.errors import MmkdError, UnavailableError
from mmkd_models.train_config import OnStep, TrainingProgress

Executor = Literal["local", "ray"]
Job = TypeVar("Job")
Make = Callable[[Job, OnStep], None]
"""Makes a job and reports its training steps. Both can be pickled."""

# Read by glibc when a process begins (mallopt(3)): it keeps the memory of a training step for the next one. Giving it
# back and fetching it again took 8 % of a teacher's training. Other systems ignore it.
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
_REPORT_EVERY_S = 0.5


@contextmanager
def torch_threads(count: int = 1) -> Iterator[None]:
    """Set torch's number of threads in the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workers:
    """Processes that make jobs; a single worker is this process. Leaving the `with` ends them, at once after an error.

    Args:
        executor: `ray` uses the cluster of RAY_ADDRESS, else one on this machine; every node needs the same files under
            the same paths. Steps are not reported then.
        threads: of each job.
    """

    def __init__(self, count: int, *, executor: Executor = "local", threads: int = 1) -> None:
        self.count = count
        self._executor, self._threads = executor, threads
        self._processes: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for pipe, process in self._processes.items():
            pipe.close()  # a worker that waits for a job ends
            if kind is not None:
                process.terminate()
        for process in self._processes.values():
            process.join()

    def run(
        self,
        make: Make[Job],
        jobs: Iterable[Job],
        *,
        on_step: Callable[[Job, TrainingProgress], None] = lambda job, progress: None,
        on_end: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """Make all jobs in this order. Raise MmkdError if a job did or a process died, UnavailableError without Ray."""
        if self._executor == "ray":
            self._run_on_ray(make, iter(jobs), on_end)
        elif self.count == 1:
            for job in jobs:
                with torch_threads(self._threads):
                    make(job, _rarely(partial(on_step, job)))
                on_end(job)
        else:
            self._run_in_processes(make, iter(jobs), on_step, on_end)

    def _run_in_processes(
        self,
        make: Make[Job],
        jobs: Iterator[Job],
        on_step: Callable[[Job, TrainingProgress], None],
        on_end: Callable[[Job], None],
    ) -> None:
        idle, busy = list(self._processes), dict[Connection, Job]()
        while True:
            while len(busy) < self.count and (job := next(jobs, None)) is not None:
                pipe = idle.pop() if idle else self._start_process()
                pipe.send((make, job))
                busy[pipe] = job
            if not busy:
                return
            ready = wait(list(busy))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                progress = self._receive(pipe)
                if progress is not None:
                    on_step(busy[pipe], progress)
                    continue
                idle.append(pipe)
                on_end(busy.pop(pipe))

    def _start_process(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._threads), daemon=True)
        with _interrupts_ignored(), _environment(_KEEP_MEMORY):  # a process keeps both as they are when it begins
            process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def _receive(self, pipe: Connection) -> TrainingProgress | None:
        try:
            message = pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            process = self._processes[pipe]
            process.join()
            raise MmkdError(
                f"workers: expected processes that end their work, one died (exit code {process.exitcode}); the same "
                "command continues; where memory is short give --workers 1"
            ) from error
        if isinstance(message, Exception):
            raise message
        return message if isinstance(message, TrainingProgress) else None

    def _run_on_ray(self, make: Make[Job], jobs: Iterator[Job], on_end: Callable[[Job], None]) -> None:
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
            task = ray.remote(num_cpus=self._threads)(_make_alone)
            busy = dict[object, Job]()
            while True:
                while len(busy) < self.count and (job := next(jobs, None)) is not None:
                    busy[task.remote(make, job, self._threads)] = job
                if not busy:
                    return
                for result in ray.wait(list(busy))[0]:
                    _get_from_ray(ray.get, result)
                    on_end(busy.pop(result))
        finally:
            if started_here:
                ray.shutdown()


def _serve(pipe: Connection, threads: int) -> None:
    with torch_threads(threads), suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            make, job = pipe.recv()
            try:
                make(job, _rarely(pipe.send))
                pipe.send(None)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                known = isinstance(error, MmkdError | OSError)
                pipe.send(error if known else RuntimeError(f"{type(error).__name__}: {error}"))


def _make_alone(make: Make[Job], job: Job, threads: int) -> None:
    """A task of Ray, which takes no partial functions."""
    with torch_threads(threads):
        make(job, lambda progress: None)


def _get_from_ray(get: Callable[[object], object], result: object) -> None:
    try:
        get(result)
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, MmkdError):
            raise cause from error
        raise MmkdError(f"a Ray task failed: {str(error).splitlines()[-1]}; the same command continues") from error


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
def _interrupts_ignored() -> Iterator[None]:
    """Ctrl-C on a terminal reaches every process; this one ends the others."""
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
    """Set environment variables in the block, unless the user has set them."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
