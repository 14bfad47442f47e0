"""How often the drift alarm is wrong on people never seen, and what it finds.

    python benchmarks/proofs/drift_alarm.py
    python benchmarks/proofs/drift_alarm.py DATASET --modality acc

Leaves each third pair of groups out in turn (of more than twelve groups a fifth at a time), measures the spread between
the others, and judges the windows of those left out: as they are, and with a fault put in. `before` is the rule of
earlier versions: some channel's population stability index against 256 windows of two known groups is 0.25 or more.
Without DATASET it also exports the shipped student anew and asks it for the two people of the test split, with what it
bears.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, ModalitySpec, TaskSpec, example_bundle
from mmkd_edge.drift.features import ROWS, InputStatistics, window_features
from mmkd_edge.drift.running import measure_statistics, stability_index
from mmkd_edge.drift.verdict import Drift, DriftWatch
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_export.plan import ExportPlan
from mmkd_export.run import export
from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.training.drift_reference import fit_reference
from proofs.script import head, parser_of, row

Floats = NDArray[np.float32]
DriftFault = Callable[[Floats], Floats]


def scaled(factors: float | Floats) -> DriftFault:
    """Windows (N, T, C) times one factor, or one for each channel."""
    return lambda windows: windows * np.float32(factors)


def moved(offsets: float | Floats) -> DriftFault:
    """Windows (N, T, C) plus one offset, or one for each channel."""
    return lambda windows: windows + np.float32(offsets)


def reordered(order: list[int]) -> DriftFault:
    """The channels of windows (N, T, C) in another order."""
    return lambda windows: windows[:, :, order]


def faults(channels: int) -> dict[str, DriftFault]:
    """What is put into windows (N, T, C)."""
    found = {"as they are": scaled(1)}
    for c in range(channels):
        one = (np.arange(channels) == c).astype(np.float32)
        found[f"dead {c}"] = scaled(1 - one)
        found[f"turned {c}"] = scaled(1 - 2 * one)
        found[f"offset {c} by 1"] = moved(one)
        found[f"gain {c} by 2"] = scaled(1 + one)
    for a, b in itertools.combinations(range(min(channels, 3)), 2):
        found[f"swapped {a} and {b}"] = reordered([{a: b, b: a}.get(c, c) for c in range(channels)])
    found |= {f"offset of all by {size:g}": moved(size) for size in (0.1, 0.3, 1.0)}
    return found | {f"gain of all by {size:g}": scaled(size) for size in (0.5, 1.5, 9.81)}


def features_of(windows: Floats, modality: ModalitySpec) -> NDArray[np.float64]:
    """(N, F) features of windows, as a device takes them."""
    values, present = prepare_batch(windows, modality)
    step = max(1, modality.samples // ROWS)
    pairs = zip(values[:, ::step], present[:, ::step] > 0, strict=True)
    return np.array([window_features(one, there) for one, there in pairs])


def before(statistics: InputStatistics, windows: Floats) -> bool:
    """Whether the rule of earlier versions names a channel."""
    found = False
    for c, channel in enumerate(statistics.channels):
        values = windows[:, ::3, c][np.isfinite(windows[:, ::3, c])]
        counts = np.bincount(np.searchsorted(channel.edges, values, side="right"), minlength=len(channel.shares))
        found |= stability_index(counts / max(1, len(values)), np.array(channel.shares)) >= 0.25
    return found


def splits(groups: list[int]) -> Sequence[tuple[int, ...]]:
    """Which groups are left out together."""
    if len(groups) <= 12:
        return list(itertools.combinations(groups, 2))[::3]
    shuffled = np.random.default_rng(0).permutation(groups)
    return [tuple(part.tolist()) for part in np.array_split(shuffled, 5)]


def cases_of(windows: Floats, modality: ModalitySpec) -> dict[str, tuple[Floats, NDArray[np.float64]]]:
    """The windows of one group under every fault, and some of them, with their features."""
    rng, count = np.random.default_rng(0), len(windows)
    start = int(rng.integers(0, count - 99))
    cases = {name: fault(windows) for name, fault in faults(len(modality.channels)).items()}
    cases["100 of them, drawn"] = windows[np.sort(rng.permutation(count)[:100])]
    cases["100 in a row"] = windows[start : start + 100]
    return {name: (case, features_of(case, modality)) for name, case in cases.items()}


def measure(windows: dict[int, Floats], modality: ModalitySpec) -> None:
    """Print the table of groups left out."""
    known = {group: cases_of(one, modality) for group, one in windows.items()}
    rng, plain = np.random.default_rng(0), "as they are"
    found: dict[str, list[tuple[bool, Drift]]] = {}
    for out in splits(sorted(windows)):
        rest = [group for group in sorted(windows) if group not in out]
        training = [known[group][plain][1] for group in rest]
        watch = DriftWatch(
            reference := fit_reference(training, channels=len(modality.channels), between="groups"),
            names=modality.channels,
            unit=modality.unit,
        )
        valid = np.concatenate([windows[group] for group in rng.permutation(rest)[:2]])
        valid = valid[rng.permutation(len(valid))[:256]]
        answers = np.full((len(valid), 2), 0.5, np.float32)
        statistics = measure_statistics(
            *prepare_batch(valid, modality), answers, task=TaskSpec(labels=("one", "other"))
        )
        for group in rest:
            case, features = known[group][plain]
            own = found.setdefault("of the groups that the reference knows", [])
            own.append((before(statistics, case), watch.judge(features)))
        for name, (case, features) in (one for group in out for one in known[group].items()):
            found.setdefault(name, []).append((before(statistics, case), watch.judge(features)))
    print(f"{reference.groups} groups; outside although nothing is wrong: {100 * reference.false_alarm_rate:.1f} %")
    print("\n" + head("windows", "judged", "before: alarm", "now: outside", "explained by"))
    for name, verdicts in found.items():
        outside = [drift for _, drift in verdicts if drift.verdict != "as_trained"]
        causes = Counter(" and ".join(drift.causes) for drift in outside).most_common(3)
        said = ", ".join(f"{cause} {count}" for cause, count in causes)
        old, count = sum(old for old, _ in verdicts), len(verdicts)
        print(row(name, count, share(old, count), share(len(outside), count), said))


def share(part: int, whole: int) -> str:
    """A count as a percentage."""
    return f"{100 * part / whole:.0f} %"


def measure_student(data: Path, modality: str) -> None:
    """Print what the shipped student answers under each fault, and what its health says."""
    test = open_dataset(data).split("test")
    labels = test.spec.task.labels
    print("\n" + head("fault", "right answers", "verdicts on the two people"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.edge"
        export(ExportPlan(source=example_bundle(), output=path, drift_reference=data))
        for name, fault in faults(3).items():
            right, said = [], []
            for group in np.unique(test.groups):
                rows = np.flatnonzero(test.groups == group)
                with EdgePredictor.open(path, backend="ort", observe_every=1) as predictor:
                    answers = predictor.predict_batch(list(fault(test.take(rows)[modality])))
                    drift = predictor.health().models[0].drift
                right += [one.label == labels[test.labels[row]] for one, row in zip(answers, rows, strict=True)]
                said.append(f"{drift.verdict} ({drift.reason})" if drift.causes else drift.verdict)
            print(row(name, f"{100 * np.mean(right):.1f} %", "; ".join(said)), flush=True)


def main() -> None:
    """Read the arguments and measure."""
    parser = parser_of(__doc__)
    parser.add_argument("data", nargs="?", type=Path, help="a dataset directory with groups; else the shipped one")
    parser.add_argument("--modality", default="acc", help="which")
    arguments = parser.parse_args()
    data = arguments.data or shipped_dataset()
    everything = open_dataset(data).everything()
    groups = [int(g) for g in np.unique(everything.groups) if (everything.groups == g).sum() >= 100]
    windows = {g: everything.take(np.flatnonzero(everything.groups == g))[arguments.modality] for g in groups}
    measure(windows, everything.spec.modality(arguments.modality))
    if arguments.data is None:
        measure_student(data, arguments.modality)


if __name__ == "__main__":
    main()
