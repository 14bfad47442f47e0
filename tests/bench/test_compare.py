import msgspec
import pytest

from mmkd_bench.compare import compare, parse_conditions, read_report, require_passed
from mmkd_documents.bench import Energy
from mmkd_edge.errors import PerformanceError, UsageError
from tests.bench.made import make_launch, make_report
from tests.edge.said import said

GATE = parse_conditions("p50>+5%,p90>+5%")


def report_at(p50_us, *, seed=0, spread=0.02):
    return make_report([make_launch(p50_us, spread=spread, seed=100 * seed + number) for number in range(5)])


def _change(comparison, quantity):
    return next(change for change in comparison.changes if change.quantity == quantity)


def test_slower_and_faster_builds_are_told_in_words():
    comparison = compare(report_at(100.0, spread=0.0), report_at(115.0, spread=0.0), conditions=GATE)
    assert comparison.verdict == "slower"
    assert said(PerformanceError, lambda: require_passed(comparison)) == (
        "the comparison failed: "
        "p50 changed by +15.0% (95 % interval +15.0% to +15.0%), which fails 'p50>+5%'; "
        "p90 changed by +15.0% (95 % interval +15.0% to +15.0%), which fails 'p90>+5%'"
    )
    comparison = compare(report_at(100.0), report_at(80.0), conditions=GATE)
    assert comparison.verdict == "faster"
    assert comparison.failed == ()


def test_one_disturbed_launch_of_five_does_not_decide():
    quiet = [make_launch(100.0, spread=0.01, seed=number) for number in range(5)]
    disturbed = [*[make_launch(100.0, spread=0.01, seed=10 + number) for number in range(4)], make_launch(300.0)]
    comparison = compare(make_report(quiet), make_report(disturbed), conditions=GATE)
    assert comparison.verdict == "equal"
    # The interval knows of it nevertheless.
    assert (_change(comparison, "p50").high or 0.0) > 0.01


def test_a_change_within_the_noise_of_launches_does_not_fail():
    before = make_report([make_launch(value) for value in (90.0, 95.0, 100.0, 105.0, 110.0)])
    after = make_report([make_launch(1.06 * value) for value in (90.0, 95.0, 100.0, 105.0, 110.0)])
    change = _change(compare(before, after, conditions=GATE), "p50")
    assert change.change == pytest.approx(0.06)
    assert change.low < 0.05
    assert compare(before, after, conditions=GATE).failed == ()


def test_the_interval_covers_the_true_change():
    covered = 0
    for seed in range(12):
        before, after = report_at(100.0, seed=2 * seed), report_at(110.0, seed=2 * seed + 1)
        change = _change(compare(before, after, conditions=()), "p50")
        covered += change.low <= 0.10 <= change.high
    # 95 % intervals: 9 or fewer of 12 has a probability of 2 %, and the seeds are fixed.
    assert covered >= 10


def test_throughput_and_what_was_not_measured_have_conditions_of_their_own():
    comparison = compare(
        report_at(100.0), report_at(125.0), conditions=parse_conditions("throughput<-10%,throughput<-30%")
    )
    assert len(comparison.failed) == 1
    assert comparison.failed[0].startswith("throughput changed by -20.0%")
    report, energy = report_at(100.0), parse_conditions("energy>+5%")
    assert said(UsageError, lambda: compare(report, report, conditions=energy)) == (
        "condition 'energy>+5%': energy was not measured in both reports, or is 0 in the first; "
        "leave the condition out, or measure longer and on a machine that shows it"
    )


def _with_energy(report, launches_mj):
    launches = tuple(
        msgspec.structs.replace(launch, above_idle_mj=value)
        for launch, value in zip(report.launches, launches_mj, strict=True)
    )
    known = [value for value in launches_mj if value is not None]
    energy = Energy(sensor="dial", idle_mw=1.0, load_mw=2.0, above_idle_mj=sum(known) / len(known), readings=9)
    return msgspec.structs.replace(report, launches=launches, energy=energy, energy_note="")


def test_energy_is_judged_by_its_launches():
    before = _with_energy(report_at(100.0), (0.98, 0.99, 1.00, 1.01, 1.02))
    conditions = parse_conditions("p90>+10%,energy>+5%")
    more = compare(before, _with_energy(report_at(100.0), (1.18, 1.19, 1.20, 1.21, 1.22)), conditions=conditions)
    change = _change(more, "energy")
    assert change.change == pytest.approx(0.20)
    # The extremes of a resample are a run of one launch alone: 1.18 / 1.02 and 1.22 / 0.98.
    assert 1.18 / 1.02 - 1 <= change.low < 0.20 < change.high <= 1.22 / 0.98 - 1
    assert [failure.partition(" changed")[0] for failure in more.failed] == ["energy"]
    # One launch of five that drew more is noise: the interval reaches down to no change.
    noisy = compare(before, _with_energy(report_at(100.0), (0.98, 0.99, 1.1, 1.5, 1.6)), conditions=conditions)
    assert noisy.failed == ()


def test_energy_that_is_not_clearly_above_idle_has_no_ratio():
    before = _with_energy(report_at(100.0), (-0.01, 0.0, 0.01, 0.02, 0.03))
    after = _with_energy(report_at(100.0), (1.0, 1.0, 1.0, 1.0, 1.0))
    assert _change(compare(before, after, conditions=()), "energy").change is None
    with pytest.raises(UsageError, match="energy was not measured in both reports, or is 0 in the first"):
        compare(before, after, conditions=parse_conditions("energy>+5%"))


def test_fewer_than_five_launches_are_not_compared():
    interrupted = msgspec.structs.replace(make_launch(100.0), complete=False)
    four = make_report([make_launch(100.0)] * 4 + [interrupted])
    assert said(UsageError, lambda: compare(report_at(100.0), four, conditions=GATE)) == (
        "the second report: expected at least 5 complete launches, got 4; run mmkd-bench run --launches 5 again"
    )


def test_what_else_differs_is_listed():
    before = report_at(100.0)
    machine = msgspec.structs.replace(before.machine, versions={"mmkd-edge": "0.2.0"}, governors=("powersave",))
    after = msgspec.structs.replace(before, machine=machine)
    assert compare(before, after, conditions=GATE).differences == (
        "governors: performance -> powersave",
        "mmkd-edge: 0.1.0 -> 0.2.0",
        "onnxruntime: 1.32.0 -> none",
    )


def _beside(report, others_cores):
    """The report with other processes beside every launch."""
    launches = tuple(
        msgspec.structs.replace(
            launch, interference=msgspec.structs.replace(launch.interference, others_cores=others_cores)
        )
        for launch in report.launches
    )
    return msgspec.structs.replace(report, launches=launches)


def test_tails_are_not_judged_where_processes_competed_for_cores():
    calm = make_report([make_launch(100.0)] * 5)
    longer_tail = make_report([make_launch(100.0, p90_us=160.0)] * 5)
    assert compare(calm, longer_tail, conditions=GATE).verdict == "slower"
    # Four cores: beside one busy thread three more have room, and three and a half do not.
    assert compare(calm, _beside(longer_tail, 3.0), conditions=GATE).verdict == "slower"
    contested = compare(calm, _beside(longer_tail, 3.5), conditions=GATE)
    assert contested.verdict == "equal"
    assert contested.failed == ()
    assert not _change(contested, "p90").judged
    assert _change(contested, "p50").judged
    assert contested.remarks == (
        "in the second run other processes used 3.50 of 4 cores and competed with it: only p50, rss are judged",
    )


def test_a_report_survives_its_file_and_unstable_runs_are_remarked(tmp_path):
    restless = make_report([make_launch(value) for value in (80.0, 90.0, 100.0, 110.0, 120.0)])
    assert compare(report_at(100.0), restless, conditions=()).remarks == (
        "the second run was unstable: medians of launches ran from 80 to 120 µs",
    )
    report, path = report_at(100.0), tmp_path / "report.json"
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(report) | {"weather": "fine"}))
    assert read_report(path) == report


def test_a_bad_condition_says_what_is_expected():
    for text, message in {
        "p50": "expected a form like 'p90>+10%' or 'throughput<-5%'",
        "p50>5": "expected a form like 'p90>+10%' or 'throughput<-5%'",
        "speed>+5%": "unknown quantity 'speed'; expected one of p50, p90, p99, throughput, rss, energy",
    }.items():
        assert said(UsageError, parse_conditions, text) == f"condition {text!r}: {message}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04", "cannot read it: JSON is malformed: invalid character (byte 0)"),
        (b"[1]", "cannot read it: Expected `object`, got `array`"),
        (b'{"format_version": 2}', "cannot read it: benchmark document: expected format_version 1, got 2"),
        (None, "found no such file; check the path"),
    ],
)
def test_other_files_are_not_reports(tmp_path, data, reason):
    if data is not None:
        (tmp_path / "x").write_bytes(data)
    start = f"{tmp_path / 'x'}: expected a report of 'mmkd-bench run -o', "
    assert said(UsageError, read_report, tmp_path / "x").startswith(start + reason)
