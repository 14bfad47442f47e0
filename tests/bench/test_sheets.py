"""Reports as people read them: headings, cells and sentences."""

import msgspec
import pytest
from rich.text import Text

from mmkd_app.bench.sheets import Table, make_sheet
from mmkd_app.words import for_terminal
from mmkd_bench.compare import compare, parse_conditions
from mmkd_bench.in_turn import summarise_repeats
from mmkd_documents.bench import CapacityReport, Level, OverheadReport, PairReport, RivalEngine, RivalsReport
from tests.bench.made import make_launch, make_report

ONE = summarise_repeats([100.0, 110.0, 120.0])
SPREAD = ("110 µs", "100 µs", "120 µs")
RUN = make_report([make_launch(100.0)] * 5)


def rows(report):
    return [
        tuple(map(for_terminal, row)) for part in make_sheet(report) if isinstance(part, Table) for row in part.rows
    ]


def sentences(report):
    return [for_terminal(part.plain) for part in make_sheet(report)[1:] if isinstance(part, Text)]


def test_a_run_has_percentiles_stages_facts_and_its_verdict():
    cells = rows(RUN)
    assert ("p50", "100 µs", "100 µs") in cells
    assert ("p99.9", "needs 6 636 calls", "-") in cells
    assert ("energy", "not measured: no sensor") in cells
    assert ("check_window", "1.00 µs", "3.00 µs") in cells
    assert "Stable." in sentences(RUN)
    assert "5,000 calls in 5 of 5 launches" in sentences(RUN)


def test_rivals_have_a_row_each_or_a_reason():
    timed = RivalEngine(
        name="openvino", version="2026.4.1", load_ms=80.0, max_abs_error=1.25e-7, p50_us=ONE, p99_us=ONE, ratio=ONE
    )
    absent = RivalEngine(name="litert", reason="not installed: a, b")
    report = RivalsReport(subject=RUN.subject, threads=1, tolerance=1e-4, rivals=(timed, absent), machine=RUN.machine)
    assert rows(report) == [("openvino", "2026.4.1", *SPREAD, "110 µs", "110.00 x", "80.0 ms", "1.2e-07")]
    assert sentences(report) == ["litert: not installed: a, b"]


def test_capacity_has_the_answer_and_its_launches():
    level = Level(streams=4, due=400, answered=400, response=RUN.result.latency, missed=0, cpu_cores=0.5, carried=True)
    refused = msgspec.structs.replace(level, streams=5, missed=100, carried=False)
    report = CapacityReport(
        subject=RUN.subject,
        backend="ort",
        precision="fp32",
        threads=1,
        servers=4,
        rate_hz=20.0,
        deadline_ms=50.0,
        streams=4,
        at_answer=level,
        launches=(level, refused, level),
        p999_us=1234.0,
        refused=refused,
        idle_cores=3.5,
        disturbances=("other processes used 40% of a core",),
        machine=RUN.machine,
    )
    assert [row[:3] for row in rows(report)] == [
        ("answer", "4", "yes"),
        ("refused", "5", "no"),
        *(("launch 1", "4", "yes"), ("launch 2", "5", "no"), ("launch 3", "4", "yes")),
    ]
    assert sentences(report) == [
        "p99.9 1.23 ms in the median launch, within 50 ms in 2 of 3 launches",
        "3.50 of 4 cores idle",
        "not carried: 5 streams, 25.00% missed",
        "at the same time: other processes used 40% of a core",
    ]
    assert for_terminal(make_sheet(report)[0].plain) == (
        "student.edge, fp32 in ort, 20 predictions per second each within 50 ms: 4 streams"
    )


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([2.0, 2.5, 3.0], "b.edge is 2.50 times as fast as a.onnx (2.00 to 3.00 over 3 repeats)"),
        ([0.8, 0.9], "b.edge is 0.850 times as fast as a.onnx (0.800 to 0.900 over 2 repeats)"),
        ([0.98, 1.09, 1.2], "b.edge and a.onnx are equally fast within noise (0.980 to 1.20 over 3 repeats)"),
    ],
)
def test_pairs_and_overheads_are_tables_too(ratios, expected):
    times = {f"{name}_{figure}_us": ONE for name in ("first", "second") for figure in ("p50", "p90", "p99")}
    pair = PairReport(
        first="a.onnx",
        second="b.edge",
        threads=1,
        count=10,
        ratio=summarise_repeats(ratios),
        machine=RUN.machine,
        **times,
    )
    assert make_sheet(pair)[0].plain == expected
    assert rows(pair) == [(name, *SPREAD, "110 µs", "110 µs") for name in ("a.onnx", "b.edge")]
    overhead = OverheadReport(
        bundle="b.edge",
        count=10,
        predict_p50_us=ONE,
        bare="session.run",
        bare_p50_us=ONE,
        overhead_us=ONE,
        machine=RUN.machine,
    )
    assert rows(overhead) == [(name, *SPREAD) for name in ("predict", "session.run", "difference")]


def test_a_comparison_has_its_verdict_and_its_quantities():
    comparison = compare(RUN, make_report([make_launch(120.0)] * 5), conditions=parse_conditions("p50>+5%"))
    assert make_sheet(comparison)[0].plain == "Verdict: slower"
    assert rows(comparison)[0] == ("p50 *", "100 µs", "120 µs", "+20.0%", "+20.0% to +20.0%")
    assert any(line.startswith("failed: p50 changed by +20.0%") for line in sentences(comparison))
