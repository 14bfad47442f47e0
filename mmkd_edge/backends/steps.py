"""Steps of a causal student: an engine over its step graph, and one state for each stream.

The protocol, and the one place that begins a state. States live in memory that the engine reads and writes in place,
two of each in turn, so that a step copies nothing but one block of samples in and one answer out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmkd_edge.backends import Backend, BackendName
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.manifest import Streaming
from mmkd_edge.preprocess import prepare
from mmkd_edge.spec import ModalitySpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmkd_edge.spec import TensorSpec

    Answer = tuple[NDArray[np.float32], NDArray[np.float32]]

STEP_BACKENDS: tuple[BackendName, ...] = ("ort", "openvino")
"""Backends that run step graphs."""


class Steps(Protocol):
    """One stream's way through a step graph; used by one thread at a time, and done with at the first error."""

    def push(self, values: NDArray[np.float32], present: NDArray[np.float32]) -> Answer:
        """Take the next block of samples.

        Args:
            values: float32 (1, S, C), 0 where missing.
            present: float32 (1, S, C), 1 or 0.

        Returns:
            Logits and probabilities, each float32 (1, K). They belong to the caller.

        Raises:
            BackendError: the engine failed.
        """
        ...


def start_steps(backend: Backend, streaming: Streaming) -> Steps:
    """A state in which nothing has been heard, over an engine that runs a step graph.

    Raises:
        UsageError: the backend runs no step graphs, or is closed.
    """
    from mmkd_edge.backends.openvino import OpenVinoBackend
    from mmkd_edge.backends.ort import OrtBackend

    run: Callable[[int], None] | None = None
    memory = _Memory(backend.inputs, backend.outputs, [state.initial for state in streaming.states])
    if isinstance(backend, OrtBackend) and backend.session is not None:
        run = _bound_to_ort(backend.session, memory)
    elif isinstance(backend, OpenVinoBackend) and backend.compiled is not None:
        run = _bound_to_openvino(backend.compiled, memory)
    if run is None:
        raise UsageError(f"steps: expected an open backend, one of {', '.join(STEP_BACKENDS)}, got {backend!r}")
    return _BoundSteps(memory, run, backend)


def follow_recording(
    backend: Backend, streaming: Streaming, recording: NDArray[np.float32], modality: ModalitySpec
) -> Answer:
    """Logits and probabilities, each (N, K), after each block of a recording, from where nothing has been heard.

    Args:
        backend: runs the step graph.
        streaming: what the manifest says of it.
        recording: (T, C) as `prepare` takes it without a reference; what the first block lacks is missing.
        modality: what it is a recording of.

    Raises:
        BackendError: the engine failed.
    """
    lead = np.full((-len(recording) % streaming.stride, recording.shape[1]), np.nan, dtype=np.float32)
    blocks = np.concatenate([lead, recording]).reshape(-1, streaming.stride, recording.shape[1])
    steps = start_steps(backend, streaming)
    answers = [steps.push(*prepare(block, modality)) for block in blocks]
    return np.concatenate([logits for logits, _ in answers]), np.concatenate([shares for _, shares in answers])


class _Memory:
    """The arrays that one stream's steps read and write: those of odd and even steps."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], initial: Sequence[float]) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.block = [np.zeros(spec.shape, np.float32) for spec in inputs[:2]]
        self.answer = [np.zeros(spec.shape, np.float32) for spec in outputs[:2]]
        self.states = [
            [np.full(spec.shape, value, np.float32) for spec, value in zip(inputs[2:], initial, strict=True)]
            for _ in range(2)
        ]


class _BoundSteps:
    def __init__(self, memory: _Memory, run: Callable[[int], None], backend: Backend) -> None:
        self._values, self._present = memory.block
        self._logits, self._probabilities = memory.answer
        self._memory = memory  # the engine writes into it
        self._run = run
        self._backend = backend
        self._turn = 0

    def push(self, values: NDArray[np.float32], present: NDArray[np.float32]) -> Answer:
        """Take the next block; see `Steps.push`."""
        self._values[:] = values
        self._present[:] = present
        try:
            self._run(self._turn)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BackendError(
                f"backend {self._backend.name!r} ({self._backend.version}) failed to step: {first}"
            ) from error
        self._turn ^= 1
        return self._logits.copy(), self._probabilities.copy()


def _bound_to_ort(session: Any, memory: _Memory) -> Callable[[int], None]:
    bindings = []
    for turn in range(2):
        binding = session.io_binding()
        for spec, array in zip(memory.inputs, [*memory.block, *memory.states[turn]], strict=True):
            binding.bind_input(spec.name, "cpu", 0, np.float32, spec.shape, array.ctypes.data)
        for spec, array in zip(memory.outputs, [*memory.answer, *memory.states[1 - turn]], strict=True):
            binding.bind_output(spec.name, "cpu", 0, np.float32, spec.shape, array.ctypes.data)
        bindings.append(binding)
    run = session.run_with_iobinding
    return lambda turn: run(bindings[turn])


def _bound_to_openvino(compiled: Any, memory: _Memory) -> Callable[[int], None]:
    from openvino import Tensor

    requests = []
    for turn in range(2):
        request = compiled.create_infer_request()
        for number, array in enumerate([*memory.block, *memory.states[turn]]):
            request.set_input_tensor(number, Tensor(array, shared_memory=True))
        for number, array in enumerate([*memory.answer, *memory.states[1 - turn]]):
            request.set_output_tensor(number, Tensor(array, shared_memory=True))
        requests.append(request)
    return lambda turn: requests[turn].infer(share_outputs=True, decode_strings=False) and None
