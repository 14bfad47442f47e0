"""The wheel and the sdist as others get them: built from what git tracks, installed elsewhere, run from there.

`MMKD_DIST=DIR` names artefacts that are built already, as `make release-check` does; else they are built here.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mmkd_edge
from mmkd_edge import Bundle, example_bundle
from mmkd_edge.native.build import FOLDER, SOURCES

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
PACKAGES = re.findall(
    r'"([^"]+)"',
    re.findall(r"^packages = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)[0],
)


def run(command, **settings):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | settings
    return subprocess.run(
        list(map(str, command)), env=environment, cwd="/", capture_output=True, text=True, check=False
    )


def succeed(command, **settings):
    done = run(command, **settings)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def tracked():
    done = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name]


MACHINES = ("x86_64", "aarch64")


def released(test):
    """Mark a test of what a release is made of: it takes long, and asks the registry of packages."""
    return pytest.mark.slow(pytest.mark.network(test))


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    succeed([*PIP, "--target", folder, "auditwheel>=6", "hatchling", "ziglang>=0.13"])
    return folder


@pytest.fixture(scope="module")
def artefacts(tools, tmp_path_factory):
    if "MMKD_DIST" in os.environ:
        return Path(os.environ["MMKD_DIST"]).resolve()
    folder = tmp_path_factory.mktemp("dist")
    for machine, kinds in ((MACHINES[0], []), (MACHINES[1], ["-t", "wheel"]), ("win_amd64", ["-t", "wheel"])):
        command = [sys.executable, "-m", "hatchling", "build", "-d", folder, *kinds]
        environment = os.environ | {"PYTHONPATH": str(tools), "MMKD_WHEEL": machine}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(artefacts):
    (path,) = artefacts.glob(f"*_{platform.machine()}.whl")
    return path


@released
@pytest.mark.parametrize("machine", MACHINES)
def test_a_release_wheel_runs_with_an_old_glibc(machine, artefacts, tools):
    (path,) = artefacts.glob(f"*_{machine}.whl")
    assert path.name == f"mmkd_edge-{mmkd_edge.__version__}-py3-none-manylinux_2_17_{machine}.whl"
    shown = succeed([sys.executable, "-m", "auditwheel", "show", path], PYTHONPATH=str(tools))
    tag = re.search(r'consistent with\s+the following platform tag:\s+"manylinux_2_(\d+)_(\w+)"', shown)
    assert tag is not None, shown
    assert (int(tag[1]) <= 17, tag[2]) == (True, machine)


PROCESSORS = {
    "aarch64": ("aarch64-linux-musl", "qemu-aarch64-static"),
    "aarch64 without NEON": ("aarch64-linux-musl -U__ARM_NEON", "qemu-aarch64-static"),
    "armv7": ("arm-linux-musleabihf -mcpu=cortex_a9", "qemu-arm-static"),
    "armv7 without NEON": ("arm-linux-musleabihf -mcpu=cortex_a9 -U__ARM_NEON", "qemu-arm-static"),
    "riscv64": ("riscv64-linux-musl", "qemu-riscv64-static"),
}
"""The target of ziglang, and what runs its programs here."""

WINDOWS = """
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <mmkd.h>
#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#endif
int main(int count, char **paths)
{
#if defined(_WIN32)
    _setmode(0, _O_BINARY);
    _setmode(1, _O_BINARY);
#endif
    double largest = NAN;
    mmkd_bundle *bundle;
    mmkd_predictor *predictor;
    mmkd_prediction answer;
    if (count != 2 || mmkd_open_file(paths[1], &bundle, NULL, 0)) return 1;
    if (mmkd_predictor_open(bundle, NULL, &predictor, NULL, 0)) return 2;
    if (mmkd_selftest_file(paths[1], &largest, NULL, 0)) return 4;
    fprintf(stderr, "%.1e\\n", largest);
    mmkd_student facts = mmkd_describe(bundle, 0);
    size_t cells = (size_t)facts.samples * (size_t)facts.channels;
    float *window = malloc(cells * sizeof *window);
    while (window && fread(window, sizeof *window, cells, stdin) == cells) {
        if (mmkd_predict(predictor, window, facts.samples, facts.channels, NAN, &answer)) return 3;
        fwrite(answer.probabilities, sizeof(float), (size_t)facts.labels, stdout);
    }
    free(window);
    mmkd_predictor_close(predictor);
    mmkd_close(bundle);
    return 0;
}
"""


@released
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_c_library_answers_all_golden_windows_on_other_processors(processor, tools, tmp_path):
    target, emulator = PROCESSORS[processor]
    if shutil.which(emulator) is None:
        pytest.skip(f"needs {emulator}")
    (tmp_path / "windows.c").write_text(WINDOWS)
    zig = [sys.executable, "-m", "ziglang", "cc", "-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    zig += ["-Wno-unknown-pragmas", "-DMMKD_ONE_ISA", f"-I{FOLDER / 'include'}", "-target"]
    objects = []
    for source in (*(FOLDER / name for name in SOURCES if name.endswith(".c")), tmp_path / "windows.c"):
        objects.append(tmp_path / f"{source.stem}.o")
        fast = ["-ffast-math"] if source.stem == "compute" else []
        succeed([*zig, *target.split(), *fast, "-c", source, "-o", objects[-1]], PYTHONPATH=str(tools))
    program = tmp_path / "windows"
    succeed([*zig, *target.split(), "-static", *objects, "-o", program], PYTHONPATH=str(tools))
    check_answers([emulator, program])


@released
@pytest.mark.skipif(shutil.which("wine") is None, reason="needs Debian's wine64")
def test_the_wheel_of_windows_has_a_library_that_answers_all_golden_windows_under_wine(artefacts, tools, tmp_path):
    (path,) = artefacts.glob("*-py3-none-win_amd64.whl")
    with zipfile.ZipFile(path) as archive:
        (tmp_path / "mmkd.dll").write_bytes(archive.read("mmkd_edge/native/mmkd.dll"))
        assert "mmkd_edge/native/libmmkd.so.1" not in archive.namelist()
    (tmp_path / "windows.c").write_text(WINDOWS)
    zig = [sys.executable, "-m", "ziglang", "cc", "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{FOLDER / 'include'}"]
    names = [tmp_path / "windows.c", tmp_path / "mmkd.dll", "-o", tmp_path / "windows.exe"]
    succeed([*zig, "-target", "x86_64-windows-gnu", *names], PYTHONPATH=str(tools))
    check_answers(["wine", tmp_path / "windows.exe"], WINEPREFIX=str(tmp_path / "prefix"), WINEDEBUG="-all")


def check_answers(command, **environment):
    """The golden windows of the shipped bundle through a program of `WINDOWS`."""
    with Bundle.open(example_bundle()) as bundle:
        golden = bundle.golden("acc")
    answered = subprocess.run(
        [*command, example_bundle()],
        input=golden.windows.tobytes(), capture_output=True, check=True, env=os.environ | environment,
    )  # fmt: skip
    answers = np.frombuffer(answered.stdout, dtype="<f4").reshape(golden.probabilities.shape)
    np.testing.assert_allclose(answers, golden.probabilities, atol=1e-5)
    assert (answers.argmax(1) == golden.probabilities.argmax(1)).all()


@released
def test_sha256_is_the_same_by_the_instructions_of_armv8(tools, tmp_path):
    target, emulator = PROCESSORS["aarch64"]
    if shutil.which(emulator) is None:
        pytest.skip(f"needs {emulator}")
    engine = [name for name in SOURCES if name.endswith(".c") and ("verify" in name or "monocypher" in name)]
    sources = [Path(__file__).with_name("export") / "targets" / "sha256.c", *(FOLDER / name for name in engine)]
    zig = [sys.executable, "-m", "ziglang", "cc", "-std=c99", "-static", "-target", target, f"-I{FOLDER / 'src'}"]
    succeed([*zig, *sources, "-o", tmp_path / "hash"], PYTHONPATH=str(tools))
    done = run([emulator, "-cpu", "cortex-a72", tmp_path / "hash"])
    data = bytes(number * 7 % 256 for number in range(1000))
    assert done.stdout.split() == [hashlib.sha256(data[:size]).hexdigest() for size in range(0, 1000, 9)]


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """An empty folder into which the wheel was installed, without what it needs."""
    target = tmp_path_factory.mktemp("elsewhere")
    succeed([*PIP, "--no-deps", "--no-index", "--target", target, wheel])
    return target


@released
def test_the_wheel_holds_every_file_of_every_package_and_no_other_and_says_what_it_is(wheel):
    expected = {
        f"{Path(package).name}/{name.removeprefix(f'{package}/')}"
        for package in PACKAGES
        for name in tracked()
        if name.startswith(f"{package}/")
    }
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
        scripts = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    found = {name for name in names if ".dist-info/" not in name}
    assert found == expected | {"mmkd_edge/native/libmmkd.so.1"}
    # What a page, a command or a type checker would miss only when it is used.
    for name in (
        "mmkd_edge/bundles/watch_acc.edge",
        "mmkd_station/monitor/static/page.js",
        "mmkd_models/data/watch_exercises/recordings/acc.npy",
        "mmkd_models/data/grid_words/dataset.json",
        "mmkd_documents/templates/page.html.j2",
        *(f"{Path(package).name}/py.typed" for package in PACKAGES),
    ):
        assert name in found
    assert f"\nVersion: {mmkd_edge.__version__}\n" in text
    assert "\nRequires-Python: >=3.10\n" in text
    assert re.findall(r"^Requires-Dist: ([^;\n]+)$", text, flags=re.MULTILINE) == ["msgspec>=0.18", "numpy>=1.26"]
    assert "\nmmkd = mmkd_app.cli.mmkd:main\n" in scripts
    assert len([name for name in names if ".dist-info/licenses/" in name]) == 3


@released
def test_the_sdist_holds_all_that_git_tracks(artefacts):
    (path,) = artefacts.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert found - {"PKG-INFO"} == set(tracked())


ANSWER = """
import sys
import tempfile
from pathlib import Path
import mmkd_edge
from mmkd_edge import EdgePredictor, example_bundle
for backend in ("native", "ort"):
    with EdgePredictor.open(example_bundle(), backend=backend) as predictor:
        golden = predictor.bundle.golden("acc")
        print(predictor.selftest().windows, predictor.predict(golden.windows[0]).status)
ours = [name for name in sys.modules if name.startswith("mmkd_")]
for name in ours:
    assert sys.argv[1] in (sys.modules[name].__file__ or ""), name
"""


def check_device_part(folder, home, *python):
    """Both engines answer, and all of ours is imported from a folder."""
    done = run([*python, "-c", ANSWER, folder], **home)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"(\d+ ok\n){2}", done.stdout)


@released
def test_the_device_part_runs_from_where_the_wheel_was_installed(site, tmp_path):
    home = {"PYTHONPATH": str(site), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    check_device_part(site, home, sys.executable)
    bundle = site / "mmkd_edge" / "bundles" / "watch_acc.edge"
    state = tmp_path / "state"
    install_and_verify(site / "bin", bundle, state, home)


def install_and_verify(programs, bundle, state, home):
    for line in (["mmkd"], ["mmkd-edge", "install", bundle, state], ["mmkd", "edge", "verify", state]):
        done = run([programs / str(line[0]), *line[1:]], **home)
        assert (done.returncode, done.stderr) == (0, ""), line
    assert "every byte verified" in done.stdout


ISA = """
from mmkd_edge import Bundle, example_bundle
from mmkd_edge.native import NativeModel
with Bundle.open(example_bundle()) as bundle:
    print(NativeModel(bundle.read("acc/model.fp32.native")).isa)
"""


@released
def test_the_engine_of_the_wheel_takes_the_instructions_that_one_built_here_takes(native_engine, site):
    released, built = (run([sys.executable, "-c", ISA], PYTHONPATH=str(path)).stdout for path in (site, ROOT))
    assert released == built != ""


@released
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_the_device_part_runs_with_every_python(version, wheel, tmp_path):
    python = shutil.which(f"python{version}")
    if python is None or run([python, "-c", "pass"]).returncode:
        pytest.skip(f"there is no Python {version} on PATH")
    programs = tmp_path / "env" / "bin"
    succeed([python, "-m", "venv", tmp_path / "env"])
    succeed([programs / "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[ort]"])
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    check_device_part(tmp_path / "env", home, programs / "python", "-W", "error")
    install_and_verify(programs, example_bundle(), tmp_path / "state", home)


HEAVY = ("workstation", "train", "export", "litert-export", "rivals", "ray", "dev", "trt-rtx")
"""Extras that bring gigabytes: only what they would bring is asked for."""

IMPORTS = {
    "ort": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai_edge_litert",
    "metrics": "prometheus_client",
    "trt": "cuda.bindings",
    "bench": "mmkd_bench",
    "sign": "cryptography",
    "docs": "zensical",
    "audio": "soundfile",
    "video": "cv2",
    "import": "polars",
    "live": "paho.mqtt",
    "opcua": "asyncua",
    "databases": "psycopg",
    "kafka": "confluent_kafka",
    "mlflow": "mlflow",
    "monitor": "starlette",
}
"""What every other extra is for."""


def test_every_extra_is_tried():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert sorted(re.findall(r"^([a-z-]+) = \[", section, flags=re.MULTILINE)) == sorted((*HEAVY, *IMPORTS))


def test_the_quick_start_installs_one_extra_with_all_that_a_workstation_needs():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (needs,) = re.findall(r'^workstation = \["mmkd-edge\[([a-z,]+)\]"\]$', text, flags=re.MULTILINE)
    assert needs.split(",") == ["bench", "export", "import", "monitor", "rivals"]
    assert "pip install -e '.[workstation]'" in (ROOT / "docs" / "start.md").read_text(encoding="utf-8")


def installed_into(folder, requirement):
    """The programs of a fresh environment that has a requirement, and in which nothing contradicts another."""
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    succeed([*pip, "install", "--quiet", "--only-binary=:all:", requirement])
    succeed([*pip, "check"])
    return folder / "bin"


@released
@pytest.mark.parametrize("extra", sorted(IMPORTS))
def test_an_extra_installs_alone(extra, wheel, tmp_path):
    programs = installed_into(tmp_path / "env", f"{wheel}[{extra}]")
    done = run([programs / "python", "-c", f"import {IMPORTS[extra]}, mmkd_edge.predictor"])
    assert (done.returncode, done.stderr) == (0, "")


@released
def test_all_that_a_device_may_have_installs_together_and_runs(wheel, tmp_path):
    programs = installed_into(tmp_path / "env", f"{wheel}[{','.join(sorted(IMPORTS))}]")
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    check_device_part(tmp_path / "env", home, programs / "python")


@released
@pytest.mark.parametrize("extras", [*HEAVY, ",".join((*HEAVY, *IMPORTS))])
def test_an_extra_for_a_workstation_resolves(extras, wheel, tmp_path):
    options = ["--dry-run", "--ignore-installed", "--prefer-binary", "--report", tmp_path / "report.json"]
    succeed([*PIP, *options, f"{wheel}[{extras}]"])
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert {"mmkd-edge", "numpy", "msgspec"} <= {entry["metadata"]["name"] for entry in report["install"]}


USER_PROJECT = """\
from collections.abc import Mapping

import numpy as np
from mmkd_edge import EdgePredictor, MmkdError, Prediction, example_bundle


def answers(count: int) -> list[str | None]:
    window = np.zeros((200, 3), dtype=np.float32)
    with EdgePredictor.open(example_bundle(), backend="ort", threads=1) as predictor:
        found: list[Prediction] = [predictor.predict(window) for _ in range(count)]
    return [one.label for one in found]


def code_of(error: MmkdError) -> int:
    return error.exit_code


def wrong(predictor: EdgePredictor) -> Mapping[str, int]:
    EdgePredictor.open("student.edge", backen="ort")
    return predictor.predict(np.zeros((200, 3)))
"""


@pytest.fixture
def users_environment(tmp_path):
    """A Python that has the packages, and what they import, installed; none of our settings."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    for package in PACKAGES:
        (packages / Path(package).name).symlink_to(ROOT / package)
    libraries = {Path(sys.modules[name].__file__ or "").parents[1] for name in ("numpy", "msgspec")}
    (packages / "libraries.pth").write_text("\n".join(map(str, libraries)))
    (tmp_path / "user.py").write_text(USER_PROJECT)
    return tmp_path / "env" / "bin" / "python"


@pytest.mark.slow
def test_a_users_type_checker_reads_our_types(users_environment, tmp_path):
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--hide-error-context"]
    python = ["--python-executable", users_environment, "--cache-dir", tmp_path / "cache"]
    done = run([*mypy, *python, "--no-pretty", tmp_path / "user.py"])
    errors = re.findall(r"user\.py:(\d+): error: (.*)  \[(.*)\]", done.stdout)
    assert [(line, code) for line, _, code in errors] == [("19", "call-arg"), ("20", "return-value")], done.stdout
    assert errors[0][1].startswith('Unexpected keyword argument "backen" for "open" of "EdgePredictor"')
    assert 'got "Prediction", expected "Mapping[str, int]"' in errors[1][1]


@released
def test_pyright_reads_our_types_too(users_environment, tmp_path):
    pyright = [shutil.which("pyright")]
    if pyright == [None]:
        succeed([*PIP, "--target", tmp_path / "tools", "pyright"])
        pyright = [sys.executable, "-m", "pyright"]
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "include": ["user.py"]}')
    command = [*pyright, "--outputjson", "--pythonpath", users_environment, "--project", tmp_path]
    done = run(command, PYTHONPATH=str(tmp_path / "tools"))
    found = json.loads(done.stdout)["generalDiagnostics"]
    told = [(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["rule"]) for one in found]
    assert told == [("user.py", 19, "reportCallIssue"), ("user.py", 20, "reportReturnType")], done.stdout
