"""The same weights in other engines, float32: compared with plain ONNX Runtime first, then called in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmkd_bench.in_turn import (
    InTurnJob,
    InTurnOutcome,
    in_turn_settings,
    launch_in_turn,
    ratio_of,
    repeats_of,
    summarise_repeats,
    time_in_turn,
    turning,
)
from mmkd_bench.machine.facts import read_machine
from mmkd_bench.measuring.opening import Choice, describe, open_predictor, open_session, predict_argument, raw_windows
from mmkd_bench.measuring.process import (
    Answers,
    Array,
    EngineCall,
    MeasuringProcess,
    OpenTorch,
    Progress,
    ignore_progress,
)
from mmkd_documents.bench import RivalEngine, RivalsReport, Subject
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.backends.openvino import import_openvino, shared_core
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.golden import answer_scale
from mmkd_edge.errors import MmkdError, UsageError, first_line
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.spec import TaskSpec


class RivalsJob(InTurnJob, frozen=True, kw_only=True):
    """The same weights in several engines; some need the checkpoint."""

    choice: Choice
    checkpoint: str | None = None


class RivalsOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """All engines without their times, the runtime first, and the times."""

    subject: Subject
    tolerance: float
    rivals: tuple[RivalEngine, ...]
    turns: InTurnOutcome


Entry = tuple[RivalEngine, Callable[[], object] | None]

_PREDICT = "mmkd-edge predict"
_BACKEND = "mmkd-edge backend"
PLAIN = "onnxruntime"
_MAX_CHECKED_WINDOWS = 32
_START_LIMIT_S = 900.0  # torch.compile takes a minute on a small processor


def measure_rivals(
    bundle: Path,
    *,
    checkpoint: Path | None = None,
    reference: Path | None = None,
    threads: int = 1,
    launches: int = 3,
    duration_s: float = 9.0,
    progress: Progress = ignore_progress,
    worker: str | None = None,
) -> RivalsReport:
    """Time the student's weights in every installed engine; errors as `measure_pair`.

    `worker` is the module of the measuring process; one that reads checkpoints adds torch to the rivals.
    """
    settings = in_turn_settings(threads=threads, launches=launches, duration_s=duration_s)
    if checkpoint is not None and not checkpoint.is_file():
        raise UsageError(f"--checkpoint {checkpoint}: expected a checkpoint, found no such file; check the path")
    with Bundle.open(bundle):
        pass  # verified before the first process starts
    machine = read_machine()
    options = OpenOptions(precision="fp32", threads=threads, reference=reference and str(reference))
    choice = Choice(bundle=str(bundle), options=options)
    job = RivalsJob(choice=choice, checkpoint=None if checkpoint is None else str(checkpoint), **settings)
    outcomes = launch_in_turn(
        time_rivals,
        job,
        RivalsOutcome,
        launches=launches,
        progress=progress,
        start_limit_s=_START_LIMIT_S,
        worker=worker,
    )
    first, turns = outcomes[0], [outcome.turns for outcome in outcomes]

    def joined(number: int, rival: RivalEngine) -> RivalEngine:
        reasons = [outcome.rivals[number].reason for outcome in outcomes]
        if reason := next(filter(None, reasons), ""):
            return msgspec.structs.replace(rival, reason=reason)
        return msgspec.structs.replace(
            rival,
            p50_us=summarise_repeats(repeats_of(turns, rival.name)),
            p99_us=summarise_repeats(repeats_of(turns, rival.name, "p99_us")),
            ratio=ratio_of(turns, rival.name, first.rivals[0].name),
        )

    return RivalsReport(
        subject=first.subject,
        threads=threads,
        tolerance=first.tolerance,
        rivals=tuple(joined(number, rival) for number, rival in enumerate(first.rivals)),
        machine=machine,
    )


def time_rivals(job: RivalsJob, process: MeasuringProcess) -> RivalsOutcome:
    """Do one job in this process, which opens the checkpoint, as this package cannot."""
    open_torch = process.open_torch
    choice = job.choice
    # The backend gets its own engine: predict's would find its weights in the cache.
    with open_predictor(choice) as predictor, open_predictor(choice) as alone:
        assert predictor.bundle is not None
        windows = raw_windows(predictor)[:_MAX_CHECKED_WINDOWS]
        modality, reference = predictor.modality, predictor.reference
        feeds = [prepare(check_window(window, modality), modality, reference) for window in windows]
        tolerance = predictor.bundle.golden(predictor.entry.name).tolerance
        version = f"{predictor.info().versions['mmkd-edge']} ({predictor.backend.name} fp32)"
        arguments = [predict_argument(predictor, window) for window in windows]
        entries: list[Entry] = [(RivalEngine(name=_PREDICT, version=version), turning(predictor.predict, arguments))]
        expected: list[Answers] | None = None
        for name, opener in _openers(job, predictor, alone, open_torch).items():
            entry, answers = _try(name, opener, feeds, expected=expected, tolerance=tolerance, task=predictor.task)
            entries.append(entry)
            expected = answers if expected is None else expected  # plain ONNX Runtime comes first
        calls = {rival.name: call for rival, call in entries if call is not None}
        turns = time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s, twice=True)
        subject = describe(predictor, choice.bundle).subject
        rivals = tuple(rival for rival, _ in entries)
        return RivalsOutcome(subject=subject, tolerance=tolerance, rivals=rivals, turns=turns)


def _openers(
    job: RivalsJob, predictor: EdgePredictor, alone: EdgePredictor, open_torch: OpenTorch | None
) -> dict[str, Callable[[], EngineCall]]:
    assert predictor.bundle is not None
    entry, threads, read = predictor.entry, job.threads, predictor.bundle.read
    model = read(choose_artifact(entry, "fp32", "ort").file)
    names = [tensor.name for tensor in entry.inputs]
    outputs = [tensor.name for tensor in entry.outputs]

    def open_onnxruntime() -> EngineCall:
        run = partial(open_session(model, threads=threads).run, outputs)
        return _by_name(run, names), metadata.version("onnxruntime")

    def open_tflite() -> EngineCall:
        for artifact in entry.artifacts:
            if artifact.format == "tflite" and artifact.precision == "fp32":
                return _open_litert(read(artifact.file), names, threads=threads)
        raise MmkdError("the bundle has no model for it; export it with --target litert")

    def run_torch(*, compiled: bool) -> EngineCall:
        if job.checkpoint is None or open_torch is None:
            raise MmkdError("it needs the student's checkpoint; add --checkpoint student.ckpt")
        return open_torch(Path(job.checkpoint), threads, compiled)

    return {
        PLAIN: open_onnxruntime,
        _BACKEND: lambda: (_by_name(alone.backend.run, names), f"{alone.backend.name} fp32"),
        "openvino": lambda: _open_openvino(model, names, outputs, threads=threads),
        "litert": open_tflite,
        "torch eager": partial(run_torch, compiled=False),
        "torch.compile": partial(run_torch, compiled=True),
    }


def _try(
    name: str,
    opener: Callable[[], EngineCall],
    feeds: Sequence[Answers],
    *,
    expected: list[Answers] | None,
    tolerance: float,
    task: TaskSpec,
) -> tuple[Entry, list[Answers]]:
    begin = time.perf_counter()
    try:
        run, version = opener()
        first = run(*feeds[0])
        load_ms = (time.perf_counter() - begin) * 1e3
        answers = [first, *(run(values, present) for values, present in feeds[1:])]
    except ImportError as error:
        return (RivalEngine(name=name, reason=f"not installed: {error}"), None), []
    except MmkdError as error:
        return (RivalEngine(name=name, reason=str(error)), None), []
    except Exception as error:  # whatever an engine raises is its reason
        return (RivalEngine(name=name, reason=f"{type(error).__name__}: {first_line(error)}"), None), []
    max_abs_error = None if expected is None else largest_difference(answers, expected, task)
    reason = ""
    if max_abs_error is not None and not max_abs_error <= tolerance:
        reason = f"its answers differ by {max_abs_error:.2g} from onnxruntime's, more than {tolerance:.2g}: not timed"
    rival = RivalEngine(name=name, version=version, reason=reason, load_ms=load_ms, max_abs_error=max_abs_error)
    return (rival, None if reason else turning(lambda fed: run(*fed), feeds)), answers


def largest_difference(answers: Sequence[Answers], expected: Sequence[Answers], task: TaskSpec) -> float:
    """Return the largest difference of outputs, of classes of logits alone, of a number relative; inf for NaN."""
    scales = [1.0]
    if task.kind != "classification":
        scales.append(answer_scale(task, np.concatenate([second for _, second in expected])))
    differences = [
        float(np.abs(actual - reference).max()) / scale
        for answer, outputs in zip(answers, expected, strict=True)
        for actual, reference, scale in zip(answer, outputs, scales, strict=False)
    ]
    return max(differences) if np.isfinite(differences).all() else float("inf")


def _by_name(
    run: Callable[[Mapping[str, Any]], Sequence[Array]], names: Sequence[str]
) -> Callable[[Array, Array], Answers]:
    values_name, present_name = names

    def call(values: Array, present: Array) -> Answers:
        first, second, *_ = run({values_name: values, present_name: present})
        return first, second

    return call


def _open_openvino(model: bytes, names: Sequence[str], outputs: Sequence[str], *, threads: int) -> EngineCall:
    core = shared_core()
    # Without the hint it computes in bfloat16 where the processor can.
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, **precision}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    first, second, *_ = (compiled.output(name) for name in outputs)
    values_name, present_name = names

    def run(values: Array, present: Array) -> Answers:
        request.infer({values_name: values, present_name: present}, share_inputs=True)
        # Copied, as the other engines return new arrays.
        return request.get_tensor(first).data.copy(), request.get_tensor(second).data.copy()

    return run, import_openvino().__version__.partition("-")[0]


def _open_litert(model: bytes, names: Sequence[str], *, threads: int) -> EngineCall:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    del runner  # an interpreter refuses to run while referenced
    values_at, present_at = (int(inputs[name]["index"]) for name in names)
    answers_at = [int(outputs[name]["index"]) for name in sorted(outputs) if name != "novelty"]

    def run(values: Array, present: Array) -> Answers:
        interpreter.set_tensor(values_at, values)
        interpreter.set_tensor(present_at, present)
        interpreter.invoke()
        logits, probabilities = (interpreter.get_tensor(place) for place in answers_at)
        return logits, probabilities

    return run, metadata.version("ai-edge-litert")
