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
from pathlib import Path
from typing import Any

import numpy as np

from checks.script import head, row, script_parser

UNTAUGHT = {"extra_trees": "extra-trees", "mini_rocket": "MiniRocket", "rocket_and_trees": "ensemble"}
RIVALS = UNTAUGHT | {"distilled_rocket": "distilled MiniRocket"}
Document = dict[str, Any]
Folds = np.ndarray[Any, Any]


def main() -> None:
    """Print the table and the lines below it."""
    parser = script_parser(__doc__)
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--before", nargs="+", type=Path, default=[], metavar="EARLIER.json")
    options = parser.parse_args()
    documents = [json.loads(path.read_bytes()) for path in options.documents]
    print(table(documents))
    print(costs(documents))
    taught = [
        np.mean([folds_of(each["student"]) - folds_of(each["baseline"]) for each in one["students"].values()], axis=0)
        for one in documents
    ]
    print(f"gain over labels only, balanced accuracy, mean over datasets: {points(*taught)}")
    print("\n".join(ahead(documents)))
    if options.before:
        print("\n".join(gains_over([json.loads(path.read_bytes()) for path in options.before], documents)))


def table(documents: Sequence[Document]) -> str:
    """Give the table, with the mean over sets below."""
    names = ["dataset, sensor", "labelled", "teacher", "labels only", "student", "undistilled rival (chosen on test)"]
    rows = [head(*names, "distilled MiniRocket", "gain, points of accuracy (95 % CI)", "folds distilled", texts=1)]
    figures, gains = [], []
    for document in documents:
        of_sensors, of_gains = [], []
        for name, one in document["students"].items():
            best = max(
                (key for key in UNTAUGHT if "balanced_accuracy" in one.get(key, {})), key=lambda key: mean(one[key])
            )
            shown = (document["teacher"], one["baseline"], one["student"], one[best], one["distilled_rocket"])
            scores, gain, shipped = [mean(each) for each in shown], one["gain_points"], one["student"]["shipped"]
            of_sensors.append(scores)
            of_gains.append([gain["mean"], gain.get("low", np.nan), gain.get("high", np.nan)])
            cells = [f"{score:.1f}" for score in scores]
            cells[3] += f" {UNTAUGHT[best]}"
            taught = f"{sum(way != 'labels only' for way in shipped)} of {len(shipped)}"
            title = f"{document['dataset']['name']} {name}"
            rows.append(row(title, labelled(document), *cells, gain_of(*of_gains[-1]), taught))
        figures.append(np.mean(of_sensors, axis=0))
        gains.append(np.mean(of_gains, axis=0))
    center = float(np.mean([gain[0] for gain in gains]))
    half = float(np.sqrt(np.sum([((high - low) / 2) ** 2 for _, low, high in gains]))) / len(gains)
    cells = [f"{score:.1f}" for score in np.mean(figures, axis=0)]
    return "\n".join([*rows, row("mean over datasets", "", *cells, gain_of(center, center - half, center + half), "")])


def labelled(document: Document) -> str:
    """Give what is labelled."""
    groups = document.get("labelled_groups")
    return f"{groups['labelled']} of {max(groups['of'])} groups" if groups else f"{document['label_fraction']:.0%}"


def costs(documents: Sequence[Document]) -> str:
    """Give what students cost beside the teacher's transformer."""
    students = [one for document in documents for one in document["students"].values()]
    smaller, faster = ([one[key] for one in students] for key in ("parameters_ratio", "latency_ratio"))
    return (
        f"\nparameters are {min(smaller):.0f} to {max(smaller):.0f} times fewer than the teacher's transformer, "
        f"latency {min(faster):.1f} to {max(faster):.1f} times lower"
    )


def ahead(documents: Sequence[Document]) -> list[str]:
    """Give a line for each rival that is ahead of a student, in balanced accuracy."""
    lines = []
    for document in documents:
        for name, one in document["students"].items():
            for key in (key for key in RIVALS if "balanced_accuracy" in one.get(key, {})):
                lead = folds_of(one[key]) - folds_of(one["student"])
                if lead.mean() > 0:
                    title = f"{document['dataset']['name']} {name} {RIVALS[key]}"
                    lines.append(f"ahead of the student: {title} {points(lead)}")
    return lines or ["no rival is ahead of a student"]


def gains_over(earlier: Sequence[Document], documents: Sequence[Document]) -> list[str]:
    """Give students' gains in balanced accuracy over earlier ones, on the sensors and folds that both have."""
    before = {(one["dataset"]["name"], name): each for one in earlier for name, each in one["students"].items()}
    lines, by_set = list[str](), list[Folds]()
    for document in documents:
        dataset, gains = document["dataset"]["name"], []
        for name, one in document["students"].items():
            if (dataset, name) in before:
                now, old = folds_of(one["student"]), folds_of(before[dataset, name]["student"])
                count = min(len(now), len(old))
                gains.append(now[:count] - old[:count])
                lines.append(f"gain over before: {dataset} {name} {points(gains[-1])}")
        by_set += [np.mean(gains, axis=0)] if gains else []
    return [*lines, f"gain over before, mean over datasets: {points(*by_set)}"]


def folds_of(one: Document) -> Folds:
    """Give balanced accuracy of each fold, in per cent."""
    return 100 * np.array(one["balanced_accuracy"]["per_seed"])


def mean(one: Document) -> float:
    """Give the mean over folds, in per cent."""
    return 100 * float(one["balanced_accuracy"]["mean"])


def points(*sets: Folds) -> str:
    """Give the mean over sets of the folds' mean difference, with its interval from two folds a set."""
    from scipy import stats

    middle, freedom = float(np.mean([one.mean() for one in sets])), sum(len(one) - 1 for one in sets)
    if min(map(len, sets)) < 2:
        return gain_of(middle, np.nan, np.nan)
    error = float(np.sum([one.var(ddof=1) / len(one) for one in sets])) ** 0.5 / len(sets)
    half = stats.t.ppf(0.975, freedom) * error
    return gain_of(middle, middle - half, middle + half)


def gain_of(middle: float, low: float, high: float) -> str:
    """Give a gain, with its interval where there is one: not of a few groups."""
    return f"{middle:+.1f}" if np.isnan(low) else f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
