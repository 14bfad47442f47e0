"""`Dockerfile` and `Dockerfile.jetson` as far as a machine without Docker, a GPU and ARM can tell.

The files are read instruction by instruction; commands and health checks run here as they stand, and, marked `network`,
the pip steps for the interpreters and architectures of their images. `make check` runs hadolint.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmkd_edge import example_bundle
from mmkd_export.plan import PLATFORMS
from tests.station.rig import free_port

ROOT = Path(__file__).parents[1]
LIVE_EXTRAS, JETSON_EXTRAS = "[ort,litert,live,monitor]", "[trt,ort,bench]"


@dataclass(frozen=True, kw_only=True)
class Image:
    path: Path

    def instructions(self):
        """The instructions with their arguments, continuation lines joined, comments left out."""
        text = self.path.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
        pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
        return [(name, arguments.strip()) for name, _, arguments in pairs]

    def arguments_of(self, name):
        return [arguments for instruction, arguments in self.instructions() if instruction == name]

    def command(self):
        (arguments,) = self.arguments_of("CMD")
        return json.loads(arguments)

    def run_health_check(self, *, python=sys.executable, **settings):
        (arguments,) = self.arguments_of("HEALTHCHECK")
        program = json.loads(arguments.partition("CMD ")[2])
        assert program[0] == "python"
        values = os.environ | {"OMP_NUM_THREADS": "1"} | settings
        return subprocess.run([python, *program[1:]], env=values, capture_output=True, text=True, check=False)

    def wheel(self, folder):
        """The project's wheel, built in a folder from what the COPY instructions bring."""
        context = folder / "context"
        context.mkdir()
        ignore = shutil.ignore_patterns("__pycache__", "*.so.1")
        for arguments in self.arguments_of("COPY"):
            *sources, target = arguments.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, context / target, ignore=ignore)
                elif not source.startswith(("-", "/")):
                    shutil.copy(ROOT / source, context / target)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
        pip += ["--no-build-isolation"]
        subprocess.run([*pip, "--wheel-dir", folder, context], check=True)
        (built,) = folder.glob("*.whl")
        return built


LIVE, JETSON = Image(path=ROOT / "Dockerfile"), Image(path=ROOT / "Dockerfile.jetson")


def constraints():
    """What each base stage of the Jetson's image pins."""
    found = {}
    stage = ""
    for name, arguments in JETSON.instructions():
        if name == "FROM":
            stage = arguments.split()[-1]
        match = re.fullmatch(r'MMKD_CONSTRAINTS="(.*)"', arguments)
        if name == "ENV" and match is not None:
            found[stage] = match[1].split()
    return found


@pytest.mark.parametrize(
    ("image", "volume", "extras"), [(LIVE, "/state", LIVE_EXTRAS), (JETSON, "/models", JETSON_EXTRAS)]
)
def test_nothing_runs_as_root_only_the_volume_is_written_and_every_package_is_there(image, volume, extras):
    names = [name for name, _ in image.instructions()]
    assert image.arguments_of("USER") == ["10001"]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert image.arguments_of("VOLUME") == [volume]
    assert image.arguments_of("WORKDIR")[-1] == volume
    assert not re.search(r"\b(curl|wget|ADD|sudo)\b", image.path.read_text(encoding="utf-8"))
    copied = {source for arguments in image.arguments_of("COPY") for source in arguments.split()[:-1]}
    wheel = re.search(r"^packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*re.findall(r'"([^"]+)"', wheel[1]), "hatch_build.py"} <= copied
    assert all((ROOT / source).exists() for source in copied if not source.startswith(("-", "/")))
    assert re.findall(r"'\.(\[[a-z,-]+\])'", " ".join(image.arguments_of("RUN"))) == [extras]


def test_every_jetson_platform_has_its_stage_and_the_default_is_one_of_them():
    named = (re.fullmatch(r"(\S+) AS (\S+)", arguments) for arguments in JETSON.arguments_of("FROM"))
    known = {match[2]: match[1] for match in named if match is not None}
    for platform in PLATFORMS:
        if platform.name.startswith("jp"):
            assert f"jetpack-{platform.name.removeprefix('jp')}" in known
    default = dict(argument.split("=", 1) for argument in JETSON.arguments_of("ARG"))
    assert f"jetpack-{default['JETPACK']}" in known
    assert known["device"] == "jetpack-${JETPACK}"
    assert {known[f"jetpack-7.{minor}"] for minor in (0, 1, 2)} == {"jetpack-7"}
    assert set(constraints()) == {"jetpack-6.2", "jetpack-7"}
    for image in (default["JETPACK6_IMAGE"], default["JETPACK7_IMAGE"]):
        assert re.fullmatch(r"nvcr\.io/nvidia/[a-z0-9-]+:[a-z0-9.-]+", image)
        assert not image.endswith(":latest")


@pytest.mark.parametrize("file", ["Dockerfile.jetson", "docs/devices.md"])
def test_no_image_is_promised_for_an_orin_with_jetpack_7(file):
    text = " ".join((ROOT / file).read_text(encoding="utf-8").replace("\n#", " ").split())
    assert re.search(r"NVIDIA does not say that (it|its base) runs on an Orin with JetPack 7\.2", text)


@contextlib.contextmanager
def running(folder, address, *options):
    words = LIVE.command()
    assert f"MMKD_MONITOR={words[-1]}" in " ".join(LIVE.arguments_of("ENV")).split()
    stations = folder / "stations.toml"
    source = folder / "samples.csv"
    source.write_text("time,ax,ay,az\n")
    lines = 'name = "press 1"', f'bundle = "{example_bundle()}"', f'source = "csv:{source}"', "follow = true"
    stations.write_text("\n".join(("[[stations]]", *lines)))
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


def test_health_checks_are_those_of_a_running_station_or_a_sound_bundle(tmp_path):
    for name in ("starlette", "uvicorn", "prometheus_client", "typer"):
        pytest.importorskip(name)
    port = free_port()

    def healthy(**settings):
        # A proxy that is none: the check must not go through it.
        values = {"MMKD_MONITOR": f"0.0.0.0:{port}", "http_proxy": "http://127.0.0.1:9"} | settings
        return LIVE.run_health_check(**values).returncode == 0

    assert not healthy()
    with running(tmp_path, f"127.0.0.1:{port}"):
        assert healthy()
    token = tmp_path / "token"
    token.write_text("a token of some length\n")
    with running(tmp_path, f"0.0.0.0:{port}", "--monitor-token", str(token)):
        assert not healthy()
        assert healthy(MMKD_MONITOR_TOKEN_FILE=str(token))
    done = JETSON.run_health_check(MMKD_BUNDLE=str(example_bundle()))
    assert (done.returncode, done.stderr) == (0, "")
    path = tmp_path / "student.edge"
    damaged = bytearray(example_bundle().read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    done = JETSON.run_health_check(MMKD_BUNDLE=str(path))
    assert (done.returncode, "BundleError" in done.stderr) == (1, True)


def test_the_search_for_tensorrt_at_build_time_ends_the_build_with_advice():
    (step,) = [arguments for arguments in JETSON.arguments_of("RUN") if "find_spec" in arguments]
    program = shlex.split(step.partition(" && ")[0])
    assert program[:2] == ["python", "-c"]
    done = subprocess.run([sys.executable, "-c", program[2]], capture_output=True, text=True, check=False)
    is_absent = importlib.util.find_spec("tensorrt") is None
    assert (done.returncode, "--build-arg JETPACK6_IMAGE" in done.stderr) == (int(is_absent), is_absent)


def native_check(image):
    """The build's own check of the native engine."""
    (step,) = [arguments for arguments in image.arguments_of("RUN") if "backend='native'" in arguments]
    return shlex.split(step)


@pytest.mark.parametrize("image", [LIVE, JETSON], ids=["live", "jetson"])
def test_a_compiler_is_there_before_the_engine_is_built_and_the_engine_is_asked_outside_the_sources(image):
    build = [name_and_arguments for name_and_arguments in image.instructions() if name_and_arguments[0] != "ENV"]
    steps = [arguments for name, arguments in build if name == "RUN"]
    (compiler,) = [step for step in steps if "--no-install-recommends gcc libc6-dev" in step]
    (install,) = [step for step in steps if "pip install" in step]
    assert steps.index(compiler) < steps.index(install)
    following = build[build.index(("RUN", install)) + 1 :]
    assert following[0] == ("WORKDIR", "/")
    assert shlex.split(following[1][1]) == native_check(image)


@pytest.mark.slow
@pytest.mark.parametrize("image", [LIVE, JETSON], ids=["live", "jetson"])
def test_the_wheel_in_an_image_has_the_native_engine_and_the_build_ends_where_it_has_not(image, tmp_path):
    with zipfile.ZipFile(image.wheel(tmp_path)) as wheel:
        wheel.extractall(tmp_path / "installed")
    python, *arguments = native_check(image)
    assert python == "python"
    values = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}

    def check():
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=values, capture_output=True, text=True, check=False)

    done = check()
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "installed" / "mmkd_edge" / "native" / "libmmkd.so.1").unlink()
    done = check()
    assert (done.returncode, "the native engine was not built: no C compiler was found" in done.stderr) == (1, True)


@pytest.fixture(scope="module", params=[LIVE, JETSON], ids=["live", "jetson"])
def wheel(request, tmp_path_factory):
    return request.param, request.param.wheel(tmp_path_factory.mktemp("wheel"))


PYTHONS = {"jetpack-6.2": ("3.10", 35), "jetpack-7": ("3.12", 39)}
"""The interpreter of each base image, Ubuntu 22.04 and 24.04, and its glibc 2.x, which runs wheels for older ones."""


def device_of(python, glibc_minor, machine):
    """What has pip take the wheels of a device: manylinux for its glibc and every older one (PEP 600)."""
    tags = [f"manylinux2014_{machine}", *(f"manylinux_2_{minor}_{machine}" for minor in range(17, glibc_minor + 1))]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    return ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]


@pytest.mark.network
def test_every_wheel_exists_for_the_device(wheel, tmp_path):
    image, path = wheel
    devices = {"x86_64": device_of("3.12", 36, "x86_64"), "aarch64": device_of("3.12", 36, "aarch64")}  # of Debian 12
    names, others, extras = {"ai-edge-litert", "uvicorn", "starlette"}, set[str](), LIVE_EXTRAS
    if image is JETSON:
        devices = {stage: device_of(*python, "aarch64") for stage, python in PYTHONS.items()}
        names, others, extras = {"cuda-python", "rich", "psutil"}, {"tensorrt"}, JETSON_EXTRAS
    for device, words in devices.items():
        (tmp_path / "constraints.txt").write_text("\n".join(constraints().get(device, [])))
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run",
                   "--ignore-installed", "--target", tmp_path / "target", *words, "--report", tmp_path / "report.json",
                   "--constraint", tmp_path / "constraints.txt", f"{path}{extras}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / "report.json").read_text())
        wheels = report["install"]
        found = {one["metadata"]["name"].lower().replace("_", "-"): one["download_info"]["url"] for one in wheels}
        assert {"numpy", "msgspec", "onnxruntime", "typer", "mmkd-edge"} | names <= set(found)
        assert not ({"torch", "onnx", "openvino"} | others) & set(found)
        for name in {"numpy", "msgspec", "onnxruntime", "ai-edge-litert", "psutil"} & set(found):
            assert found[name].endswith("x86_64.whl" if device == "x86_64" else "aarch64.whl")


@pytest.mark.network
@pytest.mark.parametrize("stage", sorted(PYTHONS))
def test_the_bindings_of_cuda_for_the_device_hold_what_the_export_imports(stage, tmp_path):
    pinned = next(pin for pin in constraints()[stage] if pin.startswith("cuda-python"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    subprocess.run([*pip, "--dest", tmp_path, *device_of(*PYTHONS[stage], "aarch64"), pinned], check=True)
    members = [name for path in tmp_path.glob("*.whl") for name in zipfile.ZipFile(path).namelist()]
    abi = PYTHONS[stage][0].replace(".", "")
    assert f"cuda/bindings/runtime.cpython-{abi}-aarch64-linux-gnu.so" in members


@pytest.mark.network
def test_what_the_image_installs_runs_what_it_is_for(wheel, tmp_path):
    image, path = wheel
    venv.create(tmp_path / "mmkd", with_pip=True)
    programs, state = tmp_path / "mmkd" / "bin", tmp_path / "state"
    (tmp_path / "constraints.txt").write_text("\n".join(constraints()["jetpack-7"] if image is JETSON else []))
    pip = [programs / "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:"]
    extras = LIVE_EXTRAS if image is LIVE else JETSON_EXTRAS
    subprocess.run([*pip, "--constraint", tmp_path / "constraints.txt", f"{path}{extras}"], check=True)
    state.mkdir()
    shutil.copy(example_bundle(), state / "student.edge")
    values = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": "/nonexistent", "XDG_CACHE_HOME": str(state / "cache")}

    def run(*command):
        return subprocess.run(command, cwd=state, env=values, capture_output=True, text=True, check=False)

    lines = ["mmkd doctor", "mmkd-inspect student.edge --selftest", "mmkd-run --help"]
    if image is JETSON:
        lines = ["mmkd-bench run student.edge --duration-s 0.2 --json", "mmkd-doctor"]
        check = image.run_health_check(python=programs / "python", MMKD_BUNDLE=str(state / "student.edge"))
        assert check.returncode == 0
        engine = run(*image.command())
        assert engine.returncode == 3
        assert "tensorrt is not installed on this machine (it comes with JetPack)" in engine.stderr
        assert "mmkd-export student.edge --target trt --platform jp6.2" in engine.stderr
    for line in lines:
        done = run(*line.split())
        assert done.returncode == 0, done.stderr
        assert image is JETSON or done.stderr == "", line
