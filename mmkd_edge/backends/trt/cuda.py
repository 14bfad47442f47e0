"""CUDA on the first GPU, by `cuda.bindings.runtime` of cuda-python 12.6 to 13: checked calls, and an engine's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.calls import fill
from mmkd_edge.backends.trt.build import DeviceFacts
from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.spec import TensorSpec

_GIB = 1 << 30
_NAN_BYTE = 0xFF  # four of them are a NaN
_ALIGNMENT_BYTES = 256  # TensorRT's alignment of tensors

Answer = tuple[NDArray[np.float32], ...]
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


class Execution:
    """A context with stream, memory and the CUDA graph of its call, for one call at a time.

    `close()` or the collector frees it. If TensorRT refuses a call during recording, the graph does nothing and its
    replay returns old answers; so graph and plain call are compared.
    """

    def __init__(
        self, engine: Any, runtime: Any, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], logger: Any
    ) -> None:
        self._runtime, self._logger = runtime, logger
        self._held: _Held = []
        # Also at process end if nobody closed it; not in a forked child, which has no CUDA.
        self._release = weakref.finalize(self, _release, self._held, os.getpid())
        self._addresses: dict[str, int] = {}
        self._stream: Any = None
        self._graph: Any = None
        self._context: Any = None
        try:
            self._stream = checked(runtime, runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
            self._held.append((runtime.cudaStreamDestroy, self._stream))
            self._places, self._up = self._block(inputs)
            answers, self._down = self._block(outputs)
            self._answers = tuple(answers.values())
            self._context = self._make_context(engine, inputs)
        except BaseException:
            self.close()
            raise

    def answer(self, feeds: Mapping[str, NDArray[Any]]) -> Answer:
        """Return the outputs for a window."""
        self.take(feeds)
        return self.compute()

    def take(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Copy a window for `compute`; ValueError if the feeds do not fit."""
        fill(self._places, feeds)

    def compute(self) -> Answer:
        """Return the outputs, owned by the caller; BackendError on failure."""
        if self._graph is not None:
            checked(self._runtime, self._runtime.cudaGraphLaunch(self._graph, self._stream))
        else:
            self._enqueue()
        checked(self._runtime, self._runtime.cudaStreamSynchronize(self._stream))
        return tuple(answer.copy() for answer in self._answers)

    def record(self) -> str:
        """Record the call as a CUDA graph; return why there is none, or an empty text."""
        probes = self._probes()
        plain = [self.answer(feeds) for feeds in probes]
        try:
            self._graph = self._capture()
            # The GPU holds the last answer, which a graph that does nothing would return for the first window.
            replayed = []
            for feeds in probes:
                for answer in self._answers:
                    answer[:] = np.nan
                replayed.append(self.answer(feeds))
        except BackendError as error:
            reason = f"CUDA records no graph of the call: {error}"
        else:
            if _same(replayed, plain):
                return ""
            reason = "the CUDA graph gives other answers than the call that it was recorded from"
        self._graph = None
        if not _same([self.answer(feeds) for feeds in probes], plain):
            raise BackendError(f"{reason}, and the call itself gives other answers since")
        return reason

    def close(self) -> None:
        """Wait for running work and free everything; repeated calls are allowed."""
        self._places, self._answers = {}, ()
        if self._release.alive and self._stream is not None:
            self._runtime.cudaStreamSynchronize(self._stream)
        self._release()
        self._context = None

    def _enqueue(self) -> None:
        """Enqueue the copy of all inputs, NaN over the last answers, the call, and the copy of all outputs."""
        runtime, stream = self._runtime, self._stream
        (host, device, size), (answers, answers_on_gpu, answers_size) = self._up, self._down
        checked(runtime, runtime.cudaMemsetAsync(answers_on_gpu, _NAN_BYTE, answers_size, stream))
        to_gpu, to_host = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(runtime, runtime.cudaMemcpyAsync(device, host, size, to_gpu, stream))
        if not self._context.execute_async_v3(int(stream)):
            raise BackendError(f"TensorRT refuses the call: {self._logger.faults()}")
        checked(runtime, runtime.cudaMemcpyAsync(answers, answers_on_gpu, answers_size, to_host, stream))

    def _capture(self) -> Any:
        """Return a graph of what `_enqueue` enqueues, without running it."""
        runtime = self._runtime
        # For this thread alone: others may do what a capture forbids.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(runtime, runtime.cudaStreamBeginCapture(self._stream, mode))
        try:
            self._enqueue()
        except BaseException:
            error, broken = runtime.cudaStreamEndCapture(self._stream)
            if int(error) == 0:
                runtime.cudaGraphDestroy(broken)
            raise
        captured = checked(runtime, runtime.cudaStreamEndCapture(self._stream))
        try:
            graph = checked(runtime, runtime.cudaGraphInstantiate(captured, 0))
        finally:
            checked(runtime, runtime.cudaGraphDestroy(captured))
        self._held.append((runtime.cudaGraphExecDestroy, graph))
        return graph

    def _make_context(self, engine: Any, inputs: Sequence[TensorSpec]) -> Any:
        context = engine.create_execution_context()
        if context is None:
            raise BackendError(f"TensorRT makes no execution context: {self._logger.faults()}")
        for tensor in inputs:  # a variable batch is 1
            if not context.set_input_shape(tensor.name, tensor.shape):
                raise BackendError(f"TensorRT refuses the shape {tensor.shape} of {tensor.name!r}")
        for name, address in self._addresses.items():
            if not context.set_tensor_address(name, address):
                raise BackendError(f"TensorRT refuses the memory of {name!r}: {self._logger.faults()}")
        return context

    def _block(self, tensors: Sequence[TensorSpec]) -> tuple[dict[str, NDArray[Any]], tuple[int, int, int]]:
        """Return pinned memory of tensors by name, and its addresses here and on the GPU with its size."""
        runtime, sizes = self._runtime, [np.dtype(t.dtype).itemsize * int(np.prod(t.shape)) for t in tensors]
        starts = [0, *np.cumsum([-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes]).tolist()]
        total = starts[-1]
        host = checked(runtime, runtime.cudaMallocHost(total))
        self._held.append((runtime.cudaFreeHost, host))
        device = checked(runtime, runtime.cudaMalloc(total))
        self._held.append((runtime.cudaFree, device))
        memory, arrays = np.ctypeslib.as_array((ctypes.c_ubyte * total).from_address(host)), {}
        for tensor, size, start in zip(tensors, sizes, starts, strict=False):
            arrays[tensor.name] = memory[start : start + size].view(tensor.dtype).reshape(tensor.shape)
            self._addresses[tensor.name] = device + start
        return arrays, (host, device, total)

    def _probes(self) -> tuple[dict[str, NDArray[Any]], ...]:
        (values, *_), shapes = self._places, {name: place.shape for name, place in self._places.items()}
        still = {name: np.ones(shape, dtype=np.float32) for name, shape in shapes.items()}
        dtype = self._places[values].dtype
        still[values] = np.zeros(shapes[values], dtype=dtype)
        waves = np.sin(np.arange(still[values].size, dtype=np.float32)).reshape(shapes[values])
        pixels = np.round(127 * (waves + 1)) if dtype == np.uint8 else waves
        return still, {**still, values: pixels.astype(dtype)}


def _release(held: _Held, process: int) -> None:
    while held:
        give_back, what = held.pop()
        if os.getpid() == process:
            give_back(what)


def _same(answers: Sequence[Answer], references: Sequence[Answer]) -> bool:
    """An engine is deterministic to the bit (TensorRT's documentation, "Determinism")."""
    return all(
        np.array_equal(output, expected, equal_nan=True)
        for answer, reference in zip(answers, references, strict=True)
        for output, expected in zip(answer, reference, strict=True)
    )
