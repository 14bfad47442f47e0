"""A study: which student is best within a latency budget, and what shows it.

Joins the parts: limits, workers, the table, the choice. Chooses by validation alone; the test windows are read by
finished networks of the table, after everything that is chosen is chosen by other windows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_models.data.dataset import Dataset
from mmkd_models.study.prepare import PreparedStudy, prepare_study
from mmkd_models.study.progress import Snapshot, StudyWatch
from mmkd_models.study.results import collect, restore
from mmkd_models.study.study_document import dataset_facts, document_of
from mmkd_models.study.study_options import StudyOptions
from mmkd_models.trials.executors import run_workers
from mmkd_models.trials.sizes import MeasureLatency
from mmkd_report.schema.study import StudyDocument

STUDY_FILE = "study.json"


def study(
    dataset: Dataset,
    options: StudyOptions,
    *,
    out: Path,
    measure_latency: MeasureLatency | None = None,
    on_progress: Callable[[Snapshot], None] | None = None,
    results: Path | None = None,
) -> StudyDocument:
    """Runs a study, or goes on with it, and writes `study.json` and the chosen `student.ckpt` into `out`.

    Args:
        dataset: where the windows come from.
        options: see there.
        out: the study's folder; it belongs to one dataset, modality and share of labels. Studies of other methods,
            sizes, seeds or limits in the same folder share its trials.
        measure_latency: from checkpoints of a student and a teacher to their latencies on this machine.
        on_progress: called about once a second while trials are trained.
        results: folder of compact results: what they know is not trained, and what is finished is added to them.

    Raises:
        UsageError: the options make no sense, or the folder belongs to another study.
        PerformanceError: no student size keeps the limits.
        UnavailableError: Ray was asked for and is not installed.
        MmkdError: what a worker raised.
    """
    began = time.monotonic()
    prepared = prepare_study(dataset, options, out=out, measure_latency=measure_latency)
    run_study(prepared, options, on_progress=on_progress, results=results)
    document = document_of(prepared, options, measure_latency)
    document = msgspec.structs.replace(document, duration_s=round(time.monotonic() - began, 1))
    write_document(out, document)
    return document


def run_study(
    prepared: PreparedStudy,
    options: StudyOptions,
    *,
    on_progress: Callable[[Snapshot], None] | None = None,
    results: Path | None = None,
) -> None:
    """Trains what is missing, until all is there or the time is used up; arguments and errors as `study`."""
    folder, order = prepared.folder, prepared.order
    seeds = sorted({*order.search_seeds, *order.seeds})
    if results is not None:
        restore(folder, results, seeds)
    watch = StudyWatch(folder, order, on_progress)
    run_workers(order, executor=options.executor, watch=watch)
    watch.last()
    if results is None:
        return
    collect(
        folder,
        results,
        dataset=dataset_facts(folder.dataset),
        seeds=order.seeds,
        impossible=order.impossible,
        compared=options.compared,
        rivals=options.rivals,
    )


def write_document(out: Path, document: StudyDocument) -> None:
    """Replaces `study.json`, all or nothing."""
    write_file(out / STUDY_FILE, msgspec.json.format(msgspec.json.encode(document), indent=1))
