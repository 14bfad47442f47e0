"""From results to episodes, and the rule chosen on recordings."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from mmkd_app.live.lines import tuned_lines
from mmkd_edge import EdgePredictor, ModalitySpec, TaskSpec, UsageError, example_bundle
from mmkd_edge.bundle.manifest import HopRule, Normal, OverTime
from mmkd_edge.spec import ReplayedRecording
from mmkd_edge.testing import FakeBackend, fake_entry, fake_predictor
from mmkd_models.data import Recording, shipped_dataset, write_dataset, write_recordings
from mmkd_models.data.for_devices import read_recordings
from mmkd_station.alarms import AlarmRule, Episodes, power_of, rule_of_rate, tune_alarm
from mmkd_station.clock import SensorRules
from mmkd_station.records import result_record
from mmkd_station.sensor import Sensor
from tests.edge.said import said
from tests.station import rig

TASK = TaskSpec(labels=("ok", "worn"))


def result(number, probability, *, status="ok"):
    """One result a second; None has no answer."""
    share = probability or 0.0
    is_worn = share >= 0.5
    return rig.result(
        number,
        time_s=float(number),
        status=status,
        label="" if probability is None else TASK.labels[is_worn],
        index=-1 if probability is None else int(is_worn),
        probability=max(share, 1 - share),
        probabilities=(1 - share, share),
    )


def alarms(rule, probabilities):
    episodes = Episodes([rule], TASK)
    return [
        alarm for number, share in enumerate(probabilities, start=1) for alarm in episodes.see(result(number, share))
    ]


def test_episodes_begin_and_end_by_rules_that_doubtful_windows_do_not_move():
    rule = AlarmRule(label="worn", confirm="2/3", release=2)
    episodes = Episodes([rule], TASK)
    assert not [one for number in range(1, 9) for one in episodes.see(result(number, 0.99, status="unknown"))]
    raised = [one for number in range(9, 11) for one in episodes.see(result(number, 0.99))]
    assert [one.event for one in raised] == ["raised"]
    assert not [one for number in range(11, 20) for one in episodes.see(result(number, 0.01, status="unknown"))]
    rule = AlarmRule(label="worn", confirm="3/5", release=2, cooldown_s=0.0, min_probability=0.8)
    #        1    2    3    4    5    6     7    8    9    10
    found = alarms(rule, [0.9, 0.1, 0.9, 0.7, 0.9, 0.95, 0.1, 0.9, 0.7, 0.1])
    assert [(one.event, one.number, one.since_s, one.windows, one.probability) for one in found] == [
        ("raised", 5, 1.0, 3, 0.9),
        ("cleared", 10, 1.0, 5, 0.95),
    ]
    assert {one.episode for one in found} == {1}
    rule = AlarmRule(label="worn", confirm="2/2", release=1, cooldown_s=0.0)
    found = alarms(rule, [0.9, None, 0.9, None, None, 0.9, 0.1])
    assert [(one.event, one.number) for one in found] == [("raised", 3), ("cleared", 7)]
    rule = AlarmRule(label="worn", confirm="1/1", release=1, cooldown_s=3.0)
    found = [(one.event, one.number, one.episode) for one in alarms(rule, [0.9, 0.1, 0.9, 0.9, 0.9, 0.9])]
    assert found == [("raised", 1, 1), ("cleared", 2, 1), ("raised", 5, 2)]


def resumed(rule, probabilities):
    """Episodes of a process that was killed after these results, in the next one."""
    return Episodes([rule], TASK, last=alarms(rule, probabilities)[-1:])


def test_cooldowns_and_episodes_go_on_in_the_next_process():
    rule = AlarmRule(label="worn", confirm="2/2", release=1, cooldown_s=0.0)
    episodes = resumed(rule, [0.9, 0.95])
    found = episodes.resume()
    for number, share in enumerate([0.9, 0.97, 0.1, 0.9, 0.9], start=10):
        found += episodes.see(result(number, share))
    assert [(one.event, one.episode, one.since_s, one.windows, one.probability, one.reason) for one in found] == [
        ("continued", 1, 1.0, 2, 0.95, "open when the run before ended"),
        ("cleared", 1, 1.0, 4, 0.97, ""),
        ("raised", 2, 13.0, 2, 0.9, ""),
    ]
    rule = AlarmRule(label="worn", confirm="1/1", release=1, cooldown_s=10.0)
    episodes = resumed(rule, [0.9, 0.1])
    assert episodes.resume() == []
    found = [one for number in range(3, 15) for one in episodes.see(result(number, 0.9))]
    assert [(one.event, one.episode, one.number) for one in found] == [("raised", 2, 12)]
    last = alarms(AlarmRule(label="worn", confirm="1/1"), [0.9])
    found = Episodes([AlarmRule(label="ok")], TASK, last=last).resume()
    assert [(one.event, one.label, one.episode, one.reason) for one in found] == [
        ("cleared", "worn", 1, "no rule follows it any more")
    ]
    episodes = Episodes([AlarmRule(label="worn", confirm="1/1", release=1, cooldown_s=60.0)], TASK)
    times = [(1000.0, 0.9), (1001.0, 0.1), (1002.0, 0.9), (500.0, 0.9)]
    found = [
        alarm
        for moment_s, share in times
        for alarm in episodes.see(msgspec.structs.replace(result(1, share), time_s=moment_s))
    ]
    assert [(one.event, one.time_s) for one in found] == [("raised", 1000.0), ("cleared", 1001.0), ("raised", 500.0)]


def test_of_several_labels_each_that_is_on_speaks():
    task = TaskSpec(kind="multi_label", labels=("hot", "worn"))
    episodes = Episodes([AlarmRule(label="hot", confirm="1/1", min_probability=0.6)], task)
    both = msgspec.structs.replace(
        result(1, 0.9), label="worn", labels=("hot", "worn"), probabilities=(0.7, 0.9), probability=0.9
    )
    assert [(one.label, one.probability) for one in episodes.see(both)] == [("hot", 0.7)]


def test_a_rule_that_cannot_be_is_refused():
    def refusal(**rule):
        return said(UsageError, Episodes, [AlarmRule(**rule)], TASK)

    assert refusal(label="old") == "--alarm old: expected one of ok, worn; choose one of them"
    assert refusal(label="worn", confirm="5/3") == (
        "--alarm worn: confirm: expected N/M with 1 <= N <= M <= 1000, got '5/3'; for instance 3/5"
    )
    assert refusal(label="worn", release=0) == ("--alarm worn: release: expected 1 to 1000 results, got 0; correct it")
    with pytest.raises(UsageError, match="got one that answers a number"):
        Episodes([AlarmRule(label="level")], TaskSpec(kind="regression", labels=("level",)))


def test_the_rule_that_keeps_the_limit_and_detects_most_is_chosen():
    """A student that calls a sample of 1 worn; normal operation has single ones, worn recordings many in a row."""
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=1)

    def answer(feeds):
        value = float(feeds["acc"].reshape(-1)[0])
        return [1 - 0.9 * value, 0.9 * value]

    predictor = fake_predictor(answer, modality=acc, labels=("ok", "worn"))
    fine = np.zeros((120, 1), dtype=np.float32)
    fine[::12] = 1  # ten single false answers in two minutes
    worn = np.zeros((60, 1), dtype=np.float32)
    worn[10:] = 1
    recordings = [
        ReplayedRecording(rows=rows, name="", label=label, group=split, split=split)
        for split in ("valid", "test")
        for label, rows in (("ok", fine), ("worn", worn))
    ]
    tuned = tune_alarm(predictor, recordings, label="worn", most_per_hour=1.0, hop=1, cooldown_s=0.0)
    assert tuned.rule.votes == (2, 2)  # the quickest that two answers in a row are enough for
    assert (tuned.before.false_alarms, tuned.before.normal_hours) == (10, pytest.approx(1 / 30))
    assert tuned.on_test.false_alarms == 0
    # Exact Poisson: none seen, at most -ln(0.025) = 3.689 in two minutes.
    assert tuned.on_test.false_alarms_interval == (0.0, pytest.approx(3.689 * 30, abs=0.01))
    assert tuned.on_test.delay_s == 11.0  # the second worn sample is taken at second 11
    detected = "1 of 1 recordings detected, after"
    assert list(tuned_lines(tuned, Path("a.edge"), hop=50, reference=Path("my press.json"))) == [
        "alarm for worn: best rule with at most 1 false alarms per hour",
        (
            "  test, an alarm for each result: 10 false alarms in 0.03 h, 300.00 per hour (95 % interval 143.86 to "
            f"551.71); {detected} 10.0 s (median)"
        ),
        (
            "  test, by the rule: 0 false alarms in 0.03 h, 0.00 per hour (95 % interval 0.00 to 110.67); "
            f"{detected} 11.0 s (median)"
        ),
        (
            "  validation, by the rule: 0 false alarms in 0.03 h, 0.00 per hour (95 % interval 0.00 to 110.67); "
            f"{detected} 11.0 s (median)"
        ),
        (
            "next: mmkd-run a.edge --source SOURCE --alarm worn --confirm 2/2 --release 10 --cooldown 0s "
            "--min-probability 0.8 --hop 50 --reference 'my press.json'"
        ),
    ]
    with pytest.raises(UsageError, match="expected valid recordings of 'worn' and of normal operation, got 0 and 1"):
        tune_alarm(predictor, recordings[:1], label="worn", most_per_hour=1.0, hop=1, cooldown_s=0.0)


@pytest.mark.parametrize(("prior", "single"), [((0.01, 0.99), True), ((0.5, 0.5), False)])
def test_votes_over_time_are_taken_where_they_are_as_good(prior, single):
    """A filter that expects worn detects nothing; one without memory answers as single windows do."""
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=1)
    delays = {"delay": (1.0, 1.0), "single_delay": (1.0, 1.0)}
    rule = HopRule(hop_fraction=1.0, dwell_s=0.01, exponent=1.0, gain_points=1.0, **delays)
    entry = fake_entry(modality=acc, labels=("ok", "worn"))
    entry = msgspec.structs.replace(entry, over_time=OverTime(prior=prior, rules=(rule,), changes=5))

    def answer(feeds):
        worn = 0.9 * float(feeds["acc"].reshape(-1)[0])
        return [1 - worn, worn]

    predictor = EdgePredictor.with_backend(entry, FakeBackend(answer, inputs=entry.inputs, outputs=entry.outputs))
    recordings = [
        ReplayedRecording(
            rows=np.full((60, 1), value, dtype=np.float32), name="", label=label, group=split, split=split
        )
        for split in ("valid", "test")
        for label, value in (("ok", 0.0), ("worn", 1.0))
    ]
    tuned = tune_alarm(predictor, recordings, label="worn", most_per_hour=1.0, hop=1, cooldown_s=0.0)
    assert (tuned.single_answers, tuned.on_test.detected) == (single, 1)
    *_, following = tuned_lines(tuned, Path("a.edge"), hop=None, reference=None)
    assert following.endswith(" --single-answers") == single
    for of_windows in (True, False):
        rules = SensorRules(hop=1, single_answers=of_windows)
        source = SimpleNamespace(live=False)
        sensor = Sensor(source, "text", predictor=predictor, rules=rules)  # type: ignore[arg-type]
        (prediction,) = sensor.stream.push([[1.0]])
        assert prediction.label == ("worn" if of_windows or not single else "ok")


NORMAL = TaskSpec(kind="normal", labels=("normal",))
VIB = ModalitySpec(name="vib", channels=("x",), rate_hz=0.1, samples=10)


def normal_predictor(*, groups=24, level=0.05):
    """A student whose score is the window's mean; normal ones have 1 to 99."""
    scores = tuple(map(float, range(1, 100)))
    normal = Normal(scores=scores, windows=99, groups=groups, hours=1.0, level=level, window_rate=0.0, groups_above=0.0)
    entry = msgspec.structs.replace(fake_entry(modality=VIB, labels=NORMAL), normal=normal)
    backend = FakeBackend(lambda feeds: [float(feeds["vib"].mean())], inputs=entry.inputs, outputs=entry.outputs)
    return EdgePredictor.with_backend(entry, backend)


def test_p_values_accumulate_whatever_the_level_of_one_window():
    rule = AlarmRule(label="unknown", confirm="2/3", release=2, cooldown_s=0.0, min_probability=0.9)
    episodes, predictor = Episodes([rule], NORMAL), normal_predictor()
    #         p  .11  .1   .05  .9   nothing  1.0  1.0
    scores = [89.5, 90.5, 95.5, 10.5, math.nan, 0.5, 0.5]
    found = []
    for number, score in enumerate(scores, start=1):
        prediction = predictor.predict(np.full((10, 1), score))
        found += episodes.see(result_record(prediction, station="1", time_s=float(number), decided_s=0.0))
    assert [(one.event, one.label, one.time_s, one.since_s, one.windows, one.probability) for one in found] == [
        ("raised", "unknown", 3.0, 2.0, 2, 0.95),
        ("cleared", "unknown", 6.0, 2.0, 2, 0.95),
    ]


def test_a_rate_of_single_windows_is_that_of_their_p_values():
    # A level of 1 in 25; 99 windows whose groups are unknown.
    for groups, per_day, expected in ((24, 34.56, 0.96), (0, 8.64, 0.99)):
        rule = rule_of_rate(normal_predictor(groups=groups).entry, per_day=per_day, hop=10)
        assert (rule.label, rule.confirm, rule.min_probability) == ("unknown", "1/1", pytest.approx(expected))
    assert said(UsageError, rule_of_rate, normal_predictor().entry, per_day=34.5, hop=10) == (
        "--false-alarms-per-day 34.5: expected 34.6 or more: 864 results a day, and 24 groups of normal running judge "
        "no level below 1 in 25; accumulate evidence with --tune-alarm DATASET, or answer less often (--hop)"
    )
    assert said(UsageError, rule_of_rate, fake_entry(modality=VIB, labels=TASK), per_day=1.0, hop=10) == (
        "--false-alarms-per-day 1: expected a student of normal data, got one of classification; use --alarm LABEL, "
        "whose rule --tune-alarm chooses"
    )


def replayed(hours, split, *, label="normal", fault=None):
    """Windows of 10 samples whose mean is drawn from 1 to 99; the last third of a fault has its own."""
    rng = np.random.default_rng(len(split))
    means = rng.uniform(0.5, 99.5, size=round(36 * hours))
    if fault is not None:
        means[len(means) // 3 :] = fault
    return ReplayedRecording(
        rows=np.repeat(means, 10)[:, None].astype(np.float32), name="r", label=label, group="1", split=split
    )


def tuned(recordings, per_day):
    options = {"label": "unknown", "most_per_hour": per_day / 24, "hop": 10, "cooldown_s": 0.0}
    return tune_alarm(normal_predictor(), recordings, **options)


def test_normal_recordings_alone_choose_the_most_powerful_rule_within_the_rate():
    recordings = [replayed(24, "valid"), replayed(36, "test")]
    found = tuned(recordings, per_day=4.0)
    unlabelled = [replayed(12, split, label="", fault=99.5) for split in ("valid", "test")]
    assert tuned([*recordings, *unlabelled], per_day=4.0) == found  # nobody looked: neither normal nor a fault
    assert found.on_valid.false_alarms <= 4 < found.before.false_alarms
    assert (found.on_valid.recordings, found.on_valid.delay_s) == (0, None)
    # More is allowed: no rule that was within the lower rate is more powerful.
    rules = [power_of(found.rule), power_of(tuned(recordings, per_day=40.0).rule)]
    assert rules[0] < rules[1]
    assert power_of(AlarmRule(label="unknown", confirm="2/2", min_probability=0.95)) == pytest.approx(0.05**0.7)
    assert said(UsageError, tuned, recordings, per_day=2.9) == (
        "--false-alarms-per-day 2.9: expected 3 or more: the valid recordings have 24 h of normal running, which show "
        "no lower rate even without an alarm; allow more, or record longer"
    )


def test_recordings_of_faults_decide_among_rules_and_an_alarm_that_stands_counts_every_hour():
    faults = [replayed(1, split, label="bearing", fault=97.5) for split in ("valid", "test")]
    found = tuned([replayed(24, "valid"), replayed(18, "test", fault=99.5), *faults], per_day=4.0)
    assert (found.on_test.recordings, found.on_test.detected) == (1, 1)
    assert found.on_test.false_alarms >= 12  # the last two thirds of 18 h


def test_the_command_says_what_a_rule_costs(run_here):
    options = ("--tune-alarm", shipped_dataset(), "--alarm", "FEL", "--hop", 200, "--json")
    found = json.loads(run_here(example_bundle(), *options)[0])
    assert found["rule"]["label"] == "FEL"
    assert found["on_valid"]["false_alarms"] == 0
    assert found["on_test"]["recordings"] == 4
    assert 0.2 < found["on_test"]["normal_hours"] < 0.3


def write_splits(path, modality, split):
    """Writes a dataset whose splits have these arrays, by their number."""
    splits = {name: split(number) for number, name in enumerate(("train", "valid", "test"))}
    write_dataset(path, name="made_up", labels=TASK.labels, modalities=[modality], splits=splits)
    return path


def test_windows_in_a_row_of_one_kind_are_one_recording(tmp_path):
    acc = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=2.0, samples=4)
    values = np.arange(24.0).reshape(3, 4, 2)

    def split(number):
        return {"acc": 100 * number + values, "labels": [0, 0, 1], "groups": [number] * 3}

    data = write_splits(tmp_path / "data", acc, split)
    found = read_recordings(data, msgspec.structs.replace(acc, channels=("y", "x")))
    assert [(one.name, one.label, one.split, len(one.rows)) for one in found[:3]] == [
        ("windows 0 to 1", "ok", "train", 8),
        ("windows 2 to 2", "worn", "train", 4),
        ("windows 3 to 4", "ok", "valid", 8),
    ]
    assert found[0].rows[:2].tolist() == [[1.0, 0.0], [3.0, 2.0]]
    with pytest.raises(UsageError, match="expected x, z at 2 Hz, got x, y at 2 Hz"):
        read_recordings(data, msgspec.structs.replace(acc, channels=("x", "z")))


@pytest.mark.parametrize(
    ("rate_hz", "samples", "times", "names", "first"),
    [
        # By 1 and 2 samples on, then by more than a window: what windows share is read_recordings once.
        (
            *(2.0, 4, [0.0, 0.5, 1.5, 4.5, 9.0]),
            ["windows 0 to 3", "windows 4 to 4", "windows 5 to 8"],
            [0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12],
        ),
        # By 6.25 samples each: between samples, and without a gap.
        (12.5, 25, [0.5 * number for number in range(51)], ["windows 0 to 49"], list(range(306 + 25))),
    ],
)
def test_what_windows_with_times_share_is_replayed_once(rate_hz, samples, times, names, first, tmp_path):
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=rate_hz, samples=samples)
    # Sample k of the run is worth k; the last window is worn.
    values = (np.rint(np.asarray(times) * rate_hz)[:, None] + np.arange(samples))[:, :, None]
    count = len(times)

    def split(number):
        facts = {"labels": [0] * (count - 1) + [1], "times": 1_762_151_400.0 + np.asarray(times)}
        return facts | {"acc": 1000.0 * number + values} | dict.fromkeys(("groups", "episodes"), [number] * count)

    found = read_recordings(write_splits(tmp_path / "data", acc, split), acc)
    assert [one.name for one in found[: len(names)]] == names
    assert found[0].rows[:, 0].tolist() == first


def test_a_run_of_windows_is_named_by_its_file_and_its_time_there(tmp_path):
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=2.0, samples=4)
    values = np.random.default_rng(0).normal(size=(3, 6, 1))
    data = {}
    for number, (name, signal) in enumerate(zip(("train", "valid", "test"), values, strict=True)):
        facts = {"labels": [number % 2] * 2, "groups": [number] * 2, "episodes": [number] * 2, "starts": [7.5, 8.5]}
        data[name] = facts | {"acc": [signal[:4], signal[2:]]}  # the second begins a second later
    samples = np.random.default_rng(1).normal(size=(4, 4, 1))
    facts = {"groups": [0] * 4, "episodes": [0] * 4, "starts": [0.0, 1.0, 5.0, 6.0]}
    data["train"] = {"acc": samples, "labels": [0, 0, 1, 1], **facts}
    files = ("a.csv", "b.csv", "c.csv")
    path = tmp_path / "data"
    write_dataset(path, name="made_up", labels=TASK.labels, modalities=[acc], splits=data, episode_names=files)
    found = read_recordings(path, acc)
    assert [(one.name, len(one.rows)) for one in found] == [
        ("a.csv 0 to 3 s", 6),
        ("a.csv 5 to 8 s", 6),
        ("b.csv 7.5 to 10.5 s", 6),
        ("c.csv 7.5 to 10.5 s", 6),
    ]
    np.testing.assert_allclose(found[2].rows, values[1], rtol=1e-6)


def test_what_windows_without_times_share_is_found_in_their_samples(tmp_path):
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=40)
    signals = np.random.default_rng(4).normal(size=(3, 100, 1)).astype(np.float32)

    def split(number):
        # Three windows, one every 30 samples, and one that shares nothing with them.
        signal = signals[number]
        windows = [*(signal[start : start + 40] for start in (0, 30, 60)), -signal[:40]]
        return {"acc": windows, "labels": [0, 0, 0, 1], "groups": [number] * 4}

    found = read_recordings(write_splits(tmp_path / "data", acc, split), acc)
    assert [(one.name, len(one.rows)) for one in found[:2]] == [("windows 0 to 2", 100), ("windows 3 to 3", 40)]
    np.testing.assert_array_equal(found[0].rows, signals[0])


def test_sound_of_16_bits_is_replayed_from_minus_one_to_one(tmp_path):
    mic = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=8.0, samples=4)
    counts = np.array([-32767, -16384, -32768, 8192, 16384, 1, 2, 3], dtype=np.int16)[:, None]
    write_recordings(
        tmp_path / "data",
        name="made_up",
        labels=("ok", "worn"),
        modalities=[mic],
        recordings=[
            Recording(samples={"mic": np.roll(counts, number)}, label=number % 2, group=number, split=split)
            for number, split in enumerate(("train", "train", "valid", "test"))
        ],
        hop_s=0.5,
    )
    rows = read_recordings(tmp_path / "data", mic)[0].rows
    assert rows.dtype == np.float32
    assert rows[:2, 0].tolist() == [-32767 / 32768, -0.5]
    assert np.isnan(rows[2, 0])
    assert rows[3:5, 0].tolist() == [0.25, 0.5]


def test_video_is_not_replayed(tmp_path):
    lips = ModalitySpec(name="lips", kind="video", channels=("gray",), rate_hz=2.0, samples=2, height=4, width=4)
    frames = np.arange(64, dtype=np.uint8).reshape(2, 2, 4, 4, 1)
    write_splits(tmp_path / "data", lips, lambda number: {"lips": frames + number, "labels": [0, 1]})
    assert said(UsageError, lambda: read_recordings(tmp_path / "data", lips)) == (
        f"{tmp_path / 'data'}: modality 'lips': expected a series or sound, got video; replay a dataset without it"
    )
