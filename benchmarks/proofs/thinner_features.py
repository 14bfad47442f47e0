"""What thinner convolutional features cost in accuracy: fewer positions, or fewer features, over several sets.

    python benchmarks/proofs/thinner_features.py DIR:MODALITY [DIR:MODALITY ...] [--label-share 0.1] -o out

`shipped_engines.py --thinner` tells what they save in time. Students are pruned convolutional features as `mmkd-distill
--kind rocket` computes them, taught by the closed committee of `teaching_alone.py`; validation evens their classes.
Kernels and biases are drawn once a fold, at every position, where a `tiny` student of more than 100 samples has every
third; the regression and what is pruned are found for each way anew. Balanced accuracy on test windows in per cent,
means over the folds, and the difference to every position with all the features that a `tiny` student may have, with
its standard error over folds. What is finished in the folder is not made again.
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch

from mmkd_edge.spec import ModalitySpec
from mmkd_models.compare.one_fold import FoldData, fold_data
from mmkd_models.data.dataset import open_dataset
from mmkd_models.networks.rocket import RocketFeatures
from mmkd_models.training.closed_form.rocket import FEWEST_FEATURES, drawn_features, features_of_rows
from mmkd_models.training.closed_form.targets import rows_to_learn_from
from proofs.script import head, row
from proofs.teaching_alone import labelled_as, parser_of_sets, teacher_answers
from proofs.when_labels_win import MOST_FEATURES, student

EVERY = "every position"
WAYS = {
    EVERY: (1, MOST_FEATURES),
    "every second": (2, MOST_FEATURES),
    "every third": (3, MOST_FEATURES),
    f"{FEWEST_FEATURES} features": (1, FEWEST_FEATURES),
}
"""How many positions a kernel steps on, and how many features stay at most."""

Found = dict[str, float]
"""Balanced accuracy of a fold in per cent, by `WAYS`."""


def main() -> None:
    """Make what is missing, and print the table."""
    arguments = parser_of_sets(__doc__).parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[Found]] = {}
    for text in arguments.sets:
        directory, _, modality = text.rpartition(":")
        dataset = open_dataset(directory)
        labelled = labelled_as(dataset, arguments.label_share)
        ours = found.setdefault(f"{dataset.spec.name} {modality}", [])
        for fold in arguments.folds:
            path = arguments.out / f"{dataset.spec.name}-{modality}-{labelled.file_part}-{fold}.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                data = fold_data(dataset, seed=fold, labelled=labelled)
                path.write_bytes(msgspec.json.encode(measured(data, modality, seed=fold)))
            ours.append(msgspec.json.decode(path.read_bytes(), type=Found))
    print(table(found))


def table(found: dict[str, list[Found]]) -> str:
    """Gives a row a way, and a column a set."""
    rows = [head("features", *found, "mean over sets", "difference", texts=1)]
    for way in WAYS:
        folds = {name: np.array([[one[way], one[EVERY]] for one in ours]) for name, ours in found.items()}
        means = [values[:, 0].mean() for values in folds.values()]
        differences = [values[:, 0] - values[:, 1] for values in folds.values()]
        mean = np.mean([one.mean() for one in differences])
        error = np.sqrt(sum(one.var(ddof=1) / len(one) for one in differences)) / len(differences)
        shown = "" if way == EVERY else f"{mean:+.1f} ± {error:.1f}"
        rows.append(row(way, *(f"{value:.1f}" for value in (*means, np.mean(means))), shown))
    return "\n".join(rows)


def measured(data: FoldData, modality: str, *, seed: int) -> Found:
    """Trains a student in each way."""
    train, valid, test = data.training.train, data.training.valid, data.test
    _, _, _, committee, _ = teacher_answers((train, valid, test), valid, seed=seed)
    rows = rows_to_learn_from(train, taught=True, seed=seed)
    parts = ((train, rows), (valid, np.arange(len(valid))), (test, np.arange(len(test))))
    drawn = drawn_features(train, modality, seed=seed)
    found = {}
    for way, (step, most) in WAYS.items():
        network = stepping(drawn, train.spec.modality(modality), step)
        features = [features_of_rows(network, windows, modality, chosen) for windows, chosen in parts]
        found[way] = student(data, features, rows, np.arange(len(rows)), committee[0], most=most).test
    return found


def stepping(drawn: RocketFeatures, modality: ModalitySpec, step: int) -> RocketFeatures:
    """Gives the same features, whose kernels step on so many positions more at a time."""
    config = msgspec.structs.replace(drawn.config, stride=step * drawn.config.stride)
    network = RocketFeatures(modality, config)
    network.load_state_dict(drawn.state_dict())
    return network.eval()


if __name__ == "__main__":
    main()
