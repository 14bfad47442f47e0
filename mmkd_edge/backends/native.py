"""The native engine on the CPU, for `.native` artifacts: one thread per call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.native import ABI, NativeModel
from mmkd_edge.spec import TensorSpec


class NativeBackend:
    """One model for all threads; with `steps` its tensors are those of a causal student's step."""

    name = "native"

    def __init__(self, model: bytes, *, threads: int = 1, steps: bool = False) -> None:
        if threads > 1:
            raise UsageError(f"threads {threads}: the backend 'native' computes in one thread; leave threads out")
        self.threads = 1
        self._model = NativeModel(model)
        self.version = f"mmkd native {ABI}, {self._model.isa}"
        (samples, channels), outputs = self._model.shape, self._model.outputs
        rows = self._model.step_samples if steps else samples
        names = [self._model.modality, f"{self._model.modality}_present"]
        self.inputs = _tensors(dict.fromkeys(names, (1, rows, channels)))
        answers = ["logits", "value" if self._model.is_number else "probabilities"]
        self.outputs = _tensors(dict.fromkeys(answers, (1, outputs)))
        self.outputs += _tensors({"novelty": (1, 1)} if self._model.has_novelty else {})
        if steps:
            shapes = self._model.state_shapes()
            self.inputs += _tensors({"slot": (1, 1)}) + _tensors({name: shape for name, (shape, _) in shapes.items()})
            self.outputs += _tensors({f"next_{name}": _one_slot(*state) for name, state in shapes.items()})

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """See `Backend.run`."""
        arrays = []
        for spec in self.inputs:
            array = feeds.get(spec.name)
            if array is None or array.shape != spec.shape or array.dtype != np.float32:
                got = "nothing" if array is None else f"{array.dtype} {array.shape}"
                raise BackendError(f"input {spec.name!r}: expected float32 {spec.shape}, got {got}")
            arrays.append(np.ascontiguousarray(array))
        if len(arrays) == 2:
            return self._model.run(*arrays)
        outputs = [np.full(spec.shape, np.nan, dtype=np.float32) for spec in self.outputs]
        self._model.bind_step(arrays, outputs)()
        return tuple(outputs)

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[np.float32]]
    ) -> Callable[[], None]:
        """See `SteppingBackend.bind`."""
        return self._model.bind_step(list(inputs.values()), list(outputs.values()))

    def close(self) -> None:
        """Close the model; a running `run` ends undisturbed."""
        self._model.close()

    def __repr__(self) -> str:
        return f"NativeBackend({self.version})"


def _tensors(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())


def _one_slot(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    return shape if axis is None else (*shape[:axis], 1, *shape[axis + 1 :])
