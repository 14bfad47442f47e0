"""Accuracy estimated without labels: the answers' mean probability (NannyML's CBPE; C. Guo et al., ICML 2017)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mmkd_documents.judging import SuiteResult, SuiteTable
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.confidence import reliability
from mmkd_models.evaluation.suites.faults import broken_windows
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, Suite, SuiteInputs, check_classes

SEVERITY = 0.6
"""The middle of those of the suite `faults`."""
MISLEADING = 0.05
"""An estimate that is farther than this from the true accuracy misleads."""


class ConditionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures under a condition, `intact` or a fault; `estimated` is accuracy without labels."""

    condition: str
    estimated: float
    accuracy: float
    calibration_error: float


class ConfidenceSuiteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Reliability of the probabilities, by model."""

    severity: float
    misleads_beyond: float
    models: dict[str, tuple[ConditionFigures, ...]]


def run(inputs: SuiteInputs) -> SuiteResult:
    """Judge probabilities and estimates with intact sensors and under faults."""
    parts = [("intact", inputs.windows)]
    parts += [(fault, windows) for fault, (windows,) in broken_windows(inputs, (SEVERITY,))]
    models = {}
    for model in inputs.models:
        inputs.on_part(f"confidence: {model.name}")
        models[model.name] = tuple(_judge(model, *part) for part in parts)
    return describe(
        inputs.first.name, ConfidenceSuiteFacts(severity=SEVERITY, misleads_beyond=MISLEADING, models=models)
    )


def _judge(model: ModelUnderTest, condition: str, windows: Windows) -> ConditionFigures:
    probabilities = model.probabilities(windows)
    return ConditionFigures(
        condition=condition,
        estimated=float(probabilities.max(axis=1).mean()),
        accuracy=float((probabilities.argmax(axis=1) == windows.labels).mean()),
        calibration_error=reliability(probabilities, windows.labels).calibration_error,
    )


def describe(first: str, facts: ConfidenceSuiteFacts) -> SuiteResult:
    """Return verdict on the first model, and a table per model."""
    return SuiteResult(
        title="Can its own estimate be trusted?",
        lead=(
            "The accuracy that a device would estimate without labels (the mean probability of its answers) and the "
            f"true one, in %, with intact sensors and under each fault at severity {SEVERITY:g}. Estimates more than "
            f"{MISLEADING:.0%} from the truth have a *."
        ),
        facts=facts,
        verdict=tuple(_verdict(first, facts)),
        tables=tuple(
            SuiteTable(
                caption=f"{name}, %",
                heads=("condition", "estimated accuracy", "true accuracy", "calibration error"),
                rows=tuple(
                    (
                        row.condition,
                        f"{100 * row.estimated:.1f}" + ("*" if abs(row.estimated - row.accuracy) > MISLEADING else ""),
                        f"{100 * row.accuracy:.1f}",
                        f"{100 * row.calibration_error:.1f}",
                    )
                    for row in figures
                ),
            )
            for name, figures in facts.models.items()
        ),
    )


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


SUITE = Suite(check=lambda inputs: check_classes(inputs.windows, "confidence"), run=run)
