from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.machine.interference import Counters, interference, read_counters, suspicions
from mmkd_report.schema.bench import Interference

QUIET = Counters(
    time_s=100.0,
    busy_s=50.0,
    steal_s=1.0,
    own_s=5.0,
    throttled_s=0.0,
    thermal_events=0.0,
    frequency_mhz=2000.0,
    celsius=50.0,
)
NOTHING = Interference(
    others_cores=0.0,
    steal_cores=0.0,
    throttled_fraction=0.0,
    thermal_events=0,
    frequency_drop=0.0,
    celsius_before=None,
    celsius_after=None,
)


def test_shares_are_of_one_core_over_the_time_between() -> None:
    after = Counters(
        time_s=110.0,
        busy_s=65.0,
        steal_s=1.5,
        own_s=14.0,
        throttled_s=2.0,
        thermal_events=3.0,
        frequency_mhz=1800.0,
        celsius=71.0,
    )
    found = interference(QUIET, after)
    assert found.others_cores == pytest.approx(0.6)  # 15 s of core time were used, 9 s of them by this process
    assert found.steal_cores == pytest.approx(0.05)
    assert found.throttled_fraction == pytest.approx(0.2)
    assert found.thermal_events == 3
    assert found.frequency_drop == pytest.approx(0.1)
    assert (found.celsius_before, found.celsius_after) == (50.0, 71.0)


def test_counters_that_a_machine_hides_stay_none(tmp_path: Path) -> None:
    hidden = read_counters(tmp_path)
    found = interference(hidden, hidden)
    assert msgspec.structs.asdict(found) == dict.fromkeys(msgspec.structs.asdict(found))


def test_counters_are_read_from_the_kernels_files(tmp_path: Path) -> None:
    files = {
        "proc/stat": "cpu  100 20 30 4000 5 6 7 80 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 900\nnr_throttled 4\nthrottled_usec 2500000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "3\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = read_counters(tmp_path)
    assert found.busy_s == pytest.approx(1.63)  # 100 + 20 + 30 + 6 + 7 ticks of 10 ms; waiting for a disk is not busy
    assert found.steal_s == pytest.approx(0.8)
    assert found.throttled_s == pytest.approx(2.5)
    assert found.thermal_events == 5


def test_a_quiet_machine_raises_no_suspicion(tmp_path: Path) -> None:
    assert suspicions(NOTHING, read_machine(tmp_path)) == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"thermal_events": 4}, "cores slowed down because of heat (4 events)"),
        ({"throttled_fraction": 0.25}, "the control group's CPU limit held the process back 25% of the time"),
        ({"steal_cores": 0.03}, "the hypervisor took 3% of a core for other guests"),
        ({"others_cores": 0.8}, "other processes used 80% of a core"),
        ({"frequency_drop": 0.12}, "the core frequency fell by 12%"),
    ],
)
def test_each_counter_has_its_sentence(tmp_path: Path, change: dict[str, float], sentence: str) -> None:
    assert suspicions(msgspec.structs.replace(NOTHING, **change), read_machine(tmp_path)) == (sentence,)


def test_a_moving_governor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    path.parent.mkdir(parents=True)
    path.write_text("powersave\n")
    assert suspicions(NOTHING, read_machine(tmp_path)) == ("governor 'powersave' lets the core frequency move",)
