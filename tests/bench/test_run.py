from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_app.experiments import measure_energy
from mmkd_bench.machine.facts import read_machine
from mmkd_bench.machine.power import PowerSensor, power_sensor
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.run import check_settings, join_launches, judge_stability, measure_bundle
from mmkd_documents.bench import STAGES, Settings, WarmUp
from mmkd_edge.errors import UsageError
from mmkd_edge.opening.options import OpenOptions
from tests.bench.made import make_launch
from tests.edge.said import said


def test_a_run_tells_its_stages_its_start_up_and_what_was_measured(bundle):
    choice, lines = Choice(bundle=str(bundle), options=OpenOptions(backend="ort")), []
    settings = Settings(launches=2, duration_s=0.4)
    run = measure_bundle(choice, settings, energy=False, progress=lines.append)
    assert lines == ["launch 1 of 2: warm-up, then 0.2 s", "launch 2 of 2: warm-up, then 0.2 s"]
    assert (len(run.launches), run.complete) == (2, True)
    assert run.result.latency.count == sum(launch.latency.count for launch in run.launches)
    stages = run.result.stages
    assert tuple(stage.name for stage in stages) == STAGES
    assert all(stage.p50_us > 0 for stage in stages)
    for launch in run.launches:
        assert launch.import_ms > 1
        assert launch.load_ms > 1
        assert 0 < launch.first_call_ms < launch.load_ms
        assert launch.rss_mb > 20
    subject, configuration = run.subject, run.configuration
    assert (subject.bundle, subject.modality, subject.artifact) == (str(bundle), "acc", "student/model.fp32.onnx")
    assert subject.size_bytes == bundle.stat().st_size
    assert (configuration.backend, configuration.precision, configuration.threads) == ("ort", "fp32", 1)


@pytest.mark.usefixtures("launched_here")
def test_energy_is_measured_where_a_sensor_answers(bundle, tmp_path, monkeypatch):
    chip = tmp_path / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    for name, text in (("name", "ina3221"), ("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "1206")):
        (chip / name).write_text(text)
    monkeypatch.setattr("mmkd_bench.run.power_sensor", lambda: power_sensor(tmp_path))
    lines = []
    settings = Settings(launches=1, duration_s=0.6)
    report = measure_bundle(Choice(bundle=str(bundle)), settings, idle_s=0.5, progress=lines.append)
    assert lines[0] == "idle power: 0.5 s with INA rails VDD_IN"
    assert report.energy.load_mw == report.energy.idle_mw == 6030.0
    assert report.energy.above_idle_mj == 0.0
    assert report.energy.readings >= 2


@pytest.mark.usefixtures("launched_here")
def test_a_variants_energy_is_that_of_its_answers_and_unknown_without_a_sensor(bundle, monkeypatch):
    milliwatts = iter(range(1000, 10**6, 10))  # rise, so the load draws more than the idle time before it
    dial = PowerSensor(name="dial", read_mw=lambda: float(next(milliwatts)))
    for room in ("mmkd_bench.run", "mmkd_bench.machine.power"):
        monkeypatch.setattr(f"{room}.power_sensor", lambda: dial)
    assert measure_energy(bundle, 0.9) > 0
    monkeypatch.setattr("mmkd_bench.machine.power.power_sensor", partial(power_sensor, Path("nowhere")))
    assert measure_energy(bundle, 0.9) is None


def test_settings_that_make_no_sense_are_refused():
    def refusal(**settings):
        return said(UsageError, check_settings, Settings(**settings))

    assert refusal(launches=0) == "--launches: expected a whole number from 1 to 1000, got 0"
    assert refusal(hop=0) == "--hop: expected a whole number from 1 to 1000000, got 0"
    assert refusal(duration_s=0.0) == "--duration-s: expected a number above 0, got 0"


MACHINE = msgspec.structs.replace(read_machine(), governors=())


def test_percentiles_come_from_all_samples_and_other_figures_are_medians_over_launches():
    launches = [
        msgspec.structs.replace(make_launch(), load_ms=value, rss_peak_mb=value) for value in (10.0, 20.0, 90.0)
    ]
    result = join_launches(launches, np.repeat([1000, 2000, 9000], 100))
    assert result.latency.count == 300
    assert (result.latency.value_us(0.5), result.latency.value_us(0.9)) == (2.0, 9.0)
    assert (result.load_ms, result.rss_peak_mb) == (20.0, 90.0)  # a peak is the largest
    assert sum(result.histogram.counts) == 300
    assert len(result.histogram.edges_us) == len(result.histogram.counts) + 1
    assert (result.histogram.edges_us[0], result.histogram.edges_us[-1]) == (1.0, 9.0)


def test_launches_that_agree_are_stable_and_others_are_not():
    assert judge_stability([make_launch(value) for value in (95.0, 100.0, 105.0)], MACHINE).findings == ()
    differing = judge_stability([make_launch(value) for value in (100.0, 100.0, 130.0)], MACHINE)
    assert (differing.stable, differing.findings) == (False, ("medians of launches ran from 100 to 130 µs",))


def test_a_launch_that_drifts_is_unstable_and_the_counters_say_why():
    calm = make_launch()
    hot = msgspec.structs.replace(calm.interference, thermal_events=7, others_cores=0.5)
    drifting = msgspec.structs.replace(calm, thirds_p50_us=(90.0, 100.0, 140.0), interference=hot)
    stability = judge_stability([calm, drifting], MACHINE)
    assert stability.findings == ("launch 2: medians of its thirds were 90, 100, 140 µs",)
    causes = ("cores slowed down because of heat (7 events)", "other processes used 50% of a core")
    assert stability.disturbances == causes
    cold = msgspec.structs.replace(calm, warm_up=WarmUp(calls=9, seconds=5.0, stable=False))
    assert judge_stability([cold], MACHINE).findings == ("launch 1 was not steady after 5.0 s of warm-up",)
