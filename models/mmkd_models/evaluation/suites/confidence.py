"""How far a device's own probabilities can be trusted, also where its sensor breaks and nobody knows the labels.

The estimate of accuracy without labels is the mean probability of the answers, which is right where probabilities are
calibrated: the idea of confidence-based performance estimation (NannyML's CBPE; also C. Guo et al., ICML 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mmkd_edge.bundle.manifest import Confidence
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.confidence import least_probability
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.confidence import confidence_facts, label_sets, reliability
from mmkd_models.evaluation.faults.table import FaultName
from mmkd_models.evaluation.suites.answering import AskedModel
from mmkd_models.evaluation.suites.under_faults import faults_for, sensors_of, with_fault
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_report.schema.confidence import LabelSetCoverage
from mmkd_report.schema.judging import ConfidenceRow, ModelConfidence, TrustFacts

SEVERITY = 0.6
"""Of the faults under which the estimate is tried: the middle of the suite's."""
LEAST_TRUSTED = 0.05
"""An estimate farther than this from the truth misleads."""
SET_LEVEL = 0.1
"""Error level of the label sets that are tried under faults."""


def judge_confidence(
    models: Sequence[AskedModel],
    windows: Windows,
    *,
    train: Windows,
    calibration: Windows,
    seed: int,
    on_part: Callable[[str], None],
) -> TrustFacts:
    """Judges probabilities and estimates with sound sensors and under every fault of the first model's sensors.

    Args:
        calibration: labelled validation windows, from whose true labels' probabilities label sets are made.

    Raises UsageError as `check_trust`.
    """
    names = models[0].facts.modalities
    check_trust(windows, calibration)
    sensors = sensors_of(train, names)
    parts: dict[FaultName | None, Windows] = {None: windows}
    for name in faults_for([windows.spec.modality(one) for one in names]):
        parts[name] = with_fault(windows, name, SEVERITY, seed=seed, sensors=sensors)
    found = {}
    for one in models:
        on_part(f"confidence: {one.facts.name}")
        found[one.facts.name] = _of_model(one, parts, calibration)
    return TrustFacts(severity=SEVERITY, misleads_beyond=LEAST_TRUSTED, models=found, set_level=SET_LEVEL)


def check_trust(windows: Windows, calibration: Windows) -> None:
    """Raises UsageError where the task is not one of classes, or nothing calibrates beside what judges."""
    kind = windows.spec.task.kind
    if kind != "classification":
        raise UsageError(
            f"--suite confidence: expected a dataset of classes, got {windows.spec.name!r} of the kind {kind}; leave "
            "the suite out"
        )
    if len(calibration) == 0:
        raise UsageError(
            "--suite confidence: expected labelled windows of validation, which label sets are made of, got none; "
            "label some, or leave the suite out"
        )
    both = int(np.isin(windows.rows, calibration.rows).sum())
    if both:
        raise UsageError(
            f"--suite confidence: expected windows beside the validation windows, of which label sets are made, got "
            f"{both} of these; judge by --split test, or leave the suite out"
        )


def _of_model(one: AskedModel, parts: Mapping[FaultName | None, Windows], calibration: Windows) -> ModelConfidence:
    rows: list[ConfidenceRow] = []
    coverages: tuple[LabelSetCoverage, ...] = ()
    calibrated = _calibrated(one, calibration)
    least = least_probability(calibrated, SET_LEVEL)
    for name, windows in parts.items():
        answers = one.answers(windows)
        probabilities = probabilities_of(answers, kind="classification").astype(np.float32)
        each = np.arange(len(windows))
        if name is None:
            groups = windows.groups if windows.has_groups else None
            facts = confidence_facts(
                calibrated, answers.astype(np.float32), probabilities, windows.labels, groups=groups
            )
            coverages = () if facts is None else facts.coverages
        rows.append(
            ConfidenceRow(
                condition=name or "sound",
                estimated=float(probabilities.max(axis=1).mean()),
                accuracy=float((probabilities.argmax(axis=1) == windows.labels).mean()),
                calibration_error=reliability(probabilities, windows.labels).calibration_error,
                covered=None if least is None else float(label_sets(probabilities, least)[each, windows.labels].mean()),
            )
        )
    return ModelConfidence(rows=tuple(rows), coverages=coverages)


def _calibrated(one: AskedModel, windows: Windows) -> Confidence:
    """What label sets are made of: the probability of the true label of each validation window."""
    probabilities = probabilities_of(one.answers(windows), kind="classification")
    true = np.sort(probabilities[np.arange(len(windows)), windows.labels])
    return Confidence(temperature=1.0, true_probabilities=tuple(true.tolist()))
