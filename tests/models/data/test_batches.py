"""Batches and augmentation, what is derived of a recorded sensor, and clocks that are off."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_app.commands.distill import run_distill
from mmkd_app.commands.train import run_train
from mmkd_edge.derive import derive_batch, derived_modality
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.predict.preprocess import check_window, prepare, prepare_batch
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import Recording, open_dataset, write_dataset, write_recordings
from mmkd_models.data.augment import AugmentConfig, augment_batch, with_clock_error
from mmkd_models.data.batches import BatchSource, channel_movement, channel_statistics
from mmkd_models.data.for_devices import measure_reference, read_recordings
from mmkd_models.data.windows import StoredWindows
from mmkd_models.evaluation.suites.faults import sensors_of, with_fault
from mmkd_models.training.checkpoint import read_student
from mmkd_models.training.inputs import check_compatible
from tests.edge.said import said
from tests.models.data.conftest import TEMP, VIB

PLAIN = AugmentConfig(shift=False, mixup=0.0, noise=0.0, gain=0.0, channel_dropout=0.0, span_dropout=0.0)
COUNT = 12


def plain_but(**changes):
    return msgspec.structs.replace(PLAIN, **changes)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Window number i holds the value i everywhere and is of class i, so a mix tells its parts and its lambda."""
    specs = [
        ModalitySpec(name="a", channels=("x", "y", "z"), rate_hz=10.0, samples=20),
        ModalitySpec(name="b", channels=("u",), rate_hz=5.0, samples=10),
    ]
    arrays = {spec.name: np.ones((COUNT, *spec.shape)) * np.arange(COUNT, dtype=float)[:, None, None] for spec in specs}
    split = {**arrays, "labels": np.arange(COUNT)}
    # The values of valid and test must differ from those of train: windows never straddle splits.
    others = [{k: v if k == "labels" else v + 100.0 * n for k, v in split.items()} for n in (1, 2)]
    return write_dataset(
        tmp_path_factory.mktemp("numbered") / "data",
        name="numbered",
        labels=[f"class {i}" for i in range(COUNT)],
        modalities=specs,
        splits={"train": split, "valid": others[0], "test": others[1]},
    ).split("train")


def source(windows, config, *, batch=6, share=0.0, seed=3):
    return BatchSource(windows, config, batch=batch, labelled_fraction=share, seed=seed)


def tensors(batch):
    return [batch.targets, batch.labelled, batch.index, *(part for pair in batch.inputs.values() for part in pair)]


def test_without_augmentation_a_batch_is_the_prepared_windows_and_the_same_for_a_seed_and_step(dataset):
    windows = dataset.split("train")
    first, second = (source(windows, AugmentConfig()).at(5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))
    batch = source(windows, PLAIN).at(0)
    taken = windows.take(batch.index.numpy())
    for spec in windows.spec.modalities:
        values, present = prepare_batch(taken[spec.name], spec)
        # The value passes through (x - mean) + mean in float32.
        np.testing.assert_allclose(batch.inputs[spec.name][0].numpy(), values, atol=1e-6)
        assert np.array_equal(batch.inputs[spec.name][1].numpy(), present)
    assert batch.targets.argmax(1).tolist() == windows.labels[batch.index.numpy()].tolist()
    assert batch.targets.sum(1).tolist() == [1.0] * 6
    assert {tensor.dtype for pair in batch.inputs.values() for tensor in pair} == {torch.float32}


@given(st.integers(2, 7), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_every_window_comes_once_per_epoch(numbered, batch, seed):
    batches = source(numbered, PLAIN, batch=batch, seed=seed)
    rows = np.concatenate([batches.at(step).index.numpy() for step in range(3 * COUNT // batch + 1)])
    for epoch in range(len(rows) // COUNT):
        assert sorted(rows[epoch * COUNT : (epoch + 1) * COUNT]) == list(range(COUNT))


def test_the_labelled_share_of_a_batch_is_labelled_and_a_mix_with_an_unlabelled_part_has_no_target(numbered):
    half = numbered.with_labels(np.where(np.arange(COUNT) < COUNT // 2, numbered.labels, -1))
    batches = source(half, plain_but(mixup=1.0), batch=8, share=0.5)
    for step in range(6):
        batch = batches.at(step)
        assert batch.labelled[:4].tolist() == [1.0] * 4
        assert bool((batch.index[:4] < COUNT // 2).all())
        torch.testing.assert_close(batch.targets[:4].sum(1), torch.ones(4))
    batch = source(half, plain_but(mixup=1.0), batch=12).at(0)
    unlabelled = batch.labelled == 0
    assert unlabelled.any()
    assert not bool(batch.targets[unlabelled].any())
    for row in torch.nonzero(~unlabelled).flatten().tolist():
        expected = float(batch.targets[row] @ torch.arange(COUNT).float())  # the value of a mix is that of its classes
        assert batch.inputs["b"][0][row, 0, 0].item() == pytest.approx(expected, abs=1e-4)


def test_training_on_labels_without_any_is_refused(numbered):
    assert said(UsageError, source, numbered.with_labels(np.full(COUNT, -1)), PLAIN, share=1.0) == (
        "training windows: expected some labelled ones, got labels that are all -1; label some"
    )


def test_a_mix_has_one_lambda_and_misses_what_either_part_misses(numbered, dataset):
    batches = source(numbered, plain_but(mixup=1.0), batch=12)
    seen = []
    for step in range(4):
        batch = batches.at(step)
        for row, first in enumerate(batch.index.tolist()):
            classes = batch.targets[row].double()
            lam = float(classes[first]) if int((classes > 0).sum()) == 2 else 1.0
            expected = float((classes * torch.arange(COUNT)).sum())  # lambda i + (1 - lambda) j
            for name in ("a", "b"):
                values = batch.inputs[name][0][row]
                # float32 products of numbers up to 12.
                torch.testing.assert_close(values, torch.full_like(values, expected), atol=1e-4, rtol=0)
            seen.append(lam)
    mixed = [lam for lam in seen if lam < 1]
    assert len(mixed) > 30
    assert 0.35 < np.mean(mixed) < 0.65  # uniform: the mean of 30 has a standard deviation of 0.05
    plain, mixed = (source(dataset.split("train"), plain_but(mixup=share), batch=32).at(0) for share in (0.0, 1.0))
    assert torch.equal(plain.index, mixed.index)
    assert bool((mixed.inputs["acc"][1] <= plain.inputs["acc"][1]).all())
    assert mixed.inputs["acc"][1].mean() == pytest.approx(0.81, abs=0.03)  # two tenths missing independently


def test_augmentation_hides_channels_and_spans_at_their_rates_and_never_invents(dataset, numbered):
    windows = dataset.split("train")
    config = AugmentConfig(mixup=0.0, channel_dropout=0.3, span_dropout=0.5)
    for step in range(5):
        batch = source(windows, config).at(step)
        taken = windows.take(batch.index.numpy())
        for spec in windows.spec.modalities:
            values, present = (part.numpy() for part in batch.inputs[spec.name])
            assert not np.any(present[np.isnan(taken[spec.name])])
            assert not np.any(values[present == 0])
            assert np.isin(present, (0, 1)).all()
    batches = source(numbered, plain_but(channel_dropout=0.25), batch=12)
    shares = []
    for step in range(40):
        present = batches.at(step).inputs["a"][1].numpy()  # (12, 20, 3)
        assert np.isin(present.mean(1), (0, 1)).all()
        shares.append(1 - present.mean())
    assert np.mean(shares) == pytest.approx(0.25, abs=0.04)  # 1,440 channels: one standard deviation is 0.011
    batches = source(numbered, plain_but(span_dropout=1.0), batch=12)
    lengths = []
    for step in range(20):
        present = batches.at(step).inputs["a"][1].numpy()
        assert np.array_equal(present[..., :1].repeat(3, axis=-1), present)  # all channels at once
        for row in 1 - present[..., 0]:
            lengths.append(row.sum())
            assert np.abs(np.diff(np.concatenate([[0], row, [0]]))).sum() == 2  # one run
    assert min(lengths) >= 1
    assert max(lengths) <= 10


def test_windows_of_recordings_move_by_up_to_half_a_hop_in_all_modalities_alike(tmp_path):
    # Values are their own time in seconds: windows of 2 s, a hop of 1 s.
    rates_hz = {"acc": 20.0, "gyro": 10.0}
    specs = [ModalitySpec(name=name, channels=("t",), rate_hz=f, samples=int(2 * f)) for name, f in rates_hz.items()]
    recordings = []
    for n, split in enumerate(("train", "train", "valid", "valid", "test", "test")):
        samples = {name: (np.arange(int(12 * f)) / f + 100.0 * n)[:, None] for name, f in rates_hz.items()}
        recordings.append(Recording(samples=samples, label=n % 2, group=n, split=split))
    path, labels = tmp_path / "ramps", ["a", "b"]
    made = write_recordings(path, name="ramps", labels=labels, modalities=specs, recordings=recordings, hop_s=1.0)
    windows = made.split("train")
    batches = source(windows, plain_but(shift=True), batch=16)
    moves = []
    for step in range(8):
        batch = batches.at(step)
        start = {name: values[:, 0, 0].numpy() for name, (values, _) in batch.inputs.items()}
        # A start falls on the nearest sample: half a sample of 20 Hz and of 10 Hz apart at most.
        assert np.abs(start["acc"] - start["gyro"]).max() <= 0.075 + 1e-4
        steps = np.diff(batch.inputs["acc"][0][..., 0].numpy(), axis=1)
        np.testing.assert_allclose(steps, 0.05, atol=1e-4)  # real neighbouring samples, none invented
        moves += (start["acc"] - windows.take(batch.index.numpy())["acc"][:, 0, 0]).tolist()
    assert -0.525 - 1e-4 <= min(moves) < -0.35
    assert 0.35 < max(moves) <= 0.525 + 1e-4


def test_channel_statistics_are_numpys_over_what_is_there_without_glitches(tmp_path):
    values = np.random.default_rng(0).normal([5, -2, 0, 0, 0], [3, 0.1, 1, 1, 1], (50, 40, 5)).astype(np.float32)
    values[:, ::3] = np.nan
    values[3, 7, 2] = 1e8  # a glitch
    values[..., 3], values[..., 4] = 1000.0, np.nan
    spec = ModalitySpec(name="a", channels=tuple("uvwxy"), rate_hz=1.0, samples=40)
    others = np.random.default_rng(1).normal(size=(2, *values.shape))
    parts = zip(("train", "valid", "test"), (values, *others), strict=True)
    splits = {name: {"a": part, "labels": np.arange(50) % 2} for name, part in parts}
    dataset = write_dataset(tmp_path / "values", name="values", labels=["a", "b"], modalities=[spec], splits=splits)
    mean, std = channel_statistics(dataset.split("train"), "a")
    # Without the outermost 0.2 % of a normal distribution the deviation is 1 % smaller.
    np.testing.assert_allclose(mean[:2], np.nanmean(values[..., :2], (0, 1)), rtol=0.01)
    np.testing.assert_allclose(std[:2], np.nanstd(values[..., :2], (0, 1)), rtol=0.03)
    assert {str(mean.dtype), str(std.dtype)} == {"float32"}
    assert abs(mean[2]) < 0.1
    assert std[2:] == pytest.approx([1.0, 1e-3, 1.0], abs=0.1)
    assert std[3] == pytest.approx(1e-3)
    assert mean[3:].tolist() == [1000.0, 0.0]


def test_movement_is_the_median_spread_about_a_windows_mean_and_gain_leaves_the_level(tmp_path):
    # Two channels at levels from 1 to 8,000; one moves by 0.5 or 2 about its level, the other not.
    level = np.array([1.0, 20.0, 400.0, 8000.0])[:, None, None]
    wave = np.array([-1.0, 1.0] * 5)[:, None] * np.array([[0.5, 0.0]])
    values = level + np.stack([wave, wave, 4 * wave, wave])
    spec = ModalitySpec(name="a", channels=("x", "still"), rate_hz=1.0, samples=10)
    splits = {
        name: {"a": values + shift, "labels": np.arange(4) % 2, "groups": np.arange(4) + 10 * shift}
        for shift, name in enumerate(("train", "valid", "test"))
    }
    made = write_dataset(tmp_path / "slow", name="slow", labels=["a", "b"], modalities=[spec], splits=splits)
    windows = made.split("train")
    moves, still = channel_movement(windows, "a").tolist()
    assert moves == pytest.approx(0.5, rel=1e-3)  # of 0.5, 0.5, 2 and 0.5; float32 at a level of 8,000
    assert still == pytest.approx(1e-4 * channel_statistics(windows, "a")[1][1])
    plain, scaled = (source(windows, plain_but(gain=g), batch=4).at(0) for g in (0.0, 0.5))
    before, after = plain.inputs["a"][0], scaled.inputs["a"][0]
    np.testing.assert_allclose(after.mean(1), before.mean(1), rtol=1e-5)
    ratio = after.std(1)[:, 0] / before.std(1)[:, 0]
    assert bool(((ratio > 0.49) & (ratio < 1.51)).all())
    assert len(np.unique(ratio.round(decimals=3))) == 4


VIDEO = np.random.default_rng(0).integers(60, 200, (6, 8, 32, 48, 3), dtype=np.uint8)
FRAMES = np.ones((6, 8, 1), dtype=np.float32)


def varied(kind, values, present, **changes):
    config, rng = msgspec.structs.replace(PLAIN, **changes), np.random.default_rng(1)
    return augment_batch(values, present, kind=kind, movement=None, config=config, rng=rng)  # type: ignore[arg-type]


def test_a_band_of_sound_is_silenced_and_the_rest_stays():
    noise = np.random.default_rng(0).normal(size=(4, 1000, 1)).astype(np.float32)
    values, present = varied("audio", noise, np.ones_like(noise), span_dropout=1.0)
    for row in range(4):
        # What is hidden in time is taken out of both, so that only the band differs.
        whole = np.abs(np.fft.rfft(noise[row, :, 0]))
        difference = np.abs(np.fft.rfft((noise[row, :, 0] - values[row, :, 0]) * present[row, :, 0]))
        if bool(present[row].all()):
            gone = difference > 0.5 * whole
            assert 0 < gone.mean() <= 0.26
    assert 0 < (present == 0).mean() < 0.5


def test_frames_keep_to_bytes_move_alike_and_are_dropped_whole():
    values, present = varied("video", VIDEO, FRAMES, noise=0.1, gain=0.3)
    assert (values.min() >= 0, values.max() <= 255) == (True, True)
    assert bool(present.all())
    assert len(np.unique((values.mean((1, 2, 3, 4)) - VIDEO.mean((1, 2, 3, 4))).round(1))) == 6
    still = np.repeat(VIDEO[:, :1], 8, axis=1)
    values, _ = varied("video", still, FRAMES, shift=True)
    assert np.array_equal(values, np.repeat(values[:, :1], 8, axis=1))
    assert not np.array_equal(values, still)
    # Every pixel comes from one of the same frame, at most a sixteenth of a side away and as much for the size.
    for row in range(6):
        assert set(np.unique(values[row, 0])) <= set(np.unique(still[row, 0]))
    values, present = varied("video", VIDEO, FRAMES, channel_dropout=0.5)
    assert 0.2 < (present == 0).mean() < 0.8
    assert not values[np.broadcast_to(present[..., None, None] == 0, values.shape)].any()
    _, spans = varied("video", VIDEO, FRAMES, span_dropout=1.0)
    assert bool((spans == 0).any(axis=(1, 2)).any())


TEXT, NAME = "vib[x,z]@50Hz,8bit,-4..4", "vib__c0c2_50Hz_8bit_m4to4"


def test_a_view_is_what_a_device_derives_and_is_computed_once(rig, splits, monkeypatch):
    windows = rig.everything().with_modalities(("vib", TEXT))
    modality = windows.spec.modality(NAME)
    assert [spec.name for spec in windows.spec.modalities] == ["vib", NAME]
    taken = windows.take(np.array([47, 0, 24, 0]))
    for recorded, derived in zip(taken["vib"], taken[NAME], strict=True):
        np.testing.assert_array_equal(check_window(recorded, modality), derived)
    reads = []
    gather = StoredWindows.gather

    def read(self, modality, rows, *, shift_s):
        reads.append(modality.name)
        return gather(self, modality, rows, shift_s=shift_s)

    monkeypatch.setattr(StoredWindows, "gather", read)
    again = windows.with_modalities((NAME,)).subset(np.array([0, 24, 47])).take(np.arange(3))[NAME]
    np.testing.assert_array_equal(again, taken[NAME][[1, 2, 0]])
    assert reads == [NAME]  # not `vib`
    again[:] = 0  # belongs to the caller
    np.testing.assert_array_equal(windows.take(np.array([47]))[NAME], taken[NAME][:1])


def test_names_of_one_view_are_one_and_unknown_ones_are_refused(rig):
    windows = rig.everything()
    assert said(UsageError, windows.with_modalities, (TEXT, NAME)) == (
        f"modalities: expected each name once, got {TEXT}, {NAME}; name each once"
    )
    assert said(UsageError, windows.with_modalities, ("sound@8kHz",)) == (
        "dataset 'rig': modality 'sound@8kHz' is not in it; choose one of vib, temp"
    )
    model = derived_modality("vib@50Hz", [msgspec.structs.replace(VIB, samples=40)])
    assert model is not None
    assert said(UsageError, check_compatible, "student", rig.spec.task, [model], windows) == (
        "student: modality 'vib__50Hz': expected windows (T, C)=(20, 3) at 50.0 Hz, got (10, 3) at 50.0 Hz; name the "
        "dataset of its training, or train a student on this dataset"
    )
    check_compatible("student", rig.spec.task, [windows.spec.modality(TEXT)], windows.with_modalities((TEXT,)))


def test_views_of_recordings_move_with_their_windows(line):
    windows = line.split("train").with_modalities(("vib", "vib@25Hz"))
    modality = windows.spec.modalities[1]
    shift = np.array([0.0, 0.05, -0.04])
    for taken in (windows.take(np.arange(3), shift_s=shift), windows.take(np.arange(3))):
        np.testing.assert_array_equal(derive_batch(taken["vib"], modality), taken[modality.name])
    assert said(UsageError, read_recordings, line.path, modality) == (
        f"{line.path}: modality 'vib@25Hz': expected a recorded one to replay, got one derived from 'vib'; add "
        "--modality vib"
    )


def test_groups_of_a_view_have_their_own_statistics_as_a_device_measures_them(write, splits):
    dataset = write(splits, modalities=(msgspec.structs.replace(VIB, normalise="per_group"), TEMP))
    text = "vib@25Hz"
    windows = dataset.everything().subset(np.arange(6, 48)).with_modalities((text,))
    modality = windows.spec.modalities[0]
    raw = derive_batch(splits["train"]["vib"][6:12], modality).astype(np.float64)  # group 1
    expected = (raw - raw.mean((0, 1))) / raw.std((0, 1))
    taken = windows.take(np.arange(6))[modality.name]
    np.testing.assert_allclose(taken, expected, atol=1e-5)
    reference = measure_reference(dataset, modality=text, group=1).reference
    assert reference.modality == modality.name
    values, _ = prepare(check_window(splits["train"]["vib"][6], modality), modality, reference)
    np.testing.assert_allclose(values[0], taken[0], atol=1e-6)


def test_a_dataset_states_no_derived_modality(rig, edit):
    edit(lambda document: document["modalities"].append(msgspec.to_builtins(rig.spec.modality("vib@50Hz"))))
    with pytest.raises(DatasetError, match=r"expected a recorded modality, got 'derived'; remove the key"):
        open_dataset(rig.path)


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
    batches, gaps = source(windows, plain_but(shift=True), batch=120, seed=0), []
    for step in range(2):
        vib, temp = (batches.at(step).inputs[name][0][:, 0, 0] for name in ("vib", "temp"))
        gaps.append((vib - temp).numpy())  # temp is within 0.02 s of its start
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


def test_cut_windows_and_more_than_half_a_window_are_refused(line, rig):
    assert said(UsageError, with_clock_error, line.split("train"), "vib", 0.2, seed=0) == (
        "--clock-error: expected at most half a window, 0.1 s, got 0.2 s; name a smaller one, or cut longer windows"
    )
    assert said(UsageError, with_clock_error, rig.split("train"), "vib", 0.01, seed=0) == (
        "--clock-error: expected a dataset of recordings, in which a window can be moved, got one of cut windows; "
        "import the recordings (mmkd-data import), or leave the option out"
    )
    line = ["none.ckpt", str(rig.path), "--modality", "vib", "--clock-error", "-1"]
    assert said(UsageError, run_distill, line) == "--clock-error: expected 0 or more, got '-1'; correct it"


@pytest.mark.parametrize("members", ["transformer", "intervals"])
def test_a_student_learns_with_the_error_and_its_checkpoint_records_it(line, tmp_path, members):
    states = []
    for name, option in (("plain", []), ("off", ["--clock-error", "0.1"])):
        path = tmp_path / f"{name}.ckpt"
        fixed = ["--modality", "vib", "--members", members, "--no-choose", "--steps", "2", "--batch", "8"]
        with torch.random.fork_rng(), pytest.raises(SystemExit) as ended:
            run_train(["student", str(line.path), *fixed, *option, "-o", str(path)])
        assert not ended.value.code
        checkpoint = read_student(path)
        assert checkpoint.facts.augment.clock_error_s == (0.1 if option else 0.0)
        states.append(checkpoint.state["head.weight"])
    assert not torch.equal(*states)
