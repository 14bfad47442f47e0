"""`mmkd-adapt`: adapt a student to a new machine, person or campaign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec

from mmkd_app.cli.options import Argument, Command, Option, run_line
from mmkd_app.cli.run import check_page, run_command, shell_line
from mmkd_app.cli.show import json_text, plain_table, say, show_table
from mmkd_app.training.checkpoints import drop_states, hold_output, training_shown
from mmkd_app.training.options import NEEDS, Data, Json, Output, Page, run_dir_of
from mmkd_edge.errors import GateError, UsageError

if TYPE_CHECKING:
    import typer

    from mmkd_documents.adaptation import AdaptationDocument
    from mmkd_models.adaptation.run import Adaptation


def main() -> NoReturn:
    """Run `mmkd-adapt`."""
    run_command("mmkd-adapt", run_adapt, needs=NEEDS, extra="train")


def run_adapt(arguments: Sequence[str]) -> None:
    """Run `mmkd-adapt`."""
    epilog = "Example: mmkd-adapt student.ckpt newsite --teacher teacher.ckpt -o adapted.ckpt"
    run_line("mmkd-adapt", arguments, [Command(function=adapt, epilog=epilog)])


def adapt(
    context: typer.Context,
    *,
    student: Annotated[Path, Argument("STUDENT.ckpt", "Checkpoint of the student.")],
    data: Data,
    output: Output = Path("adapted.ckpt"),
    teacher: Annotated[
        Path | None,
        Option("Teacher that labels the new windows; they need all its modalities.", metavar="TEACHER.ckpt"),
    ] = None,
    old: Annotated[
        Path | None, Option("Dataset not to forget.", metavar="OLDDATA", shown="the carried windows")
    ] = None,
    labels: Annotated[int, Option("Use N labels of each class of the new training split.", min=0, metavar="N")] = 0,
    max_forget: Annotated[
        float, Option("Points that the old domain may lose, beyond a standard error.", min=0.0, metavar="POINTS")
    ] = 1.0,
    dry_run: Annotated[bool, Option("Report, and write nothing.", ("--dry-run",))] = False,
    steps: Annotated[int, Option("Training steps of a student with a transformer.", min=1)] = 200,
    seed: Annotated[int, Option("Seed of batches and of the choice of labels.", min=0)] = 0,
    resume: Annotated[bool, Option("Resume an interrupted run.", ("--resume",))] = False,
    page: Page = None,
    json: Json = False,
) -> None:
    """Adapt a student to a new machine, person or campaign.

    The training split of DATA trains, its validation split judges; neither needs labels. If no method is better
    without forgetting too much, nothing is written and the exit code is 4.
    """
    from mmkd_models.adaptation.domains import new_classes, new_domain, old_domain, with_classes
    from mmkd_models.adaptation.methods import ADAPT_TRAIN, AdaptationTask
    from mmkd_models.adaptation.run import run_adaptation
    from mmkd_models.data.dataset import open_dataset
    from mmkd_models.data.spec import refuse_normal
    from mmkd_models.training.checkpoint import file_sha256, read_student, read_teacher_file
    from mmkd_models.training.inputs import check_compatible

    if page is not None:
        check_page(page, extra="train")
    if not dry_run:
        hold_output(context, output, students=[student], teachers=[teacher] if teacher else [])
    before, dataset = read_student(student), open_dataset(data)
    refuse_normal(dataset.spec, "mmkd-adapt")
    own = with_classes(before, dataset.spec.task)
    if (classes := new_classes(before, dataset.spec.task)) and not labels:
        raise UsageError(f"{data}: learning {', '.join(classes)} needs labels; add --labels N")
    if dataset.sha256 == own.facts.dataset_sha256:
        raise UsageError(f"{data}: the student was trained on this dataset; name recordings of a new domain")
    file, names = None, [own.modality.name]
    if teacher is not None:
        file = read_teacher_file(teacher)
        check_compatible("teacher", file.checkpoint.task, file.checkpoint.modalities, dataset.everything())
        names = [*(spec.name for spec in file.checkpoint.modalities), *names]
    metric = own.facts.training.metric
    task = AdaptationTask(
        student=own,
        student_sha256=file_sha256(student),
        new=new_domain(own, dataset, tuple(dict.fromkeys(names))),
        old=old_domain(own, None if old is None else open_dataset(old)),
        teacher=file,
        labels=labels,
        train=msgspec.structs.replace(ADAPT_TRAIN, steps=steps, seed=seed, metric=metric),
        max_forget=max_forget,
        run_dir=None if dry_run else run_dir_of(output),
        resume=resume,
    )
    with training_shown(f"{own.modality.name} student", output) as show:
        adaptation = run_adaptation(replace(task, on_step=show), on_method=lambda method: say(f"trying: {method}"))
    _finish(adaptation, output, dry_run=dry_run, page=page, json=json)


def _finish(adaptation: Adaptation, output: Path, *, dry_run: bool, page: Path | None, json: bool) -> None:
    from mmkd_app.pages.adaptation import render_adaptation
    from mmkd_app.pages.page import write_page
    from mmkd_models.training.checkpoint import write_student

    document = adaptation.document
    is_written = adaptation.checkpoint is not None and not dry_run
    if is_written:
        assert adaptation.checkpoint is not None
        write_student(output, adaptation.checkpoint)
        document = msgspec.structs.replace(document, written=str(output))
    if not dry_run:
        drop_states(output)
    if page is not None:
        write_page(page, render_adaptation(document))
    if json:
        print(json_text(document))
    else:
        _show(document)
    if adaptation.checkpoint is None:
        reasons = "; ".join(f"{result.method}: {', '.join(result.refusals)}" for result in document.methods)
        raise GateError(
            f"{document.new.name}: no method is better ({reasons}); nothing was written. Keep the student, record "
            "longer, or add --teacher or --labels"
        )
    if json:
        return
    if is_written:
        print(f"wrote {output}; next: {shell_line('mmkd-export', output, '-o', output.with_suffix('.edge'))}")
    else:
        print(f"nothing was written; without --dry-run: {document.chosen}")


def _show(document: AdaptationDocument) -> None:
    from mmkd_app.pages.adaptation import ESTIMATES, method_cells
    from mmkd_app.words import for_terminal

    print(f"new: {document.new.name}, {document.new.learn} windows to train, {document.new.judge} to judge")
    print(f"old: {document.old.name}, {document.old.learn} windows to train, {document.old.judge} to judge")
    print(f"estimate: {ESTIMATES[document.estimated_by]}, %; old: {document.metric}, %")
    table = plain_table(["method", "estimate", "gain", "old", "change", "verdict"], left=("verdict",))
    for cells in method_cells(document):
        table.add_row(*map(for_terminal, cells))
    show_table(table)
