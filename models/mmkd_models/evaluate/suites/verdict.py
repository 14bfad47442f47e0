"""The verdict: sentences that follow from the figures of a judging, and what to record next."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_report.documents.judging import FaultFigures, FaultsFacts, JudgingDocument

_HALF = 0.5
"""A fault of which more than this share of what a model knew is lost at full severity is one to keep away from."""


def verdict_of(document: JudgingDocument) -> Iterator[str]:
    """Gives the verdict on the first model."""
    if document.faults is not None:
        yield from _of_faults(document, document.faults)


def _of_faults(document: JudgingDocument, found: FaultsFacts) -> Iterator[str]:
    name, worst = document.models[0].name, found.faults[0]
    if found.measure == "rmse":
        yield (
            f"The worst fault for {name} is {worst.name}: its error is {found.sound[name]:.3g} with sound sensors and "
            f"{worst.errors[name][-1]:.3g} with {worst.what}"
        )
    else:
        lost = [one.name for one in found.faults if _lost(one, found, name) > _HALF]
        sound, broken = 1 - found.sound[name], 1 - worst.errors[name][-1]
        yield (
            f"The worst fault for {name} is {worst.name}: of {sound:.1%} {found.measure.replace('_', ' ')} "
            f"{broken:.1%} is left with {worst.what}"
        )
        if lost:
            yield f"Do not rely on it where a sensor may show {_listed(lost)}: half of what it knew is lost there"
    yield from _beside(document, found)


def _lost(one: FaultFigures, found: FaultsFacts, name: str) -> float:
    """Share of what was right with sound sensors that is wrong at full severity."""
    right = 1 - found.sound[name]
    return (one.errors[name][-1] - found.sound[name]) / right if right > 0 else 0.0


def _beside(document: JudgingDocument, found: FaultsFacts) -> Iterator[str]:
    name, other = document.models[0].name, document.baseline
    relative = found.relative.get(name)
    if other is None or relative is None:
        return
    figure = f"over all faults its error is {relative.mean:.0%} of that of {other}, which labels alone taught"
    if relative.low is None or relative.high is None:
        yield f"For {name} {figure}; there are too few groups for an interval"
        return
    if relative.high < 1:
        said = "Teaching helps under faults"
    else:
        said = (
            "Teaching hurts under faults" if relative.low > 1 else "Whether teaching helps under faults is not certain"
        )
    yield f"{said}: for {name} {figure} (95 % interval {relative.low:.0%} to {relative.high:.0%})"


def _listed(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
