"""What the rules of alarms cost on machines that chose nothing: false alarms an hour, and what is detected.

    python benchmarks/checks/alarms.py DATA FOLDER --modality imu --normal healthy

For every fold of the dataset a student of convolutions learns from the training groups (`mmkd-train student --members
convolutions`) and is exported. `mmkd-run --tune-alarm`'s search chooses a rule for each label that is not normal on the
validation groups; recordings of the test groups, which neither trained nor chose, are then replayed in their order,
before episode logic (every result that names the label is an alarm) and after it. Counts of the folds are added; each
group is judged once. A student of normal running has the one alarm `unknown`. Prints Markdown.
Needs `mmkd-edge[train,export,import]`; students stay in FOLDER.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from checks.script import head, row, script_parser
from mmkd_edge import EdgePredictor
from mmkd_models.data import fold_indices, open_dataset
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import fold_count
from mmkd_models.data.for_devices import read_recordings
from mmkd_station.alarms import RuleScore, Tuned, rate_interval, tune_alarm
from mmkd_station.intake import ReplayedRecording
from mmkd_station.sensor import usual_hop

COOLDOWN_S = 60.0


def main() -> None:
    """Train, export, tune and judge in every fold."""
    parser = script_parser(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="keeps the students")
    parser.add_argument("--modality", required=True, help="the one sensor that is left")
    parser.add_argument("--normal", required=True, help="the class that is taken as normal operation")
    parser.add_argument("--hop", type=int, help="samples from one result to the next; else as of mmkd-run")
    parser.add_argument("--most", type=float, default=1.0, help="false alarms an hour on the validation groups")
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    is_normal = dataset.spec.task.kind == "normal"
    labels = ["unknown"] if is_normal else [one for one in dataset.spec.task.labels if one != options.normal]
    tuned: dict[str, list[Tuned]] = {label: [] for label in labels}
    for fold in range(fold_count(dataset.everything())):
        bundle = exported(options.folder, options.data, options.modality, fold)
        with EdgePredictor.open(bundle, backend="ort", threads=1) as predictor:
            recordings = list(dealt(dataset, options.data, predictor, fold))
            for label in labels:
                tuned[label].append(
                    tune_alarm(
                        predictor,
                        [one for one in recordings if is_normal or one.label in (label, options.normal)],
                        label=label,
                        most_per_hour=options.most,
                        hop=options.hop or usual_hop(predictor.entry),
                        cooldown_s=COOLDOWN_S,
                    )
                )
    print(head("alarm", "", "false alarms", "in hours", "an hour", "interval", "detected", "interval", texts=2))
    for label, folds in tuned.items():
        print(cells(label, "each result", [one.before for one in folds]))
        print(cells(label, "episodes", [one.on_test for one in folds]))


def dealt(dataset: Dataset, path: Path, predictor: EdgePredictor, fold: int) -> Iterator[ReplayedRecording]:
    """The recordings of a dataset, in the split of a fold."""
    windows = dataset.everything()
    found = fold_indices(windows, fold=fold, seed=0)
    parts = {"train": found.train, "valid": found.valid, "test": found.test}
    split_of = {str(group): name for name, rows in parts.items() for group in set(windows.groups[rows].tolist())}
    for one in read_recordings(path, predictor.modality):
        yield ReplayedRecording(
            rows=one.rows, name=one.name, label=one.label, group=one.group, split=split_of.get(one.group, "train")
        )


def cells(label: str, what: str, outcomes: Sequence[RuleScore]) -> str:
    """One row of the table: the counts of all folds, whose test groups differ, with exact intervals at 95 %."""
    from scipy.stats import binomtest

    hours, alarms = sum(one.normal_hours for one in outcomes), sum(one.false_alarms for one in outcomes)
    recordings, detected = sum(one.recordings for one in outcomes), sum(one.detected for one in outcomes)
    low, high = rate_interval(alarms, hours)
    least, most = binomtest(detected, recordings).proportion_ci(0.95, method="exact")
    return row(
        label, what, alarms, f"{hours:.2f}", f"{alarms / hours:.2f}", f"{low:.2f} to {high:.2f}",
        f"{detected} of {recordings}", f"{100 * least:.0f} to {100 * most:.0f} %",
    )  # fmt: skip


def exported(folder: Path, data: Path, modality: str, fold: int) -> Path:
    """The student of a fold as a bundle."""
    bundle = folder / f"{data.name}-{modality}-{fold}.edge"
    if not bundle.exists():
        folder.mkdir(parents=True, exist_ok=True)
        members = [] if open_dataset(data).spec.task.kind == "normal" else ["--members", "convolutions"]
        options = ["--modality", modality, *members, "--fold", fold, "--force"]
        run("train", "student", data, *options, "-o", bundle.with_suffix(".ckpt"))
        run("export", bundle.with_suffix(".ckpt"), "-o", bundle)
    return bundle


def run(command: str, *arguments: object) -> None:
    """One of the commands, in a process of its own."""
    package = "mmkd_models" if command == "train" else "mmkd_export"
    code = f"from {package}.commands.{command} import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
