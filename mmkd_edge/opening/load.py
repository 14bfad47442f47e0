"""Load a student with one config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Answers, Backend, SteppingBackend, choose_artifact, open_backend, open_steps
from mmkd_edge.backends.steps import Steps, step_artifact
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Artifact, ModelEntry, describe_tensors, step_inputs, step_outputs
from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import BackendError, BundleError
from mmkd_edge.predict.student import Config, OpenStudent, make_student
from mmkd_edge.spec import TensorSpec

_WARM_UP_RUNS = 5


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
    artifact = choose_artifact(entry, config.precision, config.backend)

    def reopen() -> Backend:
        return _open_artifact(bundle, entry, artifact, config)

    with ExitStack() as opened:
        backend = reopen()
        opened.callback(backend.close)
        step = _open_step(bundle, entry, config)
        if step is not None:
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


def _open_artifact(bundle: Bundle, entry: ModelEntry, artifact: Artifact, config: Config) -> Backend:
    backend = open_backend(config.backend, bundle.read(artifact.file), threads=config.threads)
    values, present = _empty_window(entry.inputs)
    feeds = {entry.inputs[0].name: values, entry.inputs[1].name: present}
    where = f"{bundle.path}: {artifact.file!r}"
    _check(backend, where, entry.inputs, entry.outputs, entry.outputs, run=lambda: backend.run(feeds))
    return backend


def _open_step(bundle: Bundle, entry: ModelEntry, config: Config) -> SteppingBackend | None:
    streaming, artifact = entry.streaming, step_artifact(entry, config.backend)
    if streaming is None or artifact is None:
        return None
    backend = open_steps(config.backend, bundle.read(artifact.file), threads=config.threads)
    inputs = step_inputs(entry.modality, streaming)
    outputs = step_outputs(entry.task, streaming, novelty=entry.has_novelty)
    where = f"{bundle.path}: {artifact.file!r}"
    window = _empty_window(inputs)
    _check(backend, where, inputs, outputs, entry.outputs, run=lambda: Steps(backend, streaming).push(*window))
    return backend


def _empty_window(inputs: Sequence[TensorSpec]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    values, present = inputs[:2]
    return np.zeros(values.shape, values.dtype), np.ones(present.shape, np.float32)


def _check(
    backend: Backend,
    where: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    answered: tuple[TensorSpec, ...],
    *,
    run: Callable[[], Answers],
) -> None:
    """Compare the engine's tensors, and warm it up; close it on an error."""
    with ExitStack() as opened:
        opened.callback(backend.close)
        for kind, expected, got in (("inputs", inputs, backend.inputs), ("outputs", outputs, backend.outputs)):
            if got != expected:
                raise BundleError(
                    f"{where}: expected the {kind} {describe_tensors(expected)}, "
                    f"got {describe_tensors(got)}; export the bundle again"
                )
        for _ in range(_WARM_UP_RUNS):
            answers = run()
        for spec, answer in zip(answered, answers, strict=True):
            if answer.shape != spec.shape or answer.dtype != np.float32 or not np.isfinite(answer).all():
                raise BackendError(
                    f"backend {backend.name!r}: expected finite {describe_tensors((spec,))} for a window of zeros, "
                    f"got {answer.dtype} {answer.shape}: {answer.ravel()[:4].tolist()}; export the bundle again"
                )
        opened.pop_all()
