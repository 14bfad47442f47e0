"""`mmkd-study`: options, progress and table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, get_args

import msgspec

from mmkd_app.cli.options import Argument, Command, Option, run_line
from mmkd_app.cli.run import run_command, shell_line
from mmkd_app.cli.show import hint_at_resuming, json_text, plain_table, show_table
from mmkd_app.experiments import latency_meter
from mmkd_app.training.options import (
    NEEDS,
    Duration,
    ExecutorName,
    LabelledGroups,
    LabelShare,
    Latency,
    Metric,
    Modality,
    chosen_metric,
)
from mmkd_app.training.tracking import Mlflow, tracked
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import require_modules
from mmkd_edge.outputs import check_folder
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.folds import ALL, FOLDS, fold_count, labelled_from_options
from mmkd_models.data.spec import refuse_normal
from mmkd_models.defaults import AUGMENT, BASELINE_LEARNING_RATES, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.networks.config import choice, preset_named

if TYPE_CHECKING:
    from mmkd_app.training.tracking import Tracker
    from mmkd_documents.study import StudyDocument
    from mmkd_models.experiments.plan import ExperimentPlan
    from mmkd_models.experiments.runs import Run

_EPILOG = (
    "Example: mmkd-study mydata --modality gyro --max-latency-ms 2 -o study. The same command continues an "
    "interrupted study; started elsewhere with the same -o on a shared disk, it shares the work."
)


def main() -> NoReturn:
    """Run `mmkd-study`."""
    needs = (*NEEDS, "optuna", "sklearn", "jinja2")
    run_command("mmkd-study", run_study, needs=needs, extra="train")


def run_study(arguments: Sequence[str]) -> None:
    """Run `mmkd-study`."""
    run_line("mmkd-study", arguments, [Command(function=study_command, epilog=_EPILOG)])


def _methods() -> str:
    from mmkd_models.distillation.recipe import shipped_methods

    return json_text({method.name: method.recipe for method in shipped_methods()}, indent=1)


@dataclass(frozen=True, kw_only=True)
class _Options:
    teacher: Annotated[
        list[str] | None,
        Option("Teacher (repeat): SIZE or MODALITY+MODALITY:SIZE; append ,committee for three members."),
    ] = None
    student: Annotated[
        list[str] | None, Option("Student size (repeat): tiny, small, medium or base; default tiny, small.")
    ] = None
    method: Annotated[
        list[str] | None, Option("Method by name (repeat), of --list-methods or --recipe; default all.")
    ] = None
    recipe: Annotated[
        list[str] | None, Option("NAME=FILE.json (repeat): your own recipe; name it kind or kind@level.")
    ] = None
    learning_rate: Annotated[
        list[float] | None, Option("Peak learning rate that every method may choose (repeat).")
    ] = None
    rival: Annotated[
        list[str] | None, Option("Rival to compare with (repeat), such as mini_rocket or extra_trees; default all.")
    ] = None
    grid: Annotated[bool, Option("Train everything on every seed, without a search.", ("--grid",))] = False
    trials: Annotated[int, Option("Candidates that the search tries, labels only not counted.", min=1)] = 40
    finalists: Annotated[int, Option("Best candidates to train on all seeds.", min=1)] = 3
    seeds: Annotated[
        int | None,
        Option("Seeds; each judges on another fold of groups.", min=1, shown=f"{FOLDS}, or as many as folds"),
    ] = None
    search_seeds: Annotated[int, Option("Seeds for the search; they do not count in the table.", min=1)] = 1
    label_fraction: LabelShare = None
    labelled_groups: LabelledGroups = None
    choose: Annotated[bool, Option("Train all kinds of every student; validation chooses.", ("--choose",))] = False
    steps: Annotated[int, Option("Training steps of every student and baseline.", min=1)] = STUDENT_TRAIN.steps
    teacher_steps: Annotated[int, Option("Training steps of every teacher.", min=1)] = TEACHER_TRAIN.steps
    metric: Metric = None
    max_latency_ms: Annotated[
        float | None, Option("Longest median latency of the exported student on this machine.", min=0.0)
    ] = None
    latency: Latency = True
    duration_s: Duration = 4.0
    budget_hours: Annotated[
        float | None, Option("Begin no training after this time; a search takes half of it.", min=0)
    ] = None
    workers: Annotated[int, Option("Trainings at a time.", min=1)] = 1
    executor: ExecutorName = "local"
    mlflow: Mlflow = None
    list_methods: Annotated[bool, Option("Print the methods and stop.", ("--list-methods",), says=_methods)] = False
    json: Annotated[bool, Option("Print study.json instead of a table.", ("--json",))] = False


def study_command(
    *,
    data: Annotated[Path, Argument(None, "Dataset directory; see mmkd-data.")],
    modality: Modality,
    output: Annotated[Path, Option("Folder to write.", ("-o", "--out"), "DIR")] = Path("study"),
    options: _Options,
) -> None:
    """Find the best student of one sensor within limits, and show what distillation buys.

    Combines teachers, student sizes, methods and learning rates on grouped folds. Optuna searches (or --grid trains
    everything), validation chooses, and the test windows are read once, by the finalists and labels only.
    """
    from mmkd_app.cli.progress import progress_lines
    from mmkd_models.experiments.folder import STUDENT_CHECKPOINT
    from mmkd_models.experiments.runs import Progress
    from mmkd_models.experiments.study import STUDY_FILE, study, write_document

    check_folder(output)
    dataset = open_dataset(data)
    refuse_normal(dataset.spec, "mmkd-study")
    modality = dataset.spec.modality(modality).name  # a derived one may be written as a text
    has_latency = options.latency and not options.choose
    if options.max_latency_ms is not None and not has_latency:
        raise UsageError(
            "--max-latency-ms: expected latencies to be measured, got --no-latency or --choose, whose students are of "
            "several kinds; drop one of them"
        )
    plan = _study_plan(dataset, modality, options)
    if plan.executor == "ray":
        require_modules(("ray",), by="--executor ray", extra="ray")
    meter = latency_meter(options.duration_s) if has_latency else None
    with tracked(options.mlflow, output, title=output.resolve().name, resume=True) as tracker:
        tracker.record(params=plan)
        with hint_at_resuming(), progress_lines() as show:
            progress = Progress(show=show, ended=partial(_record_run, tracker))
            document = study(dataset, plan, out=output, measure_latency=meter, progress=progress)
        document = msgspec.structs.replace(document, command=shell_line("mmkd-study", *sys.argv[1:]))
        write_document(output, document)
        _report(document, output, json=options.json)
        tracker.record(metrics={"valid/score": document.recommendation.valid_score})
        for name in (STUDY_FILE, "report.html", STUDENT_CHECKPOINT):
            tracker.record_file(output / name)


def _record_run(tracker: Tracker, run: Run) -> None:
    from mmkd_models.experiments.folder import STUDENT_CHECKPOINT, read_run
    from mmkd_models.training.checkpoint import read_student

    result = read_run(run.path)
    if result is None or not tracker.begin(run.title):
        return
    params = msgspec.to_builtins(result)
    del params["conditions"]
    tracker.record(run=run.title, params=params, metrics={"valid/score": result.score}, tags={"error": result.reason})
    if (run.path / STUDENT_CHECKPOINT).exists():
        tracker.record_curve(read_student(run.path / STUDENT_CHECKPOINT).facts.curve, run=run.title)
    tracker.add("set_terminated", run.title, status="FAILED" if result.reason else "FINISHED")


def _study_plan(dataset: Dataset, modality: str, options: _Options) -> ExperimentPlan:
    from mmkd_models.distillation.recipe import chosen_methods
    from mmkd_models.evaluation.rivals import RIVALS
    from mmkd_models.experiments.plan import Conditions, ExperimentPlan, Search, Space, teachers_from_text
    from mmkd_models.experiments.study import study_seeds
    from mmkd_models.experiments.workers import Executor

    metric = chosen_metric(options.metric, dataset.spec.task.kind)
    most = min(FOLDS, fold_count(dataset.everything())) if options.seeds is None else options.seeds
    seeds, search = tuple(range(most)), None
    if not options.grid:
        searched, seeds = study_seeds(dataset, seeds=most, search_seeds=options.search_seeds)
        search = Search(seeds=searched, trials=options.trials, finalists=options.finalists)
    return ExperimentPlan(
        conditions=Conditions(
            labelled=labelled_from_options(options.label_fraction, options.labelled_groups, otherwise=ALL),
            teacher_train=msgspec.structs.replace(TEACHER_TRAIN, steps=options.teacher_steps, metric=metric),
            student_train=msgspec.structs.replace(STUDENT_TRAIN, steps=options.steps, metric=metric),
            augment=AUGMENT,
            choose=options.choose,
        ),
        sensors=(modality,),
        space=Space(
            teachers=teachers_from_text(options.teacher or [TEACHER_PRESET], dataset),
            students=tuple(preset_named(name, option="--student") for name in options.student or ["tiny", "small"]),
            methods=chosen_methods(options.method, options.recipe or []),
            learning_rates=tuple(options.learning_rate or BASELINE_LEARNING_RATES),
        ),
        seeds=seeds,
        search=search,
        rivals=tuple(choice(name, RIVALS, option="--rival") for name in dict.fromkeys(options.rival or RIVALS)),
        max_latency_ms=options.max_latency_ms,
        budget_hours=options.budget_hours,
        workers=options.workers,
        executor=choice(options.executor, get_args(Executor), option="--executor"),
    )


def _report(document: StudyDocument, output: Path, *, json: bool) -> None:
    from mmkd_app.pages.page import write_page
    from mmkd_app.pages.study import render_study, study_leak, verdict
    from mmkd_app.words import for_terminal

    page, chosen = output / "report.html", document.recommendation
    write_page(page, render_study(document))
    if json:
        print(json_text(document, indent=1))
        return
    _show_table(document)
    print(for_terminal(verdict(document)))
    if leak := study_leak(document):
        print(for_terminal(leak))
    method = "labels only" if chosen.teacher is None else f"{chosen.method}, taught by {chosen.teacher}"
    print(f"chosen by validation: {chosen.student} student, {method}, seed {chosen.seed}")
    following = shell_line("mmkd-export", chosen.checkpoint, "-o", output / "student.edge")
    print(f"wrote {page} and {chosen.checkpoint}; next: {following}")


def _show_table(document: StudyDocument) -> None:
    from mmkd_app.pages.study import judged_on, results_table
    from mmkd_app.words import for_terminal
    from mmkd_models.data.windows import OF_GROUPS
    from mmkd_models.evaluation.gains import interval_needs

    results = results_table(document)
    title = f"{document.dataset.name}, {document.facts.modality} on {judged_on(document)}"
    table = plain_table([column.title for column in results.columns], title=title)
    for group, rows in results.groups:
        table.add_section()
        table.add_row(str(group))
        for row in rows:
            cells = [cell if isinstance(cell, str) else f"{cell.text} {cell.note}".strip() for cell in row.cells]
            table.add_row(*map(for_terminal, cells))
    show_table(table, width=140)
    if not document.has_intervals:
        print(interval_needs(document.dataset.split or OF_GROUPS))
    if not document.coverage.complete:
        print("The study is not complete; the same command continues it.")
