"""Build engines from ONNX graphs with TensorRT 10.3 to 11 or TensorRT-RTX.

A plan runs on one kind of GPU, driver and library. It is a program: load only trusted engines.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_edge.errors import BackendError

_MAX_WORKSPACE_BYTES = 1 << 30
_WORKSPACE_DIVISOR = 4  # of the free memory, which a Jetson's GPU and CPU share
_MAX_ERRORS = 4
_LAYER_LIST = "Engine Layer Information:"


@dataclass(frozen=True, kw_only=True)
class BuiltPlan:
    """A built engine, the builder's layers and messages, and its timing cache if requested."""

    plan: bytes
    layers: str
    log: str
    timing_cache: bytes


def engine_from_onnx(
    model: bytes, module: Any, *, workspace_bytes: int, timing_cache: bytes | None = None
) -> BuiltPlan:
    """Build a strongly typed engine; BackendError with the library's message if it refuses the graph.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        timing_cache: from an earlier build here, empty for the first; None for none.
    """
    logger = engine_logger(module)
    builder = module.Builder(logger)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, logger)
    if not parser.parse(model):
        faults = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BackendError(f"{module.__name__} {module.__version__} cannot read the graph: {faults}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace_bytes)
    # It is on by default, and rounds the factors of float32 products to ten bits: three digits instead of seven.
    config.clear_flag(module.BuilderFlag.TF32)
    if timing_cache is not None:
        config.set_timing_cache(config.create_timing_cache(timing_cache), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"{module.__name__} {module.__version__} cannot build the graph with {workspace_bytes >> 20} MiB of "
            f"workspace: {logger.faults()}; where it found no implementation, memory is the "
            "usual cause: close other programs"
        )
    cache = None if timing_cache is None else config.get_timing_cache()
    return BuiltPlan(
        plan=bytes(plan),
        layers=logger.layers,
        log="\n".join(logger.lines) + "\n",
        timing_cache=b"" if cache is None else bytes(cache.serialize()),
    )


def workspace_bytes(meminfo: Path = Path("/proc/meminfo"), *, gpu_free_bytes: int | None = None) -> int:
    """Return a builder's memory: a quarter of the free (GPU) memory, at most 1 GiB."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    if gpu_free_bytes is not None:
        free = min(free, gpu_free_bytes)
    return min(_MAX_WORKSPACE_BYTES, free // _WORKSPACE_DIVISOR)


def engine_logger(module: Any, *, most_lines: int | None = None) -> Any:
    """Return a logger that collects the list of layers and the newest `most_lines` messages."""
    severity = module.ILogger.Severity

    class Logger(module.ILogger):  # type: ignore[misc] # the library's class, without types
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=most_lines)
            self.errors: deque[str] = deque(maxlen=_MAX_ERRORS)
            self.layers = ""

        def log(self, level: Any, message: str) -> None:
            if message.startswith(_LAYER_LIST):
                self.layers = message.removeprefix(_LAYER_LIST).strip()
            if level != severity.VERBOSE:
                self.lines.append(f"{level.name}: {message}")
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                self.errors.append(message)

        def faults(self) -> str:
            """Return the errors since the last call."""
            reasons = "; ".join(self.errors) or "it gives no reason"
            self.errors.clear()
            return reasons

    return Logger()
