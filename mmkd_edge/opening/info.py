"""The facts that a predictor reports about itself."""

from __future__ import annotations

import platform

import msgspec
import numpy as np

from mmkd_edge.backends.steps import step_artifact
from mmkd_edge.opening.students import Students


class PredictorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What answers, and with which config. Fields about a bundle are empty without one.

    Attributes:
        reason: why this config.
        profile: path of its measurements, or empty.
        step_artifact: step graph for streams; empty if they compute whole windows.
        selftest: when the first self-test passed.
        rejected: why each better config was not taken.
        least_probability: label set threshold; None without an error level.
        versions: of mmkd-edge, numpy and Python.
    """

    model_id: str
    model: str
    modality: str
    labels: tuple[str, ...]
    parameters: int
    backend: str
    backend_version: str
    threads: int
    precision: str
    reason: str
    profile: str
    artifact: str
    artifact_sha256: str
    step_artifact: str
    bundle: str
    bundle_sha256: str
    selftest: str
    sandbox_check: str
    rejected: tuple[str, ...]
    least_probability: float | None
    versions: dict[str, str]


def describe_students(students: Students) -> PredictorInfo:
    """Describe the first student."""
    from importlib.metadata import version

    student, bundle = students.opened[0], students.bundle
    entry, artifact, config = student.entry, student.artifact, student.config
    step = step_artifact(entry, config.backend) if config else None
    return PredictorInfo(
        model_id=bundle.manifest.model_id if bundle else "",
        model=entry.name,
        modality=entry.modality.name,
        labels=entry.task.labels,
        parameters=entry.parameters,
        backend=student.backend.name,
        backend_version=student.backend.version,
        threads=student.backend.threads,
        precision=config.precision if config else artifact.precision if artifact else "",
        reason=config.reason if config else "",
        profile=config.profile if config else "",
        artifact=artifact.file if artifact else "",
        artifact_sha256=artifact.sha256 if artifact else "",
        step_artifact=step.file if step else "",
        bundle=str(bundle.path) if bundle else "",
        bundle_sha256=bundle.sha256 if bundle else "",
        selftest=student.selftest,
        sandbox_check=student.sandbox_check,
        rejected=student.rejected,
        least_probability=student.least_probability,
        versions={"mmkd-edge": version("mmkd-edge"), "numpy": np.__version__, "python": platform.python_version()},
    )
