"""A sensor whose clock is off: in training, and as a fault. Ramps: a sample's value is its place in time."""

import numpy as np
import pytest
import torch

from mmkd_edge.errors import UsageError
from mmkd_models.commands.distill import run_distill
from mmkd_models.commands.train import run_train
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.data.clock_error import with_clock_error
from mmkd_models.evaluation.suites.faults import sensors_of, with_fault
from mmkd_models.training.checkpoint import read_student
from tests.edge.said import said


def starts(windows, rows, name="vib", **shift):
    return windows.take(rows, **shift)[name][:, 0, 0] % 100


def test_one_sensor_moves_by_at_most_the_error_and_the_others_stay(line):
    windows, rows = line.split("train"), np.repeat(np.arange(2, 7), 40)  # starts from 0.2 to 0.6 s of a second
    moved = with_clock_error(windows, "vib", 0.1, seed=3)
    errors = starts(moved, rows) - starts(windows, rows)
    assert np.abs(errors).max() <= 0.1 + 1e-4
    assert len(set(np.round(errors, 3))) == 5  # a row's error is its own, and the same again
    drawn = [np.random.default_rng([3, row, 0]).uniform(-1, 1) * 0.1 for row in range(2, 7)]
    np.testing.assert_allclose(errors[::40], drawn, atol=0.005 + 1e-4)  # to the nearest sample of 100 Hz
    np.testing.assert_array_equal(moved.take(rows)["temp"], windows.take(rows)["temp"])
    assert with_clock_error(windows, "vib", 0.0, seed=3) is windows


def test_each_epoch_of_a_training_has_another_error_beside_the_moved_window(line):
    windows = with_clock_error(line.split("train"), "vib", 0.1, seed=0)
    config = AugmentConfig(mixup=0, noise=0, gain=0, channel_dropout=0, span_dropout=0)
    batches = BatchSource(windows, config, batch=120, labelled_fraction=0, seed=0)
    gaps = []
    for step in range(2):
        inputs = batches.at(step).inputs
        gaps.append(
            (inputs["vib"][0][:, 0, 0] - inputs["temp"][0][:, 0, 0]).numpy()
        )  # temp is within 0.02 s of its start
        assert 0.08 < np.abs(gaps[-1]).max() < 0.1 + 0.03
    assert np.abs(gaps[0]).mean() > 0.02
    assert not np.array_equal(np.sort(gaps[0]), np.sort(gaps[1]))


def test_a_clock_error_as_a_fault_reads_the_recording_early_or_late(line):
    train = line.split("train")
    rows = np.arange(2, 7)
    off = with_fault(train, "clock error", 0.6, seed=0, sensors=sensors_of(train, ["vib"]))
    errors = starts(off, rows) - starts(train, rows)  # half a window of 0.2 s, times the severity
    np.testing.assert_allclose(np.abs(errors), 0.06, atol=1e-4)
    assert {1, -1} == set(np.sign(errors))
    np.testing.assert_array_equal(off.take(rows)["temp"], train.take(rows)["temp"])


def test_cut_windows_and_more_than_half_a_window_are_refused(line, rig, capsys):
    assert said(UsageError, lambda: with_clock_error(line.split("train"), "vib", 0.2, seed=0)) == (
        "--clock-error: expected at most half a window, 0.1 s, got 0.2 s; name a smaller one, or cut longer windows"
    )
    assert said(UsageError, lambda: with_clock_error(rig.split("train"), "vib", 0.01, seed=0)) == (
        "--clock-error: expected a dataset of recordings, in which a window can be moved, got one of cut windows; "
        "import the recordings (mmkd-data import), or leave the option out"
    )
    with pytest.raises(SystemExit) as ended:
        run_distill(["none.ckpt", str(rig.path), "--modality", "vib", "--clock-error", "-1"])
    assert (ended.value.code, "'--clock-error': Input should be greater than" in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize("members", ["transformer", "convolutions"])
def test_a_student_learns_with_the_error_and_its_checkpoint_records_it(line, tmp_path, members):
    states = []
    for name, option in (("plain", []), ("off", ["--clock-error", "0.1"])):
        path = tmp_path / f"{name}.ckpt"
        fixed = ["--modality", "vib", "--members", members, "--preset", "tiny", "--steps", "2", "--batch", "8"]
        with torch.random.fork_rng(), pytest.raises(SystemExit) as ended:
            run_train(["student", str(line.path), *fixed, *option, "-o", str(path)])
        assert not ended.value.code
        checkpoint = read_student(path)
        assert checkpoint.facts.augment.clock_error_s == (0.1 if option else 0.0)
        states.append(checkpoint.state["head.weight"])
    assert not torch.equal(*states)
