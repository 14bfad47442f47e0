"""CUDA calls on the first GPU, with checked results: those of `cuda.bindings.runtime` in cuda-python 12.6 to 13."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from mmkd_edge.backends.trt.key import DeviceFacts
from mmkd_edge.errors import BackendError, UnavailableError

_GIB = 1 << 30


def load_runtime() -> Any:
    """Import CUDA's runtime; UnavailableError if cuda-python is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UnavailableError(
            "TensorRT engines need cuda-python, which is not installed; install it with pip install 'mmkd-edge[trt]'"
        ) from error
    return runtime


def device_facts(runtime: Any) -> DeviceFacts:
    """Describe the first GPU, and the versions of CUDA; UnavailableError if no GPU answers."""
    try:
        properties = checked(runtime, runtime.cudaGetDeviceProperties(0))
        return DeviceFacts(
            name=properties.name.decode(),
            compute_capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multiProcessorCount,
            memory_bytes=properties.totalGlobalMem // _GIB * _GIB,
            cuda_runtime=checked(runtime, runtime.cudaRuntimeGetVersion()),
            cuda_driver=checked(runtime, runtime.cudaDriverGetVersion()),
        )
    except (BackendError, RuntimeError) as error:  # cuda-python 12.6 raises RuntimeError where there is no driver
        raise UnavailableError(f"no GPU answers: {error}; check the driver with nvidia-smi or tegrastats") from error


def free_bytes(runtime: Any) -> int:
    """Return the free memory of the GPU."""
    error, free, _ = runtime.cudaMemGetInfo()
    return int(checked(runtime, (error, free)))


def checked(runtime: Any, answer: tuple[Any, ...]) -> Any:
    """Return a call's result, or None if it has none; BackendError, beginning with CUDA's name, if it failed."""
    error = answer[0]
    if int(error) != 0:
        text = runtime.cudaGetErrorString(error)[1].decode()
        raise BackendError(f"{error.name}: {text}")
    return answer[1] if len(answer) > 1 else None


def is_lost(runtime: Any) -> bool:
    """Return whether every later call of CUDA in this process fails."""
    runtime.cudaGetLastError()  # takes away an error that does not stay
    error, stream = runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)
    if int(error) == 0:
        runtime.cudaStreamDestroy(stream)
        return False
    return bool(error.name != "cudaErrorMemoryAllocation")


def first_gpu(runtime: Any) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return a context manager that makes the first GPU this thread's."""
    if checked(runtime, runtime.cudaGetDeviceCount()) == 1:
        return contextlib.nullcontext

    @contextlib.contextmanager
    def _on_first_gpu() -> Iterator[None]:
        before = checked(runtime, runtime.cudaGetDevice())
        if before == 0:
            yield
            return
        checked(runtime, runtime.cudaSetDevice(0))
        try:
            yield
        finally:
            checked(runtime, runtime.cudaSetDevice(before))

    return _on_first_gpu
