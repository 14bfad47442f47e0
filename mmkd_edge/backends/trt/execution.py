"""An execution context on its own stream, and the CUDA graph of its call.

If TensorRT refuses a call during recording, the graph does nothing and its replay returns old answers; so graph and
plain call are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.backends.calls import fill
from mmkd_edge.backends.trt.cuda import CudaStream
from mmkd_edge.errors import BackendError
from mmkd_edge.spec import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Answer = tuple[NDArray[np.float32], ...]


class Execution:
    """A context with stream and memory, for one call at a time."""

    def __init__(
        self, engine: Any, runtime: Any, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], logger: Any
    ) -> None:
        self._logger = logger
        self._stream = CudaStream(runtime, inputs, outputs)
        try:
            self._context = self._make_context(engine, inputs)
        except BaseException:
            self._stream.close()
            raise
        self._places = {tensor.name: self._stream.values[tensor.name] for tensor in inputs}
        self._answers = tuple(self._stream.values[tensor.name] for tensor in outputs)

    def answer(self, feeds: Mapping[str, NDArray[Any]]) -> Answer:
        """Return the outputs for a window."""
        self.take(feeds)
        return self.compute()

    def take(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Copy a window for `compute`; ValueError if the feeds do not fit."""
        fill(self._places, feeds)

    def compute(self) -> Answer:
        """Return the outputs, owned by the caller; BackendError on failure."""
        stream = self._stream
        if stream.graph is not None:
            stream.replay()
        else:
            self._enqueue()
        stream.wait()
        return tuple(answer.copy() for answer in self._answers)

    def record(self) -> str:
        """Record the call as a CUDA graph; return why there is none, or an empty text."""
        probes = self._probes()
        plain = [self.answer(feeds) for feeds in probes]
        try:
            self._stream.record(self._enqueue)
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
        self._stream.graph = None
        if not _same([self.answer(feeds) for feeds in probes], plain):
            raise BackendError(f"{reason}, and the call itself gives other answers since")
        return reason

    def close(self) -> None:
        """Wait for running work and free everything; repeated calls are allowed."""
        self._places, self._answers = {}, ()
        self._stream.close()
        self._context = None

    def _make_context(self, engine: Any, inputs: Sequence[TensorSpec]) -> Any:
        context = engine.create_execution_context()
        if context is None:
            raise BackendError(f"TensorRT makes no execution context: {self._logger.faults()}")
        for tensor in inputs:  # a variable batch is 1
            if not context.set_input_shape(tensor.name, tensor.shape):
                raise BackendError(f"TensorRT refuses the shape {tensor.shape} of {tensor.name!r}")
        for name, address in self._stream.addresses.items():
            if not context.set_tensor_address(name, address):
                raise BackendError(f"TensorRT refuses the memory of {name!r}: {self._logger.faults()}")
        return context

    def _enqueue(self) -> None:
        stream, context = self._stream, self._context
        stream.copy_in()
        if not context.execute_async_v3(stream.handle):
            raise BackendError(f"TensorRT refuses the call: {self._logger.faults()}")
        stream.copy_out()

    def _probes(self) -> tuple[dict[str, NDArray[Any]], ...]:
        (values, *_), shapes = self._places, {name: place.shape for name, place in self._places.items()}
        still = {name: np.ones(shape, dtype=np.float32) for name, shape in shapes.items()}
        dtype = self._places[values].dtype
        still[values] = np.zeros(shapes[values], dtype=dtype)
        waves = np.sin(np.arange(still[values].size, dtype=np.float32)).reshape(shapes[values])
        pixels = np.round(127 * (waves + 1)) if dtype == np.uint8 else waves
        return still, {**still, values: pixels.astype(dtype)}


def _same(answers: Sequence[Answer], references: Sequence[Answer]) -> bool:
    """An engine is deterministic to the bit (TensorRT's documentation, "Determinism")."""
    return all(
        np.array_equal(output, expected, equal_nan=True)
        for answer, reference in zip(answers, references, strict=True)
        for output, expected in zip(answer, reference, strict=True)
    )
