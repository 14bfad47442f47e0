from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_bench.machine.power import power_sensor
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.reports import demo_benchmark, write_samples
from mmkd_bench.run import BenchmarkRun, check_settings, measure_bundle
from mmkd_bench.text import subject_text
from mmkd_edge.errors import BundleError, UsageError
from mmkd_report.schema.bench import STAGES, Settings


@pytest.fixture(scope="module")
def run(bundle: Path) -> BenchmarkRun:
    lines: list[str] = []
    found = measure_bundle(
        Choice(bundle=str(bundle), backend="ort"),
        Settings(launches=2, duration_s=0.4),
        energy=False,
        progress=lines.append,
    )
    assert lines == ["launch 1 of 2: warm-up, then 0.2 s", "launch 2 of 2: warm-up, then 0.2 s"]
    return found


def test_every_launch_is_in_the_report(run: BenchmarkRun) -> None:
    assert len(run.report.launches) == 2
    assert run.report.complete
    assert run.report.result.latency.count == sum(launch.latency.count for launch in run.report.launches)


def test_the_percentiles_are_those_of_the_kept_samples(run: BenchmarkRun) -> None:
    samples = run.samples["latency_ns"]
    for quantile in (0.5, 0.9, 0.99):
        expected_us = float(np.percentile(samples, 100 * quantile)) / 1e3
        assert run.report.result.latency.value_us(quantile) == pytest.approx(expected_us)
    assert set(run.samples["launch"]) == {0, 1}


def test_stages_are_the_runtimes_four_steps(run: BenchmarkRun) -> None:
    stages = run.report.result.stages
    assert tuple(stage.name for stage in stages) == STAGES
    total_us = sum(stage.p50_us for stage in stages)
    latency_us = run.report.result.latency.value_us(0.5)
    assert latency_us is not None
    # predict is these four calls; the fifth that it adds is itself. Medians of a few microseconds on a shared machine.
    assert 0.5 * latency_us < total_us < 2.0 * latency_us


def test_start_up_is_told_apart(run: BenchmarkRun) -> None:
    for launch in run.report.launches:
        assert launch.import_ms > 1
        assert launch.load_ms > 1
        assert 0 < launch.first_call_ms < launch.load_ms
        assert launch.rss_mb > 20


def test_the_report_names_what_was_measured(run: BenchmarkRun, bundle: Path) -> None:
    subject, configuration = run.report.subject, run.report.configuration
    assert (subject.bundle, subject.modality, subject.artifact) == (str(bundle), "acc", "student/model.fp32.onnx")
    assert subject.size_bytes == bundle.stat().st_size
    assert (configuration.backend, configuration.precision, configuration.threads) == ("ort", "fp32", 1)


def test_the_demo_gets_its_figures(run: BenchmarkRun) -> None:
    document = msgspec.to_builtins(demo_benchmark(run.report))
    assert document["latency_ms"]["samples"] == run.report.result.latency.count
    p50_us = run.report.result.latency.value_us(0.5)
    assert p50_us is not None
    assert document["latency_ms"]["p50"] == pytest.approx(p50_us / 1e3)
    assert list(document["stages_us"]) == list(STAGES)
    assert document["machine"]["cores"] >= 1


def test_samples_are_kept_in_one_file(run: BenchmarkRun, tmp_path: Path) -> None:
    write_samples(tmp_path / "samples.npz", run.samples)
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as kept:
        assert set(kept.files) == {"launch", "client", "start_ns", "latency_ns"}
        np.testing.assert_array_equal(kept["latency_ns"], run.samples["latency_ns"])


def test_a_paced_run_reports_its_schedule(bundle: Path) -> None:
    settings = Settings(launches=1, duration_s=0.5, rate_hz=100.0)
    report = measure_bundle(Choice(bundle=str(bundle)), settings, energy=False).report
    assert report.configuration.deadline_ms == 10.0
    assert report.result.pace is not None
    assert report.result.pace.response.count == 50
    assert report.result.pace.lateness.min_us >= 0
    assert report.result.cpu_cores < 0.9


def test_every_client_keeps_a_schedule_of_its_own(bundle: Path) -> None:
    settings = Settings(launches=1, duration_s=0.5, rate_hz=40.0, clients=3)
    run = measure_bundle(Choice(bundle=str(bundle), backend="ort"), settings, energy=False)
    result = run.report.result
    assert result.pace is not None
    assert np.bincount(run.samples["client"]).tolist() == [20, 20, 20]
    # 25 ms apart for each client, whatever the others do; the wake-up of a busy machine is in it.
    scheduled = run.samples["start_ns"] - run.samples["lateness_ns"]
    for client in range(3):
        steps_ms = np.diff(scheduled[run.samples["client"] == client]) / 1e6
        np.testing.assert_allclose(steps_ms, 25.0, atol=1e-3)
    assert "3 clients · 40 calls per second each" in subject_text(run.report)


def test_clients_ask_at_the_same_time(slow_bundle: Path) -> None:
    settings = Settings(launches=1, duration_s=0.5, clients=3)
    run = measure_bundle(Choice(bundle=str(slow_bundle)), settings, energy=False)
    starts, latencies = run.samples["start_ns"], run.samples["latency_ns"]
    assert (np.diff(starts) >= 0).all()
    # Calls of one client never overlap; of three they do.
    assert (starts[1:] < starts[:-1] + latencies[:-1]).any()
    assert run.report.result.throughput_hz == pytest.approx(len(starts) / 0.5, rel=0.5)


def test_energy_is_measured_where_a_sensor_answers(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tegrastats"
    program.write_text("#!/bin/sh\nwhile true; do echo 'VDD_IN 6030mW/6030mW'; sleep 0.02; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("mmkd_bench.run.power_sensor", lambda: power_sensor(tmp_path))
    lines: list[str] = []
    settings = Settings(launches=1, duration_s=0.6)
    report = measure_bundle(Choice(bundle=str(bundle)), settings, idle_s=0.5, progress=lines.append).report
    assert lines[0] == "idle power: 0.5 s with tegrastats VDD_IN"
    assert report.energy is not None
    assert report.energy.load_mw == report.energy.idle_mw == 6030.0
    assert report.energy.above_idle_mj == 0.0
    assert report.energy.readings >= 2


def test_a_damaged_bundle_starts_no_process(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.edge"
    path.write_bytes(bundle.read_bytes()[:-100])
    lines: list[str] = []
    with pytest.raises(BundleError) as caught:
        measure_bundle(Choice(bundle=str(path)), Settings(), progress=lines.append)
    assert str(caught.value) == (
        f"{path}: the bundle is truncated or changed: its end record is missing; copy or export it again"
    )
    assert lines == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(launches=0), "launches: expected a whole number from 1 to 1000, got 0"),
        (Settings(clients=300), "clients: expected a whole number from 1 to 256, got 300"),
        (Settings(duration_s=0.0), "duration-s: expected a number above 0, got 0"),
        (Settings(rate_hz=float("nan")), "rate: expected a number above 0, got nan"),
        (Settings(rate_hz=5.0, deadline_ms=-1.0), "deadline-ms: expected a number above 0, got -1"),
        (
            Settings(deadline_ms=5.0),
            "deadline-ms: expected a rate as well: a deadline counts from a scheduled time; add --rate",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Settings, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_settings(settings)
    assert str(caught.value) == message
