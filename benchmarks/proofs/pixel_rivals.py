"""What users would try first on a camera and a microphone: a ridge on pixels or log-mels, and a small 3-D network.

    python benchmarks/proofs/pixel_rivals.py --modality lips --labelled-groups 96 -o out --against RESULT.json
    python benchmarks/proofs/pixel_rivals.py mydata --modality voice --label-share 0.1 -o out --ridge-only

Without DATA the shipped `grid_words` is taken. Folds, labels and validation are those of `mmkd-demo`. The ridge sees
each pixel, or each value of the log-mels, in standard deviations, and validation chooses its penalty. The network, for
video alone, has three convolutions over time, rows and columns, and so many channels that its parameters are nearest
to `--parameters`, or to those of the student it is held against. It sees the windows of students of labels alone,
varied as theirs are, for as many steps; with `--mixed` also mixed in pairs, and validation chooses. What is finished is
in `-o`, a file for each fold. `--against` takes what `mmkd-demo --json` printed: points of its student over a rival,
fold by fold, with a 95 % interval of Student's t over the folds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.compare.one_fold import FoldData, fold_data
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource, channel_statistics
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from mmkd_models.data.labelled import ALL, labelled_from_options
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import AUGMENT, STUDENT_TRAIN
from mmkd_models.distil.learner import SupervisedLearner
from mmkd_models.metrics.scores import scores_from_logits
from mmkd_models.networks.student import StudentOutput
from mmkd_models.training.choosing.race import mixings
from mmkd_models.training.loop import fit
from mmkd_models.training.predict import logits_of, scores_of, series_values
from proofs.script import head, parser_of, row

PENALTIES = np.logspace(-1, 5, 7)
WAYS = ("mixed", "unmixed")
METRICS = ("accuracy", "balanced_accuracy")


Ways = Mapping[str, AugmentConfig]


class Found(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rival reached on one fold.

    Attributes:
        valid_score: balanced accuracy, by which it was chosen.
        test: by metric.
        chosen: what validation chose, in words.
    """

    valid_score: float
    test: dict[str, float]
    parameters: int
    chosen: str


def main() -> None:
    """Train and judge what is missing, and print the table."""
    options = _options()
    torch.set_num_threads(1)
    dataset = open_dataset(options.data or shipped_dataset("grid_words"))
    labelled = labelled_from_options(options.label_share, options.labelled_groups, otherwise=ALL)
    modality = dataset.spec.modality(options.modality)
    document = None if options.against is None else msgspec.json.decode(options.against.read_bytes())
    contest = None if document is None else document["students"][modality.name]
    parameters = options.parameters or (None if contest is None else contest["student"]["parameters"])
    rivals = ["ridge"] if options.ridge_only or modality.kind != "video" else ["ridge", "3-D network"]
    if len(rivals) > 1 and parameters is None:
        raise UsageError("--parameters: expected a number, or --against, got neither; say how large the network is")
    ways = dict(zip(WAYS, mixings(AUGMENT), strict=True) if options.mixed else [(WAYS[1], mixings(AUGMENT)[1])])
    found: dict[str, list[Found]] = {rival: [] for rival in rivals}
    for seed in options.folds:
        data = fold_data(dataset, seed=seed, labelled=labelled)
        for rival in rivals:
            path = options.out / f"{modality.name}-{labelled.file_part}-{rival.replace(' ', '-')}-{seed}.json"
            found[rival].append(kept_or_made(path, rival, data, modality, parameters=parameters, ways=ways))
    print(table(found, options.folds, contest))


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("data", nargs="?", help="dataset directory; default the shipped words")
    parser.add_argument("--modality", required=True, help="the camera or the microphone")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--label-share", type=float, help="of the training windows; default all are labelled")
    parser.add_argument("--labelled-groups", type=int, help="whole groups of the training windows")
    parser.add_argument("--parameters", type=int, help="of the network; default those of the student")
    parser.add_argument("--ridge-only", action="store_true", help="train no network")
    parser.add_argument("--mixed", action="store_true", help="train the network on mixed windows too")
    parser.add_argument("--against", type=Path, metavar="RESULT.json", help="what mmkd-demo --json printed")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder of what is finished")
    return parser.parse_args()


def kept_or_made(
    path: Path, rival: str, data: FoldData, modality: ModalitySpec, *, parameters: int | None, ways: Ways
) -> Found:
    """Gives what a fold's rival reached, from its file where it is finished."""
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Found)
    if rival == "ridge":
        found = ridge(data, modality)
    else:
        assert parameters is not None  # asked for before
        found = convolutions(data, modality, parameters, ways=ways, runs=path.with_suffix(""))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, msgspec.json.encode(found))
    return found


def ridge(data: FoldData, modality: ModalitySpec) -> Found:
    """A linear classifier of all pixels, or of all log-mels."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    known = _known(data)
    scaler = StandardScaler().fit(flat(known, modality))
    train, valid, test = (scaler.transform(flat(one, modality)) for one in (known, data.training.valid, data.test))
    tried = []
    for penalty in PENALTIES:
        model = RidgeClassifier(alpha=penalty).fit(train, known.labels)
        answered = (answers(model, asked, len(known.spec.task.labels)) for asked in (valid, test))
        on_valid, on_test = map(_scores, (data.training.valid, data.test), answered)
        tried.append((on_valid["balanced_accuracy"], penalty, on_test))
    score, penalty, on_test = max(tried, key=lambda one: one[:2])
    values = (train.shape[1] + 1) * len(known.spec.task.labels)
    return Found(
        valid_score=score,
        test=on_test,
        parameters=values,
        chosen=f"penalty {penalty:g}",
    )


def flat(windows: Windows, modality: ModalitySpec) -> NDArray[np.float32]:
    """(N, values): pixels of video, log-mels of sound, samples of a series; 0 where missing."""
    if modality.kind == "video":
        values = _only(windows, modality.name).take(np.arange(len(windows)))[modality.name]
        return np.ma.filled(values, 0).reshape(len(windows), -1).astype(np.float32)
    return np.nan_to_num(series_values(windows, modality.name)).reshape(len(windows), -1)


def answers(model: Any, asked: NDArray[np.float32], classes: int) -> NDArray[np.float64]:
    """(N, K), -1 of a class that had no label."""
    found = np.full((len(asked), classes), -1.0)
    found[:, model.classes_] = model.decision_function(asked)
    return found


class Convolutions(nn.Module):
    """Three convolutions over time, rows and columns with batch normalisation, and a mean over what is left.

    Args:
        width: channels of the first; the others have twice and four times as many.
        mean: of a byte of each channel (C,).
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, width: int, classes: int, *, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        layers: list[nn.Module] = []
        sizes = (channels, width, 2 * width, 4 * width)
        for number, (few, many) in enumerate(itertools.pairwise(sizes)):
            kernel, stride = ((3, 5, 5), (1, 2, 2)) if number == 0 else ((3, 3, 3), (number, 2, 2))
            padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
            layers += [nn.Conv3d(few, many, kernel, stride, padding, bias=False), nn.BatchNorm3d(many), nn.ReLU()]
        self.layers, self.dropout, self.head = nn.Sequential(*layers), nn.Dropout(0.3), nn.Linear(4 * width, classes)

    def forward(self, values: Tensor, present: Tensor) -> StudentOutput:
        """Frames (B, T, H, W, C) from 0 to 255 and presence (B, T, 1) -> logits (B, K)."""
        scaled = (values.to(present.dtype) - self.mean) / self.std * present[..., None, None]
        embedding = self.layers(scaled.permute(0, 4, 1, 2, 3)).mean((2, 3, 4))
        return StudentOutput(logits=self.head(self.dropout(embedding)), embedding=embedding)


def convolutions(data: FoldData, modality: ModalitySpec, parameters: int, *, ways: Ways, runs: Path) -> Found:
    """The 3-D network from scratch, in each way of varying windows; validation chooses.

    Args:
        ways: augmentations by name.
        runs: folder of the trainings' states, which an interrupted one continues from.
    """
    width = width_for(parameters, modality, len(data.test.spec.task.labels))
    tried = []
    for name, augment in ways.items():
        network = _network(data, modality, width)
        tried.append((_learnt(network, data, modality.name, augment, runs / name), name, network))
    score, name, network = max(tried, key=lambda one: one[0])
    return Found(
        valid_score=score,
        test=_scores(data.test, logits_of(network, _only(data.test, modality.name), modality=modality.name)),
        parameters=_parameters(network),
        chosen=f"{name} windows",
    )


def _learnt(network: Convolutions, data: FoldData, name: str, augment: AugmentConfig, folder: Path) -> float:
    """Trains the network as students of labels alone are, in place, and gives its score on validation."""
    train = msgspec.structs.replace(STUDENT_TRAIN, seed=_seed(data))
    known, valid = _only(_known(data), name), _only(data.training.valid, name)
    labels = {"dataset": data.training.sha256, "rows": known.rows.tolist(), "augment": msgspec.to_builtins(augment)}
    result = fit(
        SupervisedLearner(network, modality=name),
        BatchSource(known, augment, batch=train.batch, labelled_share=1.0, seed=train.seed),
        evaluate=lambda one: scores_of(one, valid, modality=name),
        config=train,
        run_dir=folder,
        resume=True,
        settings=labels | {"parameters": _parameters(network)},
    )
    network.load_state_dict(result.state)
    return result.scores.metric("balanced_accuracy")


def width_for(parameters: int, modality: ModalitySpec, classes: int) -> int:
    """Gives the width whose network has nearly so many parameters."""
    channels = modality.shape[-1]
    with torch.device("meta"):  # sizes alone
        nothing = torch.zeros(channels)
        made = {width: Convolutions(channels, width, classes, mean=nothing, std=nothing) for width in range(4, 65)}
    sizes = {width: _parameters(network) for width, network in made.items()}
    return min(sizes, key=lambda width: abs(sizes[width] - parameters))


def _network(data: FoldData, modality: ModalitySpec, width: int) -> Convolutions:
    mean, std = map(torch.from_numpy, channel_statistics(data.training.train, modality.name))
    torch.manual_seed(_seed(data))
    return Convolutions(len(mean), width, len(data.test.spec.task.labels), mean=mean, std=std)


def _known(data: FoldData) -> Windows:
    return data.training.train.subset(np.flatnonzero(data.training.train.labelled))


def _only(windows: Windows, name: str) -> Windows:
    return windows.with_modalities((name,))


def _seed(data: FoldData) -> int:
    assert isinstance(data.training.fold, int)  # folds of groups are dealt
    return data.training.fold


def _parameters(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def _scores(windows: Windows, logits: NDArray[Any]) -> dict[str, float]:
    found = scores_from_logits(windows.labels, logits, windows.spec.task)
    return {metric: found.metric(metric) for metric in METRICS}


def table(found: Mapping[str, Sequence[Found]], folds: Sequence[int], contest: Mapping[str, Any] | None) -> str:
    """The figures in per cent with their spread over the folds, and points of a sensor's students over each."""
    columns = ("parameters", "accuracy, %", "balanced accuracy, %", "each fold")
    ours = {} if contest is None else {"taught student": contest["student"], "labels alone": contest["baseline"]}
    rows = [head("rival", *columns, *(f"{who} over it, points" for who in ours))]
    for rival, ones in found.items():
        shares = {metric: np.array([one.test[metric] for one in ones]) for metric in METRICS}
        each = ", ".join(f"{100 * one:.1f}" for one in shares["accuracy"])
        over = [np.array(one["accuracy"]["per_seed"])[list(folds)] - shares["accuracy"] for one in ours.values()]
        figures = (*map(spread, shares.values()), each, *map(points, over))
        rows.append(row(rival, f"{ones[0].parameters:,}", *figures))
    return "\n".join(rows)


def spread(shares: NDArray[np.float64]) -> str:
    """Mean and standard deviation over the folds, in per cent."""
    deviation = f" ± {100 * shares.std(ddof=1):.1f}" if len(shares) > 1 else ""
    return f"{100 * shares.mean():.1f}{deviation}"


def points(gains: NDArray[np.float64]) -> str:
    """The mean over the folds in points, with the 95 % interval of Student's t."""
    from scipy.stats import sem, t

    if len(gains) < 2:
        return f"{100 * gains.mean():+.1f}"
    reach = float(t.ppf(0.975, len(gains) - 1) * sem(gains))
    return f"{100 * gains.mean():+.1f} ({100 * (gains.mean() - reach):+.1f} to {100 * (gains.mean() + reach):+.1f})"


if __name__ == "__main__":
    main()
