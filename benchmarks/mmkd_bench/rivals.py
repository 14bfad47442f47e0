"""The same weights through other engines, inside the measuring process: checked first, then called in turn.

Owns which rivals there are and how each is opened, fairly: one window at a time, the same prepared feeds, the same
number of threads, float32. A rival that is not installed, fails, or gives other answers than plain ONNX Runtime is
named with its reason and not timed. The one place of the benchmark that knows torch and the training side.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_bench.alternate import open_session, take_turns, turning
from mmkd_bench.jobs import RivalsJob, RivalsOutcome, RivalTimes
from mmkd_bench.subject import Choice, describe, open_predictor, raw_windows
from mmkd_edge.errors import MmkdError
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.preprocess import check_window, prepare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Answers = tuple[Array, Array]
    Run = Callable[[Array, Array], Answers]

OURS = "mmkd-edge predict"
PLAIN = "onnxruntime"
MAX_CHECKED_WINDOWS = 32
WARM_UP_S = 0.5


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A rival that answers: values and presence, each (1, T, C), to logits and probabilities, each (1, K)."""

    run: Run
    version: str


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A rival that was opened, checked and is to be timed, or that was not and why."""

    name: str
    version: str
    reason: str
    load_ms: float | None
    max_abs_error: float | None
    call: Callable[[], object] | None


def time_rivals(job: RivalsJob, *, stop: Event) -> RivalsOutcome | None:
    """Carry out one job in this process; None where `stop` came before the first repeat was over.

    Raises:
        MmkdError: the bundle cannot be opened or run.
    """
    choice = Choice(bundle=job.bundle, backend="ort", threads=job.threads, reference=job.reference)
    with open_predictor(choice) as predictor:
        assert predictor.bundle is not None
        windows = raw_windows(predictor)[:MAX_CHECKED_WINDOWS]
        modality, reference = predictor.modality, predictor.reference
        feeds = [prepare(check_window(window, modality), modality, reference) for window in windows]
        model = predictor.bundle.read(predictor.info().artifact)
        tolerance = predictor.bundle.golden(predictor.entry.name).tolerance
        entries = _entries(job, predictor, model, feeds=feeds, windows=windows, tolerance=tolerance)
        times = _time(entries, repeats=job.repeats, duration_s=job.duration_s, stop=stop)
        if times is None:
            return None
        return RivalsOutcome(subject=describe(predictor, job.bundle), tolerance=tolerance, rivals=times)


def _entries(
    job: RivalsJob,
    predictor: EdgePredictor,
    model: bytes,
    *,
    feeds: Sequence[Answers],
    windows: Sequence[Array],
    tolerance: float,
) -> list[_Entry]:
    ours = _Entry(
        name=OURS,
        version=predictor.info().versions["mmkd-edge"],
        reason="",
        load_ms=None,
        max_abs_error=None,
        call=turning(predictor.predict, windows),
    )
    names = tuple(tensor.name for tensor in predictor.entry.inputs)
    openers: tuple[tuple[str, Callable[[], _Opened]], ...] = (
        (PLAIN, lambda: _open_onnxruntime(model, names, threads=job.threads)),
        ("openvino", lambda: _open_openvino(model, names, threads=job.threads)),
        ("torch eager", lambda: _open_torch(job.checkpoint, threads=job.threads)),
    )
    expected: list[Answers] | None = None
    entries = [ours]
    for name, opener in openers:
        entry, answers = _try(name, opener, feeds=feeds, expected=expected, tolerance=tolerance)
        entries.append(entry)
        # Plain ONNX Runtime comes first: the others are held against its answers.
        expected = answers if expected is None else expected
    return entries


def _try(
    name: str,
    opener: Callable[[], _Opened],
    *,
    feeds: Sequence[Answers],
    expected: list[Answers] | None,
    tolerance: float,
) -> tuple[_Entry, list[Answers]]:
    begin = time.perf_counter()
    try:
        opened = opener()
        load_ms = (time.perf_counter() - begin) * 1e3
        answers = [opened.run(values, present) for values, present in feeds]
    except ImportError as error:
        return _absent(name, f"not installed: {error}"), []
    except MmkdError as error:
        return _absent(name, str(error)), []
    except Exception as error:  # whatever an engine raises is its reason
        return _absent(name, f"{type(error).__name__}: {_first_line(error)}"), []
    max_abs_error = 0.0 if expected is None else _largest_difference(answers, expected)
    reason = ""
    if not max_abs_error <= tolerance:
        reason = f"its answers differ by {max_abs_error:.2g} from onnxruntime's, more than {tolerance:.2g}: not timed"
    entry = _Entry(
        name=name,
        version=opened.version,
        reason=reason,
        load_ms=load_ms,
        max_abs_error=None if expected is None else max_abs_error,
        call=None if reason else turning(lambda fed: opened.run(*fed), feeds),
    )
    return entry, answers


def _absent(name: str, reason: str) -> _Entry:
    return _Entry(name=name, version="", reason=reason, load_ms=None, max_abs_error=None, call=None)


def _largest_difference(answers: Sequence[Answers], expected: Sequence[Answers]) -> float:
    differences = [
        float(np.abs(one - other).max())
        for answer, wanted in zip(answers, expected, strict=True)
        for one, other in zip(answer, wanted, strict=True)
    ]
    return max(differences) if np.isfinite(differences).all() else float("inf")


def _time(entries: Sequence[_Entry], *, repeats: int, duration_s: float, stop: Event) -> tuple[RivalTimes, ...] | None:
    calls = [entry.call for entry in entries if entry.call is not None]
    take_turns(calls, duration_s=min(WARM_UP_S, duration_s), stop=stop)
    p50_us: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        lengths = take_turns(calls, duration_s=duration_s / repeats, stop=stop)
        if stop.is_set():
            break
        for values, length in zip(p50_us, lengths, strict=True):
            values.append(float(np.median(length)) / 1e3)
    if not p50_us[0]:
        return None
    timed = iter(p50_us)
    return tuple(
        RivalTimes(
            name=entry.name,
            version=entry.version,
            reason=entry.reason,
            load_ms=entry.load_ms,
            max_abs_error=entry.max_abs_error,
            p50_us=() if entry.call is None else tuple(next(timed)),
        )
        for entry in entries
    )


def _open_onnxruntime(model: bytes, names: Sequence[str], *, threads: int) -> _Opened:
    import onnxruntime

    session = open_session(model, threads=threads)
    outputs = ["logits", "probabilities"]
    values_name, present_name = names

    def run(values: Array, present: Array) -> Answers:
        """One `session.run`."""
        logits, probabilities = session.run(outputs, {values_name: values, present_name: present})
        return logits, probabilities

    return _Opened(run=run, version=onnxruntime.__version__)


def _open_openvino(model: bytes, names: Sequence[str], *, threads: int) -> _Opened:
    # Its import else reports the start to the network (openvino_telemetry); an absent module is one it copes with.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # It computes in bfloat16 where the processor can, if nobody forbids it.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    logits, probabilities = compiled.output("logits"), compiled.output("probabilities")
    values_name, present_name = names

    def run(values: Array, present: Array) -> Answers:
        """One inference; its own output buffers are copied, as the other engines give new arrays."""
        request.infer({values_name: values, present_name: present}, share_inputs=True)
        return request.get_tensor(logits).data.copy(), request.get_tensor(probabilities).data.copy()

    return _Opened(run=run, version=openvino.__version__.partition("-")[0])


def _open_torch(checkpoint: str | None, *, threads: int) -> _Opened:
    if checkpoint is None:
        raise MmkdError("not asked for: it needs the student's checkpoint; add --checkpoint student.ckpt")
    import torch

    from mmkd_models.checkpoint import read_student
    from mmkd_models.networks.student import ExportStudent

    torch.set_num_threads(threads)
    network = ExportStudent(read_student(Path(checkpoint)).network()).eval()

    def run(values: Array, present: Array) -> Answers:
        """One forward pass without gradients."""
        with torch.inference_mode():
            logits, probabilities = network(torch.from_numpy(values), torch.from_numpy(present))
        return logits.numpy(), probabilities.numpy()

    return _Opened(run=run, version=str(torch.__version__))


def _first_line(error: Exception) -> str:
    text: Any = str(error).strip().splitlines()
    return text[0] if text else "no message"
