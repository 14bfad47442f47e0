import os

import msgspec
import pytest

from mmkd_bench.machine.facts import (
    cpu_quota,
    highest_mhz,
    hottest_celsius,
    read_machine,
    read_number,
    resident_mb,
    resident_peak_mb,
)
from mmkd_bench.machine.interference import Counters, interference, read_counters, suspicions
from mmkd_documents.bench import Interference, MachineFacts


def _write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def orin(tmp_path):
    """A tree with the files of a Jetson Orin that decide its speed."""
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nBogoMIPS\t: 62.50\n",
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2201600\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "not a core\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "49187\n",
        "sys/class/thermal/thermal_zone10/type": "tj-thermal\n",
        "sys/class/thermal/thermal_zone10/temp": "50312\n",
        "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    return _write(tmp_path, files)


def test_facts_come_from_the_tree(orin):
    facts = read_machine(orin)
    assert facts.cpu == "ARMv8 Processor rev 1 (v8l)"
    assert facts.board == "NVIDIA Jetson AGX Orin Developer Kit"
    assert facts.governors == ("schedutil",)
    assert highest_mhz(orin) == 2201.6
    assert facts.cpu_quota == 1.5
    assert not facts.virtual
    assert hottest_celsius(orin) == 50.312  # of the zones that answer


def test_an_empty_tree_gives_facts_without_guesses(tmp_path):
    facts = read_machine(tmp_path)
    assert facts.governors == ()
    unknown = (facts.board, facts.cpu_quota, facts.moving_clocks, highest_mhz(tmp_path), hottest_celsius(tmp_path))
    assert unknown == (None,) * 5
    assert cpu_quota(_write(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000\n"})) is None


def test_a_hypervisor_numbers_and_memory_are_read_where_they_are(tmp_path):
    assert read_machine(_write(tmp_path, {"proc/cpuinfo": "flags\t\t: fpu vme hypervisor\n"})).virtual
    _write(tmp_path, {"temp": "<unsupported>\n"})
    assert read_number(tmp_path / "temp") is read_number(tmp_path / "absent") is None
    _write(tmp_path, {"proc/self/status": "Name:\tpython\nVmHWM:\t  20480 kB\nVmRSS:\t  10240 kB\n"})
    assert (resident_mb(tmp_path), resident_peak_mb(tmp_path)) == (10.0, 20.0)


def test_this_machine_is_read():
    facts = read_machine()
    assert isinstance(facts, MachineFacts)
    assert 1 <= facts.usable_cores <= facts.cores
    assert facts.memory_mb > 64
    assert facts.versions["mmkd-edge"]
    assert os.uname().nodename not in str(facts)  # facts do not identify the machine
    assert 5.0 < resident_mb() <= resident_peak_mb() + 1.0


def test_clocks_that_may_move_are_named_with_their_limits(tmp_path):
    limits = {"min_freq": "306000000\n", "max_freq": "918000000\n"}
    files = {f"sys/class/devfreq/17000000.gpu/{name}": text for name, text in limits.items()}
    for core, low, high in (("cpu0", 800_000, 3_000_000), ("cpu1", 2_000_000, 2_000_000)):
        folder = f"sys/devices/system/cpu/{core}/cpufreq"
        files |= {f"{folder}/scaling_min_freq": f"{low}\n", f"{folder}/scaling_max_freq": f"{high}\n"}
    assert read_machine(_write(tmp_path, files)).moving_clocks == ("cpu0 800 to 3000 MHz", "GPU 306 to 918 MHz")


def test_gpus_are_named(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA Thor'\necho 'NVIDIA RTX A2000'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert read_machine(tmp_path).gpus == ("NVIDIA Thor", "NVIDIA RTX A2000")
    program.write_text("#!/bin/sh\nexit 6\n")
    assert read_machine(tmp_path).gpus == ()


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


def test_shares_are_of_one_core_over_the_time_between():
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


def test_counters_are_read_from_the_kernels_files_or_stay_none(tmp_path):
    hidden = read_counters(tmp_path)
    found = interference(hidden, hidden)
    assert msgspec.structs.asdict(found) == dict.fromkeys(msgspec.structs.asdict(found))
    files = {
        "proc/stat": "cpu  100 20 30 4000 5 6 7 80 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 900\nnr_throttled 4\nthrottled_usec 2500000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "3\n",
    }
    found = read_counters(_write(tmp_path, files))
    assert found.busy_s == pytest.approx(1.63)  # 100 + 20 + 30 + 6 + 7 ticks of 10 ms; waiting for a disk is not busy
    assert found.steal_s == pytest.approx(0.8)
    assert found.throttled_s == pytest.approx(2.5)
    assert found.thermal_events == 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, None),
        ({"thermal_events": 4}, "cores slowed down because of heat (4 events)"),
        ({"throttled_fraction": 0.25}, "the control group's CPU limit held the process back 25% of the time"),
        ({"steal_cores": 0.03}, "the hypervisor took 3% of a core for other guests"),
        ({"others_cores": 0.8}, "other processes used 80% of a core"),
        ({"frequency_drop": 0.12}, "the core frequency fell by 12%"),
    ],
)
def test_each_counter_has_its_sentence(tmp_path, change, sentence):
    told = suspicions(msgspec.structs.replace(NOTHING, **change), read_machine(tmp_path))
    assert told == (() if sentence is None else (sentence,))
    _write(tmp_path, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n"})
    told = suspicions(NOTHING, read_machine(tmp_path))
    assert told == ("governor 'powersave' lets the core frequency move",)
