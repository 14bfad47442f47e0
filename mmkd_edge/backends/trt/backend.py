"""TensorRT 10.3 to 11, or TensorRT-RTX, on an NVIDIA GPU."""

from __future__ import annotations

import platform
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.calls import EngineCall, describe_tensor
from mmkd_edge.backends.onnx_wire import refuse_external_weights, refuse_trees
from mmkd_edge.backends.trt.build import EngineFacts, engine_from_onnx, engine_logger, load_engine, workspace_bytes
from mmkd_edge.backends.trt.cuda import Execution, device_facts, first_gpu, free_bytes, is_lost, load_runtime
from mmkd_edge.backends.trt.needs import installed_library, load_library, why_no_engines
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest import GRAPH_OUTPUTS
from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.spec import TensorSpec

MAX_EXECUTIONS = 8
"""Calls of one backend that run side by side; others wait."""
_LOG_LINES = 100


class TrtBackend:
    """One engine with a pool of execution contexts."""

    name = "trt"
    threads = 1  # the caller's

    def __init__(self, model: bytes) -> None:
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
                    facts,
                    load=self._load,
                    build=lambda: engine_from_onnx(
                        model, module, workspace_bytes=workspace_bytes(gpu_free_bytes=free_bytes(runtime))
                    ),
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
