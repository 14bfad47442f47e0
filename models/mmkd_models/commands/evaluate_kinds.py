"""`mmkd-evaluate` for several labels at once and for numbers: the scores of the kind, of one model or of two.

Owns what is said of these kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table

from mmkd_edge.command.tables import WholeWords
from mmkd_edge.errors import UsageError
from mmkd_models.data.split import OF_GROUPS
from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.gains import gain_on_windows, interval_needs
from mmkd_models.evaluate.guessing import guessing
from mmkd_models.evaluate.outcome import Outcome, outcome_on
from mmkd_models.metrics.measures import measures_of
from mmkd_report.documents.evaluation import DataFacts, KindEvaluation, MeasureGain
from mmkd_report.documents.figures import Measure

if TYPE_CHECKING:
    from mmkd_models.evaluate.report import Contestant


def refuse_options(given: Mapping[str, object], *, kind: str) -> None:
    """Raises UsageError for an option that asks for what is there for classes alone."""
    for name, value in given.items():
        if value:
            raise UsageError(
                f"{name}: expected a dataset of classes, got one of the kind {kind}, for which there are scores of a "
                "checkpoint and of --against alone; leave it out"
            )


def evaluate_kind(
    contestants: Sequence[Contestant], windows: Windows, *, data: DataFacts, as_json: bool, console: Console, seed: int
) -> None:
    """Prints the scores of one model, or of two on the same labelled windows and what the first is better by.

    A gain has an interval, by resampling whole groups or blocks, where there are `FEWEST_GROUPS` or more.
    """
    from mmkd_models.evaluate.report import check_contestants, logits_from
    from mmkd_report.words.formats import for_terminal, significant
    from mmkd_report.words.terminal import guessing_line

    check_contestants(contestants[0], contestants[1] if len(contestants) > 1 else None, windows)
    judged = {one.path: outcome_on(windows, logits_from(one, windows)) for one in contestants}
    measures = measures_of(windows.spec.task)
    gains = _gains(*judged.values(), measures=measures, seed=seed) if len(judged) > 1 else {}
    beside = {path: guessing([one], measures[0].name, seed=seed) for path, one in judged.items()}
    cautions = list(dict.fromkeys(text for one in contestants for text in one.cautions(data)))
    if as_json:
        document = KindEvaluation(
            data=data,
            seen={one.path: one.seen for one in contestants},
            cautions=tuple(cautions),
            kind=windows.spec.task.kind,
            scores={path: msgspec.to_builtins(one.scores) for path, one in judged.items()},
            guessing={path: {measures[0].name: one} for path, one in beside.items()},
            gains=gains or msgspec.UNSET,
        )
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for measure in measures:
        heading = measure.name.replace("_", " ")
        unit = "" if measure.is_share else measure.unit
        table.add_column(f"{heading}, {unit}" if unit else heading, justify="right")
    for path, one in judged.items():
        table.add_row(path, *(for_terminal(significant(one.scores.metric(measure.name), 4)) for measure in measures))
    if gains:
        table.add_row("gain", *(_gain_text(gains[measure.name], measure) for measure in measures))
    console.print(f"{data.windows} {data.part} of {data.name} ({data.apart})", soft_wrap=True)
    console.print(WholeWords(table))
    for path, found in beside.items():
        console.print(f"{path}: {guessing_line(found, measures[0])}", soft_wrap=True)
    if any(gain.low is None for gain in gains.values()):
        console.print(interval_needs(data.split or OF_GROUPS))
    for caution in cautions:
        console.print(f"caution: {caution}", soft_wrap=True)


def _gains(ours: Outcome, theirs: Outcome, *, measures: Sequence[Measure], seed: int) -> dict[str, MeasureGain]:
    """By measure, in its `gain_unit`: what ours is better by."""
    found = {}
    for measure in measures:
        gain = gain_on_windows(ours, theirs, measure.name, seed=seed)
        found[measure.name] = MeasureGain(gain=gain.points, low=gain.low, high=gain.high, unit=measure.gain_unit)
    return found


def _gain_text(gain: MeasureGain, measure: Measure) -> str:
    from mmkd_report.words.terminal import gain_text, interval_text

    text = gain_text(gain.gain, measure) + (" points" if measure.is_share else "")
    return text if gain.low is None else f"{text} ({interval_text(gain.low, gain.high, measure)})"
