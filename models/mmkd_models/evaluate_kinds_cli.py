"""`mmkd-evaluate` for several labels at once and for numbers: the scores of the kind, of one model or of two.

Owns what is said of these kinds. Gaps and intervals rest on confusion matrices, which they have none of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.report import Contestant, DataFacts, check_contestants, narrowed
from mmkd_models.evaluate.scores import AnyScores, scores_from_logits
from mmkd_models.predict import logits_of


def refuse_options(given: Mapping[str, object], *, kind: str) -> None:
    """Raises UsageError for an option that asks for what is there for classes alone."""
    for name, value in given.items():
        if value:
            raise UsageError(
                f"{name}: expected a dataset of classes, got one of the kind {kind}, for which there are scores of a "
                "checkpoint and of --against alone; leave it out"
            )


def evaluate_kind(
    contestants: Sequence[Contestant], windows: Windows, *, data: DataFacts, as_json: bool, console: Console
) -> None:
    """Prints the scores of one model, or of two, on the same labelled windows."""
    check_contestants(contestants[0], contestants[1] if len(contestants) > 1 else None, windows)
    scores = {one.path: _scores(one, windows) for one in contestants}
    if as_json:
        document = {"data": data, "kind": windows.spec.task.kind, "scores": scores}
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    names = [name for name in type(next(iter(scores.values()))).__struct_fields__ if name not in ("counts", "windows")]
    unit = windows.spec.task.unit_text
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in names:
        heading = name.replace("_", " ")
        table.add_column(f"{heading},{unit}" if unit and name in ("mae", "rmse") else heading, justify="right")
    for path, found in scores.items():
        table.add_row(path, *(f"{found.metric(name):.4g}" for name in names))
    console.print(f"{data.windows} {data.part} of {data.name} ({data.groups} groups)", soft_wrap=True)
    console.print(table)


def _scores(one: Contestant, windows: Windows) -> AnyScores:
    logits = logits_of(one.checkpoint.network(), narrowed(one, windows), modality=one.modality)
    return scores_from_logits(windows.labels, logits, windows.spec.task)
