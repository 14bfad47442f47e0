"""What members of committees are worth: read from a finished fold, and put into a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmkd_models.compare.comparison import compare_fold
from mmkd_models.compare.one_fold import fold_data
from mmkd_models.data import Dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.evaluate.outcome import TestedNetwork, outcome_on
from mmkd_models.training.checkpoint import read_teacher
from mmkd_models.training.predict import answers_to
from proofs.members_worth import members_of_fold, table
from tests.models.conftest import comparison_config


def test_members_of_a_finished_fold_answer_its_test_windows(
    machines: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmkd_models.training.committee.joining_sensor", lambda *given, **named: "acc")
    config = comparison_config(members=("transformer", "trees"), self_training=False)
    result = compare_fold(machines, seed=1, config=config, out=tmp_path)
    found = members_of_fold(machines, tmp_path)
    assert found["committee"].class_scores == result.teacher.class_scores
    assert set(found) == {"transformer", "trees", "trees of one sensor", "committee"}
    test = fold_data(machines, seed=1, labelled=Labelled(share=0.5)).test
    alone = answers_to(read_teacher(tmp_path / "teacher-tiny.ckpt").transformer(), test).numpy()
    assert found["transformer"].scores == outcome_on(test, alone).scores


def answered(machines: Dataset, right: float) -> TestedNetwork:
    """Of each class this share is answered rightly, and the rest as the next class."""
    test = machines.split("test")
    first = np.arange(len(test)) % 4 < 4 * right
    return outcome_on(test, 3.0 * np.eye(3)[np.where(first, test.labels, (test.labels + 1) % 3)])


def test_the_table_is_of_means_over_the_folds_that_have_a_member(machines: Dataset) -> None:
    half, most, all_right = (answered(machines, share) for share in (0.5, 0.75, 1.0))
    folds = [
        {"transformer": half, "rocket": half, "trees": most, "committee": most},
        {"transformer": half, "rocket": most, "trees": most, "trees of one sensor": all_right, "committee": all_right},
    ]
    lines = table({"machines": folds}).splitlines()
    means = {name: [100 * fold[name].scores.metric("balanced_accuracy") for fold in folds] for name in folds[0]}
    transformer, rocket, trees, committee = (f"{np.mean(means[name]):.1f}" for name in means)
    above = np.mean(means["committee"]) - np.mean(means["trees"])
    gain = np.mean(means["committee"]) - np.mean(means["transformer"])
    assert lines[2].startswith(
        f"| machines | 2 | {transformer} | {rocket} | {trees} |  | 100.0 | {committee} | {above:+.1f} | {gain:+.1f} ("
    )
    assert lines[3].startswith(f"| mean over sets |  | {transformer} | {rocket} | {trees} |  | 100.0 | {committee} |")
