"""LiteRT (formerly TensorFlow Lite) on the CPU, for `.tflite` artifacts; at the first it prints a line to stderr."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mmkd_edge.backends.calls import EngineCall, describe_tensor, erase
from mmkd_edge.errors import BackendError
from mmkd_edge.spec import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LitertBackend:
    """A pool of interpreters over one model with one signature."""

    name = "litert"

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        from importlib.metadata import version

        from ai_edge_litert.interpreter import Interpreter

        self.threads = threads
        self.version = f"ai-edge-litert {version('ai-edge-litert')}"
        self._title = f"backend 'litert' ({self.version})"
        self._interpreter_class: Any = Interpreter
        self._model = model
        with EngineCall(self._title, "cannot open the artifact"):
            first = self._interpreter()
            runner = first.get_signature_runner()  # fails unless there is exactly one signature
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
            del runner  # an interpreter that is referenced elsewhere refuses to run
            self.inputs = _tensors(inputs, first.get_input_details())
            self.outputs = _tensors(outputs, first.get_output_details())
        self._places = {name: int(detail["index"]) for name, detail in inputs.items()}
        self._results = {tensor.name: int(outputs[tensor.name]["index"]) for tensor in self.outputs}
        self._idle: deque[Any] | None = deque([first])

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """See `Backend.run`."""
        idle = self._open_pool()
        with EngineCall(self._title, "failed to run"):
            interpreter = self._take(idle)
            for name, place in self._places.items():
                interpreter.set_tensor(place, feeds[name])
            erase(interpreter.tensor(place)() for place in self._results.values())
            interpreter.invoke()
            answers = tuple([interpreter.get_tensor(place) for place in self._results.values()])
        idle.append(interpreter)  # not after an error, which leaves an unknown state
        return answers

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[np.float32]]
    ) -> Callable[[], None]:
        """See `SteppingBackend.bind`."""
        self._open_pool()
        return partial(self._step, inputs, outputs)

    def _step(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[np.float32]]) -> None:
        idle = self._open_pool()
        interpreter = self._take(idle)
        for name, array in inputs.items():
            interpreter.set_tensor(self._places[name], array)
        erase(interpreter.tensor(place)() for place in self._results.values())
        interpreter.invoke()
        for name, array in outputs.items():
            array[...] = interpreter.tensor(self._results[name])()
        idle.append(interpreter)

    def _open_pool(self) -> deque[Any]:
        if self._idle is None:
            raise BackendError("backend 'litert' is closed; open it again")
        return self._idle

    def close(self) -> None:
        """Close the interpreters; a running `run` ends undisturbed."""
        self._idle = None

    def __repr__(self) -> str:
        return f"LitertBackend({self.version}, threads={self.threads})"

    def _take(self, idle: deque[Any]) -> Any:
        try:
            return idle.pop()  # atomic
        except IndexError:
            return self._interpreter()

    def _interpreter(self) -> Any:
        interpreter = self._interpreter_class(model_content=self._model, num_threads=self.threads)
        interpreter.allocate_tensors()
        return interpreter


def _tensors(details: Mapping[str, Mapping[str, Any]], order: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    """The graph's order is the manifest's; a signature has none."""
    places = {int(detail["index"]): place for place, detail in enumerate(order)}
    names = sorted(details, key=lambda name: places[int(details[name]["index"])])
    return tuple(
        describe_tensor(name, details[name]["dtype"].__name__, tuple(map(int, details[name]["shape_signature"])))
        for name in names
    )
