"""What a causal student costs in accuracy: distilled again beside each windowed student of a finished `mmkd-demo`.

mmkd-demo --dataset mydata --modality acc --seeds 5 --out demo
python benchmarks/proofs/causal_accuracy.py mydata demo --modality acc

Same teacher, labels, windows, steps and seed as the windowed student of the fold; what is finished is not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from mmkd_models.compare.comparison import teacher_path
from mmkd_models.compare.fold_result import FoldResult
from mmkd_models.compare.one_fold import RESULT_FILE, FoldData, fold_data
from mmkd_models.data.dataset import open_dataset
from mmkd_models.evaluate.gains import gain_over_seeds
from mmkd_models.evaluate.outcome import TestedNetwork, outcome_on
from mmkd_models.metrics.classes import Metric
from mmkd_models.networks.config import student_config
from mmkd_models.training.checkpoint import StudentCheckpoint, file_sha256, read_student, read_teacher, write_student
from mmkd_models.training.inputs import TrainingRun
from mmkd_models.training.predict import logits_of
from mmkd_models.training.trainings import distil
from proofs.script import parser_of, row

METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1")


def main() -> None:
    """Print a table of both students on every fold, and the difference over the folds."""
    parser = parser_of(__doc__)
    parser.add_argument("data", help="dataset directory")
    parser.add_argument("demo", type=Path, help="folder that mmkd-demo --out wrote")
    parser.add_argument("--modality", required=True, help="the student's sensor")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    paths = sorted(arguments.demo.glob(f"seed-*/{RESULT_FILE}"))
    if not paths:
        sys.exit(f"{arguments.demo}: expected finished folds, found none; run mmkd-demo --out {arguments.demo}")
    print(f"| fold | windowed, validation | causal, validation | {', '.join(METRICS)}: windowed → causal, test | | |")
    print("|---" * 6 + "|")
    ours, theirs = [], []
    for path in paths:
        fold = msgspec.json.decode(path.read_bytes(), type=FoldResult)
        data = fold_data(dataset, seed=fold.seed, labelled=fold.config.labelled)
        windowed = read_student(path.parent / arguments.modality / "student.ckpt")
        causal = causal_student(path.parent, arguments.modality, fold, data)
        ours.append(judged(causal, data, arguments.modality))
        theirs.append(judged(windowed, data, arguments.modality))
        print(fold_row(str(fold.seed), (windowed, causal), (theirs[-1], ours[-1])), flush=True)
    for metric in METRICS:
        gain = gain_over_seeds(ours, theirs, metric)
        interval = "" if gain.low is None else f" ({gain.low:+.1f} to {gain.high:+.1f})"
        print(f"causal minus windowed, {metric}: {gain.mean:+.1f} points{interval}")


def causal_student(folder: Path, modality: str, fold: FoldResult, data: FoldData) -> StudentCheckpoint:
    """Give the fold's causal student; it is trained once and kept beside the windowed one."""
    path = folder / modality / "causal.ckpt"
    if path.exists():
        return read_student(path)
    teacher = teacher_path(folder, fold.config.teacher)
    run = TrainingRun(
        train=msgspec.structs.replace(fold.config.student_train, seed=fold.seed),
        augment=fold.config.augment,
        run_dir=folder / "runs" / f"{modality}-causal",
        resume=True,
    )
    student = distil(
        data.training,
        modality,
        student_config(fold.config.student, causal=True),
        run,
        teacher=read_teacher(teacher),
        teacher_sha256=file_sha256(teacher),
        recipe=fold.config.recipe,
    )
    write_student(path, student)
    return student


def judged(student: StudentCheckpoint, data: FoldData, modality: str) -> TestedNetwork:
    """Give the student's answers to the fold's test windows."""
    return outcome_on(data.test, logits_of(student.network(), data.test, modality=modality))


def fold_row(
    name: str, students: tuple[StudentCheckpoint, StudentCheckpoint], tests: tuple[TestedNetwork, TestedNetwork]
) -> str:
    """Give one fold: validation scores of the windowed and the causal student, and what they reach in each metric."""
    cells = [f"{100 * one.facts.score:.1f}" for one in students]
    for metric in METRICS:
        cells.append(" → ".join(f"{100 * one.scores.metric(metric):.1f}" for one in tests))
    return row(name, *cells)


if __name__ == "__main__":
    main()
