"""The native engine: students computed in C."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.native.build import LIBRARY, source_hash

ABI = 5
ISAS = ("best", "base", "avx2", "avx512")
"""Instruction sets, in the order of `enum mmkd_isa`."""
_OK, _UNKNOWN_ISA = 0, 3
_NUMBERS = (2, 3)  # tasks `regression` and `normal`
_ALIGNMENT, _MESSAGE_BYTES = 64, 200


class _Facts(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("samples", "channels", "outputs", "has_novelty", "task", "isa")),
        *((name, ctypes.c_int32) for name in ("step", "states", "recorded_samples", "recorded_channels")),
        ("scratch_bytes", ctypes.c_size_t),
    )


def why_absent() -> str:
    """Return why the engine cannot run here, or empty."""
    return "" if LIBRARY.is_file() else "the native engine was not built: no C compiler was found"


@cache
def library() -> Any:
    """Return the loaded library; UnavailableError if not built here from these sources."""
    if reason := why_absent():
        raise UnavailableError(f"{reason}; install one and run pip install mmkd-edge again")
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise UnavailableError(f"the native engine cannot be loaded: {error}; install mmkd-edge again") from error
    loaded.mmkd_sources.restype = ctypes.c_char_p
    if loaded.mmkd_abi_version() != ABI or loaded.mmkd_sources() != source_hash().encode():
        raise UnavailableError("the native engine was built from other sources; run pip install mmkd-edge again")
    pointer = ctypes.c_void_p
    loaded.mmkd_model_open.argtypes = [pointer, ctypes.c_size_t, ctypes.c_int, pointer, pointer, ctypes.c_size_t]
    loaded.mmkd_model_close.argtypes = [pointer]
    loaded.mmkd_model_modality.argtypes = [pointer]
    loaded.mmkd_model_modality.restype = ctypes.c_char_p
    loaded.mmkd_model_facts.argtypes = [pointer]
    loaded.mmkd_model_facts.restype = _Facts
    loaded.mmkd_state.argtypes = [pointer, ctypes.c_int32, pointer, pointer, pointer]
    loaded.mmkd_run.argtypes = [pointer] * 7
    loaded.mmkd_step.argtypes = [*[pointer] * 4, ctypes.c_int32, *[pointer] * 5]
    loaded.mmkd_step.restype = None
    loaded.mmkd_run.restype = None
    return loaded


class _Handle:
    """Freed with its last reference, so that a running `run` keeps the model."""

    def __init__(self, data: bytes, isa: str) -> None:
        self.model = ctypes.c_void_p()  # first: __del__ reads it even if there is no library
        self.library = library()
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        place = ctypes.byref(self.model)
        status = self.library.mmkd_model_open(data, len(data), ISAS.index(isa), place, message, _MESSAGE_BYTES)
        text = message.value.decode(errors="replace") or "not enough memory"
        if status == _UNKNOWN_ISA:
            raise UnavailableError(f"native engine: {isa}: {text}; leave the choice to the engine")
        if status != _OK:
            raise BackendError(f"backend 'native' cannot open the artifact: {text}")

    def __del__(self) -> None:
        if self.model:
            self.library.mmkd_model_close(self.model)


class NativeModel:
    """A model of the native engine. Threads may share it: each has its own scratch.

    Raises BackendError for a damaged file, UnavailableError without the engine or the processor's instructions.
    """

    def __init__(self, data: bytes, *, isa: str = "best") -> None:
        self._handle: _Handle | None = _Handle(data, isa)
        facts = self._handle.library.mmkd_model_facts(self._handle.model)
        self.modality = self._handle.library.mmkd_model_modality(self._handle.model).decode(errors="replace")
        self.shape = (int(facts.samples), int(facts.channels))  # (T, C)
        self.outputs, self.has_novelty = int(facts.outputs), bool(facts.has_novelty)  # K classes
        self.isa = ISAS[facts.isa]
        self.is_number = facts.task in _NUMBERS
        self.step_samples, self.states = int(facts.step), int(facts.states)  # S and states of a causal student, else 0
        self.scratch_bytes = int(facts.scratch_bytes)
        self._own = threading.local()

    def run(self, values: NDArray[np.float32], present: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Return logits and probabilities (1, K), and novelty (1, 1) if the model has it, as new arrays.

        Args:
            values: float32 (1, T, C), contiguous, finite, 0 where missing.
            present: float32 (1, T, C), contiguous, 1 or 0.
        """
        handle = self._handle
        if handle is None:
            raise BackendError("backend 'native' is closed; open it again")
        count = self.outputs
        answers = np.empty((1, 2 * count + 1), dtype=np.float32)
        place = answers.ctypes.data
        novelty = place + 8 * count if self.has_novelty else None
        inputs = values.ctypes.data, present.ctypes.data
        handle.library.mmkd_run(handle.model, self._scratch(), *inputs, place, place + 4 * count, novelty)
        parts = answers[:, :count], answers[:, count : 2 * count]
        return (*parts, answers[:, 2 * count :]) if self.has_novelty else parts

    def state_shapes(self) -> dict[str, tuple[tuple[int, ...], int | None]]:
        """Return each state's shape, in order, and slot axis."""
        handle, shapes = self._handle, {}
        for number in range(self.states if handle else 0):
            name, shape, axis = ctypes.create_string_buffer(16), (ctypes.c_int32 * 4)(), ctypes.c_int32()
            assert handle is not None
            count = handle.library.mmkd_state(handle.model, number, name, shape, ctypes.byref(axis))
            shapes[name.value.decode()] = tuple(shape[:count]), None if axis.value < 0 else axis.value
        return shapes

    def bind_step(
        self, inputs: Sequence[NDArray[np.float32]], outputs: Sequence[NDArray[np.float32]]
    ) -> Callable[[], None]:
        """Return a function that takes one step with these arrays, for one thread.

        Args:
            inputs: values and presence (1, S, C), slot (1, 1), then the states; float32, contiguous.
            outputs: logits and probabilities (1, K), perhaps novelty (1, 1), then what is new of each state.
        """
        if not self.states or len(inputs) != 3 + self.states or len(outputs) != 2 + self.has_novelty + self.states:
            raise BackendError("backend 'native': these are not the tensors of a step of this model")
        arrays = (*inputs, *outputs)  # held by the function, since the engine uses their memory
        answers, news = outputs[: -self.states], outputs[-self.states :]
        addresses = [
            (ctypes.c_void_p * self.states)(*(array.ctypes.data for array in part)) for part in (inputs[3:], news)
        ]
        block = [array.ctypes.data for array in inputs[:2]]
        pointers = [array.ctypes.data for array in answers] + [None] * (3 - len(answers))

        def take() -> None:
            handle = self._handle
            if handle is None:
                raise BackendError("backend 'native' is closed; open it again")
            handle.library.mmkd_step(handle.model, self._scratch(), *block, int(arrays[2][0, 0]), *addresses, *pointers)

        return take

    def _scratch(self) -> int:
        own = self._own
        if not hasattr(own, "address"):
            own.memory = np.empty(self.scratch_bytes + _ALIGNMENT, dtype=np.uint8)
            own.address = -(-own.memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        return int(own.address)

    def close(self) -> None:
        """Release the model; a running `run` ends undisturbed."""
        self._handle = None
