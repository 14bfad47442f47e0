"""What a predictor says of itself: what answers, with what, and why so."""

from __future__ import annotations

import platform

import msgspec
import numpy as np

from mmkd_edge.backends.steps import step_artifact
from mmkd_edge.predict.engine import Students


class PredictorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What answers, and with what.

    Attributes:
        model_id: the bundle's name for itself; empty without a bundle.
        backend_version: the library behind the backend.
        threads: how many threads one prediction may use.
        precision: of the arithmetic: the artifact's, or bf16; empty without a bundle.
        reason: why this backend, this precision and so many threads; empty without a bundle.
        profile: the file of measurements that says so; empty where none does.
        artifact: the model file inside the bundle; empty without a bundle.
        artifact_sha256: of that file; empty without a bundle.
        step_artifact: the step graph that streams use; empty where they compute whole windows.
        bundle: the path that was opened; empty without a bundle.
        bundle_sha256: of the whole bundle, as `sha256sum` prints it; empty without a bundle.
        selftest: when the quick self-test at opening was passed; empty where there was none.
        sandbox_check: when it passed its sandbox check; empty without a bundle.
        rejected: why each better config was not taken.
        least_probability: from which on a label is in the label set; None where no error level was asked for.
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


def info_of(students: Students) -> PredictorInfo:
    """What answers, and with what; of several students the first."""
    from importlib.metadata import version

    engine, bundle = students.engines[0], students.bundle
    entry, artifact, config = engine.entry, engine.artifact, engine.config
    step = step_artifact(entry, config.backend) if config else None
    return PredictorInfo(
        model_id=bundle.manifest.model_id if bundle else "",
        model=entry.name,
        modality=entry.modality.name,
        labels=entry.task.labels,
        parameters=entry.parameters,
        backend=engine.backend.name,
        backend_version=engine.backend.version,
        threads=engine.backend.threads,
        precision=config.precision if config else artifact.precision if artifact else "",
        reason=config.reason if config else "",
        profile=config.profile if config else "",
        artifact=artifact.file if artifact else "",
        artifact_sha256=artifact.sha256 if artifact else "",
        step_artifact=step.file if step else "",
        bundle=str(bundle.path) if bundle else "",
        bundle_sha256=bundle.sha256 if bundle else "",
        selftest=engine.selftest,
        sandbox_check=engine.sandbox_check,
        rejected=engine.rejected,
        least_probability=engine.least_probability,
        versions={
            "mmkd-edge": version("mmkd-edge"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )
