"""The CUDA calls that engines need, on the first GPU, each with its answer checked.

Goes through `cuda.bindings.runtime` of cuda-python, in calls that 12.6 to 13 share. A call gives a tuple: its error
code, and what else it gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from mmkd_edge.backends.trt.key import DeviceFacts
from mmkd_edge.errors import BackendError, UnavailableError

_GIB = 1 << 30


def load_runtime() -> Any:
    """CUDA's runtime, as Python sees it.

    Raises:
        UnavailableError: cuda-python is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UnavailableError(
            "TensorRT engines need cuda-python, which is not installed; install it with pip install 'mmkd-edge[trt]'"
        ) from error
    return runtime


def device_facts(runtime: Any) -> DeviceFacts:
    """The first GPU, and the versions of CUDA.

    Raises:
        UnavailableError: no GPU answers.
    """
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
    """The free memory of the GPU.

    Raises:
        BackendError: CUDA does not say.
    """
    error, free, _ = runtime.cudaMemGetInfo()
    return int(checked(runtime, (error, free)))


def checked(runtime: Any, answer: tuple[Any, ...]) -> Any:
    """What a call gave behind its error code; None where it gives nothing else.

    Raises:
        BackendError: the call failed; the message begins with CUDA's name for that.
    """
    error = answer[0]
    if int(error) != 0:
        text = runtime.cudaGetErrorString(error)[1].decode()
        raise BackendError(f"{error.name}: {text}")
    return answer[1] if len(answer) > 1 else None


def is_lost(runtime: Any) -> bool:
    """Whether an error took CUDA from this whole process: then everything that is asked of it fails."""
    runtime.cudaGetLastError()  # takes away an error that does not stay
    error, stream = runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)
    if int(error) == 0:
        runtime.cudaStreamDestroy(stream)
        return False
    return bool(error.name != "cudaErrorMemoryAllocation")


def first_gpu(runtime: Any) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """What makes the first GPU the one of this thread for as long as it is entered.

    Another one may be chosen there by other code; where there is only one, nothing is to be done.
    """
    if checked(runtime, runtime.cudaGetDeviceCount()) == 1:
        return contextlib.nullcontext

    @contextlib.contextmanager
    def _entered() -> Iterator[None]:
        before = checked(runtime, runtime.cudaGetDevice())
        if before == 0:
            yield
            return
        checked(runtime, runtime.cudaSetDevice(0))
        try:
            yield
        finally:
            checked(runtime, runtime.cudaSetDevice(before))

    return _entered
