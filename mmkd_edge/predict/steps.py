"""Steps of a causal student: an engine over its step graph, and one state for each stream.

The protocol, and the one place that begins a state. States live in memory of the stream's own that the engine reads
where it is. A step gives back one slot of most of them, so that nothing is moved and little is copied.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmkd_edge.backends.base import Backend, BackendName, artifact_formats
from mmkd_edge.bundle.manifest import Artifact, ModelEntry, Streaming
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.spec import ModalitySpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmkd_edge.spec import TensorSpec

    Answer = tuple[NDArray[np.float32], NDArray[np.float32]]

STEP_BACKENDS: tuple[BackendName, ...] = ("ort", "openvino", "litert")
"""Backends that run step graphs."""


def step_artifact(entry: ModelEntry, backend: BackendName) -> Artifact | None:
    """The step graph that a backend runs; None where the student is not causal, or has none in a format of its own."""
    if entry.streaming is None or backend not in STEP_BACKENDS:
        return None
    formats = artifact_formats(backend)
    return next((artifact for artifact in entry.streaming.artifacts if artifact.format in formats), None)


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
    from mmkd_edge.backends.litert import LitertBackend
    from mmkd_edge.backends.openvino import OpenVinoBackend
    from mmkd_edge.backends.ort import OrtBackend

    run: Callable[[], None] | None = None
    memory = StepMemory(backend.inputs, backend.outputs, streaming)
    if isinstance(backend, OrtBackend) and backend.session is not None:
        run = _bound_to_ort(backend.session, memory)
    elif isinstance(backend, OpenVinoBackend) and backend.compiled is not None:
        run = _bound_to_openvino(backend.compiled, memory)
    elif isinstance(backend, LitertBackend) and not backend.closed:
        run = partial(backend.step, memory)
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


class StepMemory:
    """The arrays that one stream's steps read and write.

    Attributes:
        inputs: what the graph takes, by name: a block of samples, the slot, the states.
        outputs: what it gives, by name: the answer, and what is new of each state.
        states: names of the states.
        given: names of the other inputs, which are new in each step.
        step: number of the next step, from 0.
    """

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], streaming: Streaming) -> None:
        self.inputs = {spec.name: np.zeros(spec.shape, np.float32) for spec in inputs}
        self.outputs = {spec.name: np.zeros(spec.shape, np.float32) for spec in outputs}
        self.states = tuple(state.name for state in streaming.states)
        self.given = tuple(name for name in self.inputs if name not in self.states)
        self.step = 0
        self._slots = streaming.slots
        self._news = []
        for state in streaming.states:
            self.inputs[state.name][...] = state.initial
            new = self.outputs[f"next_{state.name}"]
            self._news.append((state.name, state.axis, new if state.axis is None else new.squeeze(state.axis)))

    @property
    def slot(self) -> int:
        """Which slot the next step fills."""
        return self.step % self._slots

    def keep_in(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Put what the last step gave where the next one looks for it: into arrays of the states."""
        slot = self.slot
        for name, axis, new in self._news:
            if axis is None:
                arrays[name][...] = new
            else:
                arrays[name][(slice(None),) * axis + (slot,)] = new

    def keep(self) -> None:
        """Put it into the inputs, and count the step."""
        self.keep_in(self.inputs)
        self.step += 1


class _BoundSteps:
    def __init__(self, memory: StepMemory, run: Callable[[], None], backend: Backend) -> None:
        self._values, self._present, self._slot = (memory.inputs[name] for name in memory.given)
        self._logits, self._probabilities, *_ = memory.outputs.values()
        self._memory = memory
        self._run = run
        self._backend = backend

    def push(self, values: NDArray[np.float32], present: NDArray[np.float32]) -> Answer:
        """Take the next block; see `Steps.push`."""
        memory = self._memory
        self._values[...] = values
        self._present[...] = present
        self._slot[...] = memory.slot
        try:
            self._run()
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BackendError(
                f"backend {self._backend.name!r} ({self._backend.version}) failed to step: {first}"
            ) from error
        memory.keep()
        return self._logits.copy(), self._probabilities.copy()


def _bound_to_ort(session: Any, memory: StepMemory) -> Callable[[], None]:
    binding = session.io_binding()
    for name, array in memory.inputs.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    for name, array in memory.outputs.items():
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    run = session.run_with_iobinding
    return lambda: run(binding)


def _bound_to_openvino(compiled: Any, memory: StepMemory) -> Callable[[], None]:
    from openvino import Tensor

    request = compiled.create_infer_request()
    for number, array in enumerate(memory.inputs.values()):
        request.set_input_tensor(number, Tensor(array, shared_memory=True))
    for number, array in enumerate(memory.outputs.values()):
        request.set_output_tensor(number, Tensor(array, shared_memory=True))
    return lambda: request.infer(share_outputs=True, decode_strings=False) and None
