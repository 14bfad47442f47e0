"""Estimates of accuracy without labels, and label sets, with intact sensors and under faults.

The estimate is the answers' mean probability (NannyML's CBPE; also C. Guo et al., ICML 2017).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from mmkd_edge.bundle.manifest import Confidence
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.confidence import least_probability
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.confidence import label_sets, reliability
from mmkd_models.evaluation.suites.faults import broken_windows
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, Suite, SuiteInputs, check_classes
from mmkd_report.schema.judging import SuiteResult, SuiteTable

SEVERITY = 0.6
"""Severity of the faults: the middle of those of the suite `faults`."""
MISLEADING = 0.05
"""An estimate that is farther than this from the true accuracy misleads."""
SET_LEVEL = 0.1
"""Error level of the label sets under faults."""


class ConditionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures under a condition, `intact` or a fault.

    `estimated` is accuracy without labels; `covered` the fraction of label sets with the true label, None for too few
    validation windows.
    """

    condition: str
    estimated: float
    accuracy: float
    calibration_error: float
    covered: float | None = None


class ConfidenceSuiteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Reliability of the probabilities, by model."""

    severity: float
    misleads_beyond: float
    models: dict[str, tuple[ConditionFigures, ...]]
    set_level: float


def check(inputs: SuiteInputs) -> None:
    """Raise UsageError unless the task is classification and other labelled windows calibrate."""
    check_classes(inputs.windows, "confidence")
    if len(inputs.calibration) == 0:
        raise UsageError(
            "--suite confidence: label sets need labelled validation windows, got none; label some, or leave the suite "
            "out"
        )
    shared = int(np.isin(inputs.windows.rows, inputs.calibration.rows).sum())
    if shared:
        raise UsageError(
            f"--suite confidence: {shared} of the windows to judge are validation windows, which the label sets are "
            "made from; judge by --split test, or leave the suite out"
        )


def conditions(inputs: SuiteInputs) -> Iterator[tuple[str, Windows]]:
    """Yield every condition with its windows."""
    yield "intact", inputs.windows
    for fault, (windows,) in broken_windows(inputs, (SEVERITY,)):
        yield fault, windows


def run(inputs: SuiteInputs) -> SuiteResult:
    """Judge probabilities and estimates with intact sensors and under faults."""
    return describe(inputs, judge_confidence(inputs))


def describe(inputs: SuiteInputs, facts: ConfidenceSuiteFacts) -> SuiteResult:
    """Return verdict and tables."""
    return SuiteResult(
        title="Can its own estimate be trusted?",
        lead=(
            "The accuracy that a device would estimate without labels (the mean probability of its answers) and the "
            f"true one, in %, with intact sensors and under each fault at severity {SEVERITY:g}. Estimates more than "
            f"{MISLEADING:.0%} from the truth have a *. Label sets are made from validation windows and should contain "
            f"the true label in {1 - SET_LEVEL:.0%} of the windows."
        ),
        facts=facts,
        verdict=tuple(_verdict(inputs.first.name, facts)),
        tables=tuple(_tables(facts)),
    )


def judge_confidence(inputs: SuiteInputs) -> ConfidenceSuiteFacts:
    """Measure every model under every condition."""
    parts = list(conditions(inputs))
    models = {}
    for model in inputs.models:
        inputs.on_part(f"confidence: {model.name}")
        models[model.name] = _judge(model, parts, inputs.calibration)
    return ConfidenceSuiteFacts(severity=SEVERITY, misleads_beyond=MISLEADING, models=models, set_level=SET_LEVEL)


def _judge(
    model: ModelUnderTest, parts: list[tuple[str, Windows]], calibration: Windows
) -> tuple[ConditionFigures, ...]:
    true = model.probabilities(calibration)[np.arange(len(calibration)), calibration.labels]
    calibrated = Confidence(temperature=1.0, true_probabilities=tuple(np.sort(true).tolist()))
    least = least_probability(calibrated, SET_LEVEL)
    rows: list[ConditionFigures] = []
    for condition, windows in parts:
        probabilities = model.probabilities(windows)
        covered = None
        if least is not None:
            covered = float(label_sets(probabilities, least)[np.arange(len(windows)), windows.labels].mean())
        rows.append(
            ConditionFigures(
                condition=condition,
                estimated=float(probabilities.max(axis=1).mean()),
                accuracy=float((probabilities.argmax(axis=1) == windows.labels).mean()),
                calibration_error=reliability(probabilities, windows.labels).calibration_error,
                covered=covered,
            )
        )
    return tuple(rows)


def _tables(facts: ConfidenceSuiteFacts) -> Iterator[SuiteTable]:
    for name, figures in facts.models.items():
        rows = [
            (
                row.condition,
                f"{100 * row.estimated:.1f}" + ("*" if abs(row.estimated - row.accuracy) > MISLEADING else ""),
                f"{100 * row.accuracy:.1f}",
                f"{100 * row.calibration_error:.1f}",
                "-" if row.covered is None else f"{100 * row.covered:.1f}",
            )
            for row in figures
        ]
        heads = ("condition", "estimated accuracy", "true accuracy", "calibration error", "true label in the set")
        yield SuiteTable(caption=f"{name}, %", heads=heads, rows=tuple(rows))


def _verdict(name: str, facts: ConfidenceSuiteFacts) -> Iterator[str]:
    intact, *broken = facts.models[name]
    yield (
        f"Without labels {name} estimates its accuracy as {intact.estimated:.1%} with intact sensors; the true "
        f"accuracy is {intact.accuracy:.1%}"
    )
    too_high = [row for row in broken if row.estimated - row.accuracy > facts.misleads_beyond]
    if too_high:
        worst = max(too_high, key=lambda row: row.estimated - row.accuracy)
        yield (
            f"Do not trust its own estimate if a sensor breaks: it is too high under {len(too_high)} of {len(broken)} "
            f"faults, most under {worst.condition} ({worst.estimated:.1%} instead of {worst.accuracy:.1%})"
        )
    else:
        yield f"Under every fault its own estimate is at most {facts.misleads_beyond:.0%} too high"
    covered = {row.condition: row.covered for row in broken if row.covered is not None}
    if intact.covered is not None and covered:
        least = min(covered, key=lambda condition: covered[condition])
        yield (
            f"Its label sets should contain the true label in {1 - facts.set_level:.0%} of the windows: they do in "
            f"{intact.covered:.1%} with intact sensors and in {covered[least]:.1%} under {least}, the worst fault"
        )


SUITE = Suite(check=check, run=run)
