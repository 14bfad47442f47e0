"""A bundle judged on a dataset: every artifact as a device runs it, its scores, and whether its confidence holds.

The test split is the measure: its people, machines or sessions are
others than those that calibrated the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mmkd_edge.backends.base import backend_for
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Artifact, ModelEntry
from mmkd_edge.install.keys import check_signed
from mmkd_edge.predict.config import Config
from mmkd_edge.predict.engine import Engine, answers_of, open_engine
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.confidence import ERROR_LEVELS, confidence_facts, reliability
from mmkd_models.evaluation.guessing import guessing
from mmkd_models.evaluation.outcome import class_scores, outcome_on
from mmkd_models.evaluation.seen import cautions_of
from mmkd_models.training.compatible import check_compatible
from mmkd_report.schema.evaluation import ArtifactEvaluation, BundleEvaluation, DataFacts, SeenWindows


def evaluate_bundle(
    path: Path,
    windows: Windows,
    *,
    data: DataFacts,
    seen: Mapping[str, SeenWindows | None],
    error_levels: tuple[float, ...] = ERROR_LEVELS,
    on_part: Callable[[str], None],
) -> BundleEvaluation:
    """Runs every artifact of a bundle over windows.

    Args:
        seen: what each of its students knows of the windows, by name.

    Raises:
        UsageError: a student does not take these windows.
        UnavailableError: the library of an artifact's backend is not installed.
        BackendError: a backend fails.
        BundleError: the bundle is damaged.
    """
    found: list[ArtifactEvaluation] = []
    with Bundle.open(path) as bundle:
        check_signed(bundle)
        for entry in bundle.manifest.models:
            check_compatible(f"{path}: student", entry.task, (entry.modality,), windows)
        for entry in bundle.manifest.models:
            for artifact in entry.artifacts:
                on_part(artifact.file)
                engine = _opened(bundle, entry, artifact)
                try:
                    found.append(_evaluation(engine, artifact, windows, error_levels))
                finally:
                    engine.backend.close()
        return BundleEvaluation(
            bundle=str(path),
            sha256=bundle.sha256,
            model_id=bundle.manifest.model_id,
            data=data,
            artifacts=tuple(found),
            cautions=tuple(
                dict.fromkeys(
                    text
                    for entry in bundle.manifest.models
                    for text in cautions_of(
                        str(path), entry.dataset_sha256, seen[entry.name], data.sha256, data.windows
                    )
                )
            ),
        )


def _opened(bundle: Bundle, entry: ModelEntry, artifact: Artifact) -> Engine:
    """An artifact in the backend of its format, with one thread."""
    setup = Config(backend=backend_for(artifact.format), precision=artifact.precision, threads=1, reason="")
    return open_engine(bundle, entry, setup)


def _evaluation(
    engine: Engine, artifact: Artifact, windows: Windows, error_levels: tuple[float, ...]
) -> ArtifactEvaluation:
    labels = windows.labels
    logits, probabilities, *_ = answers_of(engine, windows.take(np.arange(len(windows)))[engine.modality.name])
    judged = outcome_on(windows, probabilities)
    confidence = None
    if artifact.confidence is not None:
        confidence = confidence_facts(
            artifact.confidence,
            logits,
            probabilities,
            labels,
            groups=windows.groups if windows.has_groups else None,
            error_levels=error_levels,
        )
    return ArtifactEvaluation(
        file=artifact.file,
        backend=engine.backend.version,
        scores=class_scores(judged),
        guessing=guessing([judged], "balanced_accuracy"),
        reliability=reliability(probabilities, labels),
        confidence=confidence,
    )
