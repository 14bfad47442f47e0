"""Folds of a comparison -> the document of `mmkd-demo --json`.

Owns the sums: means and spreads over seeds, gains with their interval, the gap recovered, and
what guessing would score. Measures nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from mmkd_models.compare.fold_result import FoldResult, ModalityResult, NetworkResult, RivalResult
from mmkd_models.compare.gains import gain_of_folds, gap_recovered, spread
from mmkd_models.data.spec import DatasetSpec
from mmkd_models.data.split import OF_GROUPS, SplitFacts
from mmkd_models.evaluate.by_group import Judged
from mmkd_models.evaluate.guessing import guessing
from mmkd_models.evaluate.intervals import gain_of_pairs
from mmkd_models.metrics.classes import Scores
from mmkd_models.metrics.labels import LabelScores
from mmkd_models.metrics.measures import Measure, measures_of
from mmkd_models.metrics.scores import AnyScores

FORMAT_VERSION = 1
_PEOPLE = f"{OF_GROUPS.resampled} (people, machines, sessions)"
_INTERVAL = "95 % interval by resampling {} with replacement, the same draw for every sensor"


def demo_document(
    spec: DatasetSpec, sha256: str, folds: Sequence[FoldResult], *, measured: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Gives everything that follows from the folds and from what was measured on this machine.

    Args:
        spec: of the dataset.
        sha256: of the dataset.
        folds: one per seed, same options.
        measured: "teacher" and each modality -> more keys for its entry (latency, bundle, attention...).

    Of classes the document does not say what its figures are; of other kinds it does, by `measures` and `metric`.
    """
    modalities, measures = folds[0].config.modalities, measures_of(spec.task)
    return {
        "format_version": FORMAT_VERSION,
        "dataset": _dataset(spec, sha256, folds),
        "split": msgspec.to_builtins(_split(folds)),
        "label_share": folds[0].config.label_share,
        "seeds": [fold.seed for fold in folds],
        **_told(spec, folds, measures),
        "teacher": {
            **_network([fold.teacher for fold in folds], measures),
            "preset": folds[0].config.teacher,
            "modalities": [modality.name for modality in spec.modalities],
            "missing": _subsets(folds, measures[0]),
            **measured.get("teacher", {}),
        },
        "students": {name: _student(name, folds, measures, measured.get(name, {})) for name in modalities},
        "mean_gain_points": _gain(folds, modalities, measures[0]),
    }


def _split(folds: Sequence[FoldResult]) -> SplitFacts:
    return folds[0].split or OF_GROUPS  # a fold that does not say it is of groups, or refused where it is read


def _told(spec: DatasetSpec, folds: Sequence[FoldResult], measures: Sequence[Measure]) -> dict[str, Any]:
    """What the figures are, where they are not those of classes."""
    if spec.task.kind == "classification":
        return {}
    metric = folds[0].config.student_train.metric
    return {"kind": spec.task.kind, "metric": metric, "measures": msgspec.to_builtins(list(measures))}


def _dataset(spec: DatasetSpec, sha256: str, folds: Sequence[FoldResult]) -> dict[str, Any]:
    return {
        "name": spec.name,
        "source": spec.source,
        "licence": spec.licence,
        "sha256": sha256,
        "windows": folds[0].windows,
        "groups": folds[0].groups,
        "labels": list(spec.task.labels),
        "modalities": [
            {
                "name": modality.name,
                "channels": list(modality.channels),
                "rate_hz": modality.rate_hz,
                "samples": modality.samples,
                "unit": modality.unit,
            }
            for modality in spec.modalities
        ],
    }


def _student(
    name: str, folds: Sequence[FoldResult], measures: Sequence[Measure], measured: Mapping[str, Any]
) -> dict[str, Any]:
    results, first = [fold.students[name] for fold in folds], measures[0]
    student, baseline, teacher = (
        [network.test for network in networks]
        for networks in (
            [result.student for result in results],
            [result.baseline for result in results],
            [fold.teacher for fold in folds],
        )
    )
    latency = {"latency_ms": measured["latency_ms"]} if "latency_ms" in measured else {}
    return {
        "baseline": _network([result.baseline for result in results], measures) | latency,  # the same, other weights
        "student": _network([result.student for result in results], measures)
        | latency
        | {"preset": folds[0].config.student},
        "extra_trees": _rival([result.extra_trees for result in results], measures),
        "mini_rocket": _rival([result.mini_rocket for result in results], measures),
        "gain_points": _gain(folds, (name,), first),
        "over_teacher_points": _difference(student, teacher, first),
        "gap_points": _difference(teacher, baseline, first),
        "gap_recovered": gap_recovered(student, baseline, teacher, first.name),
        "parameters_ratio": folds[0].teacher.parameters / results[0].student.parameters,
        "missing": _missing(results),
        **{key: value for key, value in measured.items() if key != "latency_ms"},
    }


def _network(results: Sequence[NetworkResult], measures: Sequence[Measure]) -> dict[str, Any]:
    scores = [result.scores for result in results]
    return {
        **{one.name: _spread([score.metric(one.name) for score in scores]) for one in measures},
        "valid_score": _spread([result.valid_score for result in results]),
        "parameters": results[0].parameters,
        "learning_rate": [result.learning_rate for result in results],
        **_guessing([result.test for result in results], measures[0]),
        **_counts(scores),
        "curve": [msgspec.to_builtins(point) for point in results[0].curve],
    }


def _counts(scores: Sequence[AnyScores]) -> dict[str, Any]:
    """Windows over all seeds: (K, K) confusions of classes; of labels (K, 4) rightly, wrongly on, wrongly off, off."""
    confusions = [score.confusion for score in scores if isinstance(score, Scores)]
    if confusions:
        return {"confusion": np.sum(confusions, axis=0).tolist()}
    counts = [score.counts for score in scores if isinstance(score, LabelScores)]
    return {"counts": np.sum(counts, axis=0).tolist()} if counts else {}


def _rival(results: Sequence[RivalResult], measures: Sequence[Measure]) -> dict[str, Any]:
    scores = [score for result in results if (score := result.scores) is not None]
    judged = [result.judged for result in results if result.judged is not msgspec.UNSET]
    valid = [result.valid_score for result in results if result.valid_score is not None]
    names = [one.name for one in measures]
    if len(scores) < len(results):
        reason = next(result.reason for result in results if result.scores is None)
        return {**dict.fromkeys(names), "reason": reason}
    return {
        **{name: _spread([score.metric(name) for score in scores]) for name in names},
        **({"valid_score": _spread(valid)} if len(valid) == len(results) else {}),
        **(_guessing(judged, measures[0]) if len(judged) == len(results) else {}),
    }


def _guessing(tests: Sequence[Judged], measure: Measure) -> dict[str, Any]:
    return {"guessing": msgspec.to_builtins(guessing(tests, measure.name))}


def _gain(folds: Sequence[FoldResult], modalities: Sequence[str], measure: Measure) -> dict[str, Any]:
    mean, low, high = gain_of_folds(folds, modalities, measure)
    gained = "baseline's error minus student's" if measure.lower_is_better else "student minus baseline"
    resampled = _split(folds).resampled
    interval = _INTERVAL.format(_PEOPLE if resampled == OF_GROUPS.resampled else resampled)
    return {"mean": mean, "low": low, "high": high, "method": f"mean over seeds of {gained}; {interval}"}


def _difference(ours: Sequence[Judged], theirs: Sequence[Judged], measure: Measure) -> dict[str, Any]:
    """What ours are better by, in the measure's `gain_unit`."""
    mean, low, high = gain_of_pairs([(ours, theirs)], measure.name)
    return {"mean": mean, "low": low, "high": high}


def _subsets(folds: Sequence[FoldResult], measure: Measure) -> list[dict[str, Any]]:
    return [
        {
            "modalities": list(subset.modalities),
            measure.name: _spread([fold.teacher_subsets[row].figure for fold in folds]),
        }
        for row, subset in enumerate(folds[0].teacher_subsets)
    ]


def _missing(results: Sequence[ModalityResult]) -> dict[str, Any]:
    shares = results[0].missing.shares
    return {
        "shares": list(shares),
        "student": [_spread([result.missing.student[row] for result in results]) for row in range(len(shares))],
        "baseline": [_spread([result.missing.baseline[row] for result in results]) for row in range(len(shares))],
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    builtins: dict[str, Any] = msgspec.to_builtins(spread(values))
    return builtins
