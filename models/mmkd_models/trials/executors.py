"""How the workers of a study are run: in this process, in processes of this machine, or as tasks of Ray.

Owns the life of workers, nothing of what they do: each runs `study_work.work` with the same order.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

from mmkd_edge.errors import MmkdError
from mmkd_models.ray_tasks import Executor, run_on_ray
from mmkd_models.train_config import TrainingProgress
from mmkd_models.trials.phases import work
from mmkd_models.trials.worker import WorkOrder

Watch = Callable[[], None]

_POLL_S = 0.5


def run_workers(order: WorkOrder, *, executor: Executor, watch: Watch) -> None:
    """Runs `order.workers` workers until the work is done.

    Args:
        order: what all of them are told.
        executor: `local` runs one worker in this process and more in processes of their own; `ray` runs tasks of a Ray
            cluster (that of RAY_ADDRESS, else one on this machine). The study's folder, the dataset and the storage
            must be there for every node under the same paths.
        watch: called often while the work goes on.

    Raises:
        MmkdError: what a worker raised, or that all of them died.
        UnavailableError: Ray is not installed.
    """
    if executor == "ray":
        numbers = range(order.workers)
        run_on_ray(
            partial(work, order), numbers, processors=order.conditions.threads, at_a_time=len(numbers), watch=watch
        )
    elif order.workers == 1:
        work(order, 0, tick=lambda progress: watch())
    else:
        _run_processes(order, watch)


def _run_processes(order: WorkOrder, watch: Watch) -> None:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    processes, pipes = [], []
    for number in range(order.workers):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_worker, args=(order, number, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    try:
        while any(process.is_alive() for process in processes):
            watch()
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        for process in processes:  # on a terminal Ctrl-C has reached them too
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
    for pipe in pipes:
        if pipe.poll() and (error := _received(pipe)) is not None:
            raise error
    codes = [process.exitcode for process in processes]
    if all(codes):
        raise MmkdError(
            f"study: expected workers that end their work, all died (exit codes "
            f"{', '.join(map(str, codes))}); the same command continues; where memory is short give fewer --workers"
        )


def _received(pipe: Connection) -> MmkdError | None:
    try:
        error = pipe.recv()
    except EOFError:
        return None
    return error if isinstance(error, MmkdError) else MmkdError(f"study: a worker failed: {error!r}")


def _worker(order: WorkOrder, number: int, pipe: Connection) -> None:
    """A worker in a process of its own; it ends with the process that started it, after a training step at most."""
    parent = multiprocessing.parent_process()

    def tick(progress: TrainingProgress | None) -> None:
        if parent is not None and not parent.is_alive():
            raise KeyboardInterrupt

    try:
        work(order, number, tick=tick)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        pipe.send(error if isinstance(error, MmkdError) else f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error
