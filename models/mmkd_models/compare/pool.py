"""Makes jobs side by side, each with one thread, in processes of their own or one after the other here.

One thread each makes figures the same however many processes there are, and small networks train little faster with
more. Owns the life of the processes; what a job is, and its files, are others'.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

from mmkd_edge.errors import MmkdError
from mmkd_models.compare.comparison import Part, make_part
from mmkd_models.compare.one_fold import ComparisonProgress
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.ray_tasks import Executor, run_on_ray

# Read by glibc when a process begins (mallopt(3)): it keeps the memory of a training step for the next one, where it
# would give it back and fetch it again, which took 8 % of a teacher's training. Other systems ignore it.
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}

_TELL_EVERY_S = 0.5  # of a part; training steps are shorter

OnStep = Callable[[int, ComparisonProgress], None]
OnEnd = Callable[[int], None]
Job = TypeVar("Job")
Make = Callable[[Job, Callable[[ComparisonProgress], None]], None]
"""Makes a job, and tells where it stands, if it has steps."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute with one thread meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class WorkerPool(Generic[Job]):
    """Workers that make jobs. Leaving the `with` ends them, at once where it is left by an error or Ctrl-C.

    Args:
        make: a job, in any process: it can be pickled, as jobs can.
        here: makes one in this process, where `workers` is 1.
        executor: `ray` makes them as tasks of a Ray cluster, as many at a time as there are workers; nobody hears
            then where a job stands.
    """

    def __init__(self, make: Make[Job], workers: int, *, here: Make[Job], executor: Executor = "local") -> None:
        self._make, self._here = make, here
        self._count, self._executor = workers, executor
        self._workers: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> WorkerPool[Job]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for pipe, process in self._workers.items():
            pipe.close()  # a worker that waits for a part ends
            if kind is not None:
                process.terminate()
        for process in self._workers.values():
            process.join()

    def make(self, parts: Sequence[Job], *, on_step: OnStep, on_end: OnEnd) -> None:
        """Makes all parts, begun in this order.

        Args:
            parts: that need none of one another.
            on_step: told where a part stands, by its number in `parts`; now and then, and at the end of a training.
            on_end: told the number of a part that is made.

        Raises:
            MmkdError: what a part raised, or that a process died.
            UnavailableError: Ray is asked for and not installed.
        """
        if self._executor == "ray":
            run_on_ray(partial(_make_alone, self._make), parts, processors=1, at_a_time=self._count, on_end=on_end)
            return
        if self._count == 1:
            self._make_here(parts, on_step, on_end)
            return
        if parts and not self._workers:
            self._start()
        waiting, idle, busy = deque(enumerate(parts)), list(self._workers), dict[Connection, int]()
        while waiting or busy:
            while waiting and idle:
                pipe = idle.pop(0)
                busy[pipe], part = waiting.popleft()
                pipe.send(part)
            ready = wait(list(busy))
            for pipe in [one for one in busy if one in ready]:
                said = self._received(pipe)
                if isinstance(said, ComparisonProgress):
                    on_step(busy[pipe], said)
                    continue
                on_end(busy.pop(pipe))
                idle.append(pipe)

    def _make_here(self, parts: Sequence[Job], on_step: OnStep, on_end: OnEnd) -> None:
        with one_thread():
            for number, part in enumerate(parts):
                self._here(part, _seldom(partial(on_step, number)))
                on_end(number)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        with _ignoring_interrupts(), _environment(_KEEP_MEMORY):  # the processes keep what they find when they begin
            for _ in range(self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(self._make, theirs), daemon=True)
                process.start()
                theirs.close()
                self._workers[ours] = process

    def _received(self, pipe: Connection) -> ComparisonProgress | None:
        """What a worker says: where its part stands, or None where it is made."""
        try:
            said = pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            process = self._workers[pipe]
            process.join()
            raise MmkdError(
                f"workers: expected processes that end their work, one died (exit code {process.exitcode}); the same "
                "command continues; where memory is short give --workers 1"
            ) from error
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, ComparisonProgress) else None


def fold_pool(dataset: Dataset, workers: int, *, executor: Executor = "local") -> WorkerPool[Part]:
    """Gives a pool for the parts of folds of a dataset."""
    path = dataset.path.resolve()  # a task of Ray has a working directory of its own
    return WorkerPool(partial(_make_part_of, path), workers, here=partial(make_part, dataset), executor=executor)


def _make_part_of(dataset: Path, part: Part, on_step: Callable[[ComparisonProgress], None]) -> None:
    make_part(opened(dataset), part, on_step)


@lru_cache(maxsize=1)
def opened(dataset: Path) -> Dataset:
    """What a worker learns of a dataset, such as which windows share samples, it learns once."""
    return open_dataset(dataset)


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ctrl-C on a terminal reaches every process; the first one ends the others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Lets processes that are started meanwhile have these variables too; the user's own values stay."""
    added = {name: value for name, value in more.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _work(make: Make[Job], pipe: Connection) -> None:
    """A worker: makes parts that come through the pipe until it is closed, or whoever holds its other end is gone."""
    with one_thread(), suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            part = pipe.recv()
            try:
                make(part, _seldom(pipe.send))
                pipe.send(None)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                known = isinstance(error, MmkdError | OSError)
                pipe.send(error if known else RuntimeError(f"{type(error).__name__}: {error}"))


def _make_alone(make: Make[Job], part: Job) -> None:
    """A task of Ray."""
    with one_thread():
        make(part, lambda step: None)


def _seldom(tell: Callable[[ComparisonProgress], None]) -> Callable[[ComparisonProgress], None]:
    """Passes on the first step, the last one of every training, and some between."""
    last = -_TELL_EVERY_S

    def hear(step: ComparisonProgress) -> None:
        nonlocal last
        now = time.monotonic()
        progress = step.progress
        if progress is None or progress.step == progress.steps or now - last >= _TELL_EVERY_S:
            last = now
            tell(step)

    return hear
