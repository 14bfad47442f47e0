"""Does the novelty score know a class that training never saw? Each class is left out in turn.

    python benchmarks/proofs/novelty.py fit watch_exercises --modality acc --folds 2 --keep FOLDER
    python benchmarks/proofs/novelty.py score FOLDER
    python benchmarks/proofs/novelty.py graphs student.ckpt --keep FOLDER --precision fp32 int8
    python benchmarks/proofs/novelty.py stream causal.edge watch_exercises

`fit` trains one student for each class and fold, without the class, and keeps embeddings, logits and statistics of the
windows; what is there already is not computed again, so that a run that was stopped goes on. `score` judges all that a
folder keeps: the area under the ROC curve of windows of the class left out (positive) against all others of the test
fold, the share of them that is detected where one in a hundred of the others is called unknown, and what the level 0.01
of the validation windows gives on the test fold, whose groups are in neither. Intervals are 95 % percentiles of a
bootstrap over the classes left out, within folds (2,000 draws). Beside it: Mahalanobis distances from classes with a
shared covariance (K. Lee, K. Lee, H. Lee, J. Shin, NeurIPS 2018, arXiv 1807.03888, equation 2; shrunk as O. Ledoit, M.
Wolf, Journal of Multivariate Analysis 88, 2004), the largest softmax probability (D. Hendrycks, K. Gimpel, ICLR 2017),
the energy of the logits (W. Liu et al., NeurIPS 2020), and an isolation forest on means, deviations, extremes and mean
steps of the channels (scikit-learn). `graphs` writes a student's graphs with the output and without it, so that
`mmkd-bench pair FOLDER/without.fp32.onnx FOLDER/with.fp32.onnx` says what it costs. `stream` says which share of
windows has a p-value of at most 0.01 and 0.05, each alone and along a stream of all of them end to end.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Precision
from mmkd_export.plan import ExportPlan
from mmkd_export.run import export
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import AUGMENT
from mmkd_models.networks.config import StudentKind, student_config
from mmkd_models.novelty import NoveltyScore
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import read_student, write_student
from mmkd_models.training.closed_form.students import labelled_student
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.judging.novelty import seen_of
from mmkd_models.training.predict import embeddings_of, logits_of, series_values

Floats = NDArray[np.floating[Any]]
KeptArrays = Mapping[str, NDArray[Any]]
PARTS = ("valid", "known", "novel")
LEVEL, DRAWS, TREES = 0.01, 2000, 200


def main() -> None:
    """Trains or judges."""
    options = _options()
    torch.set_num_threads(1)
    if options.do == "score":
        _score(options.folder, options.json)
        return
    if options.do == "stream":
        _follow(options.bundle, options.dataset)
        return
    options.keep.mkdir(parents=True, exist_ok=True)
    if options.do == "graphs":
        _write_graphs(options.student, options.keep, options.precision)
        return
    windows = open_dataset(options.dataset).everything().with_modalities([options.modality])
    sha256 = open_dataset(options.dataset).sha256
    for fold in range(options.folds):
        for left_out in range(len(windows.spec.task.labels)):
            name = f"{windows.spec.name}-{options.modality}-{fold}-{options.kind}-{left_out}.npz"
            if not (options.keep / name).exists():
                kept = _fitted(windows, fold, left_out, sha256, kind=options.kind, steps=options.steps)
                np.savez(options.keep / name, **dict(kept))  # type: ignore[arg-type]  # names are not its options
                print(name, flush=True)


def _fitted(windows: Windows, fold: int, left_out: int, sha256: str, *, kind: StudentKind, steps: int) -> KeptArrays:
    """Embeddings, logits and statistics of the windows of every part, by a student that never saw a class."""
    rows = fold_indices(windows, fold=fold, seed=fold)
    train, valid, test = (windows.subset(one) for one in (rows.train, rows.valid, rows.test))
    data = TrainingData(train=_without(train, left_out), valid=_without(valid, left_out), sha256=sha256, fold=fold)
    run = TrainingRun(
        train=TrainConfig(steps=steps, seed=fold, metric="balanced_accuracy"), augment=AUGMENT, embed_windows=False
    )
    modality = windows.spec.modalities[0].name
    network = labelled_student(data, modality, student_config("tiny", kind=kind), run).network()
    parts = {
        "train": data.train,
        "valid": data.valid,
        "known": _without(test, left_out),
        "novel": test.subset(test.labels == left_out),
    }
    kept: dict[str, NDArray[Any]] = {"train_y": data.train.labels}
    for part, some in parts.items():
        kept[f"{part}_e"] = embeddings_of(network, some, modality=modality)
        kept[f"{part}_l"] = logits_of(network, some, modality=modality)
        kept[f"{part}_x"] = _statistics(series_values(some, modality))
    return kept


def _without(windows: Windows, left_out: int) -> Windows:
    """The labelled windows of the other classes, numbered anew."""
    windows = windows.subset(windows.labelled & (windows.labels != left_out))
    labels = tuple(name for number, name in enumerate(windows.spec.task.labels) if number != left_out)
    task = msgspec.structs.replace(windows.spec.task, labels=labels)
    numbers = windows.labels - (windows.labels > left_out)
    return replace(windows, spec=msgspec.structs.replace(windows.spec, task=task), labels=numbers)


def _statistics(values: Floats) -> Floats:
    """(N, 5 C) of windows (N, T, C)."""
    steps = np.abs(np.diff(values, axis=1))
    found = [np.nanmean(values, 1), np.nanstd(values, 1), np.nanmin(values, 1), np.nanmax(values, 1)]
    return np.asarray(np.nan_to_num(np.concatenate([*found, np.nanmean(steps, 1)], axis=1)))


def _ours(kept: KeptArrays) -> dict[str, Floats]:
    score = NoveltyScore(seen_of(kept["train_e"], kept["valid_e"]))
    return {part: score(torch.from_numpy(kept[f"{part}_e"]))[:, 0].numpy() for part in PARTS}


def _mahalanobis(kept: KeptArrays) -> dict[str, Floats]:
    from sklearn.covariance import ledoit_wolf

    embeddings, labels = kept["train_e"].astype(np.float64), kept["train_y"]
    means = np.stack([embeddings[labels == label].mean(axis=0) for label in np.unique(labels)])
    spread = embeddings.std(axis=0) + 1e-6
    within = (embeddings - means[np.unique(labels, return_inverse=True)[1]]) / spread
    whiten = np.linalg.cholesky(np.linalg.inv(ledoit_wolf(within, assume_centered=True)[0])) / spread[:, None]
    found = {}
    for part in PARTS:
        apart = (kept[f"{part}_e"] @ whiten)[:, None] - (means @ whiten)[None]  # (N, K, D)
        found[part] = np.square(apart).sum(axis=2).min(axis=1)
    return found


def _softmax(kept: KeptArrays) -> dict[str, Floats]:
    return {part: np.log(np.exp(_shifted(kept[f"{part}_l"])).sum(axis=1)) for part in PARTS}


def _shifted(logits: Floats) -> Floats:
    return np.asarray(logits - logits.max(axis=1, keepdims=True))


def _energy(kept: KeptArrays) -> dict[str, Floats]:
    return {part: -np.logaddexp.reduce(kept[f"{part}_l"].astype(np.float64), axis=1) for part in PARTS}


def _forest(kept: KeptArrays) -> dict[str, Floats]:
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=TREES, random_state=0).fit(np.nan_to_num(kept["train_x"]))
    return {part: -forest.score_samples(np.nan_to_num(kept[f"{part}_x"])) for part in PARTS}


METHODS: dict[str, Callable[[KeptArrays], dict[str, Floats]]] = {
    "nearest centre": _ours,
    "Mahalanobis": _mahalanobis,
    "largest softmax": _softmax,
    "energy": _energy,
    "isolation forest": _forest,
}
FIGURES = ("auroc", "detected", "level_detected", "level_false")


def _figures(scores: Mapping[str, Floats]) -> tuple[float, ...]:
    """As named in `FIGURES`."""
    from sklearn.metrics import roc_auc_score

    known, novel = scores["known"], scores["novel"]
    truth = np.repeat([0, 1], [len(known), len(novel)])
    limit, level = np.quantile(known, 1 - LEVEL), _limit(scores["valid"])
    return (
        float(roc_auc_score(truth, np.concatenate([known, novel]))),
        float((novel > limit).mean()),
        float((novel > level).mean()),
        float((known > level).mean()),
    )


def _limit(valid: Floats) -> float:
    """The score above which the p-value is at most the level."""
    most = int(LEVEL * (len(valid) + 1) + 1e-9) - 1
    return float(np.sort(valid)[len(valid) - 1 - most]) if most >= 0 else float("inf")


def _score(folder: Path, path: Path | None) -> None:
    found: dict[str, dict[str, list[tuple[int, tuple[float, ...]]]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.glob("*.npz")):
        dataset, modality, fold, kind, _ = file.stem.rsplit("-", 4)
        with np.load(file) as kept:
            for name, method in METHODS.items():
                found[f"{dataset} {modality}, {kind}"][name].append((int(fold), _figures(method(kept))))
    table = {of: {name: _summary(rows) for name, rows in methods.items()} for of, methods in found.items()}
    for of, methods in table.items():
        count = len(found[of]["energy"])
        print(f"\n{of}: {count} students\n\n| score | AUROC | detected at 1 % | at level 0.01: detected | false |")
        print("|---|---:|---:|---:|---:|")
        for name, figures in methods.items():
            cells = (f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in figures.values())
            print(f"| {name} | {' | '.join(cells)} |")
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


def _summary(rows: list[tuple[int, tuple[float, ...]]]) -> dict[str, tuple[float, float, float]]:
    """Mean and interval of each figure: classes left out are drawn within their folds."""
    folds = np.array([fold for fold, _ in rows])
    figures = np.array([values for _, values in rows])  # (students, figures)
    rng = np.random.default_rng(0)
    places = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    draws = np.array(
        [figures[np.concatenate([rng.choice(mine, len(mine)) for mine in places])].mean(axis=0) for _ in range(DRAWS)]
    )
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    means = figures.mean(axis=0)
    return {name: (float(means[n]), float(low[n]), float(high[n])) for n, name in enumerate(FIGURES)}


def _write_graphs(path: Path, folder: Path, precisions: Sequence[Precision]) -> None:
    """`with.<precision>.onnx` and `without.<precision>.onnx`, each as an export writes it into a bundle."""
    student = read_student(path)
    for name, one in (("with", student), ("without", replace(student, seen=None))):
        with tempfile.TemporaryDirectory() as there:
            source, output = Path(there) / "student.ckpt", Path(there) / "student.edge"
            write_student(source, one)
            several = len(precisions) > 1
            export(ExportPlan(source=source, output=output, precisions=tuple(precisions), accept_unjudged=several))
            with Bundle.open(output) as bundle:
                for artifact in bundle.manifest.models[0].artifacts:
                    target = folder / f"{name}.{artifact.precision}.onnx"
                    target.write_bytes(bundle.read(artifact.file))
                    print(target)


def _follow(bundle: Path, dataset: str) -> None:
    """Shares of p-values of a causal student's windows, alone and along a stream."""
    print("| windows | p at most 0.01: alone | along the stream | at most 0.05: alone | along the stream |")
    print("|---|---:|---:|---:|---:|")
    with EdgePredictor.open(bundle, backend="ort") as predictor:
        streaming, name = predictor.entry.streaming, predictor.modality.name
        assert streaming is not None
        for split in ("valid", "test"):
            some = open_dataset(dataset).split(split).with_modalities([name])
            windows = some.take(np.arange(len(some)))[name]
            stream = predictor.stream(hop=5 * streaming.stride)
            alone = [predictor.predict(window).novelty for window in windows]
            along = [found.novelty for window in windows for found in stream.push(window)]
            values = [np.array([one for one in found if one is not None]) for found in (alone, along)]
            cells = (f"{(found <= level).mean():.1%}" for level in (0.01, 0.05) for found in values)
            print(f"| {split}, {len(windows)} | {' | '.join(cells)} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    doing = parser.add_subparsers(dest="do", required=True)
    fit = doing.add_parser("fit")
    fit.add_argument("dataset")
    fit.add_argument("--modality", required=True)
    fit.add_argument("--folds", type=int, default=2)
    fit.add_argument("--kind", default="rocket", choices=["rocket", "transformer", "hybrid"])
    fit.add_argument("--steps", type=int, default=200, help="of a transformer's training")
    fit.add_argument("--keep", type=Path, required=True)
    graphs = doing.add_parser("graphs")
    graphs.add_argument("student", type=Path)
    graphs.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "fp16", "int8"])
    graphs.add_argument("--keep", type=Path, required=True)
    stream = doing.add_parser("stream")
    stream.add_argument("bundle", type=Path)
    stream.add_argument("dataset")
    score = doing.add_parser("score")
    score.add_argument("folder", type=Path)
    score.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
