"""`mmkd-evaluate --sensors`: which sensor to buy."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, get_args

import msgspec

from mmkd_app.cli.options import Argument, Command, Option, run_line
from mmkd_app.cli.run import shell_line
from mmkd_app.cli.show import json_text, plain_table, say, show_table
from mmkd_app.experiments import ComparisonOptions, latency_meter, requested_plan, run_with_progress
from mmkd_app.training.options import AllCores, Duration, ExecutorName, Latency, refuse_without_effect
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import require_modules
from mmkd_edge.outputs import lock_output
from mmkd_edge.spec import task_text
from mmkd_models.data.dataset import open_dataset
from mmkd_models.experiments.workers import Executor
from mmkd_models.networks.config import choice

if TYPE_CHECKING:
    import typer

    from mmkd_documents.demo import DemoDocument
    from mmkd_documents.judging import JudgingDocument, SensorsDocument
    from mmkd_documents.study import PairLatency
    from mmkd_documents.variants import VariantsDocument
    from mmkd_models.data.dataset import Dataset
    from mmkd_models.experiments.experiment import Experiment
    from mmkd_models.experiments.study import MeasureLatency
    from mmkd_models.experiments.variants import Variation

SENSORS_FILE, PAGE_FILE = "sensors.json", "sensors.html"
VARIANTS_FILE, VARIANTS_PAGE = "variants.json", "variants.html"
_PAGES = "pages"
_NEEDS = ("torch", "safetensors", "lightning_fabric", "sklearn", "jinja2")
_EPILOG = (
    "Example: mmkd-evaluate --sensors mydata --workers 2 -o sensors. An interrupted run continues: give the same --out "
    "and options. How cheap may one be? mmkd-evaluate --sensors mydata --vary acc:rate=50,25 --vary acc:bits=8"
)


def run_sensors(arguments: Sequence[str]) -> None:
    """Run `mmkd-evaluate --sensors`."""
    run_line("mmkd-evaluate --sensors", arguments, [Command(function=sensors, epilog=_EPILOG)])


def sensors(
    context: typer.Context,
    *,
    data: Annotated[Path, Argument("DATA", "Dataset directory with two sensors or more; see mmkd-data.")],
    out: Annotated[Path, Option("Folder to write.", ("-o", "--out"), "DIR")] = Path("sensors"),
    pairs: Annotated[
        bool,
        Option(
            "Also train a student of every two sensors of equal rate, for which either may be missing.", ("--pairs",)
        ),
    ] = False,
    vary: Annotated[
        list[str] | None,
        Option(
            "Judge cheaper variants: rate, window, bits, range, channels, size or burst. Repeatable.",
            metavar="SENSOR:FACTOR=VALUE,...",
        ),
    ] = None,
    full_grid: Annotated[
        bool, Option("With --vary: every combination, not one factor at a time and their corner.", ("--full-grid",))
    ] = False,
    healthy: Annotated[
        list[str] | None,
        Option("With --vary: a class without faults; windows answered otherwise are false alarms.", metavar="CLASS"),
    ] = None,
    compared: ComparisonOptions,
    cost: Annotated[
        list[str] | None,
        Option(
            "Assumptions from --print-cost for every sensor, or NAME=FILE.toml for one (repeat).", metavar="FILE.toml"
        ),
    ] = None,
    latency: Latency = True,
    duration_s: Duration = 4.0,
    workers: AllCores = None,
    executor: ExecutorName = "local",
    as_json: Annotated[bool, Option("Print one JSON document instead of a table.", ("--json",))] = False,
) -> None:
    """Which sensor is enough? For every single sensor of DATA: rivals, labels only, distilled, and the teacher of all.

    Trains them as mmkd-demo does, judges each student under faults, measures its latency, computes its costs, and
    writes one page with the table that decides which sensor to buy.
    """
    require_modules(_NEEDS, by="mmkd-evaluate --sensors", extra="train")
    dataset = open_dataset(data)
    if dataset.spec.task.kind == "normal":
        refuse_without_effect(context, ("data", "out", "as_json"), "on a comparison of sensors of normal running")
        context.with_resource(lock_output(out, is_folder=True))
        _normal_sensors(data, out, as_json=as_json)
        return
    where = choice(executor, get_args(Executor), option="--executor")
    request = _VariantsRequest(tuple(vary or ()), full_grid, pairs, tuple(healthy or ()), tuple(cost or ()), compared)
    named = _named_variants(dataset, request) if vary or full_grid or healthy else None  # before torch is imported
    from mmkd_export.targets.native import latency_limit
    from mmkd_models.experiments.experiment import Experiment
    from mmkd_models.experiments.sensors import check_costs, judge_sensors, pair_experiment, pair_rows
    from mmkd_models.experiments.summary import demo_document
    from mmkd_models.experiments.variants import reported_measure
    from mmkd_models.experiments.workers import torch_threads

    out = out.resolve() if where == "ray" else out  # Ray tasks have their own working directory
    meter = latency_meter(duration_s, energy=bool(vary)) if latency else None
    limit, plan_of = latency_limit(compared.max_latency_ms), partial(requested_plan, workers=workers, executor=where)
    if named is not None:
        sensors, variations = named
        plan = plan_of(dataset, replace(compared, modality=sensors), rivals=())
        prices = _prices(request.cost, dataset)
        context.with_resource(lock_output(out, is_folder=True))
        experiment = Experiment(dataset=dataset, plan=plan, out=out, limit=limit)
        _judge_variants(experiment, request, variations, meter, prices, as_json=as_json)
        return
    if len(dataset.spec.sensors) < 2:
        raise UsageError(
            f"{data}: expected two sensors or more, among which one is chosen, got {dataset.spec.modalities[0].name} "
            "alone; mmkd-evaluate judges a model of it"
        )
    experiment = Experiment(dataset=dataset, plan=plan_of(dataset, compared), out=out, limit=limit)
    costs = _costs(cost, experiment.plan.sensors)
    check_costs(experiment, costs)
    joint = pair_experiment(experiment) if pairs else None
    context.with_resource(lock_output(out, is_folder=True))
    table = run_with_progress(experiment)
    paired = () if joint is None else pair_rows(joint, table, run_with_progress(joint))
    with torch_threads():
        judged = judge_sensors(experiment, costs, say=say)
    document = _document(demo_document(table), judged, _latencies(experiment, meter))
    document = msgspec.structs.replace(document, pairs=paired, pairs_measure=reported_measure(table))
    _write(out, document, judged)
    if as_json:
        print(json_text(document, indent=1))
        return
    _show(document)
    student = experiment.student_path(document.rows[0].sensors[0], 0)
    print(f"wrote {out / PAGE_FILE}; next: {shell_line('mmkd-export', student)}")


def _latencies(experiment: Experiment, meter: MeasureLatency | None) -> dict[str, PairLatency]:
    from mmkd_models.experiments.workers import torch_threads

    times = {}
    for name in experiment.plan.sensors if meter is not None else ():
        assert meter is not None
        say(f"{name}: latency")
        with torch_threads():
            times[name] = meter(experiment.student_path(name, 0), experiment.teacher_path(0))
    return times


class _VariantsRequest(NamedTuple):
    vary: tuple[str, ...]
    full_grid: bool
    pairs: bool
    healthy: tuple[str, ...]
    cost: tuple[str, ...]
    compared: ComparisonOptions


def _named_variants(dataset: Dataset, request: _VariantsRequest) -> tuple[list[str], list[Variation]]:
    """Return the sensors that --vary names, and what varies."""
    from mmkd_models.experiments.variants import parse_variations

    for option, is_given, why in (
        ("--healthy", bool(request.healthy) and not request.vary, "needs --vary; name what varies"),
        ("--full-grid", not request.vary, "needs --vary; name what varies"),
        ("--pairs", request.pairs, "cannot be combined with --vary; leave one of them out"),
        (
            "--modality",
            bool(request.compared.modality),
            "cannot be combined with --vary, which names sensors; leave it out",
        ),
    ):
        if is_given:
            raise UsageError(f"{option} {why}")
    task = dataset.spec.task
    for label in request.healthy:
        if task.kind != "classification" or label not in task.labels or not set(task.labels) - set(request.healthy):
            known = ", ".join(task.labels) if task.kind == "classification" else f"none of {task_text(task)}"
            raise UsageError(f"--healthy {label}: expected one of the classes, and another left ({known}); correct it")
    names, variations = [], parse_variations(request.vary, dataset.spec)
    for variation in variations:
        every = [variation.variant(parts).name for parts in variation.grid()]  # refuses what cannot be combined
        single = [variation.variant(parts).name for parts in variation.singles()]
        names += [variation.sensor.name, *(every if request.full_grid else single)]
    return list(dict.fromkeys(names)), variations


def _prices(given: Sequence[str], dataset: Dataset) -> dict[str, tuple[float, str]]:
    """Return price and currency by name of a sensor or variant."""
    from mmkd_models.evaluation.suites.cost_model import read_cost

    prices = {}
    for text in given:
        name, mark, file = text.partition("=")
        if not mark:
            raise UsageError(
                f"--cost {text}: expected SENSOR=FILE.toml or VARIANT=FILE.toml beside --vary; write it so"
            )
        costs = read_cost(Path(file))[0]
        if costs.student is None:
            raise UsageError(
                f"--cost {text}: expected a price of the student's sensor, got none; add student.sensor_price"
            )
        prices[dataset.spec.modality(name).name] = costs.student.sensor_price, costs.currency
    if len(currencies := sorted({currency for _, currency in prices.values()})) > 1:
        raise UsageError(f"--cost: expected one currency, got {' and '.join(currencies)}; use one for all sensors")
    return prices


def _judge_variants(
    experiment: Experiment,
    request: _VariantsRequest,
    variations: Sequence[Variation],
    meter: MeasureLatency | None,
    prices: Mapping[str, tuple[float, str]],
    *,
    as_json: bool,
) -> None:
    from mmkd_app.pages.page import write_page
    from mmkd_app.pages.variants import render_variants
    from mmkd_app.words import labelled_title
    from mmkd_documents.variants import VariantsDocument
    from mmkd_models.experiments.variants import most_loss, reported_measure, variant_rows

    out, table = experiment.out, run_with_progress(experiment)
    corners = [variation.variant(parts).name for variation in variations if (parts := variation.corner(table))]
    if not request.full_grid and set(corners) - set(experiment.plan.sensors):
        names = tuple(dict.fromkeys((*experiment.plan.sensors, *corners)))
        experiment = replace(experiment, plan=msgspec.structs.replace(experiment.plan, sensors=names))
        table = run_with_progress(experiment)
    times = _latencies(experiment, meter)
    document = VariantsDocument(
        dataset=table.spec.name,
        sha256=table.sha256,
        judged_on=table.split.judged_on,
        labelled=labelled_title(table.label_fraction, table.labelled_groups),
        seeds=table.plan.seeds,
        measure=reported_measure(table),
        most_loss=max(most_loss(table, variation.sensor.name) for variation in variations),
        rows=variant_rows(
            table,
            variations,
            latencies={name: pair.student_ms["p50"] for name, pair in times.items()},
            energies={name: pair.student_mj for name, pair in times.items() if pair.student_mj is not None},
            healthy=request.healthy,
            prices={name: price for name, (price, _) in prices.items()},
        ),
        healthy=request.healthy,
        currency=next((currency for _, currency in prices.values()), ""),
        command=shell_line("mmkd-evaluate", *sys.argv[1:]),
    )
    write_file(out / VARIANTS_FILE, json_text(document, indent=1).encode())
    write_page(out / VARIANTS_PAGE, render_variants(document))
    if as_json:
        print(json_text(document, indent=1))
        return
    _show_variants(document)
    best = next((row for row in document.rows if row.is_chosen), document.rows[0])
    print(f"wrote {out / VARIANTS_PAGE}; next: {shell_line('mmkd-export', experiment.student_path(best.name, 0))}")


def _show_variants(document: VariantsDocument) -> None:
    from mmkd_app.pages.variants import show_rows, verdict
    from mmkd_app.words import for_terminal

    for sentence in verdict(document):
        print(for_terminal(f"{sentence}."))
    heads, rows = show_rows(document)
    title = f"{document.dataset}: {document.measure.words} on {document.judged_on}, {document.labelled}".rstrip(", ")
    shown = plain_table(heads, title=title)
    for row in rows:
        shown.add_row(*map(for_terminal, row))
    show_table(shown, width=170)


def _normal_sensors(data: Path, out: Path, *, as_json: bool) -> None:
    from mmkd_app.pages.normal_sensors import reaction, render_normal_sensors, verdict
    from mmkd_app.pages.page import write_page
    from mmkd_app.words import for_terminal
    from mmkd_models.experiments.normal_sensors import judge_normal_sensors

    document = judge_normal_sensors(open_dataset(data), seed=0, on_part=say)
    write_file(out / SENSORS_FILE, json_text(document, indent=1).encode())
    write_page(out / PAGE_FILE, render_normal_sensors(document))
    if as_json:
        print(json_text(document, indent=1))
        return
    for sentence in verdict(document):
        print(for_terminal(f"{sentence}."))
    sensor = max(document.rows, key=reaction).sensor
    line = shell_line("mmkd-train", "student", data, "--modality", sensor, "-o", "student.ckpt")
    print(f"wrote {out / PAGE_FILE}; next: {line}")


def _costs(given: Sequence[str] | None, sensors: Sequence[str]) -> dict[str, Path]:
    """A file without a name is for all other sensors."""
    files: dict[str, Path] = {}
    for text in given or ():
        name, equals, file = text.partition("=")
        if equals and name not in sensors:
            raise UsageError(f"--cost {text}: expected a sensor of {', '.join(sensors)}, got {name!r}; correct it")
        names = [name] if equals else [""]
        if names[0] in files:
            raise UsageError(
                f"--cost {text}: expected one file for {name if equals else 'all sensors'}, got two; name each once"
            )
        files[names[0]] = Path(file if equals else text)
    everywhere = files.pop("", None)
    return files if everywhere is None else {name: files.get(name, everywhere) for name in sensors}


def _document(
    compared: DemoDocument, judged: Mapping[str, JudgingDocument], times: Mapping[str, PairLatency]
) -> SensorsDocument:
    from mmkd_app.words import labelled_title
    from mmkd_documents.judging import SensorsDocument
    from mmkd_models.experiments.sensors import sensor_rows

    first = next(iter(judged.values()))
    currencies = {one.cost.currency for one in judged.values() if one.cost is not None}
    return SensorsDocument(
        name=compared.dataset.name,
        sha256=first.data.sha256,
        judged_on=f"{first.data.windows} {first.data.part}" if compared.split is None else compared.split.judged_on,
        labelled=labelled_title(compared.label_fraction, compared.labelled_groups),
        seeds=compared.seeds,
        measure=compared.reported_metric,
        faults_measure="" if first.faults is None else first.faults.measure,
        rows=sensor_rows(compared, judged, times),
        currency=next(iter(currencies), ""),
        costs_to_enter=tuple(dict.fromkeys(path for one in judged.values() if one.cost for path in one.cost.to_enter)),
        pages={name: f"{_PAGES}/{name}.html" for name in judged},
        command=shell_line("mmkd-evaluate", *sys.argv[1:]),
    )


def _write(out: Path, document: SensorsDocument, judged: Mapping[str, JudgingDocument]) -> None:
    from mmkd_app.pages.judging import render_judging
    from mmkd_app.pages.page import write_page
    from mmkd_app.pages.sensors import render_sensors

    write_file(out / SENSORS_FILE, json_text(document, indent=1).encode())
    write_page(out / PAGE_FILE, render_sensors(document))
    (out / _PAGES).mkdir(exist_ok=True)
    for name, one in judged.items():
        write_page(out / document.pages[name], render_judging(one))


def _show(document: SensorsDocument) -> None:
    from mmkd_app.pages.sensors import PAIR_HEADS, cells, headings, pair_cells, verdict
    from mmkd_app.words import for_terminal

    for sentence in verdict(document):
        print(for_terminal(f"{sentence}."))
    measure = document.measure
    counted = ", %" if measure.is_fraction else f", {measure.unit}" if measure.unit else ""
    title = f"{document.name}: {measure.words}{counted} on {document.judged_on}, {document.labelled}".rstrip(", ")
    table = plain_table(["sensor", *headings(document)], title=title)
    for row in document.rows:
        table.add_row(row.sensors[0], *map(for_terminal, cells(row, document)))
    show_table(table, width=170)  # as many columns as decide
    if document.pairs:
        table = plain_table(PAIR_HEADS, title=f"{document.pairs_measure.words} of two sensors together")
        for shown in pair_cells(document):
            table.add_row(*map(for_terminal, shown))
        show_table(table, width=170)
