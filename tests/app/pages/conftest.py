"""Documents as `mmkd-demo --json` writes them, with figures in the range of real runs; and a strict parser of pages."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

EXERCISES = ["pendulum", "abduction", "forward elevation", "internal rotation", "trapezius extension", "upright row"]
LONG_LABELS = [
    "normal operation under full load",
    "outer bearing race damaged",
    "<b>loose</b> foundation & worn coupling",
    "pump leakage, severe",
]
FIVE_SENSORS = [
    "vibration_drive_end_triaxial",
    "motor_current_phase_u",
    "acoustic_emission",
    "strain",
    "housing_temperature_bearing_2",
]
TEACHER = 0.83
MACHINE = {"cpu": "Example CPU 2.4 GHz", "cores": 2, "governor": None, "os": "Linux 6.1"}


def spread(level):
    """A figure of five seeds, which are a hundredth apart."""
    values = [level + 0.01 * step for step in (-2, -1, 0, 1, 2)]
    return {"mean": level, "std": statistics.stdev(values), "per_seed": values}


def scores(level):
    return {"accuracy": spread(level), "balanced_accuracy": spread(level - 0.012), "macro_f1": spread(level - 0.021)}


def network(level, *, labels, parameters=61_432, p50):
    """All that is told of a network; each class is confused with the next."""
    right = round(210 * level)
    counts = [{true: right, (true + 1) % labels: 210 - right} for true in range(labels)]
    return scores(level) | {
        "valid_score": spread(level + 0.01),
        "parameters": parameters,
        "preset": "tiny",
        "modalities": [],
        "latency_ms": {"p50": p50, "p90": p50 * 1.12, "p99": p50 * 1.71},
        "confusion": [[row.get(answer, 0) for answer in range(labels)] for row in counts],
    }


def sensor(name, *, labels, baseline, student):
    """One modality with rivals, gain and the missing-sample test."""
    mean = 100 * (student - baseline)
    missing = [0.0, 0.1, 0.25, 0.5, 0.75]
    return {
        "baseline": network(baseline, labels=labels, p50=0.1123) | {"modalities": [name], "learning_rate": [0.001] * 5},
        "student": network(student, labels=labels, p50=0.1131) | {"modalities": [name]},
        "extra_trees": scores(student - 0.05),
        "mini_rocket": scores(student - 0.02),
        "gain_points": {"mean": mean, "low": mean - 3.4, "high": mean + 3.1},
        "over_teacher_points": {"mean": 100 * (student - TEACHER), "low": -40.0, "high": -1.0},
        "gap_points": {"mean": 100 * (TEACHER - baseline), "low": 4.0, "high": 40.0},
        "gap_recovered": mean / (100 * (TEACHER - baseline)),
        "bundle": f"students/{name}.edge",
        "latency_ratio": 4.31,
        "latency_ratios": {"median": 4.31, "min": 4.124, "max": 4.48, "std": 0.1, "repeats": 10},
        "parameters_ratio": 20.4,
        "missing": {
            "fractions": missing,
            "student": [spread(student - 0.3 * gone) for gone in missing],
            "baseline": [spread(baseline - 0.4 * gone) for gone in missing],
        },
    }


def full(names, labels, levels):
    """A document in which everything was measured, under every subset of the sensors too."""
    students = {
        name: sensor(name, labels=len(labels), baseline=low, student=high)
        for name, (low, high) in zip(names, levels, strict=True)
    }
    subsets = [used for count in range(1, len(names) + 1) for used in itertools.combinations(names, count)]
    missing = [{"modalities": used, "accuracy": spread(0.55 + 0.28 * len(used) / len(names))} for used in subsets]
    teacher = network(TEACHER, labels=len(labels), parameters=1_253_000, p50=0.487)
    mean = statistics.fmean(one["gain_points"]["mean"] for one in students.values())
    sampling = {"rate_hz": 50.0, "samples": 200, "unit": "g"}
    return {
        "format_version": 1,
        "command": "mmkd-demo --seeds 5 --out demo",
        "dataset": {
            "name": "watch_exercises",
            "source": "seglearn 1.2.5, https://arxiv.org/abs/1802.01489",
            "licence": "BSD-3-Clause",
            "sha256": "3f1c0b8e" * 8,
            "windows": {"train": 1338, "valid": 445, "test": 446},
            "groups": 10,
            "labels": list(labels),
            "modalities": [
                {"name": name, "channels": [f"{name}_{axis}" for axis in "xyz"], **sampling} for name in names
            ],
        },
        "label_fraction": 0.1,
        "seeds": [0, 1, 2, 3, 4],
        "teacher": teacher | {"preset": "medium", "modalities": list(names), "missing": missing},
        "students": students,
        "mean_gain_points": {
            "mean": mean,
            "low": mean - 2.2,
            "high": mean + 2.4,
            "method": "95 % bootstrap over people",
        },
        "benchmark": {
            "bundle": f"students/{names[-1]}.edge",
            "backend": "ort",
            "threads": 1,
            "latency_ms": {"p50": 0.1271, "p90": 0.1394, "p99": 0.1907, "samples": 23_815},
            "stages_us": {"check_window": 2.13, "prepare": 6.42, "run": 113.6, "interpret": 4.91},
            "load_ms": 12.31,
            "first_call_ms": 0.913,
            "rss_mb": 61.4,
            "machine": dict(MACHINE),
        },
        "versions": {"mmkd-edge": "0.1.0", "torch": "2.9.0", "onnxruntime": "1.23.0"},
        "machine": MACHINE | {"memory": {"total_gb": 8, "swap_gb": 0}},
        "duration_s": 431.7,
        "report": "report.html",
    }


@pytest.fixture
def one_seed():
    """One seed, one sensor measured, and null or nothing wherever that is allowed."""
    one = {"mean": 0.6123, "std": 0.0, "per_seed": [0.6123]}
    two = {"mean": 0.7051, "std": None, "per_seed": [0.7051]}
    return {
        "format_version": 1,
        "command": "mmkd-demo --out demo",
        "dataset": {"name": "rotor", "labels": ["good", "worn"], "modalities": [], "groups": None},
        "label_fraction": 1,
        "seeds": [3],
        "teacher": {"accuracy": two, "balanced_accuracy": None, "macro_f1": None, "parameters": None},
        "students": {
            "drive": {
                "baseline": {"accuracy": one, "latency_ms": None, "confusion": [[9, 3], [5, 7]]},
                "student": {
                    "accuracy": {"mean": 0.5998, "std": 0.0, "per_seed": [0.5998]},
                    "valid_score": one,
                },
                "extra_trees": {"accuracy": {"mean": 0.6456}, "balanced_accuracy": {"mean": 0.6312}, "macro_f1": None},
                "mini_rocket": {"reason": "the library aeon is not installed: pip install 'mmkd-edge[rivals]'"},
                "gain_points": {"mean": -1.25, "low": -4.0, "high": 1.5},
                "gap_recovered": None,
                "bundle": None,
                "missing": None,
            }
        },
        "mean_gain_points": None,
        "benchmark": None,
        "versions": None,
        "machine": None,
        "duration_s": None,
    }


@pytest.fixture
def two_sensors():
    """Five seeds, two sensors, everything measured."""
    return full(["acc", "gyro"], EXERCISES, [(0.744, 0.752), (0.558, 0.712)])


@pytest.fixture
def five_sensors():
    """Five sensors with long names, all 31 subsets."""
    levels = [(0.71, 0.78), (0.55, 0.61), (0.62, 0.60), (0.48, 0.52), (0.40, 0.44)]
    return full(FIVE_SENSORS, LONG_LABELS, levels)


VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


@dataclass(kw_only=True)
class Node:
    """An element of a parsed page."""

    tag: str
    attrs: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag, cls=""):
        """Descendants of that tag and class, in order."""
        return [node for node in self.walk() if node.tag == tag and (not cls or cls in node.classes)]

    def walk(self):
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.walk()

    @property
    def classes(self):
        return self.attrs.get("class", "").split()

    @property
    def text(self):
        """All text below, with white space as a reader sees it; narrow spaces stay."""
        raw = "".join(
            child if isinstance(child, str) else "" if child.tag == "wbr" else f" {child.text} "
            for child in self.children
        )
        return " ".join(raw.replace("\u202f", "\0").split()).replace("\0", "\u202f")


def section(page, name):
    """The section under a heading's id."""
    return next(node for node in page.all("section") if node.attrs["aria-labelledby"] == name)


def cells(table):
    return [[cell.text for cell in (*row.all("th"), *row.all("td"))] for row in table.all("tr")[1:]]


class Strict(HTMLParser):
    """A parser that insists on what HTML leaves to chance: every element closed, in order, by its own tag."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Node(tag="#page")
        self.open = [self.root]
        self.declaration = ""

    def handle_decl(self, decl):
        self.declaration = decl

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        node = Node(tag=tag, attrs={name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


@pytest.fixture
def parse():
    """Parses a page and fails where it is not balanced."""

    def parsed(html):
        parser = Strict()
        parser.feed(html)
        parser.close()
        assert parser.declaration == "doctype html"
        assert parser.open == [parser.root]
        return parser.root

    return parsed
