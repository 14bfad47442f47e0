"""`mmkd-evaluate`: judge teachers, students and bundles on a dataset, side by side."""

from __future__ import annotations

from mmkd_edge.cli.interrupts import loading

with loading("mmkd-evaluate"):
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path
    from typing import Annotated, NoReturn

    import msgspec

    from mmkd_edge.cli.options import Argument, Command, Option, run_line
    from mmkd_edge.cli.outputs import lock_output
    from mmkd_edge.cli.run import check_page, run_command, shell_line
    from mmkd_edge.cli.show import hint_at_resuming, json_text, plain_table, show_table
    from mmkd_models.commands.evaluate_inputs import (
        EvaluateRequest,
        ShiftOptions,
        SuiteOptions,
        WindowOptions,
        check_options,
        chosen_rivals,
        open_models,
        with_rivals,
    )
    from mmkd_models.commands.options import Data
    from mmkd_models.evaluation.suites.table import check_suites, judge
    from mmkd_report.schema.judging import JudgingDocument

_ABOUT = "Judge a teacher, a student or a bundle on a dataset."


def main() -> NoReturn:
    """Run `mmkd-evaluate`."""
    run_command("mmkd-evaluate", run_evaluate, needs=("typer", "rich"), extra="train", about=_ABOUT)


def run_evaluate(arguments: Sequence[str]) -> None:
    """Run `mmkd-evaluate` with these arguments."""
    sensors = next((word for word in arguments if word.partition("=")[0] == "--sensors"), None)
    if sensors is not None:
        from mmkd_export.commands.sensors import run_sensors

        data = [sensors.partition("=")[2]] if "=" in sensors else []
        run_sensors([*data, *(word for word in arguments if word != sensors)])
        return
    epilog = (
        "Example: mmkd-evaluate student.ckpt mydata --against baseline.ckpt --suite faults --page page.html. Without a "
        "model, mmkd-evaluate --sensors mydata shows which sensor is enough; see mmkd-evaluate --sensors --help."
    )
    run_line("mmkd-evaluate", arguments, [Command(function=evaluate, epilog=epilog)])


def evaluate(
    *,
    model: Annotated[Path, Argument("MODEL", "Checkpoint of a teacher or a student, or a bundle.")],
    data: Data,
    against: Annotated[
        list[Path] | None, Option("Checkpoint or bundle to compare with. Repeatable.", metavar="OTHER")
    ] = None,
    suites: SuiteOptions,
    shift: ShiftOptions,
    windows: WindowOptions,
    seed: Annotated[int, Option("Seed of faults, missing samples and intervals.", min=0)] = 0,
    page: Annotated[
        Path | None, Option("Also write the results as one self-contained page.", metavar="FILE.html")
    ] = None,
    as_json: Annotated[bool, Option("Print one JSON document instead of tables.", ("--json",))] = False,
) -> None:
    """Judge a teacher, a student or a bundle on a dataset.

    A bundle is judged artifact by artifact, as a device runs it.
    """
    if page is not None:
        check_page(page, extra="train")
    paths = (model, *(against or ()))
    request = EvaluateRequest(paths=paths, data=data, windows=windows, options=suites, shift=shift, seed=seed)
    check_options(request)
    document = _judge(request)
    if page is not None:
        from mmkd_report import render_judging, write_page

        write_page(page, render_judging(msgspec.to_builtins(document)))
    if as_json:
        print(json_text(document))
        return
    show_judging(document)
    print(f"{'' if page is None else f'wrote {page}; '}next: {_next_command(document, data)}")


def _judge(request: EvaluateRequest) -> JudgingDocument:
    out = request.shift.out
    with ExitStack() as stack:
        opened = open_models(stack, request)
        check_suites(opened.inputs, request.names)
        rivals = chosen_rivals(request, opened.inputs)
        if out is not None:
            stack.enter_context(lock_output(out, is_folder=True))
            stack.enter_context(hint_at_resuming())
        return judge(with_rivals(opened, rivals).inputs, request.names, data=opened.data)


def show_judging(document: JudgingDocument) -> None:
    """Print the verdict, and the tables and notes of each suite."""
    data = document.data
    names = ", ".join(model.name for model in document.models)
    print(f"{names} on {data.windows} {data.part} of {data.name} ({data.apart})")
    for sentence in document.verdict:
        print(f"{sentence}.")
    for result in document.suites.values():
        for one in result.tables:
            print(f"{one.caption}:")
            table = plain_table(one.heads)
            for row in one.rows:
                table.add_row(*row)
            show_table(table)
        for note in result.notes:
            print(note)
    for caution in document.cautions:
        print(f"caution: {caution}")


def _next_command(document: JudgingDocument, data: Path) -> str:
    first = document.models[0]
    if first.artifact:
        return shell_line("mmkd-bench", "run", first.path)
    if first.role == "teacher":
        return shell_line("mmkd-distill", first.path, data, "--modality", first.modalities[0], "-o", "student.ckpt")
    return shell_line("mmkd-export", first.path)
