"""The same weights through other engines, inside the measuring process: checked first, then called in turn.

Owns which rivals there are and how each is opened, fairly: one window at a time, the same prepared feeds, the same
number of threads, float32. A rival that is not installed, fails, or gives other answers than plain ONNX Runtime is
named with its reason and not timed. The one place of the benchmark that knows torch and the training side.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_bench.measuring.jobs import RivalsJob, RivalsOutcome
from mmkd_bench.measuring.opening import Choice, asked, describe, open_predictor, raw_windows
from mmkd_bench.measuring.session import open_session
from mmkd_bench.turns.rival_tflite import TFLITE_FILE, reason_in
from mmkd_bench.turns.rounds import time_in_turn, turning
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.backends.openvino import import_openvino, shared_core
from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_edge.bundle.golden import answer_scale
from mmkd_edge.errors import MmkdError
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.spec import TaskSpec
from mmkd_report.schema.bench_others import RivalEngine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Answers = tuple[Array, Array]
    Run = Callable[[Array, Array], Answers]

OURS = "mmkd-edge predict"
BACKEND = "mmkd-edge backend"
LOWER = "mmkd-edge lower precision"
PLAIN = "onnxruntime"
OPENVINO_OWN = "openvino in its own precision"
MAX_CHECKED_WINDOWS = 32
WITHOUT_CHECKPOINT = "not asked for: it needs the student's checkpoint; add --checkpoint student.ckpt"


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A rival that answers: values and presence, each (1, T, C), to the bundle's two outputs, each (1, K)."""

    run: Run
    version: str


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A rival that was opened and checked, and how it is called; one that is not timed has a reason and no call."""

    rival: RivalEngine
    call: Callable[[], object] | None = None


def time_rivals(job: RivalsJob, *, stop: Event) -> RivalsOutcome | None:
    """Carry out one job in this process; None where `stop` came before the first repeat was over.

    Raises:
        MmkdError: the bundle cannot be opened or run.
    """
    choice = Choice(bundle=job.bundle, precision="fp32", threads=job.threads, reference=job.reference)
    lower = msgspec.structs.replace(choice, precision="auto")
    # The backend's call gets an engine of its own: one that predict had just used would find its weights in the cache.
    with open_predictor(choice) as predictor, open_predictor(choice) as alone, open_predictor(lower) as tuned:
        assert predictor.bundle is not None
        windows = raw_windows(predictor)[:MAX_CHECKED_WINDOWS]
        modality, reference = predictor.modality, predictor.reference
        feeds = [prepare(check_window(window, modality), modality, reference) for window in windows]
        tolerance = predictor.bundle.golden(predictor.entry.name).tolerance
        entries = _entries(job, predictor, alone, tuned, feeds=feeds, windows=windows, tolerance=tolerance)
        calls = {entry.rival.name: entry.call for entry in entries if entry.call is not None}
        turns = time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s, stop=stop, twice=True)
        if turns is None:
            return None
        return RivalsOutcome(
            subject=describe(predictor, job.bundle).subject,
            mflops=predictor.entry.mflops,
            tolerance=tolerance,
            rivals=tuple(entry.rival for entry in entries),
            turns=turns,
        )


def _entries(
    job: RivalsJob,
    predictor: EdgePredictor,
    alone: EdgePredictor,
    tuned: EdgePredictor,
    *,
    feeds: Sequence[Answers],
    windows: Sequence[Array],
    tolerance: float,
) -> list[_Entry]:
    assert predictor.bundle is not None
    model = predictor.bundle.read(choose_artifact(predictor.entry, "fp32", "ort").file)
    ours = _Entry(
        rival=RivalEngine(
            name=OURS, version=f"{predictor.info().versions['mmkd-edge']} ({predictor.backend.name} fp32)"
        ),
        call=turning(predictor.predict, [asked(predictor, window) for window in windows]),
    )
    names = tuple(tensor.name for tensor in predictor.entry.inputs)
    outputs = tuple(tensor.name for tensor in predictor.entry.outputs)
    openers: tuple[tuple[str, Callable[[], _Opened]], ...] = (
        (PLAIN, lambda: _open_onnxruntime(model, names, outputs, threads=job.threads)),
        (BACKEND, lambda: _opened_backend(alone, names)),
        (LOWER, lambda: _opened_lower(tuned, names)),
        ("openvino", lambda: _open_openvino(model, names, outputs, threads=job.threads, own_precision=False)),
        (OPENVINO_OWN, lambda: _open_openvino(model, names, outputs, threads=job.threads, own_precision=True)),
        ("litert", lambda: _open_litert(_tflite(job, predictor), names, threads=job.threads)),
        ("torch eager", lambda: _open_torch(job.checkpoint, threads=job.threads, compiled=False)),
        ("torch.compile", lambda: _open_torch(job.checkpoint, threads=job.threads, compiled=True)),
    )
    expected: list[Answers] | None = None
    entries = [ours]
    for name, opener in openers:
        # Lower precision differs by design: its difference is shown, and its gate was that of `tune`.
        within = float("inf") if name in (LOWER, OPENVINO_OWN) else tolerance
        entry, answers = _try(name, opener, feeds=feeds, expected=expected, tolerance=within, task=predictor.task)
        entries.append(entry)
        # Plain ONNX Runtime comes first: the others are compared with its answers.
        expected = answers if expected is None else expected
    return entries


def _try(
    name: str,
    opener: Callable[[], _Opened],
    *,
    feeds: Sequence[Answers],
    expected: list[Answers] | None,
    tolerance: float,
    task: TaskSpec,
) -> tuple[_Entry, list[Answers]]:
    begin = time.perf_counter()
    try:
        opened = opener()
        first = opened.run(*feeds[0])
        load_ms = (time.perf_counter() - begin) * 1e3
        answers = [first, *(opened.run(values, present) for values, present in feeds[1:])]
    except ImportError as error:
        return _Entry(rival=RivalEngine(name=name, reason=f"not installed: {error}")), []
    except MmkdError as error:
        return _Entry(rival=RivalEngine(name=name, reason=str(error))), []
    except Exception as error:  # whatever an engine raises is its reason
        return _Entry(rival=RivalEngine(name=name, reason=f"{type(error).__name__}: {_first_line(error)}")), []
    max_abs_error = 0.0 if expected is None else largest_difference(answers, expected, task)
    reason = ""
    if not max_abs_error <= tolerance:
        reason = f"its answers differ by {max_abs_error:.2g} from onnxruntime's, more than {tolerance:.2g}: not timed"
    rival = RivalEngine(
        name=name,
        version=opened.version,
        reason=reason,
        load_ms=load_ms,
        max_abs_error=None if expected is None else max_abs_error,
    )
    return _Entry(rival=rival, call=None if reason else turning(lambda fed: opened.run(*fed), feeds)), answers


def largest_difference(answers: Sequence[Answers], expected: Sequence[Answers], task: TaskSpec) -> float:
    """The largest difference of any output, values of a regression as shares of the largest; inf where one is NaN.

    Of classes logits alone: probabilities follow from them, in a bundle with a temperature that its checkpoint lacks.
    """
    scales = [1.0]
    if task.kind != "classification":
        scales.append(answer_scale(task, np.concatenate([second for _, second in expected])))
    differences = [
        float(np.abs(one - other).max()) / scale
        for answer, wanted in zip(answers, expected, strict=True)
        for one, other, scale in zip(answer, wanted, scales, strict=False)
    ]
    return max(differences) if np.isfinite(differences).all() else float("inf")


def _opened_backend(predictor: EdgePredictor, names: Sequence[str]) -> _Opened:
    """The backend's call alone, without what `predict` checks and counts."""
    backend = predictor.backend
    values_name, present_name = names

    def run(values: Array, present: Array) -> Answers:
        """One `Backend.run`."""
        first, second, *_ = backend.run({values_name: values, present_name: present})
        return first, second

    return _Opened(run=run, version=f"{backend.name} {predictor.info().precision}")


def _opened_lower(tuned: EdgePredictor, names: Sequence[str]) -> _Opened:
    if tuned.info().precision == "fp32":
        raise MmkdError("no profile takes a lower precision here; run mmkd-bench tune")
    return _opened_backend(tuned, names)


def _open_onnxruntime(model: bytes, names: Sequence[str], outputs: Sequence[str], *, threads: int) -> _Opened:
    session = open_session(model, threads=threads)
    asked_for = list(outputs)
    values_name, present_name = names

    def run(values: Array, present: Array) -> Answers:
        """One `session.run`."""
        first, second, *_ = session.run(asked_for, {values_name: values, present_name: present})
        return first, second

    return _Opened(run=run, version=import_onnxruntime().__version__)


def _open_openvino(
    model: bytes, names: Sequence[str], outputs: Sequence[str], *, threads: int, own_precision: bool
) -> _Opened:
    core = shared_core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # It computes in bfloat16 where the processor can, if nobody forbids it.
        **({} if own_precision else {"INFERENCE_PRECISION_HINT": "f32"}),
    }
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    first, second, *_ = (compiled.output(name) for name in outputs)
    values_name, present_name = names

    def run(values: Array, present: Array) -> Answers:
        """One inference; its own output buffers are copied, as the other engines give new arrays."""
        request.infer({values_name: values, present_name: present}, share_inputs=True)
        return request.get_tensor(first).data.copy(), request.get_tensor(second).data.copy()

    return _Opened(run=run, version=import_openvino().__version__.partition("-")[0])


def _tflite(job: RivalsJob, predictor: EdgePredictor) -> bytes:
    """The student as a `.tflite` model: the bundle's own where it has one, else what the checkpoint was converted to.

    Raises:
        MmkdError: there is none; the message is the reason.
    """
    assert predictor.bundle is not None
    for artifact in predictor.entry.artifacts:
        if artifact.format == "tflite" and artifact.precision == "fp32":
            return predictor.bundle.read(artifact.file)
    if job.files is None:
        raise MmkdError(WITHOUT_CHECKPOINT)
    if reason := reason_in(Path(job.files)):
        raise MmkdError(reason)
    return (Path(job.files) / TFLITE_FILE).read_bytes()


def _open_litert(model: bytes, names: Sequence[str], *, threads: int) -> _Opened:
    """LiteRT's own interpreter, as its documentation uses it: fill the inputs, invoke, take the outputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    del runner  # an interpreter refuses to run while something else holds it
    values_at, present_at = (int(inputs[name]["index"]) for name in names)
    answers_at = [int(outputs[name]["index"]) for name in sorted(outputs) if name != "novelty"]

    def run(values: Array, present: Array) -> Answers:
        """One invocation of the interpreter."""
        interpreter.set_tensor(values_at, values)
        interpreter.set_tensor(present_at, present)
        interpreter.invoke()
        logits, probabilities = (interpreter.get_tensor(place) for place in answers_at)
        return logits, probabilities

    return _Opened(run=run, version=metadata.version("ai-edge-litert"))


def _writable(torch: Any, array: Array) -> Any:
    """A tensor over an array; torch warns of one that may not be written, which no engine here does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _open_torch(checkpoint: str | None, *, threads: int, compiled: bool) -> _Opened:
    if checkpoint is None:
        raise MmkdError(WITHOUT_CHECKPOINT)
    import torch

    from mmkd_models.networks.student import ExportStudent
    from mmkd_models.training.checkpoint import read_student

    torch.set_num_threads(threads)
    network: Any = ExportStudent(read_student(Path(checkpoint)).network()).eval()
    if compiled:
        network = torch.compile(network)

    def run(values: Array, present: Array) -> Answers:
        """One forward pass without gradients; the first of a compiled network compiles it."""
        with torch.inference_mode():
            logits, probabilities = network(torch.from_numpy(values), _writable(torch, present))
        return logits.numpy(), probabilities.numpy()

    return _Opened(run=run, version=str(torch.__version__))


def _first_line(error: Exception) -> str:
    text: Any = str(error).strip().splitlines()
    return text[0] if text else "no message"
