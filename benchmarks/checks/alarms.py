"""What the rules of alarms cost on machines that chose nothing: false alarms an hour, and what is detected.

    python benchmarks/checks/alarms.py DATA FOLDER --modality imu --normal healthy

For every fold of the dataset a student of convolutions learns from the training groups (`mmkd-train student --members
convolutions`) and is exported. `mmkd-run --tune-alarm`'s search chooses a rule for each label that is not normal on the
validation groups; recordings of the test groups, which neither trained nor chose, are replayed in their order, before
episode logic (every result that names the label is an alarm) and after it. Counts of the folds are added; each group is
judged once. A student of normal running has the one alarm `unknown`; with --live a `mmkd-run` process follows the test
recordings in one line, by the tuned rule and by --false-alarms-per-day alone. Prints Markdown.
Needs `mmkd-edge[train,export,import]`; students stay in FOLDER.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from checks.script import head, row, script_parser
from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.spec import ReplayedRecording
from mmkd_models.data import fold_indices, open_dataset
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import fold_count
from mmkd_models.data.for_devices import read_recordings
from mmkd_station.alarms import RuleScore, Tuned, rate_interval, tune_alarm
from mmkd_station.sensor import usual_hop

RULE = ("confirm", "release", "min_probability")


def main() -> None:
    """Train, export, tune and judge in every fold."""
    parser = script_parser(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="keeps the students")
    parser.add_argument("--modality", required=True, help="the one sensor that is left")
    parser.add_argument("--normal", required=True, help="the class that is taken as normal operation")
    parser.add_argument("--hop", type=int, help="samples from one result to the next; else as of mmkd-run")
    parser.add_argument("--most", type=float, default=1.0, help="false alarms an hour on the validation groups")
    parser.add_argument("--live", type=float, metavar="PER_DAY", help="also follow them in a process, at this rate")
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    is_normal = dataset.spec.task.kind == "normal"
    labels = {"unknown"} if is_normal else set(dataset.spec.task.labels) - {options.normal}
    tuned: dict[str, list[Tuned]] = {label: [] for label in sorted(labels)}
    followed: dict[str, list[RuleScore]] = {"single windows": [], "tuned": []}
    for fold in range(fold_count(dataset.everything())):
        bundle = exported(options.folder, options.data, options.modality, fold)
        with EdgePredictor.open(bundle, backend="ort", threads=1) as predictor:
            recordings = list(dealt(dataset, options.data, predictor, fold))
            hop, most = options.hop or usual_hop(predictor.entry), options.most
            for label in tuned:
                own = [one for one in recordings if is_normal or one.label in (label, options.normal)]
                tuned[label].append(tune_alarm(predictor, own, label=label, most_per_hour=most, hop=hop, cooldown_s=60))
            if options.live:
                rule, test = tuned["unknown"][-1].rule, [one for one in recordings if one.split == "test" and one.label]
                words = [f"--{name.replace('_', '-')}={getattr(rule, name)}" for name in RULE] + ["--alarm=unknown"]
                for name, given in (("single windows", [f"--false-alarms-per-day={options.live}"]), ("tuned", words)):
                    followed[name].append(follow(bundle, test, options.normal, given))
    print(head("alarm", "", "false alarms", "in hours", "an hour", "interval", "detected", "interval", texts=2))
    for label, folds in tuned.items():
        print(cells(label, "each result", [one.before for one in folds]))
        print(cells(label, "episodes", [one.on_test for one in folds]))
    for name, scores in followed.items() if options.live else ():
        delays = [f"{one.delay_s:.1f}" for one in scores if one.delay_s is not None]
        print(cells("unknown", f"live, {name}, delay {' '.join(delays)} s", scores))


def dealt(dataset: Dataset, path: Path, predictor: EdgePredictor, fold: int) -> Iterator[ReplayedRecording]:
    """The recordings of a dataset, in the split of a fold."""
    windows = dataset.everything()
    found = fold_indices(windows, fold=fold, seed=0)
    parts = {"valid": found.valid, "test": found.test}
    split_of = {str(group): name for name, rows in parts.items() for group in set(windows.groups[rows].tolist())}
    for one in read_recordings(path, predictor.modality):
        yield msgspec.structs.replace(one, split=split_of.get(one.group, "train"))


def follow(bundle: Path, recordings: Sequence[ReplayedRecording], normal: str, words: Sequence[object]) -> RuleScore:
    """What `mmkd-run` reports of recordings in one line: a fault after every four of normal running."""
    with Bundle.open(bundle) as opened:
        modality = opened.manifest.models[0].modality
    usual, faults = ([one for one in recordings if (one.label == normal) is is_normal] for is_normal in (True, False))
    step = max(1, 4 * len(faults) // len(usual))
    mixed = [one for n, part in enumerate(usual) for one in (part, *faults[n // 4 * step :][: n % 4 // 3])]
    rows, rate = np.concatenate([one.rows for one in mixed]), modality.rate_hz
    log, alarms = bundle.with_suffix(".csv"), bundle.with_suffix(".jsonl")
    table, columns = np.column_stack([np.arange(len(rows)) / rate, rows]), ",".join(["time", *modality.channels])
    np.savetxt(log, table, delimiter=",", header=columns, comments="", fmt="%.9g")
    alarms.unlink(missing_ok=True)
    run("run", bundle, "--source", f"csv:{log}", "--sink", f"jsonl:{alarms}", *words)
    records = map(json.loads, alarms.read_text().splitlines())
    raised = np.array([one["time_s"] for one in records if one.get("event") == "raised"])
    delays, wrong, edges = list[float](), len(raised), np.cumsum([0, *(len(one.rows) for one in mixed)]) / rate
    for one, begin, end in zip(mixed, edges, edges[1:], strict=False):
        if one.label != normal:  # a window that still has samples of the fault may raise its alarm
            own = raised[(raised > begin) & (raised <= end + modality.samples / rate)] - begin
            delays, wrong = delays + own[:1].tolist(), wrong - len(own)
    hours = sum(len(one.rows) for one in usual) / rate / 3600
    counts: dict[str, Any] = {"normal_hours": hours, "false_alarms": wrong, "false_alarms_per_hour": wrong / hours}
    found = {"recordings": sum(one.label != normal for one in mixed), "detected": len(delays)}
    delay_s = float(np.median(delays)) if delays else None
    return RuleScore(**counts, **found, false_alarms_interval=rate_interval(wrong, hours), delay_s=delay_s)


def cells(label: str, what: str, outcomes: Sequence[RuleScore]) -> str:
    """One row of the table: the counts of all folds, whose test groups differ, with exact intervals at 95 %."""
    from scipy.stats import binomtest

    counted = [(one.normal_hours, one.false_alarms, one.recordings, one.detected) for one in outcomes]
    hours, alarms, recordings, detected = map(sum, zip(*counted, strict=True))
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
    code = f"from mmkd_app.commands.{command} import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
