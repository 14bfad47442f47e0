"""What answers over time gain on groups that neither trained nor chose how they are filtered.

    python benchmarks/checks/over_time.py DATA --modality acc [--members intervals] [--rows-in-order]

For every fold of the dataset a student learns from the training groups' labels; its validation groups choose the rules
(`fit_over_time`). The test groups are judged as recorded and in a random order (`mmkd-evaluate --suite over_time`). A
fold whose validation wants no rules gains nothing. With --rows-in-order the rows of a group count as windows that
follow one another without overlap; use it only where they do. Prints Markdown; the interval is Student's t over folds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from checks.script import head, row, script_parser
from checks.shipped_table import points
from mmkd_documents.judging import JudgedModel
from mmkd_models.data import fold_indices, open_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.folds import fold_count
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, SuiteInputs
from mmkd_models.evaluation.suites.over_time import OverTimeFacts, judge_over_time
from mmkd_models.networks.config import MEMBERS, student_config
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.inputs import TrainingData, TrainingRequest, TrainingRun
from mmkd_models.training.predict import logits_of
from mmkd_models.training.students import train_student


def main() -> None:
    """Print a row a fold, and the mean gain."""
    parser = script_parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--modality", required=True)
    parser.add_argument("--members", nargs="+", choices=MEMBERS, default=["intervals"])
    parser.add_argument("--rows-in-order", action="store_true")
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    windows = dataset.everything().with_modalities((options.modality,))
    if options.rows_in_order:
        windows = in_order(windows, dataset.spec.modality(options.modality).duration_s)
    numbers = ("hop, s", "dwell, s", "exponent", "single", "over time", "gain", "shuffled", "answers until followed")
    print(head("fold", *numbers))
    gains = []
    for fold in range(fold_count(windows)):
        found = fold_indices(windows, fold=fold, seed=0)
        parts = [windows.subset(rows) for rows in (found.train, found.valid, found.test)]
        facts = judged(*parts, modality=options.modality, members=tuple(options.members), sha256=dataset.sha256)
        gains.append(0.0 if facts is None else facts.figures["as recorded"].gain.mean)
        print(row(fold, *(["none", *[""] * 7] if facts is None else cells(facts))), flush=True)
    print(f"\nmean gain over {len(gains)} folds: {points(np.array(gains))}")


def in_order(windows: Windows, duration_s: float) -> Windows:
    """The windows with a clock by which those of a group follow one another, in the order of their rows."""
    _, groups = np.unique(windows.groups, return_inverse=True)
    starts = np.zeros(len(windows))
    for group in range(groups.max() + 1):
        rows = np.flatnonzero(groups == group)
        starts[rows] = duration_s * np.arange(len(rows))
    return replace(windows, times=None, starts=starts, episodes=groups)


def judged(
    train: Windows, valid: Windows, test: Windows, *, modality: str, members: tuple[str, ...], sha256: str
) -> OverTimeFacts | None:
    """The figures of a fold; None without rules."""
    run = TrainingRun(train=TrainConfig(), augment=AugmentConfig())
    data = TrainingData(train=train, valid=valid, sha256=sha256)
    config = student_config("small", members=members)  # type: ignore[arg-type] # the parser checks them
    student = train_student(TrainingRequest(data=data, modality=modality, config=config, run=run))
    if student.facts.over_time is None:
        return None
    models = (under_test(student),)
    return judge_over_time(SuiteInputs(models=models, windows=test, train=train, calibration=valid))


def under_test(student: StudentCheckpoint) -> ModelUnderTest:
    """The student as a model under test."""
    network, name = student.network(), student.modality.name
    facts = JudgedModel(name="student", path="", sha256="", role="labels only", modalities=(name,), parameters=0)
    return ModelUnderTest(
        facts=facts,
        cautions=(),
        predict=lambda windows: logits_of(network, windows, modality=name),
        checkpoint=student,
        over_time=student.facts.over_time,
    )


def cells(facts: OverTimeFacts) -> list[str]:
    """The cells of a fold."""
    recorded, rule = facts.figures["as recorded"], facts.rule
    delays = [f"{np.median(facts.delays[way]):g}" for way in ("single", "over time")]
    return [
        f"{facts.hop_s:g}",
        f"{rule.dwell_s:g}",
        f"{rule.exponent:g}",
        *(f"{100 * figure:.1f}" for figure in (recorded.single, recorded.over_time)),
        f"{recorded.gain.mean:+.1f}",
        f"{facts.figures['shuffled'].gain.mean:+.1f}",
        " -> ".join(delays),
    ]


if __name__ == "__main__":
    main()
