"""What the kinds of student are worth on one fold with a tenth of the labels, and what each costs an engine.

    python benchmarks/proofs/student_kinds.py --modality acc --steps 300

Prints validation and test balanced accuracy of each kind on labels alone, and of aeon's MiniRocketClassifier on the
same windows; then, of each student's fp32 graph, parity with torch and the median latency in every engine that is here,
one thread, the graphs in turn.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.backends.base import Backend, is_installed, open_backend
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.judge.torch_answers import answers_from_student
from mmkd_models.compare.one_fold import FoldData, fold_data
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.defaults import AUGMENT
from mmkd_models.evaluate.rivals import Contestants
from mmkd_models.metrics.scores import AnyMetric
from mmkd_models.networks.config import StudentKind, student_config
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form.hybrid import fit_hybrid
from mmkd_models.training.closed_form.rocket import fit_rocket_student
from mmkd_models.training.inputs import TrainingRun
from mmkd_models.training.predict import scores_of
from mmkd_models.training.trainings import train_baseline

SHIPPED = Path(__file__).parents[2] / "models" / "mmkd_models" / "data" / "watch_exercises"
METRIC: AnyMetric = "balanced_accuracy"
ROUNDS, CALLS = 30, 20


def main() -> None:
    """Trains, judges, exports and times."""
    options = _options()
    torch.set_num_threads(1)
    name = options.modality
    fold = fold_data(open_dataset(options.dataset), seed=options.fold, labelled=Labelled(share=options.label_share))
    students = trained(fold, name, steps=options.steps)
    for kind, student in students.items():
        found = scores_of(student.network(), fold.test.with_modalities([name]), modality=name)
        print(f"{kind:<12} validation {student.facts.score:.3f}  test {found.metric(METRIC):.3f}")
    for seed in range(2):
        parts = (fold.training.valid, fold.test)
        judged = Contestants(train=fold.training.train, parts=parts, modality=name, seed=seed).judged("mini_rocket")
        if isinstance(judged, str):
            print(judged)
            continue
        both = [one.scores.metric(METRIC) for one in judged]
        print(f"aeon seed {seed}  validation {both[0]:.3f}  test {both[1]:.3f}")
    windows = fold.test.with_modalities([name]).take(np.arange(64))[name]
    for engine in ("ort", "openvino", "litert"):
        if is_installed(engine):
            timed(engine, students, windows)


def trained(fold: FoldData, name: str, *, steps: int) -> dict[StudentKind, StudentCheckpoint]:
    """A student of each kind on labels alone, of the size tiny."""
    run = TrainingRun(train=TrainConfig(steps=steps, learning_rate=2e-3, metric=METRIC), augment=AUGMENT)
    start = time.perf_counter()
    rocket = fit_rocket_student(fold.training, name, student_config("tiny", kind="rocket"), run)
    print(f"rocket trained in {time.perf_counter() - start:.1f} s")
    transformer = train_baseline(fold.training, name, student_config("tiny"), run)
    return {
        "transformer": transformer,
        "rocket": rocket,
        "hybrid": fit_hybrid(fold.training, transformer, rocket, run),
    }


def timed(engine: str, students: dict[StudentKind, StudentCheckpoint], windows: NDArray[np.float32]) -> None:
    """Parity and median latency of each student's graph; a round of calls each, in turn."""
    opened: dict[str, Backend] = {}
    for kind, student in students.items():
        backend = opened[kind] = open_backend(engine, onnx_from_student(student), threads=1)  # type: ignore[arg-type]
        expected = answers_from_student(student, windows).logits
        found = np.concatenate([backend.run(_feeds(student, window))[0] for window in windows])
        print(f"{engine:<9} {kind:<12} largest difference from torch {np.abs(found - expected).max():.1e}")
    times: dict[str, list[float]] = {kind: [] for kind in students}
    for number in range(ROUNDS * CALLS):
        for kind, student in students.items():
            feeds = _feeds(student, windows[number % len(windows)])
            start = time.perf_counter()
            opened[kind].run(feeds)
            times[kind].append(time.perf_counter() - start)
    for name, found_times in times.items():
        p10, p50 = np.quantile(found_times, [0.1, 0.5]) * 1e6
        print(f"{engine:<9} {name:<12} p50 {p50:.0f} us, p10 {p10:.0f} us")
    for backend in opened.values():
        backend.close()


def _feeds(student: StudentCheckpoint, window: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    name = student.modality.name
    values, present = prepare_batch(window[None], student.modality)
    return {name: values, f"{name}_present": present}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, default=SHIPPED)
    parser.add_argument("--modality", default="acc")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--label-share", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=300)
    return parser.parse_args()


if __name__ == "__main__":
    main()
