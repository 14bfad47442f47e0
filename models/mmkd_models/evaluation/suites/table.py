"""The table of suites, and the document that they fill."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from mmkd_documents.judging import DataFacts, JudgingDocument, SuiteResult
from mmkd_edge.errors import UsageError
from mmkd_models.evaluation.suites import (
    combined,
    confidence,
    cost,
    faults,
    groups,
    missing,
    normal,
    over_time,
    scores,
    shift,
)
from mmkd_models.evaluation.suites.inputs import Suite, SuiteInputs

SUITES: dict[str, Suite] = {
    "scores": scores.SUITE,
    "missing": missing.SUITE,
    "faults": faults.SUITE,
    "shift": shift.SUITE,
    "groups": groups.SUITE,
    "combined": combined.SUITE,
    "confidence": confidence.SUITE,
    "over_time": over_time.SUITE,
    "cost": cost.SUITE,
    "normal": normal.SUITE,
}


def _chosen(inputs: SuiteInputs, names: Collection[str]) -> dict[str, Suite]:
    return {
        name: suite
        for name, suite in SUITES.items()
        if name in names and (not suite.needs or getattr(inputs, suite.needs) is not None)
    }


def check_suites(inputs: SuiteInputs, names: Collection[str]) -> None:
    """Raise UsageError if a suite cannot run."""
    others = [name for name in _chosen(inputs, names) if name != "normal"]
    if others and inputs.windows.spec.task.kind == "normal":
        raise UsageError(
            f"--suite {others[0]}: expected classes, labels or numbers, got dataset {inputs.windows.spec.name!r} of "
            "normal running; leave --suite out, or give --suite normal"
        )
    for suite in _chosen(inputs, names).values():
        suite.check(inputs)


def judge(inputs: SuiteInputs, names: Collection[str], *, data: DataFacts) -> JudgingDocument:
    """Judge models side by side; the verdict is about the first. Errors as `check_suites`."""
    check_suites(inputs, names)
    cautions = () if set(names) == {"shift"} else (text for model in inputs.models for text in model.cautions)
    document = JudgingDocument(
        data=data,
        kind=inputs.windows.spec.task.kind,
        seed=inputs.seed,
        models=tuple(model.facts for model in inputs.models),
        baseline=inputs.baseline,
        cautions=tuple(dict.fromkeys(cautions)),
        verdict=(),
    )
    return with_suites(document, {name: suite.run(inputs) for name, suite in _chosen(inputs, names).items()})


def with_suites(document: JudgingDocument, results: Mapping[str, SuiteResult]) -> JudgingDocument:
    """Return the document with further suites and the verdict of all."""
    suites = {name: result for name in SUITES if (result := results.get(name) or document.suites.get(name))}
    verdict = [sentence for result in suites.values() for sentence in result.verdict]
    record = [wish for result in suites.values() for wish in result.record]
    verdict += [f"Record next: {'; '.join(record)}"] if record else []
    return msgspec.structs.replace(document, suites=suites, verdict=tuple(verdict))
