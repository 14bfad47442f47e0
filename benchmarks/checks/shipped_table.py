"""What students reach, over several sets, from what `mmkd-demo --json` printed: the table of docs/results/demo.md.

    python benchmarks/checks/shipped_table.py RESULT.json [RESULT.json ...] [--before EARLIER.json ...]

A row a sensor: balanced accuracy over the folds of the teacher, of labels only, of the student, of the best
undistilled rival and of MiniRocket distilled from the same teacher; the gain over labels only is in accuracy, as the
documents have it with an interval. The last row weighs every set alike. Its interval takes sets as independent:
half-widths are added in quadrature. Lines below tell how much smaller and faster students are than the teacher's
transformer, from the least to the most, every rival that is ahead of a student in balanced accuracy, and with
`--before` what students gain over those of earlier results on the same folds. These intervals are Student's t of
differences between folds, which share no group.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checks.script import head, row, script_parser

UNTAUGHT = {"extra_trees": "extra-trees", "mini_rocket": "MiniRocket", "rocket_and_trees": "ensemble"}
RIVALS = UNTAUGHT | {"distilled_rocket": "distilled MiniRocket"}


@dataclass(frozen=True, kw_only=True)
class ShippedSensor:
    """One sensor of one set; shares in per cent, gains in points."""

    dataset: str
    name: str
    labelled: str
    teacher: float
    alone: float
    shipped: float
    rival: float
    rival_name: str
    distilled_rocket: float
    gain: tuple[float, float, float]
    ways: str
    times_smaller: float
    times_faster: float


def main() -> None:
    """Print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--before", nargs="+", type=Path, default=[], metavar="EARLIER.json")
    options = parser.parse_args()
    documents, earlier = (
        [json.loads(path.read_bytes()) for path in paths] for paths in (options.documents, options.before)
    )
    found = [one for document in documents for one in sensors(document)]
    print(table(found))
    print(costs(found))
    print(f"gain over labels only, balanced accuracy, mean over datasets: {points(*gains_of_teaching(documents))}")
    print("\n".join(ahead(documents)))
    if earlier:
        print("\n".join(gains_over(earlier, documents)))


def sensors(document: dict[str, Any]) -> list[ShippedSensor]:
    """Give every sensor of a document."""
    if groups := document.get("labelled_groups"):
        labelled = f"{groups['labelled']} of {max(groups['of'])} groups"
    else:
        labelled = f"{document['label_fraction']:.0%}"
    found = []
    for name, one in document["students"].items():
        rivals = {key: balanced(one[key]) for key in UNTAUGHT if one.get(key) and "balanced_accuracy" in one[key]}
        best = max(rivals, key=lambda key: rivals[key])
        shipped = one["student"]["shipped"]
        alone = sum(way == "labels only" for way in shipped)
        gain = one["gain_points"]
        found.append(
            ShippedSensor(
                dataset=document["dataset"]["name"],
                name=name,
                labelled=labelled,
                teacher=balanced(document["teacher"]),
                alone=balanced(one["baseline"]),
                shipped=balanced(one["student"]),
                rival=rivals[best],
                rival_name=UNTAUGHT[best],
                distilled_rocket=balanced(one["distilled_rocket"]),
                gain=(gain["mean"], gain.get("low", np.nan), gain.get("high", np.nan)),
                ways=f"{len(shipped) - alone} of {len(shipped)}",
                times_smaller=one["parameters_ratio"],
                times_faster=one["latency_ratio"],
            )
        )
    return found


def balanced(found: dict[str, Any]) -> float:
    """Give the mean over folds."""
    return 100 * float(found["balanced_accuracy"]["mean"])


def table(found: Sequence[ShippedSensor]) -> str:
    """Give the table, with the mean over sets below."""
    names = ["dataset, sensor", "labelled", "teacher", "labels only", "student", "undistilled rival (chosen on test)"]
    rows = [head(*names, "distilled MiniRocket", "gain, points of accuracy (95 % CI)", "folds distilled", texts=1)]
    rows += [
        row(
            f"{one.dataset} {one.name}",
            one.labelled,
            *(f"{value:.1f}" for value in (one.teacher, one.alone, one.shipped)),
            f"{one.rival:.1f} {one.rival_name}",
            f"{one.distilled_rocket:.1f}",
            gain_of(one.gain),
            one.ways,
        )
        for one in found
    ]
    figures = ("teacher", "alone", "shipped", "rival", "distilled_rocket")
    means = {key: over_sets(found, [getattr(one, key) for one in found]) for key in figures}
    rows.append(row("mean over datasets", "", *(f"{means[key]:.1f}" for key in figures), gain_of(pooled(found)), ""))
    return "\n".join(rows)


def costs(found: Sequence[ShippedSensor]) -> str:
    """Give what students cost beside the teacher's transformer."""
    smaller, faster = [one.times_smaller for one in found], [one.times_faster for one in found]
    return (
        f"\nparameters are {min(smaller):.0f} to {max(smaller):.0f} times fewer than the teacher's transformer, "
        f"latency {min(faster):.1f} to {max(faster):.1f} times lower"
    )


def ahead(documents: Sequence[dict[str, Any]]) -> list[str]:
    """Give a line for each rival that is ahead of a student, in balanced accuracy."""
    lines = []
    for document in documents:
        for name, one in document["students"].items():
            for key, rival in RIVALS.items():
                lead = folds_of(one[key]) - folds_of(one["student"]) if "balanced_accuracy" in one[key] else np.zeros(1)
                if lead.mean() > 0:
                    lines.append(f"ahead of the student: {document['dataset']['name']} {name} {rival} {points(lead)}")
    return lines or ["no rival is ahead of a student"]


def gains_of_teaching(documents: Sequence[dict[str, Any]]) -> list[np.ndarray[Any, Any]]:
    """Give, per set, the folds' gains of students over labels only, mean over sensors, in balanced accuracy."""
    return [
        np.mean([folds_of(one["student"]) - folds_of(one["baseline"]) for one in document["students"].values()], axis=0)
        for document in documents
    ]


def gains_over(earlier: Sequence[dict[str, Any]], documents: Sequence[dict[str, Any]]) -> list[str]:
    """Give students' gains in balanced accuracy over earlier ones, on the folds that both have."""
    before = {(one["dataset"]["name"], name): each for one in earlier for name, each in one["students"].items()}
    lines, by_set = [], list[np.ndarray[Any, Any]]()
    for document in documents:
        of_sensors = []
        for name, one in document["students"].items():
            now, old = folds_of(one["student"]), folds_of(before[document["dataset"]["name"], name]["student"])
            count = min(len(now), len(old))
            of_sensors.append(now[:count] - old[:count])
            lines.append(f"gain over before: {document['dataset']['name']} {name} {points(of_sensors[-1])}")
        by_set.append(np.mean(of_sensors, axis=0))
    return [*lines, f"gain over before, mean over datasets: {points(*by_set)}"]


def folds_of(one: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Give balanced accuracy of each fold, in per cent."""
    return 100 * np.array(one["balanced_accuracy"]["per_seed"])


def points(*sets: np.ndarray[Any, Any]) -> str:
    """Give the mean over sets of the folds' mean difference, with its interval from two folds a set."""
    from scipy import stats

    mean, freedom = float(np.mean([one.mean() for one in sets])), sum(len(one) - 1 for one in sets)
    if min(map(len, sets)) < 2:
        return f"{mean:+.1f}"
    error = float(np.sum([one.var(ddof=1) / len(one) for one in sets])) ** 0.5 / len(sets)
    half = stats.t.ppf(0.975, freedom) * error
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def over_sets(found: Sequence[ShippedSensor], values: Sequence[float]) -> float:
    """Give the mean over sets of the mean over a set's sensors."""
    by_set: dict[str, list[float]] = {}
    for one, value in zip(found, values, strict=True):
        by_set.setdefault(one.dataset, []).append(value)
    return float(np.mean([np.mean(each) for each in by_set.values()]))


def pooled(found: Sequence[ShippedSensor]) -> tuple[float, float, float]:
    """Give the mean gain over sets and its interval; sensors of one set share their people, so widths are averaged."""
    mean = over_sets(found, [one.gain[0] for one in found])
    widths: dict[str, list[float]] = {}
    for one in found:
        widths.setdefault(one.dataset, []).append((one.gain[2] - one.gain[1]) / 2)
    half = float(np.sqrt(np.sum([np.mean(each) ** 2 for each in widths.values()]))) / len(widths)
    return mean, mean - half, mean + half


def gain_of(gain: tuple[float, float, float]) -> str:
    """Give a gain, with its interval where there is one: not of a few groups."""
    return f"{gain[0]:+.1f}" if np.isnan(gain[1]) else f"{gain[0]:+.1f} ({gain[1]:+.1f} to {gain[2]:+.1f})"


if __name__ == "__main__":
    main()
