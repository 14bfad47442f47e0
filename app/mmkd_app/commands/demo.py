"""`mmkd-demo`: the whole chain on real recordings."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args

import msgspec

from mmkd_app.cli.options import Command, Option, run_line
from mmkd_app.cli.run import run_command, shell_line
from mmkd_app.cli.show import json_text, plain_table, say, show_table
from mmkd_app.experiments import LAUNCHES, ComparisonOptions, pair_latency, requested_plan, run_with_progress
from mmkd_app.training.options import AllCores, Duration, ExecutorName, refuse_without_effect
from mmkd_documents.figures import Measure
from mmkd_edge.bundle.files import write_file
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.outputs import lock_output
from mmkd_models.data.dataset import Dataset, open_dataset, shipped_dataset
from mmkd_models.data.folds import Labelled, label_option
from mmkd_models.data.spec import refuse_normal
from mmkd_models.experiments.workers import Executor
from mmkd_models.networks.config import choice

if TYPE_CHECKING:
    import typer

    from mmkd_documents.demo import DemoBenchmark, DemoDocument, Gain, TestScores
    from mmkd_models.networks.config import MemberKind

_NEEDS = (
    *("torch", "lightning_fabric", "sklearn", "onnx", "onnxscript", "onnxruntime", "psutil", "jinja2", "typer", "rich"),
)
_EPILOG = "An interrupted run continues: give the same --out and options."

_COMPETITORS = {
    "extra_trees": "extra-trees",
    "mini_rocket": "MiniRocket",
    "rocket_and_trees": "both",
    "baseline": "baseline",
    "distilled_rocket": "taught rocket",
    "student": "student",
}

_DOCUMENT = "demo.json"

_QUICK_OPTIONS = (
    "quick",
    "out",
    "dataset",
    "modality",
    "seeds",
    "label_fraction",
    "labelled_groups",
    "workers",
    "executor",
    "as_json",
)
_QUICK_MEMBERS: tuple[MemberKind, ...] = ("convolutions", "intervals", "trees")
_QUICK_STEPS, _QUICK_DURATION_S = 60, 1.0
_FULL_OVER_QUICK = 2.3  # processor time on the shipped recordings: 359 s over 159 s


def main() -> NoReturn:
    """Run `mmkd-demo`."""
    run_command("mmkd-demo", run_demo, needs=_NEEDS, extra="export,bench")


def run_demo(arguments: Sequence[str]) -> None:
    """Run `mmkd-demo` with these arguments."""
    run_line("mmkd-demo", arguments, [Command(function=demo, epilog=_EPILOG)])


def demo(
    context: typer.Context,
    *,
    out: Annotated[Path, Option("Folder to write.", ("-o", "--out"), "DIR")] = Path("demo"),
    dataset: Annotated[Path | None, Option("Dataset directory; default the shipped one.")] = None,
    quick: Annotated[bool, Option("A first look: a tiny teacher, few steps, quick members.", ("--quick",))] = False,
    compared: ComparisonOptions,
    workers: AllCores = None,
    executor: ExecutorName = "local",
    duration_s: Duration = 4.0,
    as_json: Annotated[bool, Option("Print one JSON document.", ("--json",))] = False,
) -> None:
    """The whole chain on shipped recordings, or on yours: which one sensor is enough?

    Trains a multimodal teacher, and for every single sensor a labels-only baseline, a distilled student and
    classical rivals; exports the students, benchmarks the best one in the device runtime, and writes one page.
    """
    from mmkd_app.demo_bundles import measure
    from mmkd_export.targets.native import latency_limit
    from mmkd_models.evaluation.rivals import RIVALS
    from mmkd_models.experiments.experiment import Experiment
    from mmkd_models.experiments.summary import demo_document
    from mmkd_models.training.checkpoint import library_versions

    where = choice(executor, get_args(Executor), option="--executor")
    began, is_resumed = time.monotonic(), (out / "folds").exists()
    if quick:
        refuse_without_effect(context, _QUICK_OPTIONS, "with --quick")
        duration_s = _QUICK_DURATION_S
    context.with_resource(lock_output(out, is_folder=True))
    data = open_dataset(shipped_dataset() if dataset is None else dataset)
    refuse_normal(data.spec, "mmkd-demo")
    compared = quick_options(data, compared) if quick else compared
    rivals = RIVALS[:-1] if quick else RIVALS  # the last learns from the teacher
    plan = requested_plan(data, compared, workers=workers, executor=where, rivals=rivals)
    experiment = Experiment(dataset=data, plan=plan, out=out, limit=latency_limit(compared.max_latency_ms))
    document = msgspec.structs.replace(
        demo_document(run_with_progress(experiment)),
        command=shell_line("mmkd-demo", *sys.argv[1:]),
        versions=library_versions(),
        report=str(out / "report.html"),
        is_first_look=quick,
    )
    pair, bundle = partial(pair_latency, duration_s=duration_s), partial(_bundle, duration_s=duration_s)
    try:
        measured = measure(document, experiment, pair=pair, bundle=bundle, say=say)
    except BaseException:
        if not (out / _DOCUMENT).exists():  # training took long, so its results are written
            _write(out, document, began=began)
            say(f"wrote {document.report}, without what this machine measures")
        raise
    document = _write(out, measured, began=began)
    if as_json:
        print(json_text(document, indent=1))
    else:
        show_demo(document, out=out, dataset=data, quick_s=None if is_resumed else document.duration_s)


def quick_options(data: Dataset, options: ComparisonOptions) -> ComparisonOptions:
    """Return the options of a first look: no transformer student unless windows are too short for all others."""
    from mmkd_models.training.closed_form import is_long_enough

    sensors = [spec for spec in data.spec.sensors if options.modality is None or spec.name in options.modality]
    has_quick = all(any(is_long_enough(spec, kind) for kind in _QUICK_MEMBERS) for spec in sensors)
    members = ",".join(_QUICK_MEMBERS if has_quick else ("transformer", *_QUICK_MEMBERS))
    return replace(options, teacher="tiny", steps=_QUICK_STEPS, student_members=members)


def _bundle(bundle: Path, reference: Path | None, *, duration_s: float) -> tuple[DemoBenchmark, dict[str, Any]]:
    from mmkd_bench.measuring.opening import Choice
    from mmkd_bench.run import measure_bundle
    from mmkd_documents.bench import Settings
    from mmkd_documents.demo import DemoBenchmark, LatencyPercentiles

    choice = Choice(bundle=str(bundle), options=OpenOptions(reference=None if reference is None else str(reference)))
    report = measure_bundle(choice, Settings(launches=LAUNCHES, duration_s=duration_s))
    latency, result = report.result.latency, report.result
    p50, p90, p99 = (
        None if (value_us := latency.value_us(quantile)) is None else value_us / 1e3 for quantile in (0.5, 0.9, 0.99)
    )
    benchmark = DemoBenchmark(
        bundle=report.subject.bundle,
        backend=report.configuration.backend,
        threads=report.configuration.threads,
        latency_ms=LatencyPercentiles(p50=p50, p90=p90, p99=p99, samples=latency.count),
        load_ms=result.load_ms,
        first_call_ms=result.first_call_ms,
        rss_mb=result.rss_mb,
        stable=report.stability.stable,
    )
    return benchmark, msgspec.to_builtins(report.machine)


def _write(out: Path, document: DemoDocument, *, began: float) -> DemoDocument:
    from mmkd_app.pages.demo import render_demo
    from mmkd_app.pages.page import write_page

    document = msgspec.structs.replace(document, duration_s=round(time.monotonic() - began, 1))
    write_file(out / _DOCUMENT, json_text(document, indent=1).encode())
    write_page(out / "report.html", render_demo(document))
    return document


def show_demo(demo: DemoDocument, *, out: Path, dataset: Dataset, quick_s: float | None = None) -> None:
    """Print scores, verdict and next commands; `quick_s` is what a whole first look took."""
    from mmkd_app.pages.demo import gap_text
    from mmkd_app.pages.demo_answer import answer, is_judged, leading_rival, leak_text, recommendation
    from mmkd_app.words import for_terminal, labelled_title

    measure = demo.reported_metric
    counted = f" in {measure.unit}" if measure.unit and not measure.is_fraction else ""
    judged_on = "" if demo.split is None else f" on {demo.split.judged_on}"
    labelled = labelled_title(demo.label_fraction, demo.labelled_groups)
    title = f"{demo.dataset.name}: {measure.words}{counted}{judged_on}, {labelled}"
    table = plain_table(("sensor", *_COMPETITORS.values(), "gain", "95 % interval", "gap recovered"), title=title)
    for name, sensor in demo.students.items():
        gain, ends = _gain(sensor.gain_points, measure)
        scores = (_score(getattr(sensor, key), measure) for key in _COMPETITORS)
        table.add_row(name, *scores, gain, ends, for_terminal(gap_text(sensor)))
    show_table(table, width=150)  # six competitors with their spreads
    print(f"teacher (all sensors) {_score(demo.teacher, measure)}, {demo.teacher.parameters:,} parameters")
    for sentence in (*(answer(demo) if is_judged(demo) else ()), leak_text(demo)):
        if sentence and sentence != recommendation(demo):
            print(for_terminal(sentence))
    bundle, best, rival = str(out / "student.edge"), demo.best_student or next(iter(demo.students)), leading_rival(demo)
    reference = demo.students[best].reference
    if is_judged(demo) and not rival:
        opened = repr(bundle) if reference is None else f"{bundle!r}, reference={reference!r}"
        print(
            "\nTo run the student:\n"
            "    from mmkd_edge import EdgePredictor\n"
            f"    with EdgePredictor.open({opened}) as predictor:\n"
            f"        print(predictor.predict(window))  # {best}: (T, C)={dataset.spec.modality(best).shape}, raw units"
        )
    print(
        f"\n{for_terminal(recommendation(demo))}\n{_last_line(demo, best, out=out, dataset=dataset, quick_s=quick_s)}"
    )


def _last_line(demo: DemoDocument, best: str, *, out: Path, dataset: Dataset, quick_s: float | None) -> str:
    """Return what was written, and the next command."""
    from mmkd_app.pages.demo_answer import RECIPES, is_judged, leading_rival

    bundle, reference, rival = str(out / "student.edge"), demo.students[best].reference, leading_rival(demo)
    written = f"wrote {demo.report} and {bundle}"
    if demo.is_first_look:
        full = shell_line("mmkd-demo", *[argument for argument in sys.argv[1:] if argument != "--quick"])
        minutes = None if quick_s is None else math.ceil(_FULL_OVER_QUICK * quick_s / 60)
        long = "longer" if minutes is None else f"about {minutes} min"
        return f"{written}, a first look; the full one takes {long}; next: {full}"
    if not is_judged(demo):
        following = shell_line("mmkd-data", "check", dataset.path)
    elif rival:
        groups = None if demo.labelled_groups is None else demo.labelled_groups.labelled
        labels = label_option(Labelled(fraction=demo.label_fraction or 1.0, groups=groups)).split()
        command = ("mmkd-train", "student", dataset.path, "--modality", best, "--fold", str(demo.seeds[0]), *labels)
        following = shell_line(*command, "--members", ",".join(RECIPES[rival]), "-o", out / "recommended.ckpt")
    else:
        option = () if reference is None else ("--reference", reference)
        following = shell_line("mmkd-bench", "run", bundle, *option)
    return f"{written}; next: {following}"


def _gain(gain: Gain | None, measure: Measure) -> tuple[str, str]:
    from mmkd_app.words import for_terminal, is_number, signed_gain

    if gain is None:
        return "-", "-"
    mean, low, high = (for_terminal(signed_gain(value, measure)) for value in (gain.mean, gain.low, gain.high))
    return mean, f"{low} to {high}" if is_number(gain.low) and is_number(gain.high) else "-"


def _score(scored: TestScores | None, measure: Measure) -> str:
    from mmkd_app.words import for_terminal, is_number, significant

    if scored is None or (score := scored.score(measure)) is None:
        return "-"
    values = [value for value in (score.mean, score.std) if is_number(value)]
    return " ± ".join(for_terminal(significant(each)) if measure.lower_is_better else f"{each:.3f}" for each in values)
