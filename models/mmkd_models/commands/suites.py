"""`mmkd-evaluate --suite`: which models and windows, and how their figures look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec

from mmkd_edge.command.options import Option
from mmkd_edge.command.run import shell_line
from mmkd_edge.command.show import json_text, plain_table, say, show_table
from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.suites.suite import SUITES, SuiteName
from mmkd_models.networks.config import choice
from mmkd_report.documents.evaluation import DataFacts
from mmkd_report.documents.judging import FaultsFacts, JudgingDocument

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluate.report import Contestant
    from mmkd_models.evaluate.suites.answering import Answering


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """What is asked of the models beyond their scores."""

    suite: Annotated[
        list[str] | None,
        Option(f"Judge by a suite: {', '.join(SUITES)}, or all. Repeatable.", metavar="NAME"),
    ] = None


def chosen_suites(names: Sequence[str]) -> tuple[SuiteName, ...]:
    """Gives the suites, each once, in their order. Raises UsageError where there is none of a name."""
    if "all" in names:
        return SUITES
    chosen = {choice(name, (*get_args(SuiteName), "all"), option="--suite") for name in names}
    return tuple(name for name in SUITES if name in chosen)


def run_suites(
    judged: Sequence[Contestant | Path],
    windows: Windows,
    *,
    train: Windows,
    data: DataFacts,
    options: SuiteOptions,
    seed: int,
    page: Path | None,
    as_json: bool,
) -> None:
    """Judges checkpoints, and bundles by their path, side by side and shows what was found."""
    from mmkd_models.evaluate.suites.suite import judge

    suites = chosen_suites(options.suite or ())
    with ExitStack() as stack:
        document = judge(
            _models(stack, judged, windows, data),
            windows,
            train=train,
            data=data,
            suites=suites,
            seed=seed,
            on_part=say,
        )
    if page is not None:
        from mmkd_report import render_judging, write_page

        write_page(page, render_judging(msgspec.to_builtins(document)))
    if as_json:
        print(json_text(document))
        return
    show_judging(document)
    wrote = "" if page is None else f"wrote {page}; "
    print(f"{wrote}next: {_next_command(document)}")


def show_judging(document: JudgingDocument) -> None:
    """Prints the verdict, and a table for each suite."""
    data = document.data
    print(
        f"{', '.join(one.name for one in document.models)} on {data.windows} {data.part} of {data.name} ({data.apart})"
    )
    for sentence in document.verdict:
        print(f"{sentence}.")
    if document.faults is not None:
        _show_faults(document, document.faults)
    for caution in document.cautions:
        print(f"caution: {caution}")


def _show_faults(document: JudgingDocument, found: FaultsFacts) -> None:
    names = [one.name for one in document.models]
    is_share = found.measure != "rmse"
    what = f"error, {'% below full ' + found.measure.replace('_', ' ') if is_share else 'rmse'}"
    table = plain_table([f"fault of {', '.join(found.sensors)}", *names, "practised", *_against(document)])
    scale = 100 if is_share else 1
    sound = [f"{scale * found.sound[name]:.3g}" for name in names]
    table.add_row("none", *sound, "", *("" for _ in _against(document)))
    for one in found.faults:
        errors = [f"{scale * sum(one.errors[name]) / len(one.errors[name]):.3g}" for name in names]
        known = one.practised[names[0]]
        beside = [f"{one.relative[names[0]]:.0%}" if names[0] in one.relative else "-" for _ in _against(document)]
        table.add_row(one.name, *errors, "unknown" if known is None else "yes" if known else "unseen", *beside)
    print(f"{what}, mean of severities {', '.join(f'{one:g}' for one in found.severities)}:")
    show_table(table)
    if found.left_out:
        print(f"left out, these sensors cannot have it: {', '.join(found.left_out)}")


def _against(document: JudgingDocument) -> list[str]:
    """The heading of the comparison with labels alone, where there is one."""
    return [f"of {document.baseline}'s"] if document.baseline is not None else []


def _models(
    stack: ExitStack, judged: Sequence[Contestant | Path], windows: Windows, data: DataFacts
) -> list[Answering]:
    from mmkd_models.evaluate.suites.opening import answering_bundle, answering_checkpoint, named_apart

    found: list[Answering] = []
    for one in judged:
        if isinstance(one, Path):
            found += answering_bundle(stack, str(one), windows, data)
        else:
            found.append(answering_checkpoint(one, windows, data))
    return named_apart(found)


def _next_command(document: JudgingDocument) -> str:
    path = document.models[0].path
    if document.models[0].role == "artifact":
        return shell_line("mmkd-bench", "run", path)
    return shell_line("mmkd-export", path) if document.models[0].role != "teacher" else shell_line("mmkd-inspect", path)
