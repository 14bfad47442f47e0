"""A Markdown table from what `mmkd-demo --json` printed: the tables of docs/results/demo.md.

python benchmarks/proofs/demo_table.py RESULT.json [RESULT.json ...]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmkd_edge.spec import TaskSpec
from mmkd_models.metrics.measures import measures_of
from mmkd_report.documents.figures import Measure
from mmkd_report.words.measures import with_gain_unit
from mmkd_report.words.terminal import figure_text, gain_text
from proofs.script import head, parser_of, row

MODELS = {
    "extra_trees": "extra-trees",
    "mini_rocket": "MiniRocket",
    "rocket_and_trees": "MiniRocket and extra-trees averaged",
    "multi_rocket_hydra": "MultiRocket-Hydra",
    "taught_rocket": "MiniRocket, taught by the same teacher",
    "baseline": "baseline, labels only",
    "student": "distilled student",
}


def main() -> None:
    """Print one section per document."""
    parser = parser_of(__doc__)
    parser.add_argument("documents", nargs="+", type=Path)
    print("\n\n".join(section(json.loads(path.read_bytes())) for path in parser.parse_args().documents))


def section(document: dict[str, Any]) -> str:
    """Give the table of one document, and what stands below it."""
    teacher, students = document["teacher"], document["students"]
    classes = measures_of(TaskSpec(labels=tuple(document["dataset"]["labels"])))
    measures = msgspec.convert(document["measures"], tuple[Measure, ...]) if "measures" in document else classes
    told = measures[0]
    names = ["sensor", "model", *(heading(one.words, one.unit) for one in measures)]
    names += [f"{heading('gain', told.gain_unit)} (95 % interval)", "gap recovered"]
    rows = [head(*names, texts=len(names))]
    name = f"teacher, {teacher['parameters']:,} parameters"
    rows.append(model_row(" + ".join(teacher["modalities"]), name, teacher, measures))
    for sensor, found in students.items():
        ran = [key for key in MODELS if found.get(key) is not None and key != "student"]
        rows += [model_row(sensor, MODELS[key], found[key], measures) for key in ran]
        gain = f"{gained(found['gain_points'], told)} | {recovered(found, teacher, told)}"
        rows.append(model_row(sensor, MODELS["student"], found["student"], measures, gain))
    ratios = "; ".join(
        f"{sensor} {found['parameters_ratio']:.1f} times fewer parameters, "
        f"{found['latency_ratio']:.1f} times lower latency"
        for sensor, found in students.items()
    )
    gain = with_gain_unit(gained(document["mean_gain_points"], told), told)
    mean = f"Mean gain over the sensors: {gain}. Student against teacher: {ratios}."
    return "\n".join([*rows, "", mean, *tried(teacher.get("sizes_tried", []))])


def heading(words: str, unit: str) -> str:
    """Give the head of a column."""
    return f"{words}, {unit}" if unit else words


def model_row(sensor: str, model: str, found: dict[str, Any], measures: Sequence[Measure], gain: str = " | ") -> str:
    """Give one row; a rival without scores says why."""
    if any(found.get(one.name) is None for one in measures):
        return f"| {sensor} | {model} | {found['reason']} | {'| ' * (len(measures) - 1)}{gain} |"
    return f"| {sensor} | {model} | {' | '.join(written(found[one.name], one) for one in measures)} | {gain} |"


def written(spread: dict[str, Any], measure: Measure) -> str:
    """Give mean and standard deviation over the seeds, the mean alone where there was one seed."""
    std = "" if spread["std"] is None else f" ± {figure_text(spread['std'], measure)}"
    return figure_text(spread["mean"], measure) + std


def gained(gain: dict[str, Any], measure: Measure) -> str:
    """Give a gain with its interval, where there is one."""
    mean, ends = gain_text(gain["mean"], measure), [gain.get("low"), gain.get("high")]
    return mean if None in ends else f"{mean} ({' to '.join(gain_text(end, measure) for end in ends)})"


def recovered(found: dict[str, Any], teacher: dict[str, Any], measure: Measure) -> str:
    """Give the recovered share of the gap where the whole interval of teacher minus baseline is above 0."""
    gap = found.get("gap_points")
    low = low_by_folds(found["baseline"], teacher, measure) if gap is None else gap.get("low", 0.0)
    return "not measurable" if low <= 0 or found["gap_recovered"] is None else f"{found['gap_recovered']:.0%}"


def low_by_folds(baseline: dict[str, Any], teacher: dict[str, Any], measure: Measure) -> float:
    """Give the lower end for a document of earlier releases, by resampling folds: each has people of its own."""
    ours, theirs = (np.array(one[measure.name]["per_seed"]) for one in (teacher, baseline))
    draws = np.random.default_rng(0).multinomial(len(ours), np.full(len(ours), 1 / len(ours)), size=4000)
    return float(np.quantile(draws @ (measure.gain_scale * (ours - theirs)) / len(ours), 0.025))


def tried(sizes: list[dict[str, Any]]) -> list[str]:
    """Give the table of the teacher's sizes, where more than one was tried."""
    if not sizes:
        return []
    rows = [
        row(
            f"{size['preset']}{', taken' if size['chosen'] else ''}",
            f"{size['parameters']:,}",
            f"{100 * size['valid_score']['mean']:.1f}",
            ", ".join(f"{100 * score:.1f}" for score in size["valid_score"]["per_seed"]),
        )
        for size in sizes
    ]
    return ["", head("teacher", "parameters", "validation, mean", "each fold", texts=4), *rows]


if __name__ == "__main__":
    main()
