from __future__ import annotations

from itertools import cycle
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from mmkd_bench.measuring.jobs import Demand, LoadJob, OverheadJob
from mmkd_bench.measuring.launch import Workload, stream_workload, window_workload
from mmkd_bench.measuring.load import do_load_job
from mmkd_bench.measuring.opening import Choice, open_predictor, raw_windows
from mmkd_bench.measuring.turns import time_predict
from mmkd_bench.run import measure_bundle
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predictor import EdgePredictor
from mmkd_report.schema.bench import STAGES, Settings


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> EdgePredictor:
    return open_predictor(Choice(bundle=str(bundle), backend="ort"))


def _calls(driver: Workload, count: int) -> list[list[Prediction]]:
    return [driver.call(argument) for _, argument in zip(range(count), cycle(driver.arguments), strict=False)]  # type: ignore[misc]


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


def test_a_streaming_run_is_reported(bundle: Path) -> None:
    settings = Settings(launches=1, duration_s=0.2, hop=8)
    report = measure_bundle(Choice(bundle=str(bundle)), settings, energy=False)
    assert report.configuration.hop == 8
    assert [stage.name for stage in report.result.stages] == ["gather", *STAGES]


def test_of_several_students_the_first_is_measured(several_bundle: Path, predictor: EdgePredictor) -> None:
    windows = raw_windows(predictor)
    with open_predictor(Choice(bundle=str(several_bundle), backend="ort")) as several:
        expected = [predictor.predict(window).probabilities for window in windows]
        drivers = [window_workload(several, windows), stream_workload(several, windows, hop=40)]
        for driver in drivers:
            assert "run" in _names(driver)
        answers = [drivers[0].call(argument) for argument in drivers[0].arguments]
        for answer, wanted in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(answer.probabilities, wanted)  # type: ignore[attr-defined]


def test_a_bundle_of_several_students_is_loaded_and_compared(several_bundle: Path) -> None:
    choice = Choice(bundle=str(several_bundle), backend="ort", precision="fp32", threads=1)
    demand = Demand(rate_hz=20.0, deadline_ms=5000.0, servers=1)
    job = LoadJob(choice=choice, demand=demand, streams=2, duration_s=0.2)
    assert do_load_job(job)[0].level.answered == 8
    overhead = OverheadJob(bundle=choice.bundle, threads=1, repeats=1, duration_s=0.05, reference=None)
    assert time_predict(overhead).count >= 20
