from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from threading import Event

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from mmkd_bench.measuring.jobs import Demand, LoadJob, OverheadJob
from mmkd_bench.measuring.launch import Workload, stream_workload, window_workload
from mmkd_bench.measuring.load import do_load_job
from mmkd_bench.measuring.opening import Choice, open_predictor, raw_windows
from mmkd_bench.measuring.turns import time_predict
from mmkd_bench.run import check_settings, measure_bundle
from mmkd_bench.text import fact_rows, subject_text
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predictor import EdgePredictor
from mmkd_report.schema.bench import STAGES, Settings
from tests.bench.made import make_launch, make_report


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> EdgePredictor:
    return open_predictor(Choice(bundle=str(bundle), backend="ort"))


def _calls(driver: Workload, count: int) -> list[list[Prediction]]:
    return [driver.calls[0](argument) for _, argument in zip(range(count), cycle(driver.arguments), strict=False)]  # type: ignore[misc]


def _names(driver: Workload) -> list[str]:
    return [stage.name for stage in driver.stages(0.02, Event())]


@pytest.mark.parametrize("hop", [1, 7, 8, 40, 41, 300])
def test_a_push_of_one_hop_gives_one_prediction(predictor: EdgePredictor, hop: int) -> None:
    driver = stream_workload(predictor, raw_windows(predictor), hop=hop)
    assert [len(found) for found in _calls(driver, 30)] == [1] * 30


def test_a_stream_is_measured_from_its_first_full_window_on(predictor: EdgePredictor) -> None:
    driver = stream_workload(predictor, raw_windows(predictor), hop=8)
    assert all(found[0].index >= 0 for found in _calls(driver, 10))


def test_a_hop_longer_than_all_recordings_is_filled_with_them(predictor: EdgePredictor) -> None:
    windows = raw_windows(predictor)[:1]
    driver = stream_workload(predictor, windows, hop=100)
    samples = driver.arguments[0]
    np.testing.assert_array_equal(samples, np.tile(windows[0], (3, 1))[:100])


def test_the_steps_of_a_stream_begin_with_gathering(predictor: EdgePredictor) -> None:
    assert _names(stream_workload(predictor, raw_windows(predictor), hop=8)) == ["gather", *STAGES]


def test_a_batch_is_answered_as_its_windows_are(predictor: EdgePredictor) -> None:
    driver = window_workload(predictor, raw_windows(predictor), batch=3)
    windows: NDArray[np.float32] = driver.arguments[1]
    expected = [predictor.predict(window).probabilities for window in windows]
    answers: Sequence[Prediction] = driver.calls[0](windows)  # type: ignore[assignment]
    for answer, wanted in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer.probabilities, wanted)
    assert driver.predictions == 3
    assert _names(driver) == list(STAGES)


def test_the_steps_of_a_batch_are_those_of_all_its_windows(predictor: EdgePredictor) -> None:
    windows = raw_windows(predictor)
    one = window_workload(predictor, windows).stages(0.1, Event())
    twenty = window_workload(predictor, windows, batch=20).stages(0.1, Event())
    # A ratio of medians on a machine that others use as well.
    assert twenty[2].p50_us / one[2].p50_us > 8


def test_a_streaming_run_is_reported(bundle: Path) -> None:
    settings = Settings(launches=1, duration_s=0.2, hop=8)
    report = measure_bundle(Choice(bundle=str(bundle)), settings, energy=False).report
    assert report.configuration.hop == 8
    assert [stage.name for stage in report.result.stages] == ["gather", *STAGES]
    assert "stream, hop 8" in subject_text(report)
    rows = dict(fact_rows(report))
    assert rows["real time"].startswith("2.50 hops per second of one sensor, ")


def test_sensors_of_one_predictor_have_streams_of_their_own(predictor: EdgePredictor) -> None:
    windows = raw_windows(predictor)
    alone = stream_workload(predictor, windows, hop=8).calls[0]
    one, other = stream_workload(predictor, windows, hop=8, clients=2).calls
    hops = stream_workload(predictor, windows, hop=8).arguments
    for turn in range(6):
        expected = alone(hops[turn])
        (mine,) = one(hops[turn])  # type: ignore[misc]
        other(hops[-1])  # what another sensor sends changes nothing
        np.testing.assert_array_equal(mine.probabilities, expected[0].probabilities)  # type: ignore[index]


def test_several_sensors_stream_at_the_same_time(bundle: Path) -> None:
    settings = Settings(launches=1, duration_s=0.4, hop=8, clients=2, rate_hz=50.0)
    run = measure_bundle(Choice(bundle=str(bundle), backend="ort"), settings, energy=False)
    assert np.bincount(run.samples["client"]).tolist() == [20, 20]
    assert run.report.result.pace is not None
    assert run.report.result.pace.response.count == 40
    assert "2 sensors · stream, hop 8 · 50 calls per second each" in subject_text(run.report)


def test_of_several_students_the_first_is_measured(several_bundle: Path, predictor: EdgePredictor) -> None:
    windows = raw_windows(predictor)
    with open_predictor(Choice(bundle=str(several_bundle), backend="ort")) as several:
        expected = [predictor.predict(window).probabilities for window in windows]
        drivers = [window_workload(several, windows), stream_workload(several, windows, hop=40)]
        for driver in drivers:
            assert "run" in _names(driver)
        answers = [drivers[0].calls[0](argument) for argument in drivers[0].arguments]
        for answer, wanted in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(answer.probabilities, wanted)  # type: ignore[attr-defined]
        batch = window_workload(several, windows, batch=2)
        first: Sequence[Prediction] = batch.calls[0](batch.arguments[0])  # type: ignore[assignment]
        np.testing.assert_array_equal(first[1].probabilities, expected[1])


def test_a_bundle_of_several_students_is_loaded_and_compared(several_bundle: Path) -> None:
    choice = Choice(bundle=str(several_bundle), backend="ort", precision="fp32", threads=1)
    job = LoadJob(
        choice=choice,
        demand=Demand(rate_hz=20.0, deadline_ms=5000.0, servers=1),
        streams=2,
        duration_s=0.2,
        search_s=1.0,
        warm_up_limit_s=0.05,
    )
    assert do_load_job(job)[0].levels[0].answered == 8
    overhead = OverheadJob(bundle=choice.bundle, threads=1, repeats=1, duration_s=0.05, reference=None)
    assert time_predict(overhead).count >= 20


def test_a_batch_counts_every_window(bundle: Path) -> None:
    settings = Settings(launches=1, duration_s=0.2, batch=4)
    report = measure_bundle(Choice(bundle=str(bundle)), settings, energy=False).report
    latency = report.result.latency
    # Calls back to back: four predictions in the time of one call, and a little more.
    assert report.result.throughput_hz == pytest.approx(4e6 / latency.mean_us, rel=0.3)
    assert "batches of 4" in subject_text(report)


def test_every_sample_is_in_the_histogram(bundle: Path) -> None:
    result = measure_bundle(
        Choice(bundle=str(bundle)), Settings(launches=1, duration_s=0.2), energy=False
    ).report.result
    assert result.histogram is not None
    assert sum(result.histogram.counts) == result.latency.count
    assert len(result.histogram.edges_us) == len(result.histogram.counts) + 1
    assert result.histogram.edges_us[0] == pytest.approx(result.latency.min_us)
    assert result.histogram.edges_us[-1] >= result.latency.max_us


def test_gpu_memory_that_is_not_measured_has_its_reason() -> None:
    report = make_report([make_launch()] * 5)
    told = msgspec.structs.replace(report.result, gpu_note="nvidia-smi is not installed")
    rows = dict(fact_rows(msgspec.structs.replace(report, result=told)))
    assert rows["GPU memory"] == "not measured: nvidia-smi is not installed"
    measured = msgspec.structs.replace(report.result, gpu_memory_mb=312.0)
    assert dict(fact_rows(msgspec.structs.replace(report, result=measured)))["GPU memory"] == "312 MB"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(batch=0), "batch: expected a whole number from 1 to 4096, got 0"),
        (Settings(hop=0), "hop: expected a whole number from 1 to 1000000, got 0"),
        (Settings(hop=8, batch=2), "batch: expected one window a call of a stream, got 2; leave one of both out"),
    ],
)
def test_settings_of_streams_and_batches_that_make_no_sense_are_refused(settings: Settings, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_settings(settings)
    assert str(caught.value) == message
