"""What answers behind a predictor: one opened student (`Engine`), and all students of one bundle in order (`Line`).

Owns opening one, warming it up and holding it against their golden windows. Neither changes once it is made: a
predictor that swaps bundles or opens an engine again puts a new line in the place of the old one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Backend, open_backend
from mmkd_edge.bundle.bundle import Bundle, choose_artifact
from mmkd_edge.bundle.golden import Golden, answer_scale, same_answers
from mmkd_edge.bundle.manifest import Artifact, ModelEntry, describe_tensors, step_inputs, step_outputs
from mmkd_edge.bundle.reference import Reference, check_reference
from mmkd_edge.drift.features import InputStatistics
from mmkd_edge.errors import BackendError, BundleError, GateError
from mmkd_edge.predict.confidence import threshold_of
from mmkd_edge.predict.preprocess import all_present, prepare, sure_below
from mmkd_edge.predict.setup import Setup
from mmkd_edge.predict.steps import follow_recording, start_steps, step_artifact
from mmkd_edge.spec import ModalitySpec, TaskSpec, TensorSpec
from mmkd_edge.watch.health import Tally, measure_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

References = Reference | str | os.PathLike[str] | None
_WARM_UP_RUNS = 5
_STEPPED_WINDOWS = 8  # of the golden ones, in the self-test of a step graph
# Of the largest logit. bfloat16 keeps 8 bits of each number, a relative error of 2**-9 per operation, and a student
# adds hundreds: 1 % to 5 % of the largest logit are usual. Far more comes from a sensor whose values vary little
# around a large mean, which 8 bits cannot tell apart: such a student must not run in it.
_BF16_TOLERANCE = 0.1


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """How this device answered the golden windows.

    Attributes:
        windows: how many there were.
        max_abs_error: largest difference of a logit or a probability from the stored answer.
        tolerance: what it had to stay within.
        label_agreement: share of windows with the stored label, 0 to 1.
    """

    windows: int
    max_abs_error: float
    tolerance: float
    label_agreement: float


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One student that can answer.

    Attributes:
        entry: everything the manifest says of it.
        modality: what it takes.
        task: what it answers.
        backend: what executes it.
        reference: statistics for a modality that is normalised per group.
        artifact: what the backend executes; None without a bundle.
        setup: how it was opened, and why so; None without a bundle.
        reopen: opens the backend once more; None where nothing can.
        least: the probability that a label needs to be in the label set; None where no error level was asked for.
        tally: counts its answers.
        refusal: why it cannot answer for raw values; empty where it can.
        values_name: of the graph's first input.
        present_name: of its second.
        shape: (T, C) of a window.
        present: what `prepare` gives beside a window that misses nothing.
        sure_below: a sum of squares below which a window misses nothing; see `preprocess.sure_below`.
        plain_below: the same, where its answers are classes and need neither a refusal nor a label set; else 0.
        step: what executes the step graph of a causal student; None where there is none, or the backend runs none.
    """

    entry: ModelEntry
    modality: ModalitySpec
    task: TaskSpec
    backend: Backend
    reference: Reference | None
    artifact: Artifact | None
    setup: Setup | None
    reopen: Callable[[], Backend] | None
    least: float | None
    tally: Tally
    refusal: str
    values_name: str
    present_name: str
    shape: tuple[int, int]
    present: NDArray[np.float32]
    sure_below: float
    plain_below: float
    step: Backend | None = None

    def close(self) -> None:
        """Give the backends back; more than once is fine."""
        self.backend.close()
        if self.step is not None:
            self.step.close()


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The students of one bundle, the best first.

    Attributes:
        engines: at least one.
        bundle: where they come from; closed with them.
    """

    engines: tuple[Engine, ...]
    bundle: Bundle | None = None

    def with_backend(self, engine: Engine, backend: Backend) -> Line:
        """The same line with another backend behind one of its engines."""
        fresh = msgspec.structs.replace(engine, backend=backend)
        engines = tuple(fresh if known is engine else known for known in self.engines)
        return msgspec.structs.replace(self, engines=engines)

    def close(self) -> None:
        """Give everything back; more than once is fine."""
        for engine in self.engines:
            engine.close()
        if self.bundle is not None:
            self.bundle.close()


def open_engine(
    bundle: Bundle,
    entry: ModelEntry,
    setup: Setup,
    *,
    reference: Reference | None = None,
    error_level: float | None = None,
    first: bool = True,
) -> Engine:
    """A student of an open bundle, opened in one way and warm.

    Raises:
        UsageError: it has no artifact for that way, or one that was not calibrated for this error level.
        UnavailableError: the backend's library is not installed.
        BackendError: the backend cannot open or run it.
        BundleError: the artifact is not what the manifest says.
    """
    artifact = choose_artifact(entry, setup.precision, setup.backend)
    least = threshold_of(entry, artifact, error_level, where=str(bundle.path))

    def opened() -> Backend:
        return _open_artifact(bundle, entry, artifact, setup)

    statistics = entry.statistics or _statistics_of_golden(bundle, entry)
    engine = engine_of(
        entry=entry,
        backend=opened(),
        reference=reference,
        artifact=artifact,
        setup=setup,
        reopen=opened,
        statistics=statistics,
        least=least,
        first=first,
    )
    try:
        return msgspec.structs.replace(engine, step=_open_step(bundle, entry, setup))
    except BaseException:
        engine.close()
        raise


def engine_of(
    *,
    entry: ModelEntry,
    backend: Backend,
    reference: Reference | None = None,
    artifact: Artifact | None = None,
    setup: Setup | None = None,
    reopen: Callable[[], Backend] | None = None,
    statistics: InputStatistics | None = None,
    least: float | None = None,
    first: bool = True,
) -> Engine:
    """An engine over an opened backend.

    Raises:
        UsageError: the reference was made for another modality.
    """
    if reference is not None:
        check_reference(reference, entry.modality)
    refusal, below = _refusal(entry.modality, reference), sure_below(entry.modality, reference)
    return Engine(
        entry=entry,
        modality=entry.modality,
        task=entry.task,
        backend=backend,
        reference=reference,
        artifact=artifact,
        setup=setup,
        reopen=reopen,
        least=least,
        tally=Tally(
            model=entry.name,
            modality=entry.modality,
            task=entry.task,
            statistics=statistics,
            group_reference=entry.group_reference,
            first=first,
        ),
        refusal=refusal,
        values_name=entry.modality.name,
        present_name=f"{entry.modality.name}_present",
        shape=entry.modality.shape,
        present=all_present(entry.modality.shape),
        sure_below=below,
        plain_below=below if entry.task.kind == "classification" and not refusal and least is None else 0.0,
    )


def run_selftest(engine: Engine, bundle: Bundle, *, most: int | None = None) -> SelfTest:
    """Hold an engine against the golden windows of its student.

    Args:
        engine: what answers.
        bundle: where it comes from.
        most: how many windows to ask, spread evenly over those there are; None asks all.

    Raises:
        GateError: an answer differs by more than the stored tolerance.
        BackendError: the backend failed.
        BundleError: the golden windows cannot be read.
    """
    golden = bundle.golden(engine.entry.name)
    tolerance = golden.tolerance
    if engine.artifact is not None and engine.artifact.precision != "fp32":
        # Lower precision differs from the checkpoint by design; the manifest says by how much it may.
        tolerance = max(tolerance, engine.artifact.parity.tolerance)
    if engine.setup is not None and engine.setup.precision == "bf16":
        tolerance = max(tolerance, _BF16_TOLERANCE * max(1.0, float(np.abs(golden.logits).max())))
    count = len(golden.windows)
    asked = np.unique(np.linspace(0, count - 1, min(count, most or count)).astype(int))
    logits, probabilities = answers_of(engine, golden.windows[asked])
    logit_errors = np.abs(logits - golden.logits[asked]).max(axis=1)  # (N,)
    scale = answer_scale(engine.task, golden.probabilities)
    errors = np.maximum(logit_errors, np.abs(probabilities - golden.probabilities[asked]).max(axis=1) / scale)  # (N,)
    worst = int(errors.argmax())  # NaN counts as the largest
    error = float(errors[worst])
    if not error <= tolerance:
        raise GateError(
            f"{bundle.path}: self-test: golden window {asked[worst]}: expected the stored answer within "
            f"{tolerance:g}, got a difference of {error:g}; {engine.backend.version} computes another result "
            "here than at export: do not use it on this device"
        )
    agreement = float(same_answers(engine.task, golden.logits[asked], logits).mean())
    if engine.step is not None:
        error = max(error, _test_steps(engine, engine.step, golden, where=str(bundle.path)))
    return SelfTest(windows=len(errors), max_abs_error=error, tolerance=tolerance, label_agreement=agreement)


def _test_steps(engine: Engine, step: Backend, golden: Golden, *, where: str) -> float:
    """Step through some golden windows: the last step answers for the window. Gives the largest difference."""
    streaming, scale = engine.entry.streaming, answer_scale(engine.task, golden.probabilities)
    assert streaming is not None
    largest = 0.0
    for number, window in enumerate(golden.windows[:_STEPPED_WINDOWS]):
        logits, probabilities = follow_recording(step, streaming, window, engine.modality)
        second = (probabilities[-1] - golden.probabilities[number]) / scale
        found = np.concatenate([logits[-1] - golden.logits[number], second])
        error = float(np.abs(found).max())
        if not error <= golden.tolerance:
            raise GateError(
                f"{where}: self-test: golden window {number}, step by step: expected the stored answer within "
                f"{golden.tolerance:g}, got a difference of {error:g}; {step.version} computes another result "
                "here than at export: do not use it on this device"
            )
        largest = max(largest, error)
    return largest


def run_line_selftest(line: Line, bundle: Bundle) -> SelfTest:
    """Hold all engines of a line against their golden windows: the windows of all, and the worst of their figures.

    Raises:
        GateError: an answer differs by more than the stored tolerance.
        BackendError: a backend failed.
        BundleError: the golden windows cannot be read.
    """
    results = [run_selftest(engine, bundle) for engine in line.engines]
    worst = max(results, key=lambda result: result.max_abs_error / result.tolerance)
    return SelfTest(
        windows=sum(result.windows for result in results),
        max_abs_error=worst.max_abs_error,
        tolerance=worst.tolerance,
        label_agreement=min(result.label_agreement for result in results),
    )


def answers_of(engine: Engine, windows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and probabilities, each (N, K), for golden windows (N, T, C): raw, or z-scores of a per-group modality."""
    answers = []
    for window in windows:
        values, present = prepare(window, engine.modality)
        answers.append(engine.backend.run({engine.values_name: values, engine.present_name: present}))
    return np.concatenate([logits for logits, _ in answers]), np.concatenate([shares for _, shares in answers])


def _statistics_of_golden(bundle: Bundle, entry: ModelEntry) -> InputStatistics | None:
    """What a bundle of an earlier version lacks, from the windows that it carries; golden windows are checked later."""
    with contextlib.suppress(BundleError):
        golden = bundle.golden(entry.name)
        return measure_statistics(golden.windows, golden.probabilities, entry.modality, task=entry.task)
    return None


def _open_artifact(bundle: Bundle, entry: ModelEntry, artifact: Artifact, setup: Setup) -> Backend:
    backend = open_backend(
        setup.backend,
        bundle.read(artifact.file),
        threads=setup.threads,
        bf16=setup.precision == "bf16",
        options=setup.options,
    )
    try:
        _check_tensors(bundle, artifact, backend, inputs=entry.inputs, outputs=entry.outputs)
        _warm_up(entry, backend)
    except BaseException:
        backend.close()
        raise
    return backend


def _open_step(bundle: Bundle, entry: ModelEntry, setup: Setup) -> Backend | None:
    """The step graph of a causal student, where the backend runs such graphs; it is fp32 whatever the precision."""
    streaming, artifact = entry.streaming, step_artifact(entry, setup.backend)
    if streaming is None or artifact is None:
        return None
    backend = open_backend(setup.backend, bundle.read(artifact.file), threads=setup.threads, options=setup.options)
    try:
        wanted = step_inputs(entry.modality, streaming), step_outputs(entry.task, streaming)
        _check_tensors(bundle, artifact, backend, inputs=wanted[0], outputs=wanted[1])
        block = np.zeros(wanted[0][0].shape, np.float32)
        steps = start_steps(backend, streaming)
        for _ in range(_WARM_UP_RUNS):
            _check_answers(backend, entry.outputs, steps.push(block, np.ones_like(block)))
    except BaseException:
        backend.close()
        raise
    return backend


def _check_tensors(
    bundle: Bundle,
    artifact: Artifact,
    backend: Backend,
    *,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> None:
    for what, wanted, found in (("inputs", inputs, backend.inputs), ("outputs", outputs, backend.outputs)):
        if found != wanted:
            raise BundleError(
                f"{bundle.path}: {artifact.file!r}: expected the {what} {describe_tensors(wanted)}, "
                f"got {describe_tensors(found)}; export the bundle again"
            )


def _warm_up(entry: ModelEntry, backend: Backend) -> None:
    shape = entry.inputs[0].shape
    feeds = {entry.inputs[0].name: np.zeros(shape, np.float32), entry.inputs[1].name: np.ones(shape, np.float32)}
    for _ in range(_WARM_UP_RUNS):
        answers = backend.run(feeds)
    _check_answers(backend, entry.outputs, answers)


def _check_answers(
    backend: Backend, outputs: tuple[TensorSpec, ...], answers: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    for spec, answer in zip(outputs, answers, strict=True):
        if answer.shape != spec.shape or answer.dtype != np.float32 or not np.isfinite(answer).all():
            raise BackendError(
                f"backend {backend.name!r}: expected finite {describe_tensors((spec,))} for a window of zeros, "
                f"got {answer.dtype} {answer.shape}: {answer.ravel()[:4].tolist()}; export the bundle again"
            )


def _refusal(modality: ModalitySpec, reference: Reference | None) -> str:
    if modality.normalise == "none" or reference is not None:
        return ""
    return (
        f"modality {modality.name!r} is normalised per group and raw values need the group's statistics; "
        f"run mmkd-data reference DATA --modality {modality.name} -o FILE on its first windows "
        "and open the bundle with EdgePredictor.open(..., reference=FILE)"
    )
