"""Results over several sets as Markdown: what is pooled first, then a table for each sensor and share of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checks.study.pool import (
    ALL_MODALITIES,
    DistillationResults,
    MethodRow,
    ModelRow,
    PooledGain,
    PooledRow,
    SensorTable,
)
from mmkd_documents.figures import Spread
from mmkd_documents.study import NONE, ScoreTable, SeedGain

RIVAL_NAMES = {"extra_trees": "extra-trees", "mini_rocket": "MiniRocket"}
_SENSOR_HEAD = (
    "| model | folds | accuracy, % | balanced accuracy, % | macro-F1, % | gain, points (95 % interval) "
    "| over extra-trees, points | gap recovered | parameters |"
)
_POOLED_HEAD = (
    "| method | sets | folds | gain, points (95 % interval) | on validation | over outputs alone, points "
    "| below labels only | below extra-trees |"
)


def results_page(results: DistillationResults) -> str:
    """Return the page below its introduction."""
    lines: list[str] = []
    for share, whole_groups in dict.fromkeys((row.label_fraction, bool(row.whole_groups)) for row in results.pooled):
        lines += _pooled_section(results, share, whole_groups)
    for table in results.tables:
        lines += _sensor(table, results)
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    lines.append(f"Students had {results.student_steps} steps, teachers {results.teacher_steps}. Versions: {versions}.")
    return "\n".join(lines) + "\n"


def _pooled_section(results: DistillationResults, share: float, whole_groups: bool) -> Iterator[str]:
    layout = share, whole_groups
    rows = [row for row in results.pooled if (row.label_fraction, bool(row.whole_groups)) == layout]
    tables = [table for table in results.tables if (table.label_fraction, bool(table.labelled_groups)) == layout]
    labelled = "some whole groups" if whole_groups else f"{share:.0%}"
    sets = list(dict.fromkeys(table.dataset for table in tables))
    yield from (f"## Over the sets, {labelled} labelled", "")
    yield (
        f"Covered: {len(sets)} {'set' if len(sets) == 1 else 'sets'} ({', '.join(sets)}); sensors: {len(tables)}; "
        f"folds: {sum(len(table.seeds) for table in tables)}; trainings: {sum(table.trainings for table in tables)}. "
        "Gains are points of balanced accuracy over labels only, paired by fold: the mean over sets of the mean over "
        "a set's sensors. Other folds are other people or machines: compare rows of the same coverage, or look at what "
        "each method is better by than outputs alone (`logit`) on the folds that both have. *Below labels only*: "
        "sensors where the whole interval is below 0. *Below extra-trees*: sensors where the student's mean is."
    )
    yield from ("", _POOLED_HEAD, "|---" * 8 + "|")
    yield from (_pooled_row(row) for row in rows)
    yield ""


def _pooled_row(row: PooledRow) -> str:
    name = row.method if row.pair == ALL_MODALITIES else f"{row.method}, {row.pair}"
    over = "" if row.over_outputs is None else _gain(row.over_outputs)
    return (
        f"| {name} | {len(row.sets)} | {row.folds} | {_gain(row.gain)} | {row.valid_gain:+.1f} | {over} "
        f"| {_names(row.below_baseline)} | {_names(row.below_extra_trees)} |"
    )


def _gain(gain: PooledGain | SeedGain) -> str:
    return _points(gain.mean, None if gain.low is None or gain.high is None else (gain.low, gain.high))


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _sensor(table: SensorTable, results: DistillationResults) -> Iterator[str]:
    groups = table.labelled_groups
    labelled = f"{groups} groups" if groups else f"{table.label_fraction:.0%}"
    yield from (f"## {table.dataset}, {table.modality}, {labelled} labelled", "", _SENSOR_HEAD)
    yield "|---" * 9 + "|"
    yield from (_model_row(row) for row in table.teachers)
    yield from (_model_row(row) for row in table.rivals)
    pairs = {row.pair for row in table.students if row.pair is not None}
    yield from (_method_row(row, results.metric, with_pair=len(pairs) > 1) for row in table.students)
    yield ""
    yield from _notes(table)
    yield ""


def _notes(table: SensorTable) -> Iterator[str]:
    taught = dict.fromkeys(row.teacher for row in table.students if row.teacher is not None)
    by = f" Teaching: {', '.join(taught)}." if taught else ""
    yield f"Coverage: folds {', '.join(map(str, table.seeds))}; {table.trainings} trainings.{by}"
    reference = next((row for row in table.teachers if row.is_reference), None)
    sizes = [row for row in table.teachers if row.valid_score is not None]
    if reference is None or table.fewer_parameters is None:
        return
    tried = "" if len(sizes) > 1 else ", the only one that was tried"
    yield (
        f"Teacher by the rule (the smallest within half a point of the best on validation{tried}): {reference.name}. "
        f"The smallest student has {table.fewer_parameters:.1f} times fewer parameters{_latency(table)}."
    )


def _latency(table: SensorTable) -> str:
    if table.latency is None:
        return ""
    student, teacher = table.latency["student_ms"]["p50"], table.latency["teacher_ms"]["p50"]
    return (
        f" and answers {table.latency['ratio']:.1f} times faster than {table.latency_teacher} ({student:.3f} ms "
        f"against {teacher:.3f} ms, median, one thread, called in turn)"
    )


def _model_row(row: ModelRow) -> str:
    name = RIVAL_NAMES.get(row.name, f"teacher {row.name}")
    size = "" if row.parameters is None else f"{row.parameters:,}"
    return f"| {name} | {len(row.seeds)} | {_scores(row.test)} | | | | {size} |"


def _method_row(row: MethodRow, metric: str, *, with_pair: bool) -> str:
    how = "labels only" if row.method == NONE else f"{row.method}, {row.pair}" if with_pair else row.method
    gain = "" if row.gain_points is None else _gain(row.gain_points[metric])
    trees = "" if row.over_extra_trees is None else _gain(row.over_extra_trees[metric])
    gap = "" if row.gap_recovered is None else f"{row.gap_recovered:.0%}"
    return (
        f"| {row.student}, {how} | {len(row.seeds)} | {_scores(row.test)} | {gain} | {trees} | {gap} "
        f"| {row.parameters:,} |"
    )


def _points(mean: float, interval: tuple[float, float] | None) -> str:
    return f"{mean:+.1f}" + ("" if interval is None else f" ({interval[0]:+.1f} to {interval[1]:+.1f})")


def _scores(test: ScoreTable) -> str:
    return " | ".join(_spread(figure) for figure in (test["accuracy"], test["balanced_accuracy"], test["macro_f1"]))


def _spread(spread: Spread) -> str:
    return f"{100 * spread.mean:.1f}" + ("" if spread.std is None else f" ± {100 * spread.std:.1f}")
