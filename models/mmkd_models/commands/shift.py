"""`mmkd-evaluate --suite shift`: its options, and what is trained by them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

from mmkd_edge.cli.options import Option
from mmkd_edge.cli.run import require_modules
from mmkd_edge.errors import UsageError
from mmkd_models.commands.options import NEEDS
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.data.left_out import LeftOutDomains
from mmkd_models.defaults import AUGMENT, BASELINE_LEARNING_RATES, STUDENT_PRESET, trains_of
from mmkd_models.metrics.scores import default_metric
from mmkd_models.networks.config import Preset, preset_named

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.compare.domains import ShiftOrder
    from mmkd_models.evaluation.report import Contestant


@dataclass(frozen=True, kw_only=True)
class ShiftOptions:
    """How models are trained anew without what is left out."""

    out: Annotated[
        Path | None,
        Option(
            "Folder that keeps what a suite trained and what models answered; an interrupted run goes on from it.",
            ("-o", "--out"),
            "DIR",
            shown=False,
        ),
    ] = None
    time: Annotated[
        bool,
        Option(
            "Of shift: also train on the first part of the campaign and judge on the last; needs times.", ("--time",)
        ),
    ] = False
    teacher: Annotated[str, Option("Of shift: size of the teacher: tiny, small, medium or base.", metavar="NAME")] = (
        "tiny"
    )
    label_share: Annotated[
        float, Option("Of shift: share of the training labels that are seen; 0.1 is a tenth.", metavar="SHARE")
    ] = 1.0
    steps: Annotated[
        int | None, Option("Of shift: training steps of every network; default as shipped.", min=1, metavar="N")
    ] = None
    workers: Annotated[
        int, Option("Processes that share what -o keeps: trainings and answers, one thread each.", min=1, metavar="N")
    ] = 1

    @property
    def of_shift(self) -> dict[str, bool]:
        """Gives by option of shift alone whether it was given, and says something."""
        return {
            "--time": self.time,
            "--teacher": self.teacher != ShiftOptions.teacher,
            "--label-share": self.label_share != ShiftOptions.label_share,
            "--steps": self.steps is not None,
        }


def shift_order(
    first: Contestant | Path, modalities: tuple[str, ...], dataset: Dataset, options: ShiftOptions, by: str | None
) -> ShiftOrder:
    """Gives what is trained: for the sensor of the first model, a student of its size.

    Raises:
        UsageError: there is no folder, the first model is a teacher, or what is asked cannot be.
        UnavailableError: a library that trains is not installed.
    """
    if options.out is None:
        raise UsageError("--suite shift: expected -o DIR, which keeps what is trained, got none; name a folder")
    if len(modalities) > 1:
        raise UsageError(
            f"--suite shift: expected a student or a bundle first, for whose sensor others are trained anew, got a "
            f"teacher of {' and '.join(modalities)}; name it by --against"
        )
    if not 0 < options.label_share <= 1:
        raise UsageError(
            f"--label-share {options.label_share:g}: expected above 0 and up to 1; 0.1 keeps a tenth of the labels"
        )
    require_modules(NEEDS, by="--suite shift", extra="train")
    from mmkd_models.compare.domains import ShiftOrder, check_shift
    from mmkd_models.compare.fold_result import ComparisonConfig
    from mmkd_models.distillation.methods import default_recipe
    from mmkd_models.training.committee import default_members

    metric = default_metric(dataset.spec.task.kind)
    teacher_train, student_train = trains_of(metric, options.steps)
    labelled = Labelled(share=options.label_share)
    config = ComparisonConfig(
        label_share=labelled.share,
        modalities=modalities,
        teacher=preset_named(options.teacher, option="--teacher"),
        student=_student_of(first),
        self_training=False,
        teacher_train=teacher_train,
        student_train=student_train,
        baseline_learning_rates=BASELINE_LEARNING_RATES,
        augment=AUGMENT,
        recipe=default_recipe(dataset.spec.task),
        members=default_members(dataset.spec.modalities),
        left_out=LeftOutDomains(by=by or "group"),
    )
    order = ShiftOrder(
        dataset=dataset, config=config, out=options.out / "shift", in_time=options.time, workers=options.workers
    )
    check_shift(order)
    return order


def _student_of(first: Contestant | Path) -> Preset:
    """The size of the model that is judged, where it is one of ours."""
    name = "" if isinstance(first, Path) else first.checkpoint.config.preset
    return preset_named(name, option="MODEL") if name in get_args(Preset) else STUDENT_PRESET
