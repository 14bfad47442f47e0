"""`mmkd-evaluate --suite`: which models and windows are judged by which suites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec

from mmkd_edge.cli.options import Option
from mmkd_edge.cli.outputs import held
from mmkd_edge.cli.run import require_modules, shell_line
from mmkd_edge.cli.show import json_text, say, saying_how_to_go_on
from mmkd_edge.errors import UsageError
from mmkd_models.commands.judging import show_judging
from mmkd_models.commands.shift import ShiftOptions, shift_order
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.suites.suite import SUITES, SuiteName
from mmkd_models.metrics.scores import default_metric, metrics_of
from mmkd_models.networks.config import choice
from mmkd_report.schema.evaluation import DataFacts, SeenWindows
from mmkd_report.schema.judging import JudgingDocument, ShiftFacts

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.compare.domains import ShiftOrder
    from mmkd_models.evaluation.report import Contestant
    from mmkd_models.evaluation.rivals import RivalName
    from mmkd_models.evaluation.suites.answering import AskedModel


def cost_template() -> str:
    """What `--print-cost` prints."""
    from mmkd_models.evaluation.suites.cost_file import TEMPLATE

    return TEMPLATE.rstrip("\n")


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """What is asked of the models beyond their scores."""

    suite: Annotated[
        list[str] | None,
        Option(f"Judge by a suite: {', '.join(SUITES)}, or all. Repeatable.", metavar="NAME"),
    ] = None
    rival: Annotated[
        list[str] | None,
        Option(
            "Judge beside the first model what learns from the same labels of its sensor: extra_trees, mini_rocket, "
            "rocket_and_trees, multi_rocket_hydra. Repeatable.",
            metavar="NAME",
        ),
    ] = None
    by: Annotated[
        str | None,
        Option(
            "Of groups and shift: compare, or leave out, the values of this column.", metavar="COLUMN", shown="group"
        ),
    ] = None
    cost: Annotated[
        Path | None, Option("Of cost: the assumptions, as --print-cost prints them.", metavar="FILE.toml")
    ] = None
    print_cost: Annotated[
        bool,
        Option(
            "Print a file of assumptions with their sources, to fill in, and stop.",
            ("--print-cost",),
            says=cost_template,
        ),
    ] = False


def chosen_suites(names: Sequence[str]) -> tuple[SuiteName, ...]:
    """Gives the suites, each once, in their order. Raises UsageError where there is none of a name."""
    if "all" in names:
        return SUITES
    chosen = {choice(name, (*get_args(SuiteName), "all"), option="--suite") for name in names}
    return tuple(name for name in SUITES if name in chosen)


def makes_shift(options: SuiteOptions, anew: ShiftOptions) -> bool:
    """Gives whether networks are trained anew: `all` does so only where -o keeps them."""
    names = options.suite or ()
    return "shift" in names or (anew.out is not None and "shift" in chosen_suites(names))


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What judges and what is judged: checkpoints, and bundles by their path.

    Attributes:
        bundles: by path, what each student of a bundle knows of the windows, by name.
    """

    judged: Sequence[Contestant | Path]
    bundles: Mapping[Path, Mapping[str, SeenWindows | None]]
    windows: Windows
    train: Windows
    calibration: Windows
    data: DataFacts
    options: SuiteOptions
    dataset: Dataset
    anew: ShiftOptions
    seed: int

    @property
    def suites(self) -> tuple[SuiteName, ...]:
        """Gives the suites that are asked for."""
        return chosen_suites(self.options.suite or ())


def run_suites(
    asked: Judging, *, side_by_side: Callable[[int, object], None] | None, page: Path | None, as_json: bool
) -> None:
    """Judges models side by side and shows what was found.

    Args:
        side_by_side: asks the portions of the worker of a number, in any process; None asks here, one after the other.
    """
    _check_options(asked.options, asked.suites)
    document = _judged(asked, side_by_side)
    if page is not None:
        from mmkd_report import render_judging, write_page

        write_page(page, render_judging(msgspec.to_builtins(document)))
    if as_json:
        print(json_text(document))
        return
    show_judging(document)
    wrote = "" if page is None else f"wrote {page}; "
    print(f"{wrote}next: {_next_command(document)}")


def _judged(asked: Judging, side_by_side: Callable[[int, object], None] | None) -> JudgingDocument:
    """What cannot be is refused before a rival or anything else is trained."""
    from mmkd_models.evaluation.suites.suite import check, judge

    options, anew, windows = asked.options, asked.anew, asked.windows
    with ExitStack() as stack:
        models = _models(stack, asked)
        shift = None
        if makes_shift(options, anew):
            order = shift_order(asked.judged[0], models[0].facts.modalities, asked.dataset, anew, options.by)
            shift = partial(_shift, order)
        check(windows, calibration=asked.calibration, suites=asked.suites, by=options.by, cost=options.cost)
        rivals = _chosen_rivals(asked, models[0])
        if anew.out is not None:
            stack.enter_context(held(anew.out, is_folder=True))
            stack.enter_context(saying_how_to_go_on())
            if not all(isinstance(one, Path) for one in asked.judged):
                stack.enter_context(_one_thread())
        models += _rivals(rivals, asked, models[0])
        if anew.out is not None:
            models = _kept(models, anew.out, asked.data)
        if side_by_side is not None:
            _ask_side_by_side(side_by_side, anew.workers)
        return judge(
            models,
            windows,
            train=asked.train,
            calibration=asked.calibration,
            data=asked.data,
            suites=asked.suites,
            by=options.by,
            cost=options.cost,
            shift=shift,
            seed=asked.seed,
            on_part=say,
        )


def _shift(order: ShiftOrder, on_part: Callable[[str], None]) -> ShiftFacts:
    from mmkd_models.compare.domains import judge_shift

    return judge_shift(order, on_part=on_part)


def ask_share(asked: Judging, number: int) -> None:
    """Asks the models the portions of the worker of this number, and keeps the answers."""
    from mmkd_models.evaluation.suites.kept import ask
    from mmkd_models.evaluation.suites.suite import portions

    assert asked.anew.out is not None  # of several workers
    with ExitStack() as stack:
        opened = _models(stack, asked)
        models = _kept(opened, asked.anew.out, asked.data)
        every = portions(models, asked.windows, train=asked.train, suites=asked.suites, seed=asked.seed)
        ask(every, number=number, of=asked.anew.workers)


def _ask_side_by_side(make: Callable[[int, object], None], workers: int) -> None:
    from mmkd_models.compare.pool import WorkerPool

    with WorkerPool(make, workers, here=make) as pool:
        pool.make(range(workers), on_step=lambda number, step: None, on_end=lambda number: None)


def _one_thread() -> AbstractContextManager[None]:
    from mmkd_models.compare.pool import one_thread

    return one_thread()


def _kept(models: Sequence[AskedModel], out: Path, data: DataFacts) -> list[AskedModel]:
    from mmkd_models.evaluation.suites.kept import with_kept_answers

    return list(with_kept_answers(models, out / "answers", data.sha256))


def _check_options(options: SuiteOptions, suites: Sequence[SuiteName]) -> None:
    """Raises UsageError where an option has no suite, or a suite lacks its option."""
    if options.by is not None and not {"groups", "shift"} & set(suites):
        raise UsageError("--by: expected --suite groups or shift beside it, whose column it is; add it")
    if options.cost is not None and "cost" not in suites:
        raise UsageError("--cost: expected --suite cost beside it; add it")
    if options.cost is None and "cost" in (options.suite or ()):
        raise UsageError("--suite cost: expected assumptions, got none; --print-cost prints a file to give to --cost")


def _models(stack: ExitStack, asked: Judging) -> list[AskedModel]:
    from mmkd_models.evaluation.suites.opening import answering_bundle, answering_checkpoint, named_apart

    found: list[AskedModel] = []
    for one in asked.judged:
        if isinstance(one, Path):
            found += answering_bundle(stack, str(one), asked.windows, asked.data, seen=asked.bundles[one])
        else:
            found.append(answering_checkpoint(one, asked.windows, asked.data))
    return named_apart(found)


def _chosen_rivals(asked: Judging, first: AskedModel) -> list[RivalName]:
    """Gives the rivals that are asked for. Raises UsageError where they could not learn, or not be judged."""
    names = asked.options.rival
    if not names:
        return []
    require_modules(("torch", "sklearn"), by="mmkd-evaluate --rival", extra="train")
    from mmkd_models.evaluation.rivals import RIVALS
    from mmkd_models.evaluation.suites.beside import check_rivals

    untaught = tuple(name for name in RIVALS if name != "taught_rocket")
    chosen = [choice(name, untaught, option="--rival") for name in dict.fromkeys(names)]
    if set(chosen) != {"extra_trees"}:
        require_modules(("aeon",), by="--rival with convolutional features", extra="rivals")
    check_rivals(first, asked.windows, train=asked.train, valid=asked.calibration)
    return chosen


def _rivals(chosen: Sequence[RivalName], asked: Judging, first: AskedModel) -> list[AskedModel]:
    """Rivals that see the labels that the first checkpoint's training saw; of a bundle nobody knows: then all."""
    if not chosen:
        return []
    from mmkd_models.evaluation.suites.beside import answering_rivals
    from mmkd_models.training.inputs import visible_labels

    judged, train = asked.judged[0], asked.train
    metric = default_metric(train.spec.task.kind)
    if not isinstance(judged, Path):
        facts = judged.checkpoint.facts
        metric = choice(facts.metric, metrics_of(train.spec.task.kind), option="--rival")
        if facts.labelled is not msgspec.UNSET and facts.dataset_sha256 == asked.data.sha256:
            share, groups = facts.labelled.share, facts.labelled.groups
            train = train.with_labels(visible_labels(train, share=share, groups=groups, seed=facts.training.seed))
    say(f"rivals learn from {int(train.labelled.sum())} labelled windows: {', '.join(chosen)}")
    return list(
        answering_rivals(
            chosen, first, asked.windows, train=train, valid=asked.calibration, metric=metric, seed=asked.seed
        )
    )


def _next_command(document: JudgingDocument) -> str:
    path = document.models[0].path
    if document.models[0].artifact:
        return shell_line("mmkd-bench", "run", path)
    return shell_line("mmkd-export", path) if document.models[0].role != "teacher" else shell_line("mmkd-inspect", path)
