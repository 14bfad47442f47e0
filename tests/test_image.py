"""`Dockerfile` as far as a machine without Docker can tell.

The file is read instruction by instruction; command and health check run here as they stand, and, marked `network`, the
pip step for both architectures.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from images import Image

from mmkd_edge import example_bundle

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"
IMAGE = Image(path=DOCKERFILE)
PIP_STEP = "pip install --no-cache-dir '.[ort,litert,live,monitor]'"
GLIBC_MINOR = 36  # of Debian 12, the base image's
MACHINES = ("x86_64", "aarch64")


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for words in IMAGE.arguments_of("ENV") for word in words.split())


def health_check() -> list[str]:
    (arguments,) = IMAGE.arguments_of("HEALTHCHECK")
    command: list[str] = json.loads(arguments.partition("CMD ")[2])
    return command


def command() -> list[str]:
    (arguments,) = IMAGE.arguments_of("CMD")
    words: list[str] = json.loads(arguments)
    return words


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_runs_as_root_and_only_the_volume_is_written() -> None:
    names = [name for name, _ in IMAGE.instructions()]
    assert IMAGE.arguments_of("USER") == ["10001"]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert IMAGE.arguments_of("VOLUME") == ["/state"]
    assert IMAGE.arguments_of("WORKDIR")[-1] == "/state"
    assert environment()["XDG_CACHE_HOME"].startswith("/state/")
    assert environment()["PYTHONDONTWRITEBYTECODE"] == "1"
    assert IMAGE.arguments_of("ARG") == ["PYTHON_IMAGE=python:3.12-slim-bookworm"]
    assert not re.search(r"\b(curl|wget|ADD|sudo)\b", DOCKERFILE.read_text(encoding="utf-8"))


def test_the_image_gets_every_package_and_its_extras() -> None:
    copied = {source for arguments in IMAGE.arguments_of("COPY") for source in arguments.split()[:-1]}
    wheel = re.search(r"^packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert wheel is not None
    assert {*re.findall(r'"([^"]+)"', wheel[1]), "hatch_build.py"} <= copied
    assert PIP_STEP in IMAGE.arguments_of("RUN")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def healthy(port: int, **settings: str) -> bool:
    program = health_check()
    assert program[:2] == ["python", "-c"]
    # A proxy that is none: the check must not go through it.
    values = {"MMKD_MONITOR": f"0.0.0.0:{port}", "http_proxy": "http://127.0.0.1:9"} | settings
    done = subprocess.run(
        [sys.executable, *program[1:]], env=os.environ | values, capture_output=True, text=True, check=False
    )
    return done.returncode == 0


@contextlib.contextmanager
def running(folder: Path, address: str, *options: str) -> Iterator[None]:
    """The image's command on a station, at another address."""
    words = command()
    assert words[-2:] == ["--monitor", environment()["MMKD_MONITOR"]]
    stations = folder / "stations.toml"
    source = folder / "samples.csv"
    source.write_text("time,ax,ay,az\n")
    stations.write_text(
        f'[[stations]]\nname = "press 1"\nbundle = "{example_bundle()}"\nsource = "csv:{source}"\nfollow = true\n'
    )
    line = [Path(sys.executable).with_name(words[0]), stations, "--monitor", address, *options]
    with subprocess.Popen(line, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as child:
        assert child.stderr is not None
        said = []
        for text in child.stderr:
            said.append(text)
            if text.startswith("page: "):
                break
        else:
            raise AssertionError("".join(said))
        yield
        child.terminate()
        child.communicate(timeout=60)


def test_the_health_check_is_that_of_a_running_station(tmp_path: Path) -> None:
    for name in ("starlette", "uvicorn", "prometheus_client", "typer"):
        pytest.importorskip(name)
    port = free_port()
    assert not healthy(port)
    with running(tmp_path, f"127.0.0.1:{port}"):
        assert healthy(port)
    assert not healthy(port)
    token = tmp_path / "token"
    token.write_text("a token of some length\n")
    with running(tmp_path, f"0.0.0.0:{port}", "--monitor-token", str(token)):
        assert not healthy(port)
        assert healthy(port, MMKD_MONITOR_TOKEN_FILE=str(token))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from what the image gets."""
    return IMAGE.wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.network
@pytest.mark.parametrize("machine", MACHINES)
def test_every_wheel_exists_for_both_architectures(machine: str, wheel: Path, tmp_path: Path) -> None:
    tags = [f"manylinux2014_{machine}", *(f"manylinux_2_{minor}_{machine}" for minor in range(17, GLIBC_MINOR + 1))]
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run",
            "--ignore-installed", "--only-binary=:all:", "--target", tmp_path / "target", "--python-version", "3.12",
            "--implementation", "cp", *(word for tag in tags for word in ("--platform", tag)),
            "--report", tmp_path / "report.json", f"{wheel}[ort,litert,live,monitor]"]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    found = {
        one["metadata"]["name"].lower().replace("_", "-"): one["download_info"]["url"] for one in report["install"]
    }
    assert {"numpy", "msgspec", "onnxruntime", "ai-edge-litert", "typer", "uvicorn", "starlette", "mmkd-edge"} <= set(
        found
    )
    assert not {"torch", "onnx", "openvino"} & set(found)
    for name in ("numpy", "msgspec", "onnxruntime", "ai-edge-litert"):
        assert found[name].endswith(f"{machine}.whl")


@pytest.mark.network
def test_what_the_image_installs_runs_what_it_is_for(wheel: Path, tmp_path: Path) -> None:
    """The pip step in an environment that holds nothing else, with a home that cannot be written."""
    venv.create(tmp_path / "mmkd", with_pip=True)
    programs = tmp_path / "mmkd" / "bin"
    pip = [programs / "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:"]
    subprocess.run([*pip, f"{wheel}[ort,litert,live,monitor]"], check=True)
    state = tmp_path / "state"
    state.mkdir()
    values = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": "/nonexistent", "XDG_CACHE_HOME": str(state / "cache")}
    for line in (
        ["mmkd", "doctor"],
        ["mmkd-inspect", str(example_bundle()), "--selftest"],
        ["mmkd-run", "--help"],
    ):
        done = subprocess.run(line, cwd=state, env=values, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), line
