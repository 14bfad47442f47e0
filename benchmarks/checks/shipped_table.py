"""What students reach, over several sets, from what `mmkd-demo --json` printed: the table of docs/results/demo.md.

    python benchmarks/checks/shipped_table.py RESULT.json [RESULT.json ...]

A row a sensor: balanced accuracy over the folds of the teacher, of labels only, of the student, of the best
undistilled rival and of MiniRocket distilled from the same teacher; the gain over labels only is in accuracy, as the
documents have it with an interval. The last row weighs every set alike. Its interval takes sets as independent:
half-widths are added in quadrature. A line below tells how much smaller and faster students are than the teacher's
transformer, from the least to the most.
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
    paths: list[Path] = parser.parse_args().documents
    found = [one for path in paths for one in sensors(json.loads(path.read_bytes()))]
    print(table(found))
    print(costs(found))


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
