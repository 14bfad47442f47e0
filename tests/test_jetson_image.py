"""`Dockerfile.jetson` as far as a machine without Docker, a GPU and ARM can tell.

The file is read instruction by instruction; what runs in the image and does not need the device is run here: the health
check as it stands, and, marked `network`, the pip steps for the interpreters of both JetPacks.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from images import Image

from mmkd_edge import example_bundle
from mmkd_export.plan import PLATFORMS

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile.jetson"
IMAGE = Image(path=DOCKERFILE)

PYTHONS = {"jetpack-6.2": "3.10", "jetpack-7": "3.12"}
"""The interpreter of each base image: that of Ubuntu 22.04 and 24.04."""

GLIBC_MINORS = {"jetpack-6.2": 35, "jetpack-7": 39}
"""glibc 2.x of the same; a wheel for an older one runs there."""


def stages() -> dict[str, str]:
    """Name of a stage to what it is built from."""
    named = (re.fullmatch(r"(\S+) AS (\S+)", arguments) for arguments in IMAGE.arguments_of("FROM"))
    return {match[2]: match[1] for match in named if match is not None}


def constraints() -> dict[str, list[str]]:
    """What each base stage pins."""
    found: dict[str, list[str]] = {}
    stage = ""
    for name, arguments in IMAGE.instructions():
        if name == "FROM":
            stage = arguments.split()[-1]
        match = re.fullmatch(r'MMKD_CONSTRAINTS="(.*)"', arguments)
        if name == "ENV" and match is not None:
            found[stage] = match[1].split()
    return found


def health_check() -> list[str]:
    (arguments,) = IMAGE.arguments_of("HEALTHCHECK")
    command: list[str] = json.loads(arguments.partition("CMD ")[2])
    return command


def extras() -> str:
    """What of the project pip installs: `.[...]`."""
    match = re.search(r"'\.(\[[a-z,-]+\])'", " ".join(IMAGE.arguments_of("RUN")))
    assert match is not None
    return match[1]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_jetson_platform_has_its_stage_and_the_default_is_one_of_them() -> None:
    known = stages()
    for platform in PLATFORMS:
        if platform.name.startswith("jp"):
            assert f"jetpack-{platform.name.removeprefix('jp')}" in known
    default = dict(argument.split("=", 1) for argument in IMAGE.arguments_of("ARG"))
    assert f"jetpack-{default['JETPACK']}" in known
    assert known["device"] == "jetpack-${JETPACK}"
    assert {known[f"jetpack-7.{minor}"] for minor in (0, 1, 2)} == {"jetpack-7"}
    assert set(constraints()) == {"jetpack-6.2", "jetpack-7"}
    for image in (default["JETPACK6_IMAGE"], default["JETPACK7_IMAGE"]):
        assert re.fullmatch(r"nvcr\.io/nvidia/[a-z0-9-]+:[a-z0-9.-]+", image)
        assert not image.endswith(":latest")


def test_nothing_runs_as_root_or_installs_when_it_runs() -> None:
    names = [name for name, _ in IMAGE.instructions()]
    assert IMAGE.arguments_of("USER") == ["10001"]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert IMAGE.arguments_of("VOLUME") == ["/models"]
    assert IMAGE.arguments_of("WORKDIR")[-1] == "/models"
    assert IMAGE.arguments_of("ENTRYPOINT") == ["[]"]
    assert json.loads(IMAGE.arguments_of("CMD")[0]) == ["mmkd-export", "student.edge", "--target", "trt"]
    assert not re.search(r"\b(curl|wget|ADD)\b", DOCKERFILE.read_text())


def test_the_image_gets_every_package_of_the_wheel() -> None:
    copied = {source for arguments in IMAGE.arguments_of("COPY") for source in arguments.split()[:-1]}
    wheel = re.search(r"packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert wheel is not None
    assert {*re.findall(r'"([^"]+)"', wheel[1]), "hatch_build.py"} <= copied
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_does_not_install_what_only_training_needs() -> None:
    assert extras() == "[trt,ort,bench]"


def run_health_check(bundle: Path) -> subprocess.CompletedProcess[str]:
    command = health_check()
    assert command[0] == "python"
    environment = os.environ | {"MMKD_BUNDLE": str(bundle), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, text=True, check=False)


def test_the_health_check_passes_where_the_bundle_answers_as_it_should() -> None:
    done = run_health_check(example_bundle())
    assert (done.returncode, done.stderr) == (0, "")


def test_the_health_check_fails_without_a_bundle_and_with_a_damaged_one(tmp_path: Path) -> None:
    assert run_health_check(tmp_path / "student.edge").returncode == 1
    damaged = bytearray(example_bundle().read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "student.edge").write_bytes(damaged)
    done = run_health_check(tmp_path / "student.edge")
    assert done.returncode == 1
    assert "BundleError" in done.stderr


def test_the_search_for_tensorrt_at_build_time_ends_the_build_with_advice() -> None:
    (step,) = [arguments for arguments in IMAGE.arguments_of("RUN") if "find_spec" in arguments]
    program = shlex.split(step.partition(" && ")[0])
    assert program[:2] == ["python", "-c"]
    done = subprocess.run([sys.executable, "-c", program[2]], capture_output=True, text=True, check=False)
    if importlib.util.find_spec("tensorrt") is None:
        assert done.returncode == 1
        assert "--build-arg JETPACK6_IMAGE" in done.stderr
    else:
        assert done.returncode == 0


def platforms(stage: str) -> list[str]:
    """The wheel tags that pip takes on the device: manylinux for its glibc and every older one (PEP 600)."""
    minors = range(17, GLIBC_MINORS[stage] + 1)
    return ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in minors)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from what the image gets."""
    return IMAGE.wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.network
@pytest.mark.parametrize("stage", sorted(PYTHONS))
def test_every_wheel_exists_for_the_device(stage: str, wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("\n".join(constraints()[stage]))
    tags = [argument for tag in platforms(stage) for argument in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run",
               "--ignore-installed", "--only-binary=:all:", "--target", tmp_path / "target", "--python-version",
               PYTHONS[stage], "--implementation", "cp", *tags, "--constraint", tmp_path / "constraints.txt",
               "--report", tmp_path / "report.json", f"{wheel}{extras()}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    found = {entry["metadata"]["name"].lower().replace("_", "-"): entry for entry in report["install"]}
    assert {"numpy", "msgspec", "onnxruntime", "cuda-python", "typer", "rich", "psutil", "mmkd-edge"} <= set(found)
    assert not {"torch", "onnx", "tensorrt", "openvino"} & set(found)
    for name in ("numpy", "msgspec", "onnxruntime", "psutil"):
        assert found[name]["download_info"]["url"].rpartition("_")[2] == "aarch64.whl"


@pytest.mark.network
@pytest.mark.parametrize("stage", sorted(PYTHONS))
def test_the_bindings_of_cuda_for_the_device_hold_what_the_export_imports(stage: str, tmp_path: Path) -> None:
    tags = [argument for tag in platforms(stage) for argument in ("--platform", tag)]
    pinned = next(pin for pin in constraints()[stage] if pin.startswith("cuda-python"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--only-binary=:all:"]
    device = ["--python-version", PYTHONS[stage], "--implementation", "cp", *tags]
    subprocess.run([*pip, "--dest", tmp_path, *device, pinned], check=True)
    members = [
        name
        for path in tmp_path.glob("*.whl")
        for name in subprocess.run(
            [sys.executable, "-m", "zipfile", "-l", path], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    ]
    abi = PYTHONS[stage].replace(".", "")
    assert any(re.match(rf"cuda/bindings/runtime\.cpython-{abi}-aarch64-linux-gnu\.so ", name) for name in members)


@pytest.mark.network
def test_what_the_image_installs_runs_the_commands_that_it_is_for(wheel: Path, tmp_path: Path) -> None:
    """The pip step of JetPack 7 on this machine's architecture, in an environment that holds nothing else."""
    venv.create(tmp_path / "mmkd", with_pip=True)
    (tmp_path / "constraints.txt").write_text("\n".join(constraints()["jetpack-7"]))
    binaries = tmp_path / "mmkd" / "bin"
    pip = [binaries / "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:"]
    subprocess.run([*pip, "--constraint", tmp_path / "constraints.txt", f"{wheel}{extras()}"], check=True)
    shutil.copy(example_bundle(), tmp_path / "student.edge")
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path), "MMKD_BUNDLE": "student.edge"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert run(*health_check()).returncode == 0
    engine = run(*json.loads(IMAGE.arguments_of("CMD")[0]))
    assert engine.returncode == 3
    assert "tensorrt is not installed on this machine (it comes with JetPack)" in engine.stderr
    assert "mmkd-export student.edge --target trt --platform jp6.2" in engine.stderr
    bench = run("mmkd-bench", "run", "student.edge", "--duration-s", "0.2", "--json")
    assert bench.returncode == 0, bench.stderr
    assert run("mmkd-doctor").returncode == 0
