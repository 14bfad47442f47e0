"""TensorRT 10.3 to 11, or TensorRT-RTX, on an NVIDIA GPU: execution contexts, each with the CUDA graph of its call.

If TensorRT refuses a call during recording, the graph does nothing and its replay returns old answers; so graph and
plain call are compared.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.backends.calls import EngineCall, describe_tensor, fill
from mmkd_edge.backends.onnx_wire import refuse_external_weights, refuse_trees
from mmkd_edge.backends.trt.build import (
    BuiltPlan,
    EngineFacts,
    engine_from_onnx,
    engine_logger,
    load_engine,
    workspace_bytes,
)
from mmkd_edge.backends.trt.cuda import CudaStream, device_facts, first_gpu, free_bytes, is_lost, load_runtime
from mmkd_edge.backends.trt.needs import installed_library, load_library, why_no_engines
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest import GRAPH_OUTPUTS
from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.spec import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Answer = tuple[NDArray[np.float32], ...]


MAX_EXECUTIONS = 8
"""Calls of one backend that run side by side; others wait."""
_LOG_LINES = 100


class TrtBackend:
    """One engine with a pool of execution contexts."""

    name = "trt"
    threads = 1  # the caller's

    def __init__(self, model: bytes, *, cache: Path | None = None) -> None:
        lacks = why_no_engines()
        library = installed_library()
        if lacks or library is None:
            raise UnavailableError(f"backend 'trt' cannot run here: {lacks}")
        try:
            module, runtime = load_library(library), load_runtime()
            device = device_facts(runtime)
        except UnavailableError as error:
            raise UnavailableError(f"backend 'trt' cannot run here: {error}") from error
        self.version = f"{library} {module.__version__} on {device.name}"
        self._title = f"backend 'trt' ({self.version})"
        self.plain_reason = ""  # why calls are not CUDA graphs
        self._module, self._runtime = module, runtime
        self._logger = engine_logger(module, most_lines=_LOG_LINES)
        self._pool = threading.Condition()  # guards the next fields
        self._idle: list[Execution] = []
        self._count, self._most = 1, MAX_EXECUTIONS
        self._ended = ""
        facts = EngineFacts(
            onnx_sha256=new_sha256(model).hexdigest(),
            library=library,
            library_version=str(module.__version__),
            architecture=platform.machine(),
            device=device,
        )
        with EngineCall(self._title, "cannot open the artifact", reason=self._reason):
            refuse_external_weights(model)
            refuse_trees(model)
            self._on_gpu = first_gpu(runtime)
            with self._on_gpu():
                engine, self.engine_origin = load_engine(
                    facts, load=self._load, build=lambda: self._build(model), folder=cache
                )
                self._engine: Any = engine
                self.inputs, self.outputs = _tensors(module, engine)
                self._idle.append(self._execution(engine))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """See `Backend.run`."""
        execution = self._take()
        with EngineCall(self._title, "failed to run", reason=self._reason):
            try:
                execution.take(feeds)
            except BaseException:  # nothing ran on the GPU
                self._give_back(execution)
                raise
            try:
                with self._on_gpu():
                    answer = execution.compute()
            except BaseException:
                self._drop(execution)
                raise
        self._give_back(execution)
        return answer

    def close(self) -> None:
        """Close everything; a running `run` ends undisturbed."""
        with self._pool:
            self._ended = self._ended or "is closed; open it again"
            idle, self._idle = self._idle, []
            self._engine = None
            self._pool.notify_all()
        for execution in idle:
            execution.close()

    def __repr__(self) -> str:
        return f"TrtBackend({self.version}, {'plain calls' if self.plain_reason else 'CUDA graph'})"

    def _load(self, plan: bytes) -> Any:
        loader = self._module.Runtime(self._logger)
        engine = loader.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(f"TensorRT does not load the engine: {self._logger.faults()}")
        return engine

    def _build(self, model: bytes) -> BuiltPlan:
        limit = workspace_bytes(gpu_free_bytes=free_bytes(self._runtime))
        return engine_from_onnx(model, self._module, workspace_bytes=limit)

    def _execution(self, engine: Any) -> Execution:
        made = Execution(engine, self._runtime, inputs=self.inputs, outputs=self.outputs, logger=self._logger)
        try:
            if not self.plain_reason:
                self.plain_reason = made.record()
        except BaseException:
            made.close()
            raise
        return made

    def _take(self) -> Execution:
        while True:
            with self._pool:
                self._pool.wait_for(lambda: self._ended or self._idle or self._count < self._most)
                if self._ended:
                    raise BackendError(f"backend 'trt' {self._ended}")
                if self._idle:
                    return self._idle.pop()
                self._count += 1
                engine = self._engine
            try:
                with EngineCall(self._title, "failed to run", reason=self._reason), self._on_gpu():
                    return self._execution(engine)
            except BaseException as error:
                with self._pool:  # probably out of memory: use the others
                    self._count -= 1
                    self._most = max(1, self._count)
                    self._pool.notify()
                    others = self._count > 0
                if not (others and isinstance(error, BackendError)):
                    raise

    def _give_back(self, execution: Execution) -> None:
        with self._pool:
            ended = bool(self._ended)
            if not ended:
                self._idle.append(execution)
                self._pool.notify()
        if ended:
            execution.close()

    def _drop(self, execution: Execution) -> None:
        lost = self._describe_loss()
        with self._pool:
            self._count -= 1
            if lost:
                self._ended = f"({self.version}) failed before{lost}"
                self._pool.notify_all()
            self._pool.notify()
        execution.close()

    def _reason(self, error: BaseException) -> str:
        return f"{str(error) or type(error).__name__}{self._describe_loss()}"

    def _describe_loss(self) -> str:
        return "; CUDA is lost to this process: start it again" if is_lost(self._runtime) else ""


def _tensors(module: Any, engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs by name, outputs as in `GRAPH_OUTPUTS`: the manifest's order."""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for name in sorted(engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        shape = (1, *shape[1:]) if shape[:1] == (-1,) else shape  # one window at a time
        tensor = describe_tensor(name, engine.get_tensor_dtype(name).name, shape)
        is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(tensor)
    names = [tensor.name for tensor in outputs]
    if not set(names) <= set(GRAPH_OUTPUTS):
        raise BackendError(f"expected outputs among {', '.join(GRAPH_OUTPUTS)}, got {', '.join(names)}")
    return tuple(inputs), tuple(sorted(outputs, key=lambda tensor: GRAPH_OUTPUTS.index(tensor.name)))


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
