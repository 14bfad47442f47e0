"""`mmkd-study`: its arguments, its progress, its table and its last words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec
import typer

from mmkd_edge.bundle.files import write_file
from mmkd_edge.command.help import command_app, command_class
from mmkd_edge.command.outputs import check_file, check_folder
from mmkd_edge.command.run import require_modules, shell_line
from mmkd_edge.command.tables import WholeWords
from mmkd_edge.errors import PerformanceError, UsageError
from mmkd_models.commands.train_options import MetricOption, chosen_metric
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.folds import FOLDS, fold_count
from mmkd_models.defaults import BASELINE_LEARNING_RATES, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.networks.config import choice, preset_named
from mmkd_models.train_config import AugmentConfig
from mmkd_report.documents.figures import Measure

if TYPE_CHECKING:
    from mmkd_models.study.run import StudyOptions
    from mmkd_models.trials.executors import Executor
    from mmkd_models.trials.sizes import MeasureLatency
    from mmkd_report.documents.study import EntryRow, PairLatency, StudyDocument

_LAUNCHES = 2

_app = command_app()


def run_study(arguments: Sequence[str]) -> None:
    """Runs `mmkd-study` with these arguments."""
    _app(args=list(arguments), prog_name="mmkd-study")


def _list_methods(wanted: bool) -> None:
    if wanted:
        from mmkd_models.distil.methods import shipped_methods

        print(_pretty({method.name: method.recipe for method in shipped_methods()}))
        raise typer.Exit


@_app.command(
    cls=command_class(),
    epilog="Example: mmkd-study mydata --modality gyro --max-latency-ms 2 -o study. The same command continues an "
    "interrupted study; started again elsewhere with the same -o and --storage, it shares the work.",
)
def study_command(
    data: Annotated[Path, typer.Argument(help="Dataset directory; see mmkd-data.")],
    modality: Annotated[str, typer.Option(metavar="NAME", help="The one modality that the student sees.")],
    output: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder of what is written.")] = Path(
        "study"
    ),
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Teacher (repeat): SIZE, or MODALITY+MODALITY:SIZE for some modalities only; then ,out-of-fold=K for "
            "K cross-fitted ones or ,ensemble=N for N from other seeds; A/B for several that teach together."
        ),
    ] = None,
    student: Annotated[
        list[str] | None, typer.Option(help="Student size (repeat): tiny, small, medium or base; default tiny, small.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Method by name (repeat), of --list-methods or --recipe; default all.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE.json (repeat): a recipe of your own; name it kind or kind@level."),
    ] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Peak learning rate that every method may choose (repeat).")
    ] = None,
    baseline_learning_rate: Annotated[
        list[float] | None, typer.Option(help="Further rate that labels alone may choose (repeat).")
    ] = None,
    rival: Annotated[
        list[str] | None,
        typer.Option(help="Compare with it (repeat): extra_trees or mini_rocket; default both."),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Train everything on every seed, without a search.")] = False,
    trials: Annotated[
        int, typer.Option(help="Candidates that the search tries, labels alone not counted.", min=1)
    ] = 40,
    finalists: Annotated[int, typer.Option(help="Best candidates that are trained on all seeds.", min=1)] = 3,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Seeds; each judges on another fold of groups.", min=1, show_default=f"{FOLDS}, or as many as folds"
        ),
    ] = None,
    search_seeds: Annotated[
        int, typer.Option(help="How many of them the search learns from; they do not count in the table.", min=1)
    ] = 1,
    label_share: Annotated[float, typer.Option(help="Share of the training labels that are seen; 1 is all.")] = 1.0,
    self_training: Annotated[
        bool,
        typer.Option("--self-training/--no-self-training", help="Let teachers learn from unlabelled windows too."),
    ] = True,
    steps: Annotated[int, typer.Option(help="Training steps of every student and baseline.", min=1)] = (
        STUDENT_TRAIN.steps
    ),
    teacher_steps: Annotated[int, typer.Option(help="Training steps of every teacher.", min=1)] = TEACHER_TRAIN.steps,
    metric: MetricOption = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Longest median latency of the exported student on this machine.", min=0.0)
    ] = None,
    max_parameters: Annotated[int | None, typer.Option(help="Most parameters of the student.", min=1)] = None,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Export students and measure their latency.")
    ] = True,
    duration_s: Annotated[
        float, typer.Option("--duration-s", min=0.1, max=600.0, help="Measured seconds of each latency.")
    ] = 4.0,
    budget_hours: Annotated[
        float | None, typer.Option(help="Begin no training after this time; a search leaves time for finalists.", min=0)
    ] = None,
    workers: Annotated[int, typer.Option(help="Trainings at a time.", min=1)] = 1,
    executor: Annotated[
        str, typer.Option(help="Where they run: local, or ray (the cluster of RAY_ADDRESS).")
    ] = "local",
    storage: Annotated[
        str | None,
        typer.Option(help="Who does what: a journal file, or a database URL that Optuna takes; default in -o."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of every training.", min=1)] = 1,
    list_methods: Annotated[
        bool,
        typer.Option("--list-methods", help="Print the methods and stop.", is_eager=True, callback=_list_methods),
    ] = False,
    compare_teacher: Annotated[
        list[str] | None,
        typer.Option(help="A teacher, as --teacher, that teaches nobody: which size is the smallest near the best."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of compact results: what they know is not trained again, what is finished is added."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Also write the table as a section of Markdown, with its command.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print study.json instead of a table.")] = False,
) -> None:
    """Find the best student of one sensor within limits, and show what distillation buys.

    Combines teachers, student sizes, methods and learning rates on grouped folds. Optuna searches (or --grid trains
    everything), validation chooses, and the test windows are read once, by the finalists and labels alone.
    """
    from mmkd_models.distil.methods import chosen_methods
    from mmkd_models.evaluate.rivals import RIVALS
    from mmkd_models.study.run import StudyOptions
    from mmkd_models.trials.space import Conditions, Space
    from mmkd_models.trials.teacher_text import teachers_from_text
    from mmkd_report.documents.study import NONE

    check_folder(output)
    if table is not None:
        check_file(table)
    dataset = open_dataset(data)
    maximised = chosen_metric(metric, dataset.spec.task.kind)
    if max_latency_ms is not None and not latency:
        raise UsageError("--max-latency-ms: expected latencies to be measured, got --no-latency; drop one of them")
    options = StudyOptions(
        conditions=Conditions(
            dataset_sha256=dataset.sha256,
            modality=modality,
            label_share=label_share,
            self_training=self_training,
            teacher_train=msgspec.structs.replace(TEACHER_TRAIN, steps=teacher_steps, metric=maximised),
            student_train=msgspec.structs.replace(STUDENT_TRAIN, steps=steps, metric=maximised),
            augment=AugmentConfig(),
            threads=threads,
        ),
        space=Space(
            teachers=teachers_from_text(teacher or [TEACHER_PRESET], dataset),
            students=tuple(preset_named(name, option="--student") for name in student or ["tiny", "small"]),
            methods=chosen_methods(method, recipe or []),
            learning_rates=tuple(learning_rate or BASELINE_LEARNING_RATES),
            baseline_learning_rates=tuple(baseline_learning_rate or ()),
        ),
        grid=grid,
        trials=trials,
        finalists=finalists,
        seeds=min(FOLDS, fold_count(dataset.everything())) if seeds is None else seeds,
        search_seeds=search_seeds,
        max_latency_ms=max_latency_ms,
        max_parameters=max_parameters,
        budget_hours=budget_hours,
        workers=workers,
        executor=_executor(executor),
        storage=storage,
        rivals=tuple(choice(name, RIVALS, option="--rival") for name in dict.fromkeys(rival or RIVALS)),
        compared=teachers_from_text(compare_teacher or (), dataset),
        required=tuple(name for name in dict.fromkeys([*(method or []), *_own_names(recipe or [])]) if name != NONE),
    )
    meter = latency_meter(duration_s) if latency else None
    document = _run(dataset, options, output, meter=meter, results=results)
    if table is not None:
        from mmkd_report.pages.study.markdown import study_section

        write_file(table, study_section(document).encode())
    _report(document, output, json=json)
    _check_limits(document)


def _run(
    dataset: Dataset, options: StudyOptions, output: Path, *, meter: MeasureLatency | None, results: Path | None
) -> StudyDocument:
    from mmkd_models.study.progress import study_view
    from mmkd_models.study.run import study, write_document

    try:
        with study_view() as show:
            document = study(dataset, options, out=output, measure_latency=meter, on_progress=show, results=results)
    except KeyboardInterrupt:
        sys.stderr.write("the same command continues\n")
        raise
    document = msgspec.structs.replace(document, command=shell_line("mmkd-study", *sys.argv[1:]))
    write_document(output, document)
    return document


def _executor(name: str) -> Executor:
    from mmkd_models.trials.executors import Executor

    known: Executor = choice(name, get_args(Executor), option="--executor")
    return known


def _own_names(recipes: Sequence[str]) -> list[str]:
    return [text.partition("=")[0] for text in recipes]


def latency_meter(duration_s: float) -> MeasureLatency:
    """Gives what measures a student as it is exported, and its teacher, in turn in the same processes.

    Raises:
        UnavailableError: a library is not there.
    """
    require_modules(
        ("onnx", "onnxscript", "onnxruntime", "psutil"), by="mmkd-study with latencies", extra="export,bench"
    )

    def measure(student: Path, teacher: Path) -> PairLatency:
        from mmkd_bench.paired import measure_pair
        from mmkd_export.graph.onnx_from_student import onnx_from_teacher
        from mmkd_export.plan import export_plan
        from mmkd_export.run import export
        from mmkd_models.training.checkpoint import read_teacher
        from mmkd_report.documents.study import PairLatency

        taught_by = read_teacher(teacher)
        with TemporaryDirectory() as temporary:
            model, bundle = Path(temporary) / "teacher.onnx", Path(temporary) / "student.edge"
            model.write_bytes(onnx_from_teacher(taught_by.network(), taught_by.modalities))
            export(export_plan(student, output=bundle))
            pair = measure_pair(model, bundle, launches=_LAUNCHES, duration_s=duration_s)
        return PairLatency(
            student_ms={
                "p50": pair.second_p50_us.median / 1000,
                "p90": pair.second_p90_us.median / 1000,
                "p99": pair.second_p99_us.median / 1000,
            },
            teacher_ms={
                "p50": pair.first_p50_us.median / 1000,
                "p90": pair.first_p90_us.median / 1000,
                "p99": pair.first_p99_us.median / 1000,
            },
            ratio=pair.ratio.median,
            machine=msgspec.to_builtins(pair.machine),
        )

    return measure


def _check_limits(document: StudyDocument) -> None:
    chosen = document.recommendation
    if chosen is not None and not chosen.within_limits and chosen.latency is not None:
        raise PerformanceError(
            f"{chosen.checkpoint}: expected a median of {document.facts.max_latency_ms:g} ms at most, measured "
            f"{chosen.latency.student_ms['p50']:.3g} ms; run it on a quiet machine, or take a smaller --student"
        )


def _pretty(document: object) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode()


def _report(document: StudyDocument, output: Path, *, json: bool) -> None:
    from mmkd_report import render_study, write_page
    from mmkd_report.documents.study import read_study
    from mmkd_report.pages.study.answer import verdict
    from mmkd_report.words.formats import for_terminal

    page, told = output / "report.html", msgspec.to_builtins(document)
    write_page(page, render_study(told))
    if json:
        print(_pretty(document))
        return
    _show_table(document)
    chosen = document.recommendation
    if chosen is None:
        raise AssertionError("a study without a finished trial is an error")
    taught = "labels alone" if chosen.teacher is None else f"{chosen.method}, taught by {chosen.teacher}"
    print(for_terminal(verdict(read_study(told))))
    print(f"chosen by validation: {chosen.student} student, {taught}, seed {chosen.seed}")
    if chosen.checkpoint is None:
        print(f"wrote {page}; the chosen student was trained elsewhere, and only its figures are here")
        return
    following = shell_line("mmkd-export", chosen.checkpoint, "-o", output / "student.edge")
    print(f"wrote {page} and {chosen.checkpoint}; next: {following}")


def _show_table(document: StudyDocument) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmkd_report.pages.study.markdown import judged_on

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=120)
    facts = document.facts
    told = document.told_by
    counted = f" in {told.unit}" if told.unit and not told.is_share else ""
    table = Table(title=f"{document.dataset.name}, {facts.modality}: {told.words}{counted} on {judged_on(document)}")
    for heading in ("student", "method", "teacher", "score", "gain", "95 % interval", "gap", "parameters", "ms"):
        table.add_column(heading, justify="left" if heading in ("student", "method", "teacher") else "right")
    for row in document.entries:
        table.add_row(*_cells(row, told))
    console.print(WholeWords(table))
    if not document.coverage.complete:
        console.print("The study is not complete; the same command continues it.")


def _cells(row: EntryRow, told: Measure) -> tuple[str, ...]:
    from mmkd_report.words.terminal import gain_text, interval_text, spread_text

    score, gain = row.test[told.name], None if row.gain_points is None else row.gain_points[told.name]
    return (
        row.student,
        f"{row.method} *" if row.chosen else row.method,
        row.teacher or "-",
        spread_text(score.mean, score.std, told),
        "-" if gain is None else gain_text(gain.mean, told),
        "-" if gain is None else interval_text(gain.low, gain.high, told),
        "-" if row.gap_recovered is None else f"{row.gap_recovered:.0%}",
        f"{row.parameters:,}",
        "-" if row.latency_ms is None else f"{row.latency_ms:.3f}",
    )
