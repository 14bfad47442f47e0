"""What suites found, over several sets, from what `mmkd-evaluate --suite` printed: the tables of its results page.

    python benchmarks/proofs/judging_table.py RESULT.json [RESULT.json ...]

A row a document. Errors are what is missing to full balanced accuracy, in per cent: with sound sensors, and the mean
over faults and severities. Beside them the share that is left of the error of labels alone, the mean over faults, with
its 95 % interval where five groups or more judge, and its mean over sets, by Student's t. Then the gaps between groups,
in points, and how far the estimate without labels flatters. A document of shift gets a table of its own: a row a domain
that nothing was trained on.

Several documents of a set and sensor are folds. The first one has the rows above; a table of its own pools all of them:
means over folds, each with other groups and trainings, with 95 % intervals by Student's t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np

from mmkd_models.compare.domains import spread_of
from mmkd_report.documents.figures import Measure
from mmkd_report.documents.judging import (
    DomainSpread,
    FaultsFacts,
    Gap,
    GroupMeasure,
    JudgingDocument,
    RelativeError,
    ShiftFacts,
    read_judging,
)
from proofs.script import head, parser_of, row

MEASURES: tuple[GroupMeasure, ...] = get_args(GroupMeasure)


def main() -> None:
    """Print the tables of what the documents hold."""
    parser = parser_of(__doc__)
    parser.add_argument("documents", nargs="+", type=Path)
    paths: list[Path] = parser.parse_args().documents
    found = [read_judging(msgspec.json.decode(path.read_bytes())) for path in paths]
    print("\n\n".join(tables(found)))


def tables(documents: Sequence[JudgingDocument]) -> Iterator[str]:
    """Give a table of each suite that a document has, in Markdown."""
    folds = folds_of(documents)
    first = [several[0] for several in folds.values()]
    faults = [(one, one.faults) for one in first if one.faults is not None]
    if faults:
        yield errors_table(faults)
        yield relative_table(faults)
    if any(one.groups is not None for one in first):
        yield gaps_table(first)
    if any(one.confidence is not None for one in first):
        yield estimates_table(first)
    pooled = [several for several in folds.values() if len(several) > 1 and several[0].faults is not None]
    if pooled:
        yield pooled_table(pooled)
    for one in documents:
        if one.shift is not None:
            yield shift_table(one.shift)


def named(document: JudgingDocument) -> str:
    """Give the set and the sensor that breaks."""
    return f"{document.data.name} {', '.join(document.models[0].modalities)}"


def folds_of(documents: Sequence[JudgingDocument]) -> dict[str, list[JudgingDocument]]:
    """Give the documents by set and sensor; those of shift pool by themselves, and are not among them."""
    found: dict[str, list[JudgingDocument]] = {}
    for one in documents:
        if one.shift is None:
            found.setdefault(named(one), []).append(one)
    return found


def columns(document: JudgingDocument) -> dict[str, str]:
    """Give the name of the model of each column: teacher, labels alone, the judged one, rivals by their own names."""
    found: dict[str, str] = {one.role: one.name for one in document.models if one.role == "teacher"}
    if document.baseline is not None:
        found["labels alone"] = document.baseline
    found["student"] = document.models[0].name
    return found | {one.name: one.name for one in document.models if one.role == "rival"}


def columns_of(documents: Sequence[JudgingDocument]) -> list[str]:
    """Give the columns that one of the documents has or more, as the one with most of them orders them."""
    found = sorted((columns(one) for one in documents), key=len, reverse=True)
    return list(dict.fromkeys(name for one in found for name in one))


def errors_table(found: Sequence[tuple[JudgingDocument, FaultsFacts]]) -> str:
    """Give errors with sound sensors and under faults."""
    names = columns_of([document for document, _ in found])
    rows = [head("error, sound / under faults, %", "windows, groups", *names, "worst fault of the student", texts=1)]
    for document, faults in found:
        known = columns(document)
        cells = [errors_of(faults, known[name]) if name in known else "-" for name in names]
        judged = f"{document.data.windows}, {document.data.groups}"
        rows.append(row(named(document), judged, *cells, faults.faults[0].name))
    return "\n".join(rows)


def errors_of(faults: FaultsFacts, name: str) -> str:
    """Give a model's error with sound sensors, and the mean under faults."""
    broken = np.mean([np.mean(one.errors[name]) for one in faults.faults])
    return f"{100 * faults.sound[name]:.1f} / {100 * broken:.1f}"


def relative_table(found: Sequence[tuple[JudgingDocument, FaultsFacts]]) -> str:
    """Give errors under faults as shares of those of labels alone, and under how many faults the student errs less."""
    names = [name for name in columns_of([document for document, _ in found]) if name != "labels alone"]
    rows = [head("error of labels alone that is left, %", *names, "faults with less error of the student", texts=1)]
    for document, faults in found:
        known = columns(document)
        cells = [left(faults.relative.get(known.get(name, ""))) for name in names]
        of_student = [one.relative[known["student"]] for one in faults.faults if known["student"] in one.relative]
        rows.append(row(named(document), *cells, f"{sum(one < 1 for one in of_student)} of {len(of_student)}"))
    if len(found) > 1:
        over = (spread_over([left_over(document, name) for document, _ in found], digits=0) for name in names)
        rows.append(row("mean over sets", *over, ""))
    return "\n".join(rows)


def left(found: RelativeError | None) -> str:
    """Give a share in per cent, with its interval where it has one."""
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{100 * found.mean:.0f} (few groups)"
    return f"{100 * found.mean:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f})"


def gaps_table(documents: Sequence[JudgingDocument]) -> str:
    """Give the gap of each measure for the teacher, labels alone and the student, and what teaching did to it."""
    rows = [head("gap, points", "of", "teacher", "labels alone", "student", "student minus labels alone", "", texts=2)]
    for document in documents:
        if document.groups is None:
            continue
        judged = [one for one in document.groups.values if one.is_judged]
        if not document.groups.gaps:
            few = f"not known: {len(judged)} of {len(document.groups.values)} groups have 30 windows"
            rows.append(row(named(document), few, *[""] * 5))
        for change in document.groups.changes:
            gaps, known = document.groups.gaps[change.measure], columns(document)
            cells = [gap(gaps.get(known.get(name, ""))) for name in ("teacher", "labels alone", "student")]
            of = f"{change.measure}, {len(judged)} {document.groups.by}s"
            ends = f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"
            rows.append(row(named(document), of, *cells, ends, change.change))
    return "\n".join(rows)


def gap(found: Gap | None) -> str:
    """Give a gap with its interval and what chance alone exceeds once in twenty."""
    if found is None:
        return "-"
    return f"{100 * found.gap:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f}; chance {100 * found.chance:.1f})"


def estimates_table(documents: Sequence[JudgingDocument]) -> str:
    """Give estimated and true accuracy, sound and under the fault that flatters most."""
    rows = [head("estimated / true accuracy, %", "model", "sound", "flatters under", "most under", texts=2)]
    for document in documents:
        if document.confidence is None:
            continue
        for role, name in columns(document).items():
            sound, *broken = document.confidence.models[name].rows
            beyond = document.confidence.misleads_beyond
            flattered = sum(one.estimated - one.accuracy > beyond for one in broken)
            most = max(broken, key=lambda one: one.estimated - one.accuracy)
            rows.append(
                row(
                    named(document),
                    role,
                    f"{100 * sound.estimated:.1f} / {100 * sound.accuracy:.1f}",
                    f"{flattered} of {len(broken)}",
                    f"{most.condition} {100 * most.estimated:.1f} / {100 * most.accuracy:.1f}",
                )
            )
    return "\n".join(rows)


def pooled_table(found: Sequence[Sequence[JudgingDocument]]) -> str:
    """Give what the student is better by than labels alone, what is left of their error, and what gaps change by."""
    everywhere = set.intersection(*(set(columns(one)) for folds in found for one in folds))
    names = [name for name in columns(found[0][0]) if name in everywhere - {"labels alone"}]
    better = ["student better by, points: sound", "under faults"]
    left_of = [f"error left, %: {names[0]}", *names[1:]]
    wider = [f"gap wider by, points: {MEASURES[0]}", *MEASURES[1:]]
    rows = [head("mean over folds", "folds, windows, groups", *better, *left_of, *wider, texts=1)]
    for folds in found:
        judged = [sum(one.data.windows for one in folds), sum(one.data.groups for one in folds)]
        cells = [spread_over([better_by(one, is_sound=is_sound) for one in folds]) for is_sound in (True, False)]
        cells += [spread_over([left_over(one, name) for one in folds]) for name in names]
        cells += [spread_over([wider_by(one, measure) for one in folds]) for measure in MEASURES]
        rows.append(row(named(folds[0]), ", ".join(map(str, (len(folds), *judged))), *cells))
    return "\n".join(rows)


def better_by(document: JudgingDocument, *, is_sound: bool) -> float | None:
    """Give by how many points the student errs less than labels alone."""
    faults, known = document.faults, columns(document)
    if faults is None or "labels alone" not in known:
        return None
    ours, theirs = (
        faults.sound[name] if is_sound else float(np.mean([np.mean(one.errors[name]) for one in faults.faults]))
        for name in (known["student"], known["labels alone"])
    )
    return 100 * (theirs - ours)


def left_over(document: JudgingDocument, column: str) -> float | None:
    """Give what is left of the error of labels alone under faults, in per cent."""
    name = columns(document).get(column)
    found = None if document.faults is None or name is None else document.faults.relative.get(name)
    return None if found is None else 100 * found.mean


def wider_by(document: JudgingDocument, measure: GroupMeasure) -> float | None:
    """Give by how many points the student's gap between groups is wider than that of labels alone."""
    known = columns(document)
    gaps = {} if document.groups is None else document.groups.gaps.get(measure, {})
    ours, theirs = (gaps.get(known.get(name, "")) for name in ("student", "labels alone"))
    return None if ours is None or theirs is None else 100 * (ours.gap - theirs.gap)


def spread_over(values: Sequence[float | None], *, digits: int = 1) -> str:
    """Give the mean of folds or sets with its interval by Student's t; nothing where one of them has no figure."""
    known = [one for one in values if one is not None]
    return spread(spread_of(known), 1.0, digits=digits) if len(known) == len(values) else "-"


def shift_table(found: ShiftFacts) -> str:
    """Give a row for each domain, and the means with their intervals."""
    names = list(found.models)
    rows = [head(f"{found.by} left out, {found.measure.words}", "windows", *names, texts=1)]
    for one in found.domains:
        cells = [cell(one.figures[name], found.measure) for name in names]
        rows.append(row(one.name, one.windows, *cells))
    rows.append(row("mean", "", *(spread(found.models[name], found.measure.scale) for name in names)))
    gains = [found.gains.get(name) for name in names]
    rows.append(row("student better by", "", *("" if one is None else spread(one, 1.0) for one in gains)))
    return "\n".join(rows)


def cell(value: float, measure: Measure) -> str:
    """Give a figure in the unit of its measure."""
    return f"{measure.scale * value:.1f}"


def spread(found: DomainSpread, scale: float, *, digits: int = 1) -> str:
    """Give a mean with its interval."""
    if found.low is None or found.high is None:
        return f"{scale * found.mean:.{digits}f}"
    return f"{scale * found.mean:.{digits}f} ({scale * found.low:.{digits}f} to {scale * found.high:.{digits}f})"


if __name__ == "__main__":
    main()
