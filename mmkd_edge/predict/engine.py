"""One opened student, and all of one bundle in order. Neither changes once it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Answers, Backend, SteppingBackend, choose_artifact, open_backend, open_steps
from mmkd_edge.backends.steps import Steps, step_artifact
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Artifact, ModelEntry, describe_tensors, step_inputs, step_outputs
from mmkd_edge.bundle.reference import Reference, check_reference
from mmkd_edge.bundle.statistics import MagnitudeLimits
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
        artifact: None without a bundle, as are `config` and `reopen`.
        reopen: opens the backend once more.
        least_probability: needed for the label set; None without an error level.
        refusal: why it cannot answer for raw values; empty if it can.
        names: names of its two inputs, values and presence.
        complete: the presence of a window that misses nothing, as `prepare` returns it.
        step: executes the step graph of a causal student; None if it cannot.
        novelty: judges its novelty scores; None without calibration. `step_novelty` judges those of its steps.
        rejected: why each better config was not taken.
    """

    entry: ModelEntry
    backend: Backend
    reference: Reference | None
    artifact: Artifact | None
    config: Config | None
    reopen: Callable[[], Backend] | None
    least_probability: float | None
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
        """The modality of its windows."""
        return self.entry.modality

    @property
    def task(self) -> TaskSpec:
        """The task that it answers."""
        return self.entry.task

    def feeds(self, values: NDArray[Any], present: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the inputs of its backend, from what `prepare` returned."""
        first, second = self.names
        return {first: values, second: present}

    def close(self) -> None:
        """Close the backends; more than once is fine."""
        self.backend.close()
        if self.step is not None:
            self.step.close()


class Students(msgspec.Struct, frozen=True, kw_only=True):
    """The opened students of one bundle, the best first; `returned` is why they replace the bundle installed last."""

    engines: tuple[Engine, ...]
    bundle: Bundle | None = None
    returned: str = ""

    def number_of(self, modality: str) -> int:
        """Return the number of the student with this modality; UsageError if there is none."""
        names = [engine.modality.name for engine in self.engines]
        if modality not in names:
            raise UsageError(f"modality {modality!r} is unknown; expected one of {', '.join(map(repr, names))}")
        return names.index(modality)

    def with_backend(self, engine: Engine, backend: Backend) -> Students:
        """Return the same students with another backend for one of them."""
        fresh = msgspec.structs.replace(engine, backend=backend)
        return msgspec.structs.replace(
            self, engines=tuple(fresh if other is engine else other for other in self.engines)
        )

    def close(self) -> None:
        """Close students and bundle; more than once is fine."""
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
        UsageError: it has no artifact for that config, or was not calibrated for one of these levels.
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
        least_probability=least_probability,
        novelty=novelty,
    )
    try:
        # Steps are fp32 whatever the precision of windows.
        fp32 = next((other for other in entry.artifacts if other.precision == "fp32"), artifact)
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
    least_probability: float | None = None,
    novelty: NoveltyRule | None = None,
) -> Engine:
    """Return a student over an opened backend; UsageError if the reference is of another modality."""
    modality, refusal = entry.modality, ""
    if reference is not None:
        check_reference(reference, modality)
        if modality.range is None:  # the dataset declared none
            modality = msgspec.structs.replace(modality, range=plausible_span(reference.mean, reference.std))
            entry = msgspec.structs.replace(entry, modality=modality)
    elif modality.normalise != "none":
        refusal = (
            f"modality {modality.name!r} is normalised per group and raw values need the group's statistics; "
            f"run mmkd-data reference DATA --modality {modality.name} -o FILE on its first windows "
            "and open the bundle with EdgePredictor.open(..., reference=FILE)"
        )
    magnitude = entry.group_reference.magnitude if entry.group_reference and modality.kind != "video" else None
    return Engine(
        entry=entry,
        backend=backend,
        reference=reference,
        artifact=artifact,
        config=config,
        reopen=reopen,
        least_probability=least_probability,
        novelty=novelty,
        magnitude=magnitude or None,
        refusal=refusal,
        names=(entry.inputs[0].name, entry.inputs[1].name),
        complete=nothing_missing(modality),
    )


def answers_of(engine: Engine, windows: NDArray[Any]) -> Answers:
    """Return every output (N, ...) for golden windows: raw, or z-scores of a per-group modality."""
    answers = [answer_of(engine, *prepare(window, engine.modality)) for window in windows]
    return tuple(np.concatenate(outputs) for outputs in zip(*answers, strict=True))


def answer_of(engine: Engine, values: NDArray[Any], present: NDArray[np.float32]) -> Answers:
    """Return every output for what `prepare` returned; BackendError if an output has another shape or type."""
    answer = engine.backend.run(engine.feeds(values, present))
    outputs = engine.entry.outputs
    if not isinstance(answer, tuple | list) or len(answer) != len(outputs):
        raise BackendError(f"expected {describe_tensors(outputs)}, got {_describe_answer(answer)}")
    for spec, array in zip(outputs, answer, strict=True):
        if not isinstance(array, np.ndarray) or array.shape != spec.shape or array.dtype.kind != "f":
            raise BackendError(f"expected {describe_tensors((spec,))}, got {_describe_answer(array)}")
    return tuple(answer)


def _describe_answer(answer: object) -> str:
    if isinstance(answer, np.ndarray):
        return f"{answer.dtype} {answer.shape}"
    return f"{type(answer).__name__} of {len(answer)}" if isinstance(answer, tuple | list) else type(answer).__name__


def _open_artifact(bundle: Bundle, entry: ModelEntry, artifact: Artifact, config: Config) -> Backend:
    backend = open_backend(
        config.backend,
        bundle.read(artifact.file),
        threads=config.threads,
        bf16=config.precision == "bf16",
        options=config.options,
    )
    try:
        _check_tensors(f"{bundle.path}: {artifact.file!r}", backend, entry.inputs, entry.outputs)
        values, present = _empty_window(entry.inputs)
        feeds = {entry.inputs[0].name: values, entry.inputs[1].name: present}
        _warm_up(backend, entry.outputs, lambda: backend.run(feeds))
    except BaseException:
        backend.close()
        raise
    return backend


def _open_step(bundle: Bundle, entry: ModelEntry, config: Config) -> SteppingBackend | None:
    streaming, artifact = entry.streaming, step_artifact(entry, config.backend)
    if streaming is None or artifact is None:
        return None
    backend = open_steps(config.backend, bundle.read(artifact.file), threads=config.threads, options=config.options)
    try:
        inputs = step_inputs(entry.modality, streaming)
        outputs = step_outputs(entry.task, streaming, novelty=entry.has_novelty)
        _check_tensors(f"{bundle.path}: {artifact.file!r}", backend, inputs, outputs)
        values, present = _empty_window(inputs)
        steps = Steps(backend, streaming)
        _warm_up(backend, entry.outputs, lambda: steps.push(values, present))
    except BaseException:
        backend.close()
        raise
    return backend


def _check_tensors(
    where: str, backend: Backend, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    for what, expected, got in (("inputs", inputs, backend.inputs), ("outputs", outputs, backend.outputs)):
        if got != expected:
            raise BundleError(
                f"{where}: expected the {what} {describe_tensors(expected)}, "
                f"got {describe_tensors(got)}; export the bundle again"
            )


def _empty_window(inputs: Sequence[TensorSpec]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    values, present = inputs[:2]
    return np.zeros(values.shape, values.dtype), np.ones(present.shape, np.float32)


def _warm_up(backend: Backend, outputs: tuple[TensorSpec, ...], run: Callable[[], Answers]) -> None:
    for _ in range(_WARM_UP_RUNS):
        answers = run()
    for spec, answer in zip(outputs, answers, strict=True):
        if answer.shape != spec.shape or answer.dtype != np.float32 or not np.isfinite(answer).all():
            raise BackendError(
                f"backend {backend.name!r}: expected finite {describe_tensors((spec,))} for a window of zeros, "
                f"got {answer.dtype} {answer.shape}: {answer.ravel()[:4].tolist()}; export the bundle again"
            )
