"""The tables of the demo page as written cells: results, confusion, subsets, stages, facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmkd_report.documents.demo import (
    Contest,
    DemoDocument,
    DemoRival,
    Gain,
    LatencyPercentiles,
    Network,
    Scored,
    SubsetScore,
)
from mmkd_report.documents.figures import Measure, Spread
from mmkd_report.pages.demo.answer import has_spread, mean_of, teacher_network
from mmkd_report.words.formats import (
    NOTHING,
    count,
    fixed,
    is_figure,
    magnitude,
    percent,
    plain,
    significant,
    with_unit,
)
from mmkd_report.words.guessing import is_refuted
from mmkd_report.words.measures import difference, gain_interval, spread_of_seeds

ROLE_NAMES = {
    "teacher": "Teacher",
    "extra_trees": "Extra-trees",
    "mini_rocket": "MiniRocket",
    "rocket_and_trees": "MiniRocket + trees",
    "multi_rocket_hydra": "MultiRocket-Hydra",
    "taught_rocket": "MiniRocket, taught",
    "baseline": "Labels only",
    "student": "Distilled student",
}
NOT_MEASURABLE = "not measurable"
MOST_MATRIX_LABELS = 20  # above it a matrix is a page of its own, and its largest confusions say more
MOST_SUBSETS = 12  # rows shown at once; the rest folds away
MOST_FOLDED_SUBSETS = 64


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One competitor of the main table, as written: `scores` by measure, `reason` why a rival was not run."""

    role: str
    name: str
    scores: tuple[str, ...] = ()
    gain: str = NOTHING
    gain_interval: str = NOTHING
    gap_recovered: str = NOTHING
    parameters: str = NOTHING
    latency: str = NOTHING
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ResultGroup:
    """The rows of one modality, or of the teacher."""

    title: str
    rows: tuple[ResultRow, ...]


@dataclass(frozen=True, kw_only=True)
class ConfusionCell:
    """How many windows of a true class got an answer, and as what share of that class (0 to 1)."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """One confusion matrix, or, for many labels, its largest confusions (count, true label, answer)."""

    title: str
    role: str
    rows: tuple[tuple[ConfusionCell, ...], ...]
    largest: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class SubsetRow:
    """The teacher under one subset: which of its modalities it had, and how it did (`x`: percent of the axis)."""

    used: tuple[bool, ...]
    name: str
    written: str
    x: float


@dataclass(frozen=True, kw_only=True)
class WidthBar:
    """One bar: its width in percent of the widest."""

    name: str
    written: str
    width: float


def written_spread(spread: Spread | None, seeds: Sequence[int], measure: Measure) -> str:
    """A score in its unit, "71.2 ± 3.1", or the mean alone where one seed has no spread."""
    if spread is None or not is_figure(spread.mean):
        return NOTHING
    return spread_of_seeds(spread.mean, spread.std if has_spread(spread, seeds) else None, measure)


def _scores(scored: Scored, demo: DemoDocument) -> tuple[str, ...]:
    return tuple(written_spread(scored.score(one), demo.seeds, one) for one in demo.measures)


def result_groups(demo: DemoDocument) -> tuple[ResultGroup, ...]:
    """The main table: the teacher, then for each modality the rivals, the baseline and the student."""
    teacher = ResultGroup(title="All sensors", rows=(_network_row("teacher", demo.teacher, demo),))
    return (teacher, *(_modality_group(name, contest, demo) for name, contest in demo.students.items()))


def _modality_group(name: str, contest: Contest, demo: DemoDocument) -> ResultGroup:
    rows = [
        _rival_row("extra_trees", contest.extra_trees, demo),
        _rival_row("mini_rocket", contest.mini_rocket, demo),
        *(_rival_row(key, rival, demo) for key, rival in further_rivals(contest).items() if key != "taught_rocket"),
    ]
    if contest.baseline is not None:
        rows.append(_network_row("baseline", contest.baseline, demo))
    if contest.taught_rocket is not None:
        rows.append(_rival_row("taught_rocket", contest.taught_rocket, demo))
    rows.append(_network_row("student", contest.student, demo, gain=contest.gain_points, gap=gap_text(contest)))
    return ResultGroup(title=name, rows=tuple(rows))


def further_rivals(contest: Contest) -> dict[str, DemoRival]:
    """What was run beside the two that always are, by its field."""
    further = {
        "rocket_and_trees": contest.rocket_and_trees,
        "multi_rocket_hydra": contest.multi_rocket_hydra,
        "taught_rocket": contest.taught_rocket,
    }
    return {key: rival for key, rival in further.items() if rival is not None}


def _network_row(
    role: str, network: Network, demo: DemoDocument, *, gain: Gain | None = None, gap: str = NOTHING
) -> ResultRow:
    latency = network.latency_ms or LatencyPercentiles()
    return ResultRow(
        role=role,
        name=ROLE_NAMES[role],
        scores=_scores(network, demo),
        gain=difference(gain.mean, demo.told_by) if gain is not None else NOTHING,
        gain_interval=gain_interval(gain.low, gain.high, demo.told_by) if gain is not None else NOTHING,
        gap_recovered=gap,
        parameters=magnitude(network.parameters),
        latency=with_unit(significant(latency.p50), "ms"),
    )


def gap_text(contest: Contest) -> str:
    """The gap recovered where its interval says that there is a gap; a document without one does not say."""
    gap = contest.gap_points
    if gap is None or not is_figure(gap.low) or is_refuted(contest.student.guessing):
        return NOTHING
    if contest.gap_recovered is None or gap.low <= 0:
        return NOT_MEASURABLE
    return with_unit(percent(contest.gap_recovered, 0), "%")


def _rival_row(role: str, rival: DemoRival | None, demo: DemoDocument) -> ResultRow:
    if rival is None or rival.reason:
        reason = "no reason was given" if rival is None or not rival.reason else rival.reason
        return ResultRow(role=role, name=ROLE_NAMES[role], reason=reason)
    return ResultRow(role=role, name=ROLE_NAMES[role], scores=_scores(rival, demo))


def confusions(title: str, role: str, network: Network | None, labels: Sequence[str]) -> Iterator[Confusion]:
    """The confusion of one network, where it was counted."""
    if network is None or network.confusion is None:
        return
    if len(labels) <= MOST_MATRIX_LABELS:
        rows = tuple(_confusion_row(index, row) for index, row in enumerate(network.confusion))
        yield Confusion(title=title, role=role, rows=rows, largest=())
    else:
        yield Confusion(title=title, role=role, rows=(), largest=_largest_confusions(network.confusion, labels))


def _confusion_row(index: int, row: Sequence[int]) -> tuple[ConfusionCell, ...]:
    windows = sum(row) or 1
    return tuple(
        ConfusionCell(count=cell, share=cell / windows, right=index == column) for column, cell in enumerate(row)
    )


def _largest_confusions(
    matrix: Sequence[Sequence[int]], labels: Sequence[str], most: int = 8
) -> tuple[tuple[int, str, str], ...]:
    wrong = [
        (cell, labels[index], labels[column])
        for index, row in enumerate(matrix)
        for column, cell in enumerate(row)
        if index != column and cell
    ]
    return tuple(sorted(wrong, key=lambda one: -one[0])[:most])


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One label of several, as written: windows in which it was on, and how teacher or student answered for it."""

    name: str
    on: str
    found: str
    wrongly_on: str
    wrongly_off: str


def label_rows(network: Network | None, labels: Sequence[str]) -> tuple[LabelRow, ...]:
    """How a network answers for each of several labels; empty where that was not counted."""
    counted = network.counts if network is not None and network.counts is not None else ()
    return tuple(
        LabelRow(
            name=name, on=count(right + missed), found=count(right), wrongly_on=count(false), wrongly_off=count(missed)
        )
        for name, (right, false, missed, _) in zip(labels, counted, strict=bool(counted))
    )


def subset_rows(demo: DemoDocument) -> tuple[tuple[str, ...], tuple[SubsetRow, ...], tuple[SubsetRow, ...]]:
    """The teacher's modalities, the rows to show, and the rows to fold away, the fullest and best first."""
    scores = demo.teacher.missing or ()
    named = {name: None for score in scores for name in score.modalities}
    order = tuple(demo.teacher.modalities or named)
    columns = (*order, *(name for name in named if name not in order))
    means = [mean_of(score.score(demo.told_by)) for score in scores]
    whole = max((mean for mean in means if is_figure(mean)), default=1.0)
    widest = 1.0 if demo.told_by.is_share else whole

    def rank(score: SubsetScore) -> tuple[int, float]:
        mean = mean_of(score.score(demo.told_by))
        return -len(score.modalities), -demo.told_by.rank(mean) if is_figure(mean) else 0.0

    rows = sorted(scores, key=rank)
    if len(rows) <= MOST_SUBSETS:
        return columns, tuple(_subset_row(row, columns, demo, widest) for row in rows), ()
    edges = (1, len(columns) - 1, len(columns))
    shown = [row for row in rows if len(row.modalities) in edges]
    folded = [row for row in rows if len(row.modalities) not in edges][:MOST_FOLDED_SUBSETS]
    return (
        columns,
        tuple(_subset_row(row, columns, demo, widest) for row in shown),
        tuple(_subset_row(row, columns, demo, widest) for row in folded),
    )


def _subset_row(score: SubsetScore, columns: Sequence[str], demo: DemoDocument, widest: float) -> SubsetRow:
    found = score.score(demo.told_by)
    return SubsetRow(
        used=tuple(name in score.modalities for name in columns),
        name=" + ".join(score.modalities) or "none",
        written=written_spread(found, demo.seeds, demo.told_by),
        x=round(100 * min(1.0, max(0.0, (mean_of(found) or 0.0) / (widest or 1.0))), 2),
    )


def latency_rows(demo: DemoDocument) -> tuple[tuple[str, LatencyPercentiles], ...]:
    """Latency of one whole prediction in the runtime, and of the bare networks, where they were measured."""
    measured = [("whole prediction", demo.benchmark.latency_ms if demo.benchmark else None)]
    measured.append((f"network, {teacher_network(demo).removeprefix('the ')}", demo.teacher.latency_ms))
    measured += [(f"network, {name}", contest.student.latency_ms) for name, contest in demo.students.items()]
    return tuple((name, latency) for name, latency in measured if latency is not None and is_figure(latency.p50))


def stage_bars(stages_us: Mapping[str, float | None] | None) -> tuple[WidthBar, ...]:
    """The stages of one prediction as bars, in their order; a stage that was not measured is left out."""
    known = {name: value for name, value in (stages_us or {}).items() if is_figure(value)}
    widest = max(known.values(), default=0.0) or 1.0
    return tuple(
        WidthBar(name=name, written=with_unit(fixed(value), "µs"), width=round(100 * value / widest, 2))
        for name, value in known.items()
    )


def facts(mapping: Mapping[str, object] | None) -> tuple[tuple[str, str], ...]:
    """Names and values of a list of facts; what is null or empty is left out."""
    return tuple((name, _fact(value)) for name, value in (mapping or {}).items() if _is_fact(value))


def machine_facts(mapping: Mapping[str, object] | None) -> tuple[tuple[str, str], ...]:
    """The facts of a machine, their names written as words."""
    return tuple((name.replace("_", " "), value) for name, value in facts(mapping))


def _is_fact(value: object) -> bool:
    return value is not None and value not in ("", [], (), {})


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(inner)}" for name, inner in value.items() if _is_fact(inner))
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(inner) for inner in value if _is_fact(inner))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(value) if isinstance(value, float) else str(value)
