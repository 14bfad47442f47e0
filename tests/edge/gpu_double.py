"""Doubles of cuda-python's runtime and of TensorRT: a GPU made of host memory, whose engines compute in onnxruntime.

Nothing that is put on a stream happens before somebody waits for the stream, as on a GPU. What a test wants to go wrong
is an attribute. The names and parameters are those of the published bindings; `test_trt_backend.py` compares them.
"""

import ctypes
import ctypes.util
import importlib.machinery
import sys
import threading
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
import onnxruntime


class Error(IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815
    cudaErrorStreamCaptureUnsupported = 900  # noqa: N815


OK = (Error.cudaSuccess,)
Work = Callable[[], None]


class Stream:
    def __init__(self):
        self.waiting: list[Work] = []
        self.recording: list[Work] | None = None

    def put(self, work):
        (self.waiting if self.recording is None else self.recording).append(work)


class Cuda(ModuleType):
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.live: dict[int, object] = {}  # everything that was made and not given back
        self.broken = Error.cudaSuccess  # what every call gives from now on
        self.name, self.devices, self.device = b"Double", 1, 0
        self.devices_at_run: set[int] = set()
        self.driver, self.memory_bytes = 12060, 8 << 30
        self.graphs: Literal["work", "are refused", "are not supported"] = "work"
        self._next = 0
        self._lock = threading.Lock()

    def _made(self, what, *, key=None):
        with self._lock:
            self._next += 1
            handle = self._next if key is None else key
            self.live[handle] = what
        return (self.broken or Error.cudaSuccess, handle)

    def _gone(self, handle):
        with self._lock:
            del self.live[handle]
        return (self.broken,)

    def _memory(self, size):
        if self.broken:
            return (self.broken, None)
        memory = ctypes.create_string_buffer(size + 256)
        return self._made(memory, key=-(-ctypes.addressof(memory) // 256) * 256)

    def cudaGetDeviceProperties(self, device):  # noqa: N802
        facts = {"name": self.name, "major": 8, "minor": 7, "multiProcessorCount": 8}
        properties = SimpleNamespace(totalGlobalMem=self.memory_bytes, **facts)
        return (Error.cudaErrorInsufficientDriver if self.driver == 0 else Error.cudaSuccess, properties)

    def cudaRuntimeGetVersion(self):  # noqa: N802
        return (Error.cudaSuccess, 12060)

    def cudaDriverGetVersion(self):  # noqa: N802
        return (Error.cudaSuccess, self.driver)

    def cudaGetErrorString(self, error):  # noqa: N802
        return (Error.cudaSuccess, f"text of {int(error)}".encode())

    def cudaGetLastError(self):  # noqa: N802
        return (self.broken,)

    def cudaGetDeviceCount(self):  # noqa: N802
        return (Error.cudaSuccess, self.devices)

    def cudaGetDevice(self):  # noqa: N802
        return (Error.cudaSuccess, self.device)

    def cudaSetDevice(self, device):  # noqa: N802
        self.device = device
        return OK

    def cudaMemGetInfo(self):  # noqa: N802
        return (self.broken, 4 << 30, 8 << 30)

    def cudaMallocHost(self, size):  # noqa: N802
        return self._memory(size)

    cudaMalloc = cudaMallocHost  # noqa: N815

    def cudaFreeHost(self, ptr):  # noqa: N802
        return self._gone(ptr)

    def cudaFree(self, devPtr):  # noqa: N802
        return self._gone(devPtr)

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        return (self.broken, None) if self.broken else self._made(Stream())

    def cudaStreamDestroy(self, stream):  # noqa: N802
        return self._gone(stream)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):  # noqa: N802
        self.stream(stream).put(lambda: ctypes.memmove(dst, src, count) and None)
        return (self.broken,)

    def cudaMemsetAsync(self, devPtr, value, count, stream):  # noqa: N802
        self.stream(stream).put(lambda: ctypes.memset(devPtr, value, count) and None)
        return (self.broken,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        waiting = self.stream(stream).waiting
        while waiting and not self.broken:
            waiting.pop(0)()
        self.devices_at_run.add(self.device)
        return (self.broken,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        self.stream(stream).recording = []
        return OK

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        found = self.stream(stream)
        recorded, found.recording = found.recording, None
        if self.graphs == "are not supported":
            return (Error.cudaErrorStreamCaptureUnsupported, None)
        return self._made(recorded)

    def cudaGraphInstantiate(self, graph, flags):  # noqa: N802
        return self._made(self.live[graph])

    def cudaGraphDestroy(self, graph):  # noqa: N802
        return self._gone(graph)

    def cudaGraphExecDestroy(self, graphExec):  # noqa: N802
        return self._gone(graphExec)

    def cudaGraphLaunch(self, graphExec, stream):  # noqa: N802
        self.stream(stream).waiting += self.live[graphExec]
        return (self.broken,)

    def stream(self, handle):
        found = self.live[handle]
        assert isinstance(found, Stream)
        return found


class Context:
    """An execution context; one call at a time, or the test fails."""

    def __init__(self, engine):
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.busy = threading.Lock()

    def set_input_shape(self, name, shape):
        return shape == self.engine.get_tensor_shape(name)

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return memory % 256 == 0

    def execute_async_v3(self, stream_handle):
        tensorrt = self.engine.tensorrt
        stream = tensorrt.cuda.stream(stream_handle)
        recorded = stream.recording is not None
        if tensorrt.refuses or (recorded and tensorrt.cuda.graphs == "are refused"):
            tensorrt.loggers[-1].log(tensorrt.ILogger.Severity.ERROR, "not while recording")
            return False
        if not (recorded and tensorrt.graphs_are_empty):
            stream.put(self._run)
        return True

    def _run(self):
        tensorrt = self.engine.tensorrt
        assert self.busy.acquire(blocking=False), "two calls in one context"
        tensorrt.cuda.broken = tensorrt.breaks or tensorrt.cuda.broken
        session = self.engine.session
        feeds = {node.name: self._memory(node.name) for node in session.get_inputs()}
        for node, answer in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            self._memory(node.name)[:] = answer
        self.busy.release()

    def _memory(self, name):
        shape = self.engine.get_tensor_shape(name)
        floats = (ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])
        return np.ctypeslib.as_array(floats).reshape(shape)


class Engine:
    def __init__(self, tensorrt, plan):
        self.tensorrt = tensorrt
        self.session = onnxruntime.InferenceSession(plan.removeprefix(b"plan"), providers=["CPUExecutionProvider"])
        self._nodes = {node.name: node for node in (*self.session.get_outputs(), *self.session.get_inputs())}
        self.num_io_tensors = len(self._nodes)

    def get_tensor_name(self, index):
        return list(self._nodes)[index]

    def get_tensor_shape(self, name):
        return tuple(self._nodes[name].shape)

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.tensorrt.dtype)

    def get_tensor_mode(self, name):
        return "in" if name in {node.name for node in self.session.get_inputs()} else "out"

    def create_execution_context(self):
        if self.tensorrt.contexts == self.tensorrt.most_contexts:
            return None
        self.tensorrt.contexts += 1
        return Context(self)


SEVERITIES = ("VERBOSE", "ERROR", "INTERNAL_ERROR")


class Tensorrt(ModuleType):
    __version__ = "10.3.0"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    MemoryPoolType = SimpleNamespace(WORKSPACE=0)
    BuilderFlag = SimpleNamespace(TF32="tf32")
    TensorIOMode = SimpleNamespace(INPUT="in")

    class ILogger:
        Severity = SimpleNamespace(**{name: SimpleNamespace(name=name) for name in SEVERITIES})

    def __init__(self, cuda):
        super().__init__("tensorrt")
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        self.cuda = cuda
        self.built = 0
        self.loaded: list[bytes] = []  # what was asked to be an engine
        self.loads, self.refuses, self.graphs_are_empty = True, False, False
        self.breaks = Error.cudaSuccess  # what the next call does to CUDA
        self.contexts, self.most_contexts = 0, -1
        self.dtype = "FLOAT"
        self.loggers: list[Any] = []
        self.asked: list[tuple[object, ...]] = []  # of a builder

    def Builder(self, logger):  # noqa: N802
        def asked(what, *, gives=lambda: None):
            return lambda *given: self.asked.append((what, *given)) or gives()

        def built(network, config):
            self.built += 1
            return b"plan" + network[0]

        config = SimpleNamespace(
            set_memory_pool_limit=asked("memory"),
            clear_flag=asked("off"),
            create_timing_cache=asked("timings", gives=lambda: "cache"),
            set_timing_cache=asked("set"),
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"measured"),
        )
        network = asked("network", gives=Network)
        return SimpleNamespace(
            create_network=network, create_builder_config=lambda: config, build_serialized_network=built
        )

    def OnnxParser(self, network, logger):  # noqa: N802
        def parse(model):
            network.append(model)
            return model != b"not a model"

        return SimpleNamespace(parse=parse, num_errors=1, get_error=lambda index: "not ONNX")

    def Runtime(self, logger):  # noqa: N802
        self.loggers.append(logger)

        def deserialize_cuda_engine(plan):
            self.loaded.append(plan)
            if self.loads:
                return Engine(self, plan)
            logger.log(self.ILogger.Severity.ERROR, "built for another GPU")
            return None

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)


class Network(list[bytes]):
    """What the parser puts its graph into."""

    num_inputs = 0


_IN_A_CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("gpu_double", {file!r})
double = importlib.util.module_from_spec(spec)
spec.loader.exec_module(double)
double.put_in_place(sys.modules.__setitem__, driver={driver})
"""


def install(monkeypatch, folder):
    """Let this process, and those that it starts for a trial from a folder, find a GPU, its driver and TensorRT."""
    give_to_children(monkeypatch, folder)
    tensorrt = put_in_place(lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    monkeypatch.setattr("mmkd_edge.backends.trt.needs._DRIVER", "libc.so.6")  # a library that loads
    return tensorrt


def give_to_children(monkeypatch, folder, *, driver=12060):
    """Let processes that are started for a trial find them, and a driver of this version."""
    place = folder / "nvidia"
    (place / "cuda").mkdir(parents=True, exist_ok=True)
    for name in ("tensorrt.py", "cuda/__init__.py"):
        (place / name).write_text(_IN_A_CHILD.format(file=__file__, driver=driver))
    library = ctypes.util.find_library("c")
    (found,) = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if f"/{library}" in line}
    if not (place / "libcuda.so.1").exists():
        (place / "libcuda.so.1").symlink_to(found)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(place))


def put_in_place(put, *, driver=12060):
    cuda = Cuda()
    cuda.driver = driver
    tensorrt = Tensorrt(cuda)
    top = ModuleType("cuda")
    top.__spec__ = importlib.machinery.ModuleSpec("cuda", None)
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda
    for name, module in (("cuda", top), ("cuda.bindings", bindings), ("cuda.bindings.runtime", cuda)):
        put(name, module)
    put("tensorrt", tensorrt)
    return tensorrt
