"""Steps of a causal student: an engine over the step graph, and one state per stream."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import BACKENDS, Answers, BackendName, SteppingBackend
from mmkd_edge.backends.calls import EngineCall, StepMemory
from mmkd_edge.bundle.manifest import Artifact, ModelEntry, Streaming


def step_artifact(entry: ModelEntry, backend: BackendName) -> Artifact | None:
    """Return the step graph for a backend, or None."""
    row = BACKENDS[backend]
    if entry.streaming is None or not row.has_steps:
        return None
    return next((artifact for artifact in entry.streaming.artifacts if artifact.format in row.formats), None)


class Steps:
    """The steps of one stream, for one thread at a time; unusable after an error."""

    def __init__(self, backend: SteppingBackend, streaming: Streaming) -> None:
        memory = StepMemory(backend.inputs, backend.outputs, streaming)
        self._values, self._present, self._slot = (memory.inputs[name] for name in memory.fresh)
        next_states = {f"next_{name}" for name in memory.states}
        self._answers = [array for name, array in memory.outputs.items() if name not in next_states]
        self._memory = memory
        self._run = backend.bind(memory)
        self._title = f"backend {backend.name!r} ({backend.version})"

    def push(self, values: NDArray[Any], present: NDArray[np.float32]) -> Answers:
        """Take the next block of samples; return the same outputs as for a window, which the caller owns.

        Args:
            values: float32 (1, S, C), 0 where missing; video uint8 (1, S, H, W, C).
            present: float32 (1, S, C), 1 or 0; video (1, S, 1).
        """
        memory = self._memory
        self._values[...] = values
        self._present[...] = present
        self._slot[...] = memory.slot
        with EngineCall(self._title, "failed to step"):
            memory.erase()
            self._run()
            memory.check_written()
            memory.keep()
            return tuple([array.copy() for array in self._answers])
