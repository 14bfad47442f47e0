from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from mmkd_bench.machine.facts import gpu_names, process_memory_mb, read_gpus
from mmkd_bench.machine.power import gpu_sensor
from mmkd_edge.errors import UnavailableError

TWO_GPUS = "NVIDIA RTX A2000, 12GB, 535.183.01, 12282\\nNVIDIA Thor, 580.00, [N/A]\\n"


def _nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """A program of that name which answers with these lines of a shell script."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_gpus_are_read_with_their_driver_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _nvidia_smi(tmp_path, monkeypatch, f"printf '{TWO_GPUS}'")
    first, second = read_gpus()
    assert first == ("NVIDIA RTX A2000, 12GB", "535.183.01", 12282.0)
    assert second == ("NVIDIA Thor", "580.00", None)


def test_a_message_instead_of_rows_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed to communicate with the NVIDIA driver.'")
    assert read_gpus() == ()


def test_without_the_program_everything_has_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_gpus() == ()
    assert process_memory_mb() == (None, "nvidia-smi is not installed")
    with pytest.raises(UnavailableError) as caught, ExitStack() as stack:
        gpu_sensor(stack)
    assert str(caught.value) == "GPU: nvidia-smi is not installed"


def test_a_program_that_fails_has_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _nvidia_smi(tmp_path, monkeypatch, "echo 'No devices were found'; exit 6")
    assert gpu_names() == ()
    assert process_memory_mb() == (None, "nvidia-smi does not answer")
    with pytest.raises(UnavailableError) as caught, ExitStack() as stack:
        gpu_sensor(stack)
    assert str(caught.value) == "GPU: nvidia-smi shows none"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (("{pid}, 512", "1, 9"), (512.0, "")),
        (("{pid}, 300", "{pid}, 12", "1, 9"), (312.0, "")),
        (("1, 9",), (None, "this process is on no GPU")),
        (("{pid}, [N/A]",), (None, "this process is on no GPU")),
    ],
)
def test_memory_is_that_of_this_process_over_all_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: tuple[str, ...], expected: tuple[float | None, str]
) -> None:
    _nvidia_smi(tmp_path, monkeypatch, "\n".join(f"echo '{row.format(pid=os.getpid())}'" for row in rows))
    assert process_memory_mb() == expected


def test_power_is_the_sum_over_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        'case "$1" in --query-gpu=power.draw) while true; do echo 60.5; echo 9.5; sleep 0.02; done;; '
        "*) echo 'A, 1, 2'; echo 'B, 1, 2';; esac"
    )
    _nvidia_smi(tmp_path, monkeypatch, script)
    with ExitStack() as stack:
        sensor = gpu_sensor(stack)
        assert sensor.name == "A + B (nvidia-smi, without the processor)"
        assert sensor.read_mw() == 70_000.0


def test_a_gpu_without_a_power_sensor_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _nvidia_smi(tmp_path, monkeypatch, 'case "$1" in --query-gpu=power.draw) echo "[N/A]";; *) echo "A, 1, 2";; esac')
    with pytest.raises(UnavailableError) as caught, ExitStack() as stack:
        gpu_sensor(stack)
    assert str(caught.value) == "GPU: nvidia-smi gives no power, but '[N/A]'"


def test_a_program_that_ends_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'case "$1" in --query-gpu=power.draw) echo 5; exit 0;; *) echo "A, 1, 2";; esac'
    _nvidia_smi(tmp_path, monkeypatch, script)
    with ExitStack() as stack:
        sensor = gpu_sensor(stack)
        with pytest.raises(UnavailableError) as caught:
            sensor.read_mw()
    assert str(caught.value) == "GPU: nvidia-smi ended without a line"
