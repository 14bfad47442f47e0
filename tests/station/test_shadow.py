"""A shadow run: a new bundle is compared on the installed one's windows, judged, and required by an installation."""

import json
import os
import re
import signal
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.edge import run_edge
from mmkd_edge import BundleError, EdgePredictor, GateError, Prediction, TaskSpec, UsageError
from mmkd_edge.derive import derived_modality
from mmkd_edge.errors import PerformanceError
from mmkd_edge.install.slots import read_slots
from mmkd_edge.shadow import ShadowBundle, ShadowReport
from mmkd_station import shadow as shadow_module
from mmkd_station.alarms import AlarmRule
from mmkd_station.shadow import Shadow
from mmkd_station.spec import StationSpec, duration_s
from tests.edge.conftest import BIAS, LABELS, WEIGHTS
from tests.edge.said import said
from tests.station.rig import next_record, records_in, refusal, run, start, until

pytestmark = pytest.mark.usefixtures("quick_openings")
ALARM = ("--alarm", "turn", "--confirm", "1/1", "--release", "1", "--cooldown", "0s", "--min-probability", "0.5")


def shares_of(windows, weights):
    logits = windows.mean(axis=1).astype(np.float64) @ weights.astype(np.float64) + BIAS  # (N, K)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits, shares / shares.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def bundles(kit, tmp_path_factory):
    """Bundles of the test student with other weights or labels, whose golden windows fit them."""
    folder = tmp_path_factory.mktemp("bundles")

    def write(name, weights, **parts):
        golden = kit.golden(kit.modality)
        logits, shares = shares_of(np.nan_to_num(golden.windows), weights)
        golden = msgspec.structs.replace(golden, logits=np.float32(logits), probabilities=np.float32(shares))
        made = kit.parts(kit.modality, model=kit.model(kit.modality, weights=weights), golden=golden, **parts)
        return made.write(folder / f"{name}.edge")

    return {
        "old": write("old", WEIGHTS),
        "close": write("close", 1.02 * WEIGHTS),
        "worse": write("worse", np.ascontiguousarray(WEIGHTS[:, [0, 2, 1]])),
        "other": write("other", WEIGHTS, labels=("rest", "raise", "fall")),
    }


@pytest.fixture(scope="module")
def predictor(bundles):
    with EdgePredictor.open(bundles["old"], backend="ort") as predictor:
        yield predictor


@pytest.fixture
def rows(tmp_path):
    """150 windows of 20 samples, written to a file."""
    rows = np.random.default_rng(1).normal(size=(3000, 3)).round(3)
    np.savetxt(tmp_path / "log.csv", rows, fmt="%.3f", delimiter=",", header="x,y,z", comments="")
    return rows


@pytest.mark.parametrize(("name", "code"), [("close", 0), ("worse", 4)])
def test_a_new_bundle_is_judged_on_the_windows_that_the_installed_one_answers(name, code, bundles, rows, tmp_path):
    source = ("--source", f"csv:{tmp_path / 'log.csv'}", "--hop", "20", "--name", "press 1", *ALARM)
    alone = run(bundles["old"], *source)
    file = tmp_path / "report.json"
    done = run(bundles["old"], *source, "--shadow", bundles[name], "--shadow-report", file, "--shadow-agreement", "0.8")
    assert (done.returncode, alone.returncode) == (code, 0), done.stderr
    answers, before = ([one["probabilities"] for one in records_in(text)] for text in (done.stdout, alone.stdout))
    assert answers == before
    weights = {"installed": WEIGHTS, "new": 1.02 * WEIGHTS if name == "close" else WEIGHTS[:, [0, 2, 1]]}
    shares = {side: shares_of(rows.reshape(150, 20, 3), values)[1] for side, values in weights.items()}
    index = {side: values.argmax(axis=1) for side, values in shares.items()}
    report = msgspec.json.decode(file.read_bytes(), type=ShadowReport)
    agreed = int((index["installed"] == index["new"]).sum())
    assert (report.windows, report.dropped, report.answered, report.agreed) == (150, 0, 150, agreed)
    assert {label: [*counts.values()] for label, counts in report.labels.items()} == {
        label: [int(one.sum()) for one in (old, new, old & new)]
        for number, label in enumerate(LABELS)
        for old, new in [[index[side] == number for side in weights]]
    }
    votes = {side: (values.argmax(axis=1) == 2) & (values[:, 2] >= 0.5) for side, values in shares.items()}
    raised = [int((np.diff(is_turn.astype(int), prepend=0) == 1).sum()) for is_turn in votes.values()]
    old, new, both = report.alarms["turn"].values()
    assert [old, new, sum(raised) - 2 * both] == [*raised, report.changed_alarms]
    assert (report.installed.p50_s or 0, report.new.p50_s or 0) > (0, 0)
    summary = (
        f"shadow run of made-up-acc: {report.verdict}; {agreed} of 150 answers agree, {report.changed_alarms} alarms"
    )
    assert summary in done.stderr
    if name == "close":
        assert (report.verdict, report.reasons, report.changed_alarms) == ("good", (), 0)
    else:
        assert (report.verdict, report.changed_alarms > 9) == ("refused", True)
        assert done.stderr.splitlines()[-1] == (
            f"mmkd-run: {file}: {bundles[name]} is refused: {'; '.join(report.reasons)}; keep the installed bundle"
        )


def test_a_sensor_of_two_that_dies_is_compared_while_the_other_lives_and_not_counted_after_it(kit, acc, tmp_path):
    parts = [msgspec.structs.replace(acc, name=name, channels=tuple(own)) for name, own in (("a", "xy"), ("b", "z"))]
    pair = kit.parts(derived_modality("a+b", parts))
    installed, new = pair.write(tmp_path / "pair.edge"), pair.write(tmp_path / "new.edge")
    rows = np.random.default_rng(1).normal(size=(3000, 3)).round(3)
    rows[1000:, 2] = np.nan  # b dies after 50 windows, a after 120
    rows[2400:] = np.nan
    text = "\n".join(",".join("" if np.isnan(value) else f"{value:.3f}" for value in row) for row in rows)
    (tmp_path / "log.csv").write_text(f"x,y,z\n{text}\n")
    file = tmp_path / "report.json"
    source = ("--source", f"csv:{tmp_path / 'log.csv'}", "--hop", "20")
    done = run(installed, *source, "--shadow", new, "--shadow-report", file)
    assert done.returncode == 0, done.stderr
    statuses = [(one["status"], one["reason"]) for one in records_in(done.stdout)]
    assert statuses[:50] == [("ok", "")] * 50
    assert statuses[50:120] == [("degraded", "sensor 'b' is missing")] * 70
    assert {status for status, _ in statuses[120:]} == {"invalid"}
    report = msgspec.json.decode(file.read_bytes(), type=ShadowReport)
    assert (report.windows, report.answered, report.agreed, report.verdict) == (150, 120, 120, "good")


@pytest.mark.slow
def test_a_sensor_that_dies_too_early_leaves_too_few_windows_to_judge(bundles, rows, tmp_path):
    (tmp_path / "log.csv").write_text("x,y,z\n" + "".join(f"{x},{y},{z}\n" for x, y, z in rows[:1000]) + ",,\n" * 2000)
    file = tmp_path / "report.json"
    source = ("--source", f"csv:{tmp_path / 'log.csv'}", "--hop", "20")
    done = run(bundles["old"], *source, "--shadow", bundles["close"], "--shadow-report", file)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == (
        f"mmkd-run: {file}: {bundles['close']} is refused: both answered 50 windows, expected 100 or more; keep the "
        "installed bundle"
    )


def children(pid):
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def shadow_of(pid):
    """The process of a shadow run that a process has started."""
    return until(
        lambda: [one for one in children(pid) if b"mmkd_edge.shadow" in Path(f"/proc/{one}/cmdline").read_bytes()]
    )[0]


def test_a_new_bundle_that_crashes_is_refused_and_the_installed_one_answers_on(bundles, rows, tmp_path):
    file = tmp_path / "report.json"
    child = start(
        *(bundles["old"], "--source", f"csv:{tmp_path / 'log.csv'}", "--replay-speed", "60", "--hop", "20"),
        *("--sink", "-", "--shadow", bundles["close"], "--shadow-report", file),
    )
    next_record(child.stdout, kind="result")
    os.kill(shadow_of(child.pid), signal.SIGKILL)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 4, errors
    assert [one["status"] for one in records_in(output)] == ["ok"] * 149
    report = msgspec.json.decode(file.read_bytes(), type=ShadowReport)
    assert report.windows < 100
    assert report.reasons == (
        f"it answered {report.windows} windows, then no more: the system ended it, as a rule for want of memory",
        f"both answered {report.windows} windows, expected 100 or more",
    )


def test_a_new_bundle_that_hangs_loses_windows_and_keeps_no_answer_waiting(bundles, predictor, tmp_path, monkeypatch):
    for name in ("old", "close"):
        EdgePredictor.open(bundles[name], backend="ort").close()  # what the shadow's process need not check then
    monkeypatch.setattr(shadow_module, "ANSWER_S", 0.2)
    shadow, window = open_shadow(bundles, predictor, tmp_path), np.zeros((20, 3), dtype=np.float32)
    for number in range(3):
        shadow.see(window, predictor.predict(window), time_s=float(number))
    until(lambda: shadow._counts["windows"] == 3)
    pid = shadow._process._process.pid
    os.kill(pid, signal.SIGSTOP)
    began_s = time.monotonic()
    for number in range(500):
        shadow.see(window, REST, time_s=float(number))
    assert time.monotonic() - began_s < 5  # of 100 s that 500 answers may take
    shadow.close()
    assert not Path(f"/proc/{pid}").exists()
    report = json.loads((tmp_path / "report.json").read_bytes())
    # One is asked, and 64 wait.
    assert (report["windows"], report["dropped"]) == (3, pytest.approx(435, abs=1))
    assert [re.sub(r"after \d+ of", "after N of", reason) for reason in report["reasons"]] == [
        "it answered 3 windows, then no more: it takes too long",
        "the run ended after N of 900 s",
        "both answered 3 windows, expected 100 or more",
        f"it had no time for {report['dropped']} of {report['dropped'] + 3} windows",
    ]


def test_a_bundle_that_takes_or_answers_something_else_is_no_shadow(bundles, tmp_path):
    before, other = set(children(os.getpid())), bundles["other"]
    source = (bundles["old"], "--source", "stdin")
    takes = "'acc' (20 samples of x, y, z at 10 Hz) for rest, raise, "
    assert refusal(UsageError, *source, "--shadow", other) == (
        f"{other}: --shadow: expected a bundle that takes and answers {takes}turn, got {takes}fall; evaluate it on "
        "recordings with mmkd-evaluate"
    )
    (tmp_path / "damaged.edge").write_bytes(bundles["close"].read_bytes()[:-9])
    assert refusal(BundleError, *source, "--shadow", tmp_path / "damaged.edge").startswith(f"{tmp_path}/damaged.edge: ")
    elsewhere = ("--shadow", bundles["close"], "--shadow-report", tmp_path / "no" / "report.json")
    assert refusal(UsageError, *source, *elsewhere) == (
        f"{tmp_path}/no/report.json: cannot be written: there is no directory {tmp_path}/no; make it first"
    )
    assert set(children(os.getpid())) <= before
    assert refusal(UsageError, *source, "--shadow-alarms", "2") == (
        "--shadow-alarms has no effect without --shadow; add --shadow, or leave --shadow-alarms out"
    )
    two = ("--source", "acc=csv:a.csv", "--source", "gyro=csv:b.csv", "--shadow", other)
    assert refusal(UsageError, bundles["old"], *two) == (
        "'stations[0].shadow': expected one source, got several; compare the bundles on one sensor after the other"
    )


def test_a_duration_has_a_unit():
    durations = {"90s": 90, "1.5min": 90, "1h": 3600, "2 d": 172800}
    assert {text: duration_s(text, option="--for") for text in durations} == durations
    for text in ("90", "h", "-1h", "0s", "1e3s", "1ms"):
        assert said(UsageError, duration_s, text, option="--for") == (
            f"--for {text}: expected a duration such as 1h, got {text!r}; give a number and its unit"
        )


def answer(label, *, status="ok", labels=(), p_value=None):
    index = LABELS.index(label) if label else -1
    shares = np.eye(3, dtype=np.float32)[index] if label else np.zeros(3, dtype=np.float32)
    return Prediction(
        label=label, index=index, probability=float(bool(label)), probabilities=shares, status=status, modality="acc",
        labels=labels, p_value=p_value,
    )  # fmt: skip


def open_shadow(bundles, predictor, folder, *, is_live=True):
    spec = StationSpec(
        bundle=str(bundles["old"]), source="stdin", name="press", backend="ort", shadow=str(bundles["close"]),
        shadow_report=str(folder / "report.json"),
        alarms=(AlarmRule(label="turn", confirm="1/1", release=1, cooldown_s=0.0),),
    )  # fmt: skip
    return Shadow(spec, predictor=predictor, modality="acc", hop_s=1.0, run_s=900.0, is_live=is_live)


@pytest.fixture
def judged(bundles, predictor, tmp_path, monkeypatch):
    """Compares given pairs of answers, each so many times, and returns the report and the error."""
    monkeypatch.setattr(shadow_module.ShadowProcess, "start", lambda _: None)

    def judge(*pairs, kind="classification", times=(), dropped=0, labels=LABELS):
        shadow = open_shadow(bundles, predictor, tmp_path, is_live=False)
        shadow._kind = kind
        shadow._labels = dict(zip(labels, shadow._labels.values(), strict=True))
        for number, (old, new) in enumerate((old, new) for old, new, count in pairs for _ in range(count)):
            shadow._count({"installed": old, "new": new}, float(number))
        shadow._counts["dropped"] = dropped
        for seconds in times:
            shadow._times["new"].add(seconds)
        shadow.close()
        return shadow.report, shadow.error

    return judge


ROWS = "all: 180 of 201", "rest: 180 of 201", "raise: 0 of 21"
REST, RAISE, TURN, NONE = answer("rest"), answer("raise"), answer("turn"), answer("", status="invalid")
UNKNOWN = answer("rest", status="unknown")


@pytest.mark.parametrize(
    ("pairs", "reasons"),
    [
        ([(REST, REST, 99)], ["both answered 99 windows, expected 100 or more"]),
        ([(REST, REST, 90), (RAISE, REST, 10)], []),
        # 10 % of 200 windows are a whole label.
        ([(REST, REST, 180), (RAISE, REST, 20)], ["raise: 0 of 20 answers agree, expected 90% or more"]),
        ([(REST, REST, 180), (REST, RAISE, 21)], [f"{row} answers agree, expected 90% or more" for row in ROWS]),
        # Two episodes of the new one during one of the installed one: one is its match.
        (
            [(REST, REST, 100), (TURN, TURN, 1), (TURN, REST, 1), (TURN, TURN, 1), (REST, REST, 9)],
            ["1 alarms change, expected 0 or fewer"],
        ),
        ([(REST, REST, 100), (TURN, REST, 1), (REST, TURN, 1)], ["2 alarms change, expected 0 or fewer"]),
        ([(REST, REST, 100), (TURN, TURN, 2)], []),
        ([(REST, REST, 147), (REST, UNKNOWN, 2), (REST, NONE, 1)], []),
        (
            [(REST, REST, 146), (REST, UNKNOWN, 3), (REST, NONE, 1)],
            ["4 of 150 windows are unknown or unanswered, expected about 0"],
        ),
    ],
)  # fmt: skip
def test_a_verdict_needs_windows_every_label_the_same_alarms_and_answers(pairs, reasons, judged):
    report, error = judged(*pairs)
    assert (list(report.reasons), isinstance(error, GateError)) == (reasons, bool(reasons))


def test_a_class_named_all_does_not_replace_the_agreement_of_all_windows(judged):
    report, _ = judged((REST, REST, 180), (REST, RAISE, 21), labels=("all", "raise", "turn"))
    assert report.reasons == tuple(f"{row} answers agree, expected 90% or more" for row in (ROWS[0], ROWS[2]))


def test_several_labels_agree_as_sets_and_unlike_normal_is_an_answer(judged):
    both, one, none = (answer("turn", labels=labels) for labels in (("rest", "turn"), ("turn",), ()))
    report, _ = judged((both, both, 3), (both, one, 2), (none, none, 1), kind="multi_label")
    assert (report.answered, report.agreed) == (6, 4)
    counts = {"rest": [5, 3, 3], "raise": [0, 0, 0], "turn": [5, 5, 5]}
    assert {label: [*found.values()] for label, found in report.labels.items()} == counts
    normal = msgspec.structs.replace(answer("rest"), p_value=0.5)
    unlike = msgspec.structs.replace(answer("", status="unknown"), p_value=0.001)
    report, _ = judged((normal, normal, 5), (unlike, unlike, 3), (normal, unlike, 1), kind="normal")
    assert (report.answered, report.agreed, report.installed.unknown, report.new.unknown) == (9, 8, 3, 4)


@pytest.mark.parametrize(
    ("times", "dropped", "reason"),
    [
        ([1.5], 0, "1 % of its answers take 1.500 s or longer, expected 1.000 s or less"),
        ([], 6, "it had no time for 6 of 106 windows"),
        ([0.5], 5, ""),
    ],
)
def test_a_bundle_that_is_only_too_slow_fails_the_gate_of_performance(times, dropped, reason, judged):
    report, error = judged((REST, REST, 100), times=times, dropped=dropped)
    assert (report.reasons, isinstance(error, PerformanceError)) == ((reason,) if reason else (), bool(reason))


def test_a_student_that_answers_a_number_is_not_compared(bundles, monkeypatch):
    number = TaskSpec(kind="regression", labels=("wear",), unit="mm", range=(0.0, 1.0))
    monkeypatch.setattr(EdgePredictor, "task", number)
    assert refusal(UsageError, bundles["old"], "--source", "stdin", "--shadow", bundles["close"]) == (
        f"{bundles['old']}: --shadow: expected a student of classes or labels, got one that answers a number; compare "
        "the values where results are read"
    )


def test_an_installation_can_require_a_good_shadow_run(bundles, judged, tmp_path):
    state, file = tmp_path / "state", tmp_path / "report.json"

    def put(name, report, *options):
        if report is not None:
            file.write_bytes(msgspec.json.encode(report))
        words = ["install", str(bundles[name]), str(state), "--backend", "ort"]
        run_edge([*words, *([] if report is None else ["--after-shadow", str(file)]), *options])
        return read_slots(state).current.sha256

    report, _ = judged((REST, REST, 100))
    ended = datetime.now(timezone.utc) - timedelta(days=6)
    good = msgspec.structs.replace(report, ended_utc=ended.isoformat(timespec="seconds"))
    old, new = put("old", None), good.new.bundle_sha256
    again = f"run mmkd-run --shadow {bundles['close']} again"
    pair = new[:12], old[:12]
    other = ShadowBundle(model_id="other", bundle_sha256="3" * 64)
    refused = msgspec.structs.replace(good, verdict="refused", reasons=("2 alarms change, expected 0 or fewer",))
    for report, options, kind, message in (
        (refused, (), GateError, f"the shadow run refused {bundles['close']}: 2 alarms change, expected 0 or fewer"),
        (
            msgspec.structs.replace(good, new=other), (), UsageError,
            f"expected a shadow run of {pair[0]} against {pair[1]}, got one of {'3' * 12} against {pair[1]}; {again}",
        ),
        (
            msgspec.structs.replace(good, installed=other), (), UsageError,
            f"expected a shadow run of {pair[0]} against {pair[1]}, got one of {pair[0]} against {'3' * 12}; {again}",
        ),
        (
            good, ("--shadow-days", "5"), UsageError,
            f"expected a shadow run of the last 5 days, got {good.ended_utc}; {again}",
        ),
        (
            {"format_version": 9}, (), UsageError,
            "expected a report of mmkd-run --shadow: format_version: expected 1, got 9",
        ),
    ):  # fmt: skip
        assert said(kind, put, "close", report, *options) == f"{file}: {message}"
        assert read_slots(state).current.sha256 == old
    assert put("close", good) == new
