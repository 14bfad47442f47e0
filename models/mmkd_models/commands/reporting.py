"""How `mmkd-data report` shows what it found, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.cli.outputs import check_file
from mmkd_edge.cli.run import check_page, require_modules, shell_line
from mmkd_edge.cli.show import json_text, plain_table, say, show_table
from mmkd_models.data.dataset import open_dataset
from mmkd_report.schema.data import DataReport


def run_report(directory: Path, *, page: Path | None, label_next: Path | None, as_json: bool) -> None:
    """Report on a dataset directory; writes the page and the CSV where they are asked for."""
    require_modules(("sklearn",), by="mmkd-data report", extra="train")
    from mmkd_models.data_report.labelling import label_csv
    from mmkd_models.data_report.report import report_on

    if page is not None:
        check_page(page, extra="train")
    if label_next is not None:
        check_file(label_next)
    found = report_on(open_dataset(directory), on_part=say)
    if label_next is not None:
        write_file(label_next, label_csv(found.to_label, found.splits[0]).encode())
    if page is not None:
        from mmkd_report import render_data_report, write_page

        write_page(page, render_data_report(msgspec.to_builtins(found)))
    if as_json:
        print(json_text(found))
        return
    for line in _lines(found):
        print(line)
    _show_probes(found)
    wrote = " and ".join(str(one) for one in (page, label_next) if one is not None)
    has_labels = found.splits[0].unlabelled < found.splits[0].windows
    print(f"{f'wrote {wrote}; ' if wrote else ''}next: {after_looking(directory, has_labels=has_labels)}")


def after_looking(directory: Path, *, has_labels: bool) -> str:
    """Return the command that a dataset is ready for: training, or without any label in train what needs none."""
    if has_labels:
        return shell_line("mmkd-train", "teacher", directory, "-o", "teacher.ckpt")
    adapt = shell_line("mmkd-adapt", "student.ckpt", directory, "-o", "adapted.ckpt")
    return f"{adapt} with a student that was trained elsewhere; to train here, label windows of train first"


def _lines(found: DataReport) -> Iterator[str]:
    yield f"{found.name}: {found.windows} windows, {found.groups or 'no'} groups"
    for one in found.suspicions:
        yield f"{'PROBLEM' if one.is_grave else 'note'}: {one.kind}: {one.sentence}; {one.advice}"
    if not found.suspicions:
        yield "no problems found"
    for text in found.not_judged:
        yield f"not judged: {text}"


def _show_probes(found: DataReport) -> None:
    table = plain_table(
        ["extra-trees recognise", "from", "balanced accuracy", "99 % interval", "chance"], left=("from",)
    )
    for one in found.probes:
        ends = f"{one.low:.1%} to {one.high:.1%}"
        table.add_row(one.asked, one.modality or "all sensors", f"{one.score:.1%}", ends, f"{one.guessing:.1%}")
    if found.probes:
        show_table(table)
