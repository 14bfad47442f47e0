"""Which suites are asked for, in which order they are measured, and the document that holds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.faults.table import SEVERITIES
from mmkd_models.evaluation.suites.answering import AskedModel
from mmkd_models.evaluation.suites.confidence import SEVERITY, check_trust, judge_confidence
from mmkd_models.evaluation.suites.groups import judge_groups, values_of
from mmkd_models.evaluation.suites.reckoning import check_cost, judge_cost
from mmkd_models.evaluation.suites.under_faults import broken_windows, judge_faults
from mmkd_models.evaluation.suites.verdict import verdict_of
from mmkd_report.schema.evaluation import DataFacts
from mmkd_report.schema.judging import JudgingDocument, ShiftFacts

SuiteName = Literal["faults", "shift", "groups", "confidence", "cost"]
SUITES: tuple[SuiteName, ...] = get_args(SuiteName)


def judge(
    models: Sequence[AskedModel],
    windows: Windows,
    *,
    train: Windows,
    calibration: Windows,
    data: DataFacts,
    suites: Collection[SuiteName],
    by: str | None,
    cost: Path | None,
    shift: Callable[[Callable[[str], None]], ShiftFacts] | None = None,
    seed: int,
    on_part: Callable[[str], None],
) -> JudgingDocument:
    """Judges models side by side; the first is the one that the verdict is about.

    Args:
        windows: labelled, that judge.
        train: that trained, for what a sensor usually gives.
        calibration: labelled, that chose, for label sets.
        by: the column that groups are judged by; None is the groups themselves.
        cost: the file of assumptions; None reckons no cost.
        shift: trains and judges without each domain, and tells the call that it is given; None leaves none out.

    Raises UsageError before anything is judged where one of the suites cannot be.
    """
    check(windows, calibration=calibration, suites=suites, by=by, cost=cost)
    baseline = baseline_of(models)
    document = JudgingDocument(
        data=data,
        kind=windows.spec.task.kind,
        seed=seed,
        models=tuple(one.facts for one in models),
        baseline=baseline,
        cautions=()
        if set(suites) == {"shift"}
        else tuple(dict.fromkeys(text for one in models for text in one.cautions)),
        verdict=(),
    )
    if "faults" in suites:
        faults = judge_faults(models, windows, train=train, baseline=baseline, seed=seed, on_part=on_part)
        document = msgspec.structs.replace(document, faults=faults)
    if "shift" in suites and shift is not None:
        document = msgspec.structs.replace(document, shift=shift(on_part))
    if "groups" in suites:
        on_part("groups")
        groups = judge_groups(models, windows, by=by, baseline=baseline, seed=seed)
        document = msgspec.structs.replace(document, groups=groups)
    if "confidence" in suites:
        trust = judge_confidence(models, windows, train=train, calibration=calibration, seed=seed, on_part=on_part)
        document = msgspec.structs.replace(document, confidence=trust)
    if "cost" in suites and cost is not None:
        on_part("cost")
        reckoned = judge_cost(models, windows, file=cost, baseline=baseline, seed=seed)
        document = msgspec.structs.replace(document, cost=reckoned)
    return msgspec.structs.replace(document, verdict=tuple(verdict_of(document)))


def portions(
    models: Sequence[AskedModel], windows: Windows, *, train: Windows, suites: Collection[SuiteName], seed: int
) -> list[tuple[AskedModel, Windows]]:
    """Gives what the suites will ask of the models, each a portion that needs no other."""
    found = [(one, windows) for one in models]
    if "faults" in suites or "confidence" in suites:
        severities = SEVERITIES if "faults" in suites else (SEVERITY,)
        names = models[0].facts.modalities
        parts = broken_windows(windows, names, train=train, severities=severities, seed=seed)
        found += [(one, part) for part in parts for one in models]
    return found


def check(
    windows: Windows,
    *,
    calibration: Windows,
    suites: Collection[SuiteName],
    by: str | None,
    cost: Path | None,
) -> None:
    """Raises UsageError where one of the suites cannot be judged, so that no other's figures are lost."""
    if "groups" in suites:
        values_of(windows, by)
    if "confidence" in suites:
        check_trust(windows, calibration)
    if "cost" in suites and cost is not None:
        check_cost(windows, cost)


def baseline_of(models: Sequence[AskedModel]) -> str | None:
    """Gives the first model beside the judged one that labels alone taught on the same sensor; None without one."""
    first = models[0].facts
    for one in models[1:]:
        if one.facts.role == "labels alone" and one.facts.modalities == first.modalities:
            return one.facts.name
    return None
