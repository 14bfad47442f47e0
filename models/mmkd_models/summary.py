"""Folds of a comparison -> the document of `mmkd-demo --json`.

Owns the sums: means and spreads over seeds, gains with their interval, the gap recovered. Measures nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from mmkd_models.data.spec import DatasetSpec
from mmkd_models.evaluate.metrics import Metric
from mmkd_models.fold_result import FoldResult, ModalityResult, NetworkResult, RivalResult
from mmkd_models.gains import gain_points, spread

FORMAT_VERSION = 1
_METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1")
_LEAST_GAP = 0.01  # a teacher less than one point above the baseline leaves no gap to speak of
_GAIN_METHOD = (
    "mean over seeds of student minus baseline; 95 % interval by resampling whole groups (people, machines, sessions) "
    "with replacement, the same draw for every sensor"
)


def demo_document(
    spec: DatasetSpec, sha256: str, folds: Sequence[FoldResult], *, measured: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Gives everything that follows from the folds and from what was measured on this machine.

    Args:
        spec: of the dataset.
        sha256: of the dataset.
        folds: one per seed, same options.
        measured: "teacher" and each modality -> more keys for its entry (latency, bundle, attention...).
    """
    modalities = folds[0].config.modalities
    return {
        "format_version": FORMAT_VERSION,
        "dataset": _dataset(spec, sha256, folds),
        "label_share": folds[0].config.label_share,
        "seeds": [fold.seed for fold in folds],
        "teacher": {
            **_network([fold.teacher for fold in folds]),
            "preset": folds[0].config.teacher,
            "modalities": [modality.name for modality in spec.modalities],
            "missing": _subsets(folds),
            **measured.get("teacher", {}),
        },
        "students": {name: _student(name, folds, measured.get(name, {})) for name in modalities},
        "mean_gain_points": _gain(folds, modalities),
    }


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


def _student(name: str, folds: Sequence[FoldResult], measured: Mapping[str, Any]) -> dict[str, Any]:
    results = [fold.students[name] for fold in folds]
    teacher = float(np.mean([fold.teacher.scores.accuracy for fold in folds]))
    baseline = float(np.mean([result.baseline.scores.accuracy for result in results]))
    student = float(np.mean([result.student.scores.accuracy for result in results]))
    latency = {"latency_ms": measured["latency_ms"]} if "latency_ms" in measured else {}
    return {
        "baseline": _network([result.baseline for result in results]) | latency,  # the same network, other weights
        "student": _network([result.student for result in results]) | latency | {"preset": folds[0].config.student},
        "extra_trees": _rival([result.extra_trees for result in results]),
        "mini_rocket": _rival([result.mini_rocket for result in results]),
        "gain_points": _gain(folds, (name,)),
        "gap_recovered": (student - baseline) / (teacher - baseline) if teacher - baseline >= _LEAST_GAP else None,
        "parameters_ratio": folds[0].teacher.parameters / results[0].student.parameters,
        "missing": _missing(results),
        **{key: value for key, value in measured.items() if key != "latency_ms"},
    }


def _network(results: Sequence[NetworkResult]) -> dict[str, Any]:
    confusion = np.sum([np.array(result.scores.confusion) for result in results], axis=0)
    return {
        **{metric: _spread([result.scores.metric(metric) for result in results]) for metric in _METRICS},
        "valid_score": _spread([result.valid_score for result in results]),
        "parameters": results[0].parameters,
        "learning_rate": [result.learning_rate for result in results],
        "confusion": confusion.tolist(),
        "curve": [msgspec.to_builtins(point) for point in results[0].curve],
    }


def _rival(results: Sequence[RivalResult]) -> dict[str, Any]:
    scores = [result.scores for result in results if result.scores is not None]
    if len(scores) < len(results):
        reason = next(result.reason for result in results if result.scores is None)
        return {**dict.fromkeys(_METRICS), "reason": reason}
    return {metric: _spread([score.metric(metric) for score in scores]) for metric in _METRICS}


def _gain(folds: Sequence[FoldResult], modalities: Sequence[str]) -> dict[str, Any]:
    mean, low, high = gain_points(folds, modalities)
    return {"mean": mean, "low": low, "high": high, "method": _GAIN_METHOD}


def _subsets(folds: Sequence[FoldResult]) -> list[dict[str, Any]]:
    return [
        {
            "modalities": list(subset.modalities),
            "accuracy": _spread([fold.teacher_subsets[row].accuracy for fold in folds]),
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
