"""A Markdown table from what `mmkd-demo --json` printed: the tables of docs/results/demo.md.

python examples/demo_table.py RESULT.json [RESULT.json ...]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HEADER = (
    "| sensor | model | accuracy, % | balanced accuracy, % | macro-F1, % "
    "| gain, points (95 % interval) | gap recovered |\n"
    "|---|---|---|---|---|---|---|"
)
MODELS = {
    "extra_trees": "extra-trees",
    "mini_rocket": "MiniRocket",
    "baseline": "baseline, labels only",
    "student": "distilled student",
}


def main() -> None:
    """Print one section per document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", nargs="+", type=Path)
    print("\n\n".join(section(json.loads(path.read_bytes())) for path in parser.parse_args().documents))


def section(document: dict[str, Any]) -> str:
    """Give the table of one document, and what stands below it."""
    teacher, students = document["teacher"], document["students"]
    rows = [row(" + ".join(teacher["modalities"]), f"teacher, {teacher['parameters']:,} parameters", teacher)]
    for sensor, found in students.items():
        rows += [row(sensor, text, found[key]) for key, text in MODELS.items() if key != "student"]
        gain = f"{points(found['gain_points'])} | {recovered(found['gap_recovered'])}"
        rows.append(row(sensor, MODELS["student"], found["student"], gain))
    ratios = "; ".join(
        f"{sensor} {found['parameters_ratio']:.1f} times fewer parameters, "
        f"{found['latency_ratio']:.1f} times lower latency"
        for sensor, found in students.items()
    )
    mean = (
        f"Mean gain over the sensors: {points(document['mean_gain_points'])} points. Student against teacher: {ratios}."
    )
    return "\n".join([HEADER, *rows, "", mean, *tried(teacher.get("sizes_tried", []))])


def row(sensor: str, model: str, found: dict[str, Any], gain: str = " | ") -> str:
    """Give one row; a rival without scores says why."""
    keys = ("accuracy", "balanced_accuracy", "macro_f1")
    if any(found.get(key) is None for key in keys):
        return f"| {sensor} | {model} | {found['reason']} | | | {gain} |"
    return f"| {sensor} | {model} | {' | '.join(percent(found[key]) for key in keys)} | {gain} |"


def percent(spread: dict[str, Any]) -> str:
    """Give mean and standard deviation over the seeds, the mean alone where there was one seed."""
    mean = f"{100 * spread['mean']:.1f}"
    return mean if spread["std"] is None else f"{mean} ± {100 * spread['std']:.1f}"


def points(gain: dict[str, Any]) -> str:
    """Give a gain with its interval, where there is one."""
    interval = "" if gain["low"] is None else f" ({gain['low']:+.1f} to {gain['high']:+.1f})"
    return f"{gain['mean']:+.1f}{interval}"


def recovered(share: float | None) -> str:
    """Give the recovered share of the gap; empty where the teacher is no better than the baseline."""
    return "" if share is None else f"{share:.0%}"


def tried(sizes: list[dict[str, Any]]) -> list[str]:
    """Give the table of the teacher's sizes, where more than one was tried."""
    if not sizes:
        return []
    rows = [
        f"| {size['preset']}{', taken' if size['chosen'] else ''} | {size['parameters']:,} | "
        f"{100 * size['valid_score']['mean']:.1f} | "
        f"{', '.join(f'{100 * score:.1f}' for score in size['valid_score']['per_seed'])} |"
        for size in sizes
    ]
    return ["", "| teacher | parameters | validation, mean | each fold |", "|---|---|---|---|", *rows]


if __name__ == "__main__":
    main()
