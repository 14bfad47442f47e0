"""What is known of a study before anything is trained.

Whose its folder is, which sizes and methods are possible, and what is to do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from mmkd_edge.cli.outputs import check_folder
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import OF_GROUPS, split_facts
from mmkd_models.study.study_options import StudyOptions, check_study, seeds_that_count
from mmkd_models.training.folder_owner import owner_of_folder
from mmkd_models.trials.folder import StudyFolder
from mmkd_models.trials.sizes import MeasureLatency, impossible_entries, possible_methods, student_sizes
from mmkd_models.trials.space import Entry, StudyConditions
from mmkd_models.trials.worker import WorkOrder
from mmkd_report.schema.figures import SplitBy
from mmkd_report.schema.study import Skipped, StudentSize

CLAIM_FILE = "folder.json"


JOURNAL_FILE = "study.journal"


@dataclass(frozen=True, kw_only=True)
class PreparedStudy:
    """What is known before anything is trained."""

    folder: StudyFolder
    order: WorkOrder
    sizes: tuple[StudentSize, ...]
    skipped: tuple[Skipped, ...]


def prepare_study(
    dataset: Dataset, options: StudyOptions, *, out: Path, measure_latency: MeasureLatency | None = None
) -> PreparedStudy:
    """Checks options and folder, and finds which sizes and methods are possible; arguments and errors as `study`."""
    check_study(dataset, options, measure_latency)
    _take(out, options.conditions, split_facts(dataset.everything()).by)
    return _prepare(dataset, options, out, measure_latency)


class _Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose folder it is."""

    dataset_sha256: str
    modality: str
    label_share: float
    labelled_groups: int | msgspec.UnsetType = msgspec.UNSET
    split: SplitBy = OF_GROUPS.by


def _take(out: Path, conditions: StudyConditions, split: SplitBy) -> None:
    check_folder(out)
    ours = _Owner(
        dataset_sha256=conditions.dataset_sha256,
        modality=conditions.modality,
        label_share=conditions.label_share,
        labelled_groups=conditions.labelled_groups,
        split=split,
    )
    path = out / CLAIM_FILE
    found = owner_of_folder(path, ours, what="whose folder it is", cure="choose another folder")
    for key in _Owner.__struct_fields__:
        wanted, got = getattr(ours, key), getattr(found, key)
        if wanted != got:
            told = ["none" if one is msgspec.UNSET else repr(one) for one in (wanted, got)]
            raise UsageError(f"{path}: expected a study with {key} {told[0]}, got {told[1]}; choose another folder")


def _prepare(
    dataset: Dataset, options: StudyOptions, out: Path, measure_latency: MeasureLatency | None
) -> PreparedStudy:
    folder = StudyFolder(out=out, dataset=dataset, conditions=options.conditions, space=options.space)
    sizes = student_sizes(
        folder,
        options.space.students,
        max_latency_ms=options.max_latency_ms,
        max_parameters=options.max_parameters,
        measure_latency=measure_latency,
    )
    kept = tuple(preset for preset, size in zip(options.space.students, sizes, strict=True) if not size.excluded)
    space = msgspec.structs.replace(options.space, students=kept)
    folder = replace(folder, space=space)
    skipped = impossible_entries(folder, required=options.required)
    space = msgspec.structs.replace(space, methods=possible_methods(space, skipped))
    folder = replace(folder, space=space)
    kept_names = [method.name for method in space.methods]
    search_seeds = () if options.grid else tuple(range(options.search_seeds))
    order = WorkOrder(
        dataset=str(dataset.path.absolute()),
        out=str(out.absolute()),
        storage=str((out / JOURNAL_FILE).absolute()) if options.storage is None else options.storage,
        conditions=options.conditions,
        space=space,
        impossible=tuple(msgspec.convert(_named(one), Entry) for one in skipped if one.method in kept_names),
        grid=options.grid,
        trials=options.trials,
        finalists=options.finalists,
        search_seeds=search_seeds,
        seeds=tuple(range(options.seeds))
        if options.grid
        else seeds_that_count(dataset, seeds=options.seeds, search_seeds=options.search_seeds),
        deadline=None if options.budget_hours is None else time.time() + 3600 * options.budget_hours,
        workers=options.workers,
        compared=options.compared,
    )
    return PreparedStudy(folder=folder, order=order, sizes=sizes, skipped=skipped)


def _named(skipped: Skipped) -> dict[str, str | None]:
    return {"student": skipped.student, "method": skipped.method, "teacher": skipped.teacher}
