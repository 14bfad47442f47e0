"""A bundle judged on a dataset: every artifact as a device runs it, its scores and its confidence.

The test split comes from other people, machines or sessions than those that calibrated the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
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


def open_artifacts(
    stack: ExitStack, bundle: Bundle, path: str, windows: Windows
) -> Iterator[tuple[ModelEntry, Artifact, Engine]]:
    """Yield every artifact in the backend of its format, with one thread; `stack` closes the engines.

    Raises:
        UsageError: a student does not accept these windows.
        UnavailableError: the library of a backend is not installed.
        BundleError: the bundle is damaged.
        SignatureError: keys are named and none of them has signed the bundle.
    """
    check_signed(bundle)
    for entry in bundle.manifest.models:
        check_compatible(f"{path}: student", entry.task, (entry.modality,), windows)
    for entry in bundle.manifest.models:
        for artifact in entry.artifacts:
            config = Config(backend=backend_for(artifact.format), precision=artifact.precision, threads=1, reason="")
            engine = open_engine(bundle, entry, config)
            stack.callback(engine.backend.close)
            yield entry, artifact, engine


def evaluate_bundle(
    path: Path,
    windows: Windows,
    *,
    data: DataFacts,
    seen: Mapping[str, SeenWindows | None],
    error_levels: tuple[float, ...] = ERROR_LEVELS,
    on_part: Callable[[str], None],
) -> BundleEvaluation:
    """Run every artifact of a bundle over windows.

    Args:
        seen: by student, the windows that it knows.

    Raises as `open_artifacts`.
    """
    evaluations = []
    with ExitStack() as stack:
        bundle = stack.enter_context(Bundle.open(path))
        for _, artifact, engine in open_artifacts(stack, bundle, str(path), windows):
            on_part(artifact.file)
            logits, probabilities, *_ = answers_of(engine, windows.take(np.arange(len(windows)))[engine.modality.name])
            judged = outcome_on(windows, probabilities)
            groups = windows.groups if windows.has_groups else None
            confidence = artifact.confidence
            evaluations.append(
                ArtifactEvaluation(
                    file=artifact.file,
                    backend=engine.backend.version,
                    scores=class_scores(judged),
                    guessing=guessing([judged], "balanced_accuracy"),
                    reliability=reliability(probabilities, windows.labels),
                    confidence=None
                    if confidence is None
                    else confidence_facts(
                        confidence, logits, probabilities, windows.labels, groups=groups, error_levels=error_levels
                    ),
                )
            )
        cautions = [
            text
            for entry in bundle.manifest.models
            for text in cautions_of(str(path), entry.dataset_sha256, seen[entry.name], data.sha256, data.windows)
        ]
        return BundleEvaluation(
            bundle=str(path),
            sha256=bundle.sha256,
            model_id=bundle.manifest.model_id,
            data=data,
            artifacts=tuple(evaluations),
            cautions=tuple(dict.fromkeys(cautions)),
        )
