"""An opened student: its backend, and the rules for its answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import (
    Answers,
    Backend,
    BackendName,
    SteppingBackend,
    Steps,
    choose_artifact,
    open_backend,
    step_artifact,
)
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import (
    Artifact,
    ModelEntry,
    Precision,
    Streaming,
    describe_tensors,
    step_inputs,
    step_outputs,
)
from mmkd_edge.bundle.reference import Reference, check_reference
from mmkd_edge.bundle.statistics import MagnitudeLimits
from mmkd_edge.errors import BackendError, BundleError, UsageError
from mmkd_edge.frames import all_present
from mmkd_edge.predict.novelty import NoveltyRule, find_threshold, novelty_rule
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.spec import ModalitySpec, TaskSpec, plausible_span, task_text

_WARM_UP_RUNS = 5


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Backend, precision and threads of a student; `reason` is why, `profile` the measurement's path or empty."""

    backend: BackendName
    precision: Precision
    threads: int
    reason: str
    profile: str = ""


class OpenStudent(msgspec.Struct, frozen=True, kw_only=True):
    """One student that can answer; without a bundle `artifact`, `config` and `reopen` are None.

    `refusal` is why it cannot answer for raw values, or empty; `complete` the presence of a complete window; `step`
    executes a causal student's step graph.
    """

    entry: ModelEntry
    backend: Backend
    reference: Reference | None
    artifact: Artifact | None
    config: Config | None
    reopen: Callable[[], Backend] | None
    least_probability: float | None
    refusal: str
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
        """Return the backend's inputs for what `prepare` returned."""
        first, second = self.entry.inputs
        return {first.name: values, second.name: present}

    def close(self) -> None:
        """Close the backends."""
        self.backend.close()
        if self.step is not None:
            self.step.close()


def make_student(
    *,
    entry: ModelEntry,
    backend: Backend,
    artifact: Artifact | None = None,
    config: Config | None = None,
    reference: Reference | None = None,
    reopen: Callable[[], Backend] | None = None,
    step: SteppingBackend | None = None,
    error_level: float | None = None,
    unknown_level: float | None = None,
    where: str = "",
) -> OpenStudent:
    """Return a student over opened backends; UsageError for a wrong reference or level. `where` is the bundle."""
    modality, refusal = entry.modality, ""
    if reference is not None:
        check_reference(reference, modality)
        entry = commissioned_entry(entry, reference)
        if modality.normalise == "none":  # its scores alone
            reference = None
        elif modality.range is None:  # not declared
            modality = msgspec.structs.replace(modality, range=plausible_span(reference.mean, reference.std))
            entry = msgspec.structs.replace(entry, modality=modality)
    elif modality.normalise != "none":
        refusal = (
            f"modality {modality.name!r} is normalised per group and raw values need the group's statistics; "
            f"run mmkd-data reference DATA --modality {modality.name} -o FILE on its first windows "
            "and open the bundle with EdgePredictor.open(..., reference=FILE)"
        )
    step_novelty = None
    if entry.streaming is not None:  # steps are fp32 whatever the precision of windows
        fp32 = next((other for other in entry.artifacts if other.precision == "fp32"), artifact)
        step_novelty = novelty_rule(entry, fp32, unknown_level, where=where)
    magnitude = entry.group_reference.magnitude if entry.group_reference and modality.kind != "video" else None
    return OpenStudent(
        entry=entry,
        backend=backend,
        reference=reference,
        artifact=artifact,
        config=config,
        reopen=reopen,
        step=step,
        least_probability=find_threshold(entry, artifact, error_level, where=where),
        novelty=novelty_rule(entry, artifact, unknown_level, where=where),
        step_novelty=step_novelty,
        magnitude=magnitude or None,
        refusal=refusal,
        complete=all_present(modality.presence_shape),
    )


def commissioned_entry(entry: ModelEntry, reference: Reference) -> ModelEntry:
    """Return the student with the scores of one machine, if the reference has some; UsageError if they do not fit."""
    if not (reference.normal and reference.commissioned):
        return entry
    where = f"reference of modality {reference.modality!r}"
    if entry.task.kind != "normal":
        raise UsageError(f"{where}: expected no normal running for {task_text(entry.task)}; open the bundle without it")
    if reference.commissioned.student_sha256 != entry.golden.sha256:
        raise UsageError(
            f"{where}: expected one of this student, got one of {reference.commissioned.model_id}; run mmkd-edge "
            "commission again with this bundle"
        )
    return msgspec.structs.replace(entry, normal=reference.normal)


def answer_windows(student: OpenStudent, windows: NDArray[Any]) -> Answers:
    """Return every output (N, ...) for golden windows: raw, or z-scores of a per-group modality."""
    answers = [run_student(student, *prepare(window, student.modality)) for window in windows]
    return tuple(np.concatenate(outputs) for outputs in zip(*answers, strict=True))


def run_student(student: OpenStudent, values: NDArray[Any], present: NDArray[np.float32]) -> Answers:
    """Return every output for what `prepare` returned; BackendError for another shape or type."""
    answer = student.backend.run(student.feeds(values, present))
    outputs = student.entry.outputs
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


def open_student(
    bundle: Bundle,
    entry: ModelEntry,
    config: Config,
    *,
    reference: Reference | None = None,
    error_level: float | None = None,
    unknown_level: float | None = None,
) -> OpenStudent:
    """Open a student with one config, and warm it up; errors as of `EdgePredictor.open`."""
    artifact, streaming = choose_artifact(entry, config.precision, config.backend), entry.streaming
    reopen = partial(_open_engine, bundle, entry, config, artifact)
    with ExitStack() as opened:
        backend, step = reopen(), None
        opened.callback(backend.close)
        if streaming is not None and (graph := step_artifact(entry, config.backend)) is not None:
            step = _open_engine(bundle, entry, config, graph, streaming)
            opened.callback(step.close)
        student = make_student(
            entry=entry,
            backend=backend,
            artifact=artifact,
            config=config,
            reference=reference,
            reopen=reopen,
            step=step,
            error_level=error_level,
            unknown_level=unknown_level,
            where=str(bundle.path),
        )
        opened.pop_all()
    return student


def _open_engine(
    bundle: Bundle, entry: ModelEntry, config: Config, artifact: Artifact, streaming: Streaming | None = None
) -> SteppingBackend:
    """Open an engine, with `streaming` of a step graph; compare its tensors with the manifest, and warm it up."""
    inputs, outputs = entry.inputs, entry.outputs
    if streaming is not None:
        inputs = step_inputs(entry.modality, streaming)
        outputs = step_outputs(entry.task, streaming, novelty=entry.has_novelty)
    model, has_steps = bundle.read(artifact.file), streaming is not None
    backend = open_backend(config.backend, model, threads=config.threads, steps=has_steps)
    with ExitStack() as opened:
        opened.callback(backend.close)
        for kind, expected, got in (("inputs", inputs, backend.inputs), ("outputs", outputs, backend.outputs)):
            if got != expected:
                raise BundleError(
                    f"{bundle.path}: {artifact.file!r}: expected the {kind} {describe_tensors(expected)}, "
                    f"got {describe_tensors(got)}; export the bundle again"
                )
        values, present = np.zeros(inputs[0].shape, inputs[0].dtype), np.ones(inputs[1].shape, np.float32)
        steps = None if streaming is None else Steps(backend, streaming)
        for _ in range(_WARM_UP_RUNS):
            feeds = {inputs[0].name: values, inputs[1].name: present}
            answers = backend.run(feeds) if steps is None else steps.push(values, present)
        for spec, answer in zip(entry.outputs, answers, strict=True):
            if answer.shape != spec.shape or answer.dtype != np.float32 or not np.isfinite(answer).all():
                raise BackendError(
                    f"backend {backend.name!r}: expected finite {describe_tensors((spec,))} for a window of zeros, "
                    f"got {answer.dtype} {answer.shape}: {answer.ravel()[:4].tolist()}; export the bundle again"
                )
        opened.pop_all()
    return backend
