"""`mmkd-evaluate`: judge a teacher, a student or a bundle on a dataset."""

from __future__ import annotations

from mmkd_edge.cli.interrupts import loading

with loading("mmkd-evaluate"):
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, NoReturn, get_args

    import msgspec

    from mmkd_edge.cli.options import Argument, Command, Option, run_line
    from mmkd_edge.cli.run import check_page, require_modules, run_command, shell_line
    from mmkd_edge.cli.show import json_text, say
    from mmkd_edge.errors import UsageError
    from mmkd_models.commands.evaluated import NEEDS, JudgingWindows, WindowOptions, judging_windows
    from mmkd_models.commands.evaluation import show_bundle, show_evaluation, show_kind
    from mmkd_models.commands.options import Data
    from mmkd_models.commands.suites import ShiftOptions, SuiteOptions, SuiteRequest, check_options, run_suites
    from mmkd_models.data.dataset import open_dataset
    from mmkd_models.evaluation.bundle import evaluate_bundle
    from mmkd_models.evaluation.confidence import ERROR_LEVELS
    from mmkd_models.metrics.classes import Metric
    from mmkd_models.networks.config import choice

if TYPE_CHECKING:
    from mmkd_report.schema.evaluation import EvaluationDocument

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
        "Example: mmkd-evaluate student.ckpt mydata --missing --against baseline.ckpt --page page.html. Without a "
        "model, mmkd-evaluate --sensors mydata shows which sensor is enough; see mmkd-evaluate --sensors --help."
    )
    run_line("mmkd-evaluate", arguments, [Command(function=evaluate, epilog=epilog)])


def evaluate(
    *,
    model: Annotated[Path, Argument("MODEL", "Checkpoint of a teacher or a student, or a bundle.")],
    data: Data,
    missing: Annotated[
        bool, Option("Also judge without some sensors, and with 10 to 90 % of the samples missing.", ("--missing",))
    ] = False,
    against: Annotated[
        list[Path] | None,
        Option("Checkpoint to compare with; with --suite also bundles. Repeatable with --suite.", metavar="OTHER"),
    ] = None,
    suites: SuiteOptions,
    shift: ShiftOptions,
    windows: WindowOptions,
    metric: Annotated[
        str | None,
        Option("Metric of the gains: accuracy, balanced_accuracy or macro_f1.", metavar="NAME", shown="the model's"),
    ] = None,
    seed: Annotated[int, Option("Seed of missing samples and of intervals.", min=0)] = 0,
    error_levels: Annotated[
        list[float] | None,
        Option("Error level at which to check a bundle's label sets. Repeatable.", ("--error-level",), "FRACTION"),
    ] = None,
    page: Annotated[
        Path | None, Option("Also write the results as one self-contained page.", metavar="FILE.html")
    ] = None,
    as_json: Annotated[bool, Option("Print one JSON document instead of tables.", ("--json",))] = False,
) -> None:
    """Judge a teacher, a student or a bundle on a dataset.

    A bundle is judged artifact by artifact, as a device runs it, with its probabilities and label sets.
    """
    from mmkd_export.plan import is_bundle

    if page is not None:
        check_page(page, extra="train")
    others = tuple(against or ())
    request = SuiteRequest(paths=(model, *others), data=data, windows=windows, options=suites, shift=shift, seed=seed)
    if suites.suite:
        _refuse(
            {"--missing": missing, "--metric": metric, "--error-level": error_levels},
            "cannot be combined with --suite; leave one of them out",
        )
        check_options(request)
        run_suites(request, page=page, as_json=as_json)
        return
    check_options(request)
    if is_bundle(model):
        _refuse(
            {"--missing": missing, "--metric": metric, "--page": page, "--against": against},
            "works for checkpoints, not for a bundle; judge the checkpoint that it was exported from",
        )
        levels = tuple(dict.fromkeys(error_levels or ERROR_LEVELS))
        for level in levels:
            if not 0 < level < 1:
                raise UsageError(f"--error-level {level:g}: expected a fraction above 0 and below 1")
        _evaluate_bundle(model, judging_windows(open_dataset(data), windows), levels, as_json=as_json)
        return
    if error_levels:
        raise UsageError(f"--error-level checks a bundle's label sets, and {model} is a checkpoint; export it first")
    _evaluate_checkpoints(request, missing=missing, metric=metric, page=page, as_json=as_json)


def _evaluate_checkpoints(
    request: SuiteRequest, *, missing: bool, metric: str | None, page: Path | None, as_json: bool
) -> None:
    others, windows, seed = request.paths[1:], request.windows, request.seed
    if len(others) > 1:
        raise UsageError(f"--against {others[1]}: expected one model to compare with, got {len(others)}; add --suite")
    require_modules(NEEDS, by="mmkd-evaluate of a checkpoint", extra="train")
    from mmkd_models.evaluation import report as reports

    judged = judging_windows(open_dataset(request.data), windows)
    contestants = [judged.read_checkpoint(path, knows=windows.training_windows) for path in request.paths]
    facts, kind = judged.facts([one.seen for one in contestants]), judged.dataset.spec.task.kind
    if kind != "classification":
        _refuse(
            {"--missing": missing, "--metric": metric, "--page": page},
            f"works for classification, and this dataset has the kind {kind}; leave it out",
        )
        show_kind(contestants, judged.windows, data=facts, as_json=as_json, seed=seed)
        return
    chosen: Metric = choice(metric or contestants[0].checkpoint.facts.metric, get_args(Metric), option="--metric")
    report = reports.evaluate(
        contestants[0],
        judged.windows,
        against=contestants[1] if others else None,
        data=facts,
        metric=chosen,
        missing=missing,
        seed=seed,
        on_part=say,
    )
    if page is not None:
        from mmkd_report import render_evaluation, write_page

        write_page(page, render_evaluation(msgspec.to_builtins(report)))
    if as_json:
        print(json_text(report))
        return
    show_evaluation(report)
    print(f"{'' if page is None else f'wrote {page}; '}next: {_next_command(report, request.data)}")


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Raise UsageError if one of the options was given."""
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} {why}")


def _evaluate_bundle(path: Path, judged: JudgingWindows, levels: tuple[float, ...], *, as_json: bool) -> None:
    kind = judged.dataset.spec.task.kind
    if kind != "classification":
        raise UsageError(
            f"{path}: a bundle is judged on classes, and this dataset has the kind {kind}; judge the checkpoint"
        )
    seen = judged.seen_by_bundle(path, knows=judged.options.training_windows)
    data = judged.facts(list(seen.values()))
    report = evaluate_bundle(path, judged.windows, data=data, seen=seen, error_levels=levels, on_part=say)
    if as_json:
        print(json_text(report))
        return
    show_bundle(report)
    print(f"next: {shell_line('mmkd-bench', 'run', path)}")


def _next_command(report: EvaluationDocument, data: Path) -> str:
    name = report.model.path
    if not (report.samples or report.subsets):
        return shell_line("mmkd-evaluate", name, data, "--missing")
    if report.model.kind == "teacher":
        return shell_line("mmkd-distill", name, data, "--modality", report.model.modalities[0], "-o", "student.ckpt")
    return shell_line("mmkd-export", name)
