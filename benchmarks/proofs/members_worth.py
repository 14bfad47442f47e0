"""What each member of the committees that taught in demos is worth on test windows, beside the committee.

    python benchmarks/proofs/members_worth.py DEMO:DATASET [DEMO:DATASET ...]

`DEMO` is the folder that `mmkd-demo --out` keeps its work in. A row a set: balanced accuracy on test windows in per
cent, means over its finished folds; members of the best sensor alone are on some folds only, so theirs is the mean over
those. The difference to the best member is to the best of all sensors; that to its first transformer alone has a 95 %
interval that resamples whole groups. The last row weighs every set alike, and is empty where a set has no such member.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from mmkd_edge.errors import UsageError
from mmkd_models.compare.fold_result import FoldResult
from mmkd_models.compare.one_fold import RESULT_FILE, fold_data
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.evaluate.gains import gain_draws, gain_per_seed, interval_of
from mmkd_models.evaluate.outcome import TestedNetwork, outcome_on
from mmkd_models.metrics.scores import AnyMetric
from mmkd_models.networks.committee.network import Committee
from mmkd_models.training.checkpoint import read_teacher
from mmkd_models.training.predict import answers_to
from proofs.script import head, parser_of, row

METRIC: AnyMetric = "balanced_accuracy"
COLUMNS = ("transformer", "rocket", "trees", "rocket of one sensor", "trees of one sensor", "committee")

Tested = dict[str, TestedNetwork]


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("demos", nargs="+", metavar="DEMO:DATASET")
    torch.set_num_threads(1)
    found: dict[str, list[Tested]] = {}
    for text in parser.parse_args().demos:
        demo, _, data = text.rpartition(":")
        dataset = open_dataset(data)
        found[dataset.spec.name] = [
            members_of_fold(dataset, path.parent) for path in sorted(Path(demo).glob(f"seed-*/{RESULT_FILE}"))
        ]
    print(table(found))


def members_of_fold(dataset: Dataset, folder: Path) -> Tested:
    """Gives how each member of a finished fold's teacher does on its test windows, and all together."""
    result = msgspec.json.decode((folder / RESULT_FILE).read_bytes(), type=FoldResult)
    config = result.config
    test = fold_data(dataset, seed=result.seed, labelled=config.labelled, left_out=config.left_out).test
    teacher = read_teacher(folder / f"teacher-{config.teacher}.ckpt")
    network = teacher.network()
    if not isinstance(network, Committee):
        raise UsageError(f"{folder}: expected a demo that a committee taught, got a transformer; leave --members out")
    found = {"committee": outcome_on(test, answers_to(network, test).numpy())}
    for number, facts in enumerate(network.facts.members):
        logits = network.calibrated(number, answers_to(network.members[number], test))
        name = f"{facts.kind} of one sensor" if facts.modality else facts.kind
        found.setdefault(name, outcome_on(test, logits.numpy()))
    return found


def table(found: dict[str, list[Tested]]) -> str:
    """Gives a row a set, and their mean."""
    above_best, above_first = "above its best member of all sensors", "above its transformer (95 %)"
    rows = [head("set", "folds", *COLUMNS, above_best, above_first, texts=1)]
    shown, above, gains, drawn = [], [], [], []
    for name, folds in found.items():
        shown.append([mean_of(folds, column) for column in COLUMNS])
        above.append(shown[-1][-1] - float(np.nanmax(shown[-1][:3])))
        ours, theirs = ([fold[arm] for fold in folds] for arm in ("committee", "transformer"))
        gains.append(float(np.mean(gain_per_seed(ours, theirs, METRIC))))
        drawn.append(gain_draws(ours, theirs, METRIC))
        low, high = interval_of(drawn[-1])
        rows.append(
            row(
                name,
                len(folds),
                *written(shown[-1]),
                f"{above[-1]:+.1f}",
                f"{gains[-1]:+.1f} ({low:+.1f} to {high:+.1f})",
            )
        )
    low, high = interval_of(np.nanmean(drawn, axis=0))
    last = f"{np.mean(gains):+.1f} ({low:+.1f} to {high:+.1f})"
    rows.append(row("mean over sets", "", *written(np.mean(shown, axis=0)), f"{np.mean(above):+.1f}", last))
    return "\n".join(rows)


def mean_of(folds: Sequence[Tested], column: str) -> float:
    """Gives balanced accuracy in per cent over the folds that have this member; NaN where none does."""
    scores = [100 * fold[column].scores.metric(METRIC) for fold in folds if column in fold]
    return float(np.mean(scores)) if scores else float("nan")


def written(values: Sequence[float]) -> list[str]:
    """Gives figures with one digit; nothing where there is none."""
    return ["" if np.isnan(value) else f"{value:.1f}" for value in values]


if __name__ == "__main__":
    main()
