"""Windows with several labels at once, for models that may have learned single ones only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.figures import SET_F1, Interval
from mmkd_documents.judging import SuiteResult, SuiteTable
from mmkd_models.evaluation.gains import interval_over_groups
from mmkd_models.evaluation.suites.inputs import Suite, SuiteInputs, interval_text, points_text
from mmkd_models.metrics.likelihood import Floats
from mmkd_models.metrics.scores import weighted_mean

_DRAWS = 2000
_SEVERAL, _NEW = "two labels or more", "label sets without a training window"


class SetScores(msgspec.Struct, frozen=True, kw_only=True):
    """Mean scores of answered sets of labels."""

    set_f1: float
    exact: float  # fraction of windows with exactly the true labels
    found: float | None  # fraction of the true labels that are answered; None without any


class SetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Scores by model on the windows of a condition."""

    condition: str
    windows: int
    models: dict[str, SetScores]


class CombinedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Scores by number of labels; interval and gains are on windows with two or more."""

    rows: tuple[SetFigures, ...]
    of_one_label: float  # highest set-F1 there of answers with one label
    training_windows: int  # labelled ones
    combined_in_training: int  # those with two labels or more
    interval: Interval  # of the first model's set-F1, a fraction
    gains: dict[str, Interval]  # the first model minus this one, in points of set-F1


def run(inputs: SuiteInputs) -> SuiteResult:
    """Judge the models by number of labels."""
    inputs.on_part("several labels at once")
    return describe(inputs.names, judge_combined(inputs))


def judge_combined(inputs: SuiteInputs) -> CombinedFacts:
    """Measure the models on windows with no label, one, and several."""
    windows, task, known = inputs.windows, inputs.windows.spec.task, inputs.train.only_labelled().labels
    truth = windows.labels == 1
    count, several = truth.sum(axis=1), inputs.several_labels
    assert several is not None
    conditions = {
        f"{number} label{'' if number == 1 else 's'}": count == number for number in np.unique(count).tolist()
    }
    conditions[_SEVERAL] = several
    conditions[_NEW] = ~(windows.labels[:, None] == np.unique(known, axis=0)).all(axis=2).any(axis=1)
    answers = {model.name: model.answers(windows) >= task.on_from_logit for model in inputs.models}
    group = np.unique(windows.groups[several], return_inverse=True)[1].reshape(-1)
    first, *others = [partial(weighted_mean, set_f1(truth[several], each[several]), group) for each in answers.values()]

    def points_ahead(other: partial[Floats]) -> Callable[[Floats], Floats]:
        return lambda weights: 100 * (first(weights) - other(weights))

    interval = partial(interval_over_groups, count=int(group.max()) + 1, seed=inputs.seed, draws=_DRAWS)
    return CombinedFacts(
        rows=tuple(
            SetFigures(
                condition=condition,
                windows=int(here.sum()),
                models={name: _scores(truth[here], each[here]) for name, each in answers.items()},
            )
            for condition, here in conditions.items()
            if here.any()
        ),
        of_one_label=float((2 / (1 + count[several])).mean()),
        training_windows=len(known),
        combined_in_training=int((known.sum(axis=1) > 1).sum()),
        interval=interval(first),
        gains={name: interval(points_ahead(each)) for name, each in zip(inputs.names[1:], others, strict=True)},
    )


def set_f1(truth: NDArray[np.bool_], answers: NDArray[np.bool_]) -> Floats:
    """Return 2 |A and B| / (|A| + |B|) of each window's sets (N, K), 1 if both are empty, (N,)."""
    sizes = truth.sum(axis=1) + answers.sum(axis=1)
    return np.where(sizes > 0, 2 * (truth & answers).sum(axis=1) / np.maximum(sizes, 1), 1.0)


def _scores(truth: NDArray[np.bool_], answers: NDArray[np.bool_]) -> SetScores:
    labels = int(truth.sum())
    return SetScores(
        set_f1=float(set_f1(truth, answers).mean()),
        exact=float((truth == answers).all(axis=1).mean()),
        found=int((truth & answers).sum()) / labels if labels else None,
    )


def describe(names: list[str], facts: CombinedFacts) -> SuiteResult:
    """Return verdict, table and notes."""
    rows = []
    for row in facts.rows:
        cells = []
        for name in names:
            scores = row.models[name]
            found = "-" if scores.found is None else f"{100 * scores.found:.1f}"
            cells.append(f"{100 * scores.set_f1:.1f} / {100 * scores.exact:.1f} / {found}")
        rows.append((row.condition, str(row.windows), *cells))
    is_new = facts.combined_in_training == 0
    return SuiteResult(
        title="Several labels at once",
        lead=(
            "By the number of true labels: set-F1 (2 x labels in common / all labels of answer and truth), windows "
            "with exactly the true labels, and true labels that were found, in %."
        ),
        facts=facts,
        verdict=tuple(_verdict(names[0], facts)),
        record=("windows with two labels or more",) if is_new else (),
        tables=(
            SuiteTable(caption="Set-F1 / exact / found, %", heads=("true labels", "windows", *names), rows=tuple(rows)),
        ),
    )


def _verdict(name: str, facts: CombinedFacts) -> Iterator[str]:
    row = next(row for row in facts.rows if row.condition == _SEVERAL)
    low, high = facts.interval.low, facts.interval.high
    ends = "too few groups for an interval" if low is None or high is None else f"95 % CI {low:.1%} to {high:.1%}"
    yield (
        f"On {row.windows} windows with two labels or more {name} has {facts.interval.mean:.1%} set-F1 ({ends}); "
        f"answers of one label reach at most {facts.of_one_label:.1%}"
    )
    trained = f"{facts.combined_in_training} of {facts.training_windows}"
    yield f"{trained} labelled training windows have two labels or more"
    for other, gain in facts.gains.items():
        yield (
            f"Compared with {other} there: {points_text(gain.mean, SET_F1)} of set-F1 ({interval_text(gain, SET_F1)})"
        )


SUITE = Suite(run=run, needs="several_labels")
