"""One opened student (`Engine`), and all of one bundle in order (`Students`). Neither changes once it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Answers, Backend, SteppingBackend, choose_artifact, open_backend, open_steps
from mmkd_edge.backends.steps import Steps, step_artifact
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Artifact, ModelEntry, describe_tensors, step_inputs, step_outputs
from mmkd_edge.bundle.reference import Reference, check_reference
from mmkd_edge.drift.features import InputStatistics, MagnitudeLimits
from mmkd_edge.drift.running import RunningStatistics
from mmkd_edge.errors import BackendError, BundleError, UsageError
from mmkd_edge.predict.confidence import threshold_of
from mmkd_edge.predict.config import Config
from mmkd_edge.predict.novelty import NoveltyRule, novelty_rule
from mmkd_edge.predict.preprocess import nothing_missing, prepare
from mmkd_edge.spec import ModalitySpec, TaskSpec, TensorSpec, plausible_span

_WARM_UP_RUNS = 5


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One student that can answer.

    Attributes:
        artifact: what the backend executes; None without a bundle.
        config: how it was opened; None without a bundle.
        reopen: opens the backend once more; None if nothing can.
        least_probability: of a label in the label set; None without an error level.
        novelty: what its novelty scores mean; None without calibration.
        statistics: of its inputs and answers.
        refusal: why it cannot answer for raw values; empty if it can.
        names: of its two inputs, values and presence.
        complete: what `prepare` returns as the presence of a window that misses nothing.
        step: executes the step graph of a causal student; None without one, or if the backend runs none.
        step_novelty: what the novelty scores of its steps mean.
        magnitude: how large values usually are; None if unknown.
        selftest: when it passed its first self-test; empty without one.
        sandbox_check: when it passed its sandbox check; empty without one.
        rejected: why each better config was not taken.
    """

    entry: ModelEntry
    backend: Backend
    reference: Reference | None
    artifact: Artifact | None
    config: Config | None
    reopen: Callable[[], Backend] | None
    least_probability: float | None
    statistics: RunningStatistics
    refusal: str
    names: tuple[str, str]
    complete: NDArray[np.float32]
    step: SteppingBackend | None = None
    selftest: str = ""
    sandbox_check: str = ""
    rejected: tuple[str, ...] = ()
    novelty: NoveltyRule | None = None
    step_novelty: NoveltyRule | None = None
    magnitude: MagnitudeLimits | None = None

    @property
    def modality(self) -> ModalitySpec:
        """What it takes."""
        return self.entry.modality

    @property
    def task(self) -> TaskSpec:
        """What it answers."""
        return self.entry.task

    def feeds(self, values: NDArray[Any], present: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What its backend takes, from what `prepare` returned."""
        first, second = self.names
        return {first: values, second: present}

    def close(self) -> None:
        """Close the backends; more than once is fine."""
        self.backend.close()
        if self.step is not None:
            self.step.close()


class Students(msgspec.Struct, frozen=True, kw_only=True):
    """The opened students of one bundle, the best first.

    Attributes:
        bundle: closed with them.
        returned: why they answer instead of the bundle installed last; empty if they are from that one.
    """

    engines: tuple[Engine, ...]
    bundle: Bundle | None = None
    returned: str = ""

    def number_of(self, modality: str) -> int:
        """The student that takes this modality; UsageError if none does."""
        names = [engine.modality.name for engine in self.engines]
        if modality not in names:
            raise UsageError(f"modality {modality!r} is unknown; expected one of {', '.join(map(repr, names))}")
        return names.index(modality)

    def with_backend(self, engine: Engine, backend: Backend) -> Students:
        """The same students with another backend behind one of the engines."""
        fresh = msgspec.structs.replace(engine, backend=backend)
        engines = tuple(fresh if known is engine else known for known in self.engines)
        return msgspec.structs.replace(self, engines=engines)

    def close(self) -> None:
        """Close everything; more than once is fine."""
        for engine in self.engines:
            engine.close()
        if self.bundle is not None:
            self.bundle.close()


def open_engine(
    bundle: Bundle,
    entry: ModelEntry,
    config: Config,
    *,
    reference: Reference | None = None,
    error_level: float | None = None,
    unknown_level: float | None = None,
) -> Engine:
    """Open a student of a bundle with one config, and warm it up.

    Raises:
        UsageError: it has no artifact for that config, or one that was not calibrated for one of these levels.
        UnavailableError: the backend's library is not installed.
        BackendError: the backend cannot open or run it.
        BundleError: the artifact is not what the manifest says.
    """
    artifact = choose_artifact(entry, config.precision, config.backend)
    where = str(bundle.path)
    least_probability = threshold_of(entry, artifact, error_level, where=where)
    novelty = novelty_rule(entry, artifact, unknown_level, where=where, is_bf16=config.precision == "bf16")

    def reopen() -> Backend:
        return _open_artifact(bundle, entry, artifact, config)

    engine = engine_of(
        entry=entry,
        backend=reopen(),
        reference=reference,
        artifact=artifact,
        config=config,
        reopen=reopen,
        statistics=entry.statistics,
        least_probability=least_probability,
        novelty=novelty,
    )
    try:
        # Steps are fp32 whatever the precision of windows.
        fp32 = next((one for one in entry.artifacts if one.precision == "fp32"), artifact)
        rule = None if entry.streaming is None else novelty_rule(entry, fp32, unknown_level, where=where)
        return msgspec.structs.replace(engine, step=_open_step(bundle, entry, config), step_novelty=rule)
    except BaseException:
        engine.close()
        raise


def engine_of(
    *,
    entry: ModelEntry,
    backend: Backend,
    reference: Reference | None = None,
    artifact: Artifact | None = None,
    config: Config | None = None,
    reopen: Callable[[], Backend] | None = None,
    statistics: InputStatistics | None = None,
    least_probability: float | None = None,
    novelty: NoveltyRule | None = None,
) -> Engine:
    """An engine over an opened backend; UsageError if the reference was made for another modality."""
    if reference is not None:
        check_reference(reference, entry.modality)
        entry = _with_plausible_range(entry, reference)
    return Engine(
        entry=entry,
        backend=backend,
        reference=reference,
        artifact=artifact,
        config=config,
        reopen=reopen,
        least_probability=least_probability,
        novelty=novelty,
        magnitude=_magnitude_limits(entry),
        refusal=_refusal(entry.modality, reference),
        names=(entry.inputs[0].name, entry.inputs[1].name),
        complete=nothing_missing(entry.modality),
        statistics=RunningStatistics(
            model=entry.name,
            modality=entry.modality,
            task=entry.task,
            expected=statistics or entry.statistics,
            group_reference=entry.group_reference,
            true_probability=_true_probability(artifact),
        ),
    )


def _refusal(modality: ModalitySpec, reference: Reference | None) -> str:
    if modality.normalise == "none" or reference is not None:
        return ""
    return (
        f"modality {modality.name!r} is normalised per group and raw values need the group's statistics; "
        f"run mmkd-data reference DATA --modality {modality.name} -o FILE on its first windows "
        "and open the bundle with EdgePredictor.open(..., reference=FILE)"
    )


def _magnitude_limits(entry: ModelEntry) -> MagnitudeLimits | None:
    if entry.group_reference is None or entry.modality.kind == "video":
        return None
    return entry.group_reference.magnitude or None


def _true_probability(artifact: Artifact | None) -> float | None:
    if artifact is None or artifact.confidence is None:
        return None
    return float(np.mean(artifact.confidence.true_probabilities))


def _with_plausible_range(entry: ModelEntry, reference: Reference) -> ModelEntry:
    """Give a modality that is normalised per group a range about its reference, if the dataset declared none."""
    modality = entry.modality
    if modality.range is not None:
        return entry
    span = plausible_span(reference.mean, reference.std)
    return msgspec.structs.replace(entry, modality=msgspec.structs.replace(modality, range=span))


def answers_of(engine: Engine, windows: NDArray[Any]) -> Answers:
    """Every output (N, ...) for golden windows: raw, or z-scores of a per-group modality."""
    answers = [answer_of(engine, *prepare(window, engine.modality)) for window in windows]
    return tuple(np.concatenate(outputs) for outputs in zip(*answers, strict=True))


def answer_of(engine: Engine, values: NDArray[Any], present: NDArray[np.float32]) -> Answers:
    """Every output for what `prepare` gave, where the engine gave any.

    Raises:
        BackendError: it gave something else; whatever an engine of one's own raises comes as it is.
    """
    answer = engine.backend.run(engine.feeds(values, present))
    outputs = engine.entry.outputs
    if not isinstance(answer, tuple | list) or len(answer) != len(outputs):
        raise BackendError(f"expected {describe_tensors(outputs)}, got {_describe_answer(answer)}")
    for spec, array in zip(outputs, answer, strict=True):
        if not isinstance(array, np.ndarray) or array.shape != spec.shape or array.dtype.kind != "f":
            raise BackendError(f"expected {describe_tensors((spec,))}, got {_describe_answer(array)}")
    return tuple(answer)


def _describe_answer(found: object) -> str:
    if isinstance(found, np.ndarray):
        return f"{found.dtype} {found.shape}"
    return f"{type(found).__name__} of {len(found)}" if isinstance(found, tuple | list) else type(found).__name__


def _open_artifact(bundle: Bundle, entry: ModelEntry, artifact: Artifact, config: Config) -> Backend:
    backend = open_backend(
        config.backend,
        bundle.read(artifact.file),
        threads=config.threads,
        bf16=config.precision == "bf16",
        options=config.options,
    )
    try:
        _check_tensors(bundle, artifact, backend, inputs=entry.inputs, outputs=entry.outputs)
        _warm_up(entry, backend)
    except BaseException:
        backend.close()
        raise
    return backend


def _open_step(bundle: Bundle, entry: ModelEntry, config: Config) -> SteppingBackend | None:
    """Open the step graph of a causal student, if the backend runs such graphs; it is fp32 whatever the precision."""
    streaming, artifact = entry.streaming, step_artifact(entry, config.backend)
    if streaming is None or artifact is None:
        return None
    backend = open_steps(config.backend, bundle.read(artifact.file), threads=config.threads, options=config.options)
    try:
        outputs = step_outputs(entry.task, streaming, novelty=entry.has_novelty)
        expected = step_inputs(entry.modality, streaming), outputs
        _check_tensors(bundle, artifact, backend, inputs=expected[0], outputs=expected[1])
        values, present = expected[0][:2]
        block = np.zeros(values.shape, values.dtype), np.ones(present.shape, np.float32)
        steps = Steps(backend, streaming)
        for _ in range(_WARM_UP_RUNS):
            _check_answers(backend, entry.outputs, steps.push(*block))
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
    for what, expected, found in (("inputs", inputs, backend.inputs), ("outputs", outputs, backend.outputs)):
        if found != expected:
            raise BundleError(
                f"{bundle.path}: {artifact.file!r}: expected the {what} {describe_tensors(expected)}, "
                f"got {describe_tensors(found)}; export the bundle again"
            )


def _warm_up(entry: ModelEntry, backend: Backend) -> None:
    values, present = entry.inputs
    feeds: dict[str, NDArray[Any]] = {
        values.name: np.zeros(values.shape, values.dtype),
        present.name: np.ones(present.shape, present.dtype),
    }
    for _ in range(_WARM_UP_RUNS):
        answers = backend.run(feeds)
    _check_answers(backend, entry.outputs, answers)


def _check_answers(backend: Backend, outputs: tuple[TensorSpec, ...], answers: Answers) -> None:
    for spec, answer in zip(outputs, answers, strict=True):
        if answer.shape != spec.shape or answer.dtype != np.float32 or not np.isfinite(answer).all():
            raise BackendError(
                f"backend {backend.name!r}: expected finite {describe_tensors((spec,))} for a window of zeros, "
                f"got {answer.dtype} {answer.shape}: {answer.ravel()[:4].tolist()}; export the bundle again"
            )
