"""Checked CUDA calls on the first GPU, by `cuda.bindings.runtime` of cuda-python 12.6 to 13."""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.trt.build import DeviceFacts
from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.spec import TensorSpec

_GIB = 1 << 30
_NAN_BYTE = 0xFF  # four of them are a NaN
_ALIGNMENT_BYTES = 256  # TensorRT's alignment of tensors

_Held = list[tuple[Callable[[Any], object], Any]]


def load_runtime() -> Any:
    """Import CUDA's runtime; UnavailableError without cuda-python."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UnavailableError(
            "TensorRT engines need cuda-python, which is not installed; install it with pip install 'mmkd-edge[trt]'"
        ) from error
    return runtime


def device_facts(runtime: Any) -> DeviceFacts:
    """Describe the first GPU and CUDA's versions; UnavailableError without a GPU."""
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
    except (BackendError, RuntimeError) as error:  # cuda-python 12.6 without a driver
        raise UnavailableError(f"no GPU answers: {error}; check the driver with nvidia-smi or tegrastats") from error


def free_bytes(runtime: Any) -> int:
    """Return the GPU's free memory."""
    error, free, _ = runtime.cudaMemGetInfo()
    return int(checked(runtime, (error, free)))


def checked(runtime: Any, answer: tuple[Any, ...]) -> Any:
    """Return a call's result or None; BackendError, beginning with CUDA's name, on failure."""
    error = answer[0]
    if int(error) != 0:
        text = runtime.cudaGetErrorString(error)[1].decode()
        raise BackendError(f"{error.name}: {text}")
    return answer[1] if len(answer) > 1 else None


def is_lost(runtime: Any) -> bool:
    """Return whether all later CUDA calls in this process fail."""
    runtime.cudaGetLastError()  # clears an error that is not permanent
    error, stream = runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)
    if int(error) == 0:
        runtime.cudaStreamDestroy(stream)
        return False
    return bool(error.name != "cudaErrorMemoryAllocation")


def first_gpu(runtime: Any) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return a context manager that selects the first GPU in this thread."""
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


class CudaStream:
    """A stream with the memory and the graph (None before `record`) of one call; `close()` or the collector frees it.

    `values` is pinned memory of every tensor by name, `addresses` the same on the GPU.
    """

    def __init__(self, runtime: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._runtime = runtime
        self._held: _Held = []
        # Also at process end if nobody closed it; not in a forked child, which has no CUDA.
        self._release = weakref.finalize(self, _release, self._held, os.getpid())
        self.values: dict[str, NDArray[Any]] = {}
        self.addresses: dict[str, int] = {}
        self.graph: Any = None
        self._stream: Any = None
        try:
            self._stream = checked(runtime, runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
            self._held.append((runtime.cudaStreamDestroy, self._stream))
            self._up = self._block(inputs)
            self._down = self._block(outputs)
        except BaseException:
            self.close()
            raise
        self.handle = int(self._stream)

    def copy_in(self) -> None:
        """Enqueue the copy of all inputs, and NaN over the last answers."""
        host, device, size = self._up
        runtime = self._runtime
        _, answers, answers_size = self._down
        checked(runtime, runtime.cudaMemsetAsync(answers, _NAN_BYTE, answers_size, self._stream))
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(runtime, runtime.cudaMemcpyAsync(device, host, size, kind, self._stream))

    def copy_out(self) -> None:
        """Enqueue the copy of all outputs."""
        host, device, size = self._down
        runtime = self._runtime
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(runtime, runtime.cudaMemcpyAsync(host, device, size, kind, self._stream))

    def wait(self) -> None:
        """Wait for all enqueued work."""
        checked(self._runtime, self._runtime.cudaStreamSynchronize(self._stream))

    def record(self, work: Callable[[], None]) -> None:
        """Make a graph of what `work` enqueues, without running it."""
        runtime = self._runtime
        # For this thread alone: others may do what a capture forbids.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(runtime, runtime.cudaStreamBeginCapture(self._stream, mode))
        try:
            work()
        except BaseException:
            error, broken = runtime.cudaStreamEndCapture(self._stream)
            if int(error) == 0:
                runtime.cudaGraphDestroy(broken)
            raise
        graph = checked(runtime, runtime.cudaStreamEndCapture(self._stream))
        try:
            self.graph = checked(runtime, runtime.cudaGraphInstantiate(graph, 0))
        finally:
            checked(runtime, runtime.cudaGraphDestroy(graph))
        self._held.append((runtime.cudaGraphExecDestroy, self.graph))

    def replay(self) -> None:
        """Enqueue the graph."""
        checked(self._runtime, self._runtime.cudaGraphLaunch(self.graph, self._stream))

    def close(self) -> None:
        """Wait for running work and free everything."""
        self.values, self.addresses = {}, {}
        if self._release.alive and self._stream is not None:
            self._runtime.cudaStreamSynchronize(self._stream)
        self._release()

    def _block(self, tensors: Sequence[TensorSpec]) -> tuple[int, int, int]:
        runtime = self._runtime
        starts, size = [], 0
        for tensor in tensors:
            starts.append(size)
            taken = np.dtype(tensor.dtype).itemsize * int(np.prod(tensor.shape))
            size += -(-taken // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        host = checked(runtime, runtime.cudaMallocHost(size))
        self._held.append((runtime.cudaFreeHost, host))
        device = checked(runtime, runtime.cudaMalloc(size))
        self._held.append((runtime.cudaFree, device))
        memory = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(host))
        for tensor, start in zip(tensors, starts, strict=True):
            dtype = np.dtype(tensor.dtype)
            taken = dtype.itemsize * int(np.prod(tensor.shape))
            self.values[tensor.name] = memory[start : start + taken].view(dtype).reshape(tensor.shape)
            self.addresses[tensor.name] = device + start
        return host, device, size


def _release(held: _Held, process: int) -> None:
    while held:
        give_back, what = held.pop()
        if os.getpid() == process:
            give_back(what)
