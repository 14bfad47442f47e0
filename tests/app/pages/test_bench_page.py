"""The benchmark page: its answer in words, its figures and tables, its safety and its size."""

import copy

import msgspec
import pytest

from mmkd_app.pages.bench import manner_text, run_names
from mmkd_documents.bench import read_bench
from mmkd_documents.errors import DocumentError
from tests.app.pages.conftest import section
from tests.app.pages.rendered import render_bench
from tests.bench.made import make_launch, make_report

FLOORS = {0.5: 11, 0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}


def latency(p50_us, count):
    factors = {0.5: 1.0, 0.9: 1.2, 0.95: 1.5, 0.99: 2.0, 0.999: 4.0}
    values = {quantile: factors[quantile] * p50_us if count >= floor else None for quantile, floor in FLOORS.items()}
    percentiles = [
        {"quantile": quantile, "value_us": value, "upper_us": value and 1.1 * value, "floor": FLOORS[quantile]}
        for quantile, value in values.items()
    ]
    spread = {"mean_us": 1.1 * p50_us, "std_us": 5.0, "min_us": 0.9 * p50_us, "max_us": 9 * p50_us}
    return spread | {"count": count, "percentiles": percentiles}


def run_of(p50_us=200.0, *, board="Orin Nano", count=5000):
    """A report as the benchmark writes it, with figures of a smaller machine."""
    launches = [make_launch(p50_us * factor) for factor in (0.98, 1.0, 1.01, 1.02, 1.03)]
    document = msgspec.to_builtins(make_report(launches))
    document["machine"] |= {"cpu": "Cortex-A78AE", "board": board, "cores": 6, "usable_cores": 6}
    document["stability"] = {"stable": True, "findings": [], "disturbances": ["other processes used 40% of a core"]}
    stages = (("check_window", 1.0), ("prepare", 9.0), ("run", 180.0), ("interpret", 10.0))
    document["result"] |= {
        "latency": latency(p50_us, count),
        "stages": [{"name": name, "p50_us": value, "p90_us": 2 * value} for name, value in stages],
        "histogram": {"edges_us": [0.9 * p50_us, p50_us, 2 * p50_us, 9 * p50_us], "counts": [90, 900, 10]},
    }
    power = {"idle_mw": 4000.0, "load_mw": 6030.0, "above_idle_mj": 0.4229, "readings": 98}
    return document | {"energy": power | {"sensor": "INA rails VDD_IN"}, "energy_note": ""}


def test_the_page_has_an_answer_with_its_bound_distribution_stages_and_energy(parse):
    page = parse(render_bench([run_of()]))
    assert section(page, "answer").all("p")[0].text == (
        "Orin Nano answers in 200\u202fµs at the median of 5\u202f000 calls, 99 % of them within 400\u202fµs (99 % "
        "confidence: at most 440\u202fµs)."
    )
    rows = [row.text for row in section(page, "distribution").all("tr")]
    assert any("p99.9" in row and "needs 6\u202f636 calls" in row for row in rows)
    bars = list(section(page, "stages").all("rect", "bar-fill"))
    assert [bar.attrs["width"] for bar in bars] == ["0.5%", "4.5%", "90.0%", "5.0%"]
    told = section(page, "energy").text
    assert "INA rails VDD_IN, 98 readings under load" in told
    assert "0.423\u202fmJ above idle" in told
    without = run_of() | {"energy": None, "energy_note": "tegrastats: not installed"}
    told = section(parse(render_bench([without])), "energy").text
    assert "not measured: tegrastats: not installed" in told


def test_limits_and_temperatures_of_the_device_are_shown(parse):
    document = run_of()
    page = parse(render_bench([document]))
    assert "hottest zone" not in section(page, "measured").text
    document["machine"] |= {"cpu_quota": 1.5}
    for number, one in enumerate(document["launches"]):
        one["interference"] |= {"celsius_before": 40.0 + number, "celsius_after": 41.4 + number}
    told = section(parse(render_bench([document])), "measured").text
    assert "6 of 6 usable, limited to 1.50 cores' time" in told
    assert "hottest zone 40\u202f°C before, 45\u202f°C after" in told


def test_devices_stand_side_by_side(parse):
    page = parse(render_bench([run_of(), run_of(100.0, board="Thor"), run_of(150.0, board=None)]))
    assert section(page, "answer").all("p")[0].text == (
        "Thor has the smallest median, 100\u202fµs, then Cortex-A78AE, 150\u202fµs; whether they differ beyond noise "
        "is what mmkd-bench compare decides."
    )
    heads = [node.text for node in section(page, "devices").all("th") if node.attrs.get("scope") == "row"]
    assert heads == ["Orin Nano", "Thor", "Cortex-A78AE"]


def test_runs_are_named_by_what_tells_them_apart():
    other = copy.deepcopy(run_of())
    other["configuration"]["backend"] = "openvino"
    other["configuration"] |= {"hop": 8}
    assert run_names([read_bench(run_of()), read_bench(other)]) == ["ort", "openvino, hop 8"]
    assert manner_text(read_bench(other)) == "one call is a hop of 8 samples, fp32 on openvino, 1 thread per call"
    assert run_names([read_bench(run_of())]) == ["Orin Nano"]
    assert run_names([read_bench(run_of()), read_bench(run_of())]) == ["Orin Nano (1)", "Orin Nano (2)"]


def test_unstable_runs_and_different_bundles_are_cautions(parse):
    document = run_of()
    document["stability"] |= {"stable": False, "findings": ["launch 2: medians of its thirds were 1, 2, 3 µs"]}
    page = parse(render_bench([document]))
    assert section(page, "answer").all("p", "caution")[0].text.startswith("Unstable or interrupted: Orin Nano.")
    assert "Launch 2: medians of its thirds were 1, 2, 3 µs." in section(page, "distribution").text
    other = run_of()
    other["subject"]["sha256"] = "cd" * 32
    page = parse(render_bench([run_of(), other]))
    caution = section(page, "answer").all("p", "caution")[0].text
    assert caution == "The runs measured different bundles: they differ in more than the device."


def test_an_earlier_document_without_a_histogram_has_a_page_too(parse):
    document = run_of()
    del document["result"]["histogram"], document["machine"]["moving_clocks"], document["machine"]["gpus"]
    assert section(parse(render_bench([document])), "distribution").all("tr")


def test_a_document_that_breaks_its_contract_is_refused():
    uneven = run_of()
    uneven["result"]["histogram"]["counts"] = [1]
    advice = "correct the value, or leave it out where it is optional"
    version = "expected format_version 1, got 99; make the page with the release that made the document"
    for document, message in (
        (run_of() | {"format_version": 99}, version),
        (run_of() | {"launches": 3}, f"Expected `array`, got `int` - at `$.launches`; {advice}"),
        (uneven, "result.histogram: expected 2 edges_us for 1 counts, got 4; correct it"),
    ):
        with pytest.raises(DocumentError) as caught:
            render_bench([document])
        assert str(caught.value) == f"benchmark document: {message}"


def test_a_page_holds_at_least_one_run_and_at_most_twelve():
    for count in (0, 13):
        with pytest.raises(DocumentError) as caught:
            render_bench([run_of()] * count)
        assert str(caught.value) == (f"benchmark page: expected 1 to 12 documents, got {count}; choose some")
    assert len(render_bench([run_of()] * 12).encode()) < 1_000_000
