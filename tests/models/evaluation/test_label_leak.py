"""Labels spread in time: against a plain loop, and where they are a leak."""

import numpy as np
import pytest

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.evaluation.gains import labels_spread_in_time, leak_of
from mmkd_models.metrics.scores import Scores
from mmkd_report.schema.figures import OF_CLASSES, Chance, LabelLeak, Split, Spread
from mmkd_report.words import for_terminal, leak_sentence


def make_windows(path, labels, groups):
    rng = np.random.default_rng(0)

    def split(labels, groups):
        values = rng.normal(size=(len(labels), 8, 1)).astype(np.float32)
        return {"acc": values, "labels": np.array(labels), "groups": np.array(groups)}

    dataset = write_dataset(
        path,
        name="rig",
        labels=["a", "b"],
        modalities=[ModalitySpec(name="acc", channels=("x",), rate_hz=8.0, samples=8)],
        splits={"train": split(labels, groups), "valid": split([0, 1], [90, 90]), "test": split([0, 1], [91, 91])},
    )
    return dataset.split("train")


def test_a_hidden_label_is_that_of_the_nearer_seen_one_of_its_group(tmp_path):
    #        group 1: seen 0 and 4    group 2: none seen, so the commoner seen label, 0
    labels = [0, 0, 0, 1, 1, 1, 1, 0]
    train = make_windows(tmp_path / "rig", labels, [1] * 6 + [2] * 2)
    seen = train.with_labels(np.array([0, -1, -1, -1, 1, -1, -1, -1]))
    judged = labels_spread_in_time(seen, train.labels)
    scores = judged.class_scores
    assert isinstance(scores, Scores)
    # Row 1 is nearer to 0; row 2 lies in the middle, where the first class wins; 3 and 5 are nearer to 4; the rows of
    # group 2 get the mean of both seen labels, of which the first class wins again. Only row 6 is wrong.
    assert scores.confusion == ((3, 0), (1, 2))


def test_there_is_nothing_to_judge_where_all_labels_are_seen_or_none(tmp_path):
    train = make_windows(tmp_path / "rig", [0, 0, 1, 1], [1, 1, 2, 2])
    assert labels_spread_in_time(train, train.labels) is None
    assert labels_spread_in_time(train.with_labels(np.full(4, -1)), train.labels) is None


@pytest.mark.parametrize(("run", "leaks"), [(40, True), (1, False)])
def test_long_runs_of_one_label_leak_and_shuffled_labels_do_not(tmp_path, run, leaks):
    groups = np.repeat(np.arange(8), 80)
    ordered = np.arange(640) // run % 2
    labels = ordered if run > 1 else np.random.default_rng(3).integers(0, 2, 640)
    train = make_windows(tmp_path / "rig", labels.tolist(), groups.tolist())
    seen = np.random.default_rng(0).random(640) < 0.1
    judged = labels_spread_in_time(train.with_labels(np.where(seen, labels, -1)), train.labels)
    assert judged is not None
    found = leak_of([judged], "accuracy")
    assert found.leaks is leaks
    assert found.figure.mean > 0.85 if leaks else found.figure.mean < 0.6


def test_a_leak_is_said_with_what_to_do():
    leak = LabelLeak(
        figure=Spread(mean=0.727), chance=Chance(figure=0.52, low=0.7, high=0.75, is_better=True), leaks=True
    )
    groups = Split(by="groups", judged_on="people", resampled="whole groups")
    assert for_terminal(leak_sentence(leak, 0.1, OF_CLASSES[0], split=groups)) == (
        "A random 10 % of labels leaks through time: labels of neighbouring windows reach accuracy 72.7 % on the "
        "unlabelled ones without any sensor (chance: 52.0 %). Label whole groups instead (--labelled-groups)."
    )
    own = Split(by="own split", judged_on="its own", resampled="blocks")
    assert for_terminal(leak_sentence(leak, 0.1, OF_CLASSES[0], split=own)).endswith(
        "Write groups.npy, and label whole groups instead (--labelled-groups)."
    )
    assert leak_sentence(leak, None, OF_CLASSES[0], split=groups) == ""
