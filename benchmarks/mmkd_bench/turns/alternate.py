"""Two things called in turn in one process: what is left of a difference when the machine's mood is taken out.

Two runs after one another meet two different machines: another clock speed, another neighbour. Calls that alternate
meet the same one, so ratios and differences of neighbours hold where single figures move. The order inside a pair
alternates too: whoever goes second finds the caches as the first left them.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mmkd_bench.measuring.jobs import OverheadJob, PairJob, PairOutcome
from mmkd_bench.measuring.subject import Choice, asked, open_predictor, raw_windows
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.backends.ort import OrtBackend, import_onnxruntime
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import BackendError, UnavailableError, UsageError
from mmkd_edge.predict.preprocess import check_window, prepare, prepare_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Feeds = Mapping[str, NDArray[Any]]

ZIP_START = b"PK\x03\x04"
WARM_UP_S = 0.5
MIN_PAIRS = 20
SEED = 0

_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def alternate_models(job: PairJob, *, stop: Event) -> PairOutcome | None:
    """Two models through ONNX Runtime, called in turn; see `alternate`.

    Raises:
        UsageError: a path is no ONNX model of static shape and no bundle.
        UnavailableError: onnxruntime is not installed.
        BackendError: ONNX Runtime refuses a model.
        ArtifactError: a bundle is damaged.
    """
    first, second = (_session_call(Path(path), threads=job.threads) for path in (job.first, job.second))
    return alternate(first, second, repeats=job.repeats, duration_s=job.duration_s, stop=stop)


def alternate_predict(job: OverheadJob, *, stop: Event) -> PairOutcome | None:
    """`predict` (first) and the bare engine on the same feeds (second), called in turn; see `alternate`.

    Raises:
        MmkdError: the bundle cannot be opened or run.
    """
    choice = Choice(
        bundle=job.bundle,
        backend=job.backend or "ort",
        precision="fp32",
        threads=job.threads,
        reference=job.reference,
        checked=job.checks,
    )
    with open_predictor(choice) as predictor:
        modality = predictor.modality
        windows = raw_windows(predictor)
        names = tuple(tensor.name for tensor in predictor.entry.inputs)
        feeds = [
            dict(zip(names, prepare(check_window(window, modality), modality, predictor.reference), strict=True))
            for window in windows
        ]
        # The very engine that predict uses: two sessions of one model differ by more than predict adds.
        backend = predictor.backend
        run: Callable[[Any], object] = backend.run
        if job.backend is None:
            run = partial(cast(OrtBackend, backend).session.run, [tensor.name for tensor in predictor.entry.outputs])
        predict = partial(predictor.predict, input_age_s=0.0) if job.checks else predictor.predict
        return alternate(
            turning(predict, [asked(predictor, window) for window in windows]),
            turning(run, feeds),
            repeats=job.repeats,
            duration_s=job.duration_s,
            stop=stop,
        )


def alternate(
    first: Callable[[], object], second: Callable[[], object], *, repeats: int, duration_s: float, stop: Event
) -> PairOutcome | None:
    """Call both in turn, in both orders, and take medians per repeat.

    Args:
        first: one thing.
        second: the other.
        repeats: how many stretches of time get a median of their own.
        duration_s: all repeats together; every repeat has at least 20 pairs.
        stop: ends the measurement; a repeat that it cuts short does not count.

    Returns:
        The medians; None where `stop` came before the first repeat was over.
    """
    take_turns((first, second), duration_s=min(WARM_UP_S, duration_s), stop=stop)
    first_us, second_us, difference_us, count = [], [], [], 0
    first_tails_us, second_tails_us = [], []
    for _ in range(repeats):
        one, other = take_turns((first, second), duration_s=duration_s / repeats, stop=stop)
        if stop.is_set():
            break
        first_us.append(float(np.median(one)) / 1e3)
        second_us.append(float(np.median(other)) / 1e3)
        first_tails_us.append(_tails_us(one))
        second_tails_us.append(_tails_us(other))
        difference_us.append(float(np.median(one - other)) / 1e3)
        count += len(one)
    if not first_us:
        return None
    return PairOutcome(
        first_p50_us=tuple(first_us),
        second_p50_us=tuple(second_us),
        first_tails_us=tuple(first_tails_us),
        second_tails_us=tuple(second_tails_us),
        difference_p50_us=tuple(difference_us),
        count=count,
    )


def _tails_us(lengths_ns: NDArray[np.int64]) -> tuple[float, float]:
    p90, p99 = np.quantile(lengths_ns, (0.9, 0.99)) / 1e3
    return float(p90), float(p99)


def take_turns(
    calls: Sequence[Callable[[], object]], *, duration_s: float, stop: Event, twice: bool = False
) -> tuple[NDArray[np.int64], ...]:
    """Call all of them again and again, each round in the opposite order of the last; at least 20 rounds.

    Args:
        calls: what is called; all get the same number of calls.
        duration_s: when to end, between two rounds.
        stop: ends it early, between two rounds.
        twice: whether each is called once more before the call that is timed: it finds the caches as it left them
            itself, and not as its neighbour did.

    Returns:
        For each the lengths of its calls in ns, (N,).
    """
    clock = time.perf_counter_ns
    lengths = tuple(array("q") for _ in calls)
    end = clock() + round(duration_s * 1e9)
    forth = tuple(zip(calls, lengths, strict=True))
    order, other = forth, forth[::-1]
    rounds = 0
    while (rounds < MIN_PAIRS or clock() < end) and not stop.is_set():
        for call, kept in order:
            if twice:
                call()
            before = clock()
            call()
            kept.append(clock() - before)
        order, other = other, order
        rounds += 1
    return tuple(np.array(length, dtype=np.int64) for length in lengths)


def turning(call: Callable[[Any], object], arguments: Sequence[Any]) -> Callable[[], object]:
    """`call` without an argument: it takes the next of `arguments` each time."""
    position, count = 0, len(arguments)

    def turn() -> object:
        """Call it with the next one."""
        nonlocal position
        argument = arguments[position]
        position = position + 1 if position + 1 < count else 0
        return call(argument)

    return turn


def open_session(model: bytes, *, threads: int) -> Any:
    """A plain ONNX Runtime session with the runtime's threading choices.

    Raises:
        UnavailableError: onnxruntime is not installed.
        BackendError: ONNX Runtime refuses the model.
    """
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        raise UnavailableError(
            "paired latency needs onnxruntime, which is not installed; run: pip install 'mmkd-edge[ort]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises more types than its own for a bad model
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackendError(f"onnxruntime {onnxruntime.__version__} cannot open the model: {text}") from error


def is_zip(path: Path, *, expected: str = "an ONNX model or a bundle") -> bool:
    """Whether a file begins as a bundle does; its name does not matter.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP_START)) == ZIP_START
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected {expected}, cannot open it: {reason}") from error


def _session_call(path: Path, *, threads: int) -> Callable[[], object]:
    model, feeds = _bundle_model(path) if is_zip(path) else (path.read_bytes(), None)
    try:
        session = open_session(model, threads=threads)
    except BackendError as error:
        raise BackendError(f"{path}: {error}") from error
    fed = feeds or {node.name: _made_up(node, path) for node in session.get_inputs()}
    names = [node.name for node in session.get_outputs()]
    return lambda: session.run(names, fed)


def _bundle_model(path: Path) -> tuple[bytes, Feeds]:
    """The fp32 model of a bundle's first student, and the feeds of its first golden window."""
    with Bundle.open(path) as bundle:
        entry = bundle.manifest.models[0]
        artifact = choose_artifact(entry, "fp32", "ort")
        values, present = prepare_batch(bundle.golden(entry.name).windows[:1], entry.modality)
        return bundle.read(artifact.file), {entry.inputs[0].name: values, entry.inputs[1].name: present}


def _made_up(node: Any, path: Path) -> NDArray[Any]:
    """Numbers for one input of a bare model: ones for presence, standard normal values otherwise."""
    dtype = _NUMPY_TYPES.get(node.type)
    if dtype is None:
        raise UsageError(f"{path}: input {node.name!r} has the type {node.type}; expected numbers")
    if not all(isinstance(size, int) and size > 0 for size in node.shape):
        raise UsageError(
            f"{path}: input {node.name!r} has the shape {list(node.shape)}; expected fixed sizes: export a static shape"
        )
    if node.name.endswith("_present"):
        return np.ones(node.shape, dtype=dtype)
    values: NDArray[Any] = np.random.default_rng(SEED).standard_normal(node.shape).astype(dtype)
    return values
