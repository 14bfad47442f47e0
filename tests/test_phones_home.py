"""Nothing phones home: what the system sees of every kind of work, from an import to a training.

Some libraries report seconds after their import, so that each process stays for a while. Each is watched by strace for
calls that reach for a network, and for files that are written outside of the folders that were named; where the system
allows it, in a network namespace of its own, from which nothing would arrive.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_edge import Bundle, example_bundle
from mmkd_edge.backends.base import BACKENDS, is_installed
from mmkd_models.data.dataset import shipped_dataset

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")]

SECONDS = 60  # onnxruntime's first report came after 9 s
_CALLS = "connect,sendto,sendmsg,sendmmsg,openat,open,creat,mkdir,mkdirat"
_NETWORK = re.compile(r"\b(?:connect|sendto|sendmsg|sendmmsg)\(.*AF_INET")
_WRITTEN = re.compile(
    r'\b(?:openat\((?:AT_FDCWD|\d+), |open\(|creat\(|mkdir\(|mkdirat\((?:AT_FDCWD|\d+), )"([^"]*)"(.*)'
)
_NO_FILES = ("/dev/", "/proc/", "/sys/")

WATCHED = {
    "import": "import time, mmkd_edge; time.sleep(seconds)",
    "predict": (
        "import time\n"
        "import numpy as np\n"
        "from mmkd_edge import EdgePredictor\n"
        "end = time.monotonic() + seconds\n"
        "with EdgePredictor.open(arguments[0], backend=arguments[1]) as predictor:\n"
        "    window = np.random.default_rng(0).random(predictor.modality.shape, dtype=np.float32)\n"
        "    stream = predictor.stream(hop=predictor.modality.samples)\n"
        "    while time.monotonic() < end:\n"
        "        predictor.predict(window)\n"
        "        stream.push(window)\n"
        "        time.sleep(0.01)\n"
    ),
    "command": (
        "import importlib, time\n"
        "end = time.monotonic() + seconds\n"
        "sys.argv[1:] = arguments[1:]\n"
        "try:\n"
        "    importlib.import_module(arguments[0]).main()\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code\n"
        "time.sleep(max(0.0, end - time.monotonic()))\n"
    ),
}


def watched(command, *, tmp_path):
    """Lines of a run that reach for a network, and files that it wrote outside of its own folder."""
    log = tmp_path / "strace.log"
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment |= {"HOME": str(home), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*_alone(), "strace", "-f", "--seccomp-bpf", "-s", "300", "-e", f"trace={_CALLS}", "-o", str(log), *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if _NETWORK.search(line)], sorted(set(_strays(lines, tmp_path)))


def _alone():
    """What puts a command into a network namespace of its own; nothing where this user may not."""
    command = ["unshare", "--net"]
    is_allowed = shutil.which("unshare") and subprocess.run([*command, "true"], check=False, capture_output=True)
    return command if is_allowed and is_allowed.returncode == 0 else []


def _strays(lines, tmp_path):
    found = []
    for line in lines:
        match = _WRITTEN.search(line)
        if match is None or " = -1 " in line:
            continue
        path, rest = match.groups()
        writes = "mkdir" in line or "creat(" in line or any(flag in rest for flag in ("O_WRONLY", "O_RDWR", "O_CREAT"))
        inside = not path.startswith("/") or path.startswith((str(tmp_path), *_NO_FILES))
        if writes and not inside:
            found.append(path)
    return found


def script(name, *arguments):
    start = f"import sys\nseconds, arguments = {SECONDS}, sys.argv[1:]\n"
    return [sys.executable, "-c", start + WATCHED[name], *map(str, arguments)]


def test_importing_does_nothing_of_the_kind(tmp_path):
    assert watched(script("import"), tmp_path=tmp_path) == ([], [])


@pytest.mark.parametrize("backend", [name for name in BACKENDS if not BACKENDS[name].on_gpu])
def test_predicting_and_streaming_do_nothing_of_the_kind(backend, tmp_path):
    if not is_installed(backend):
        pytest.skip(f"needs {BACKENDS[backend].library()[1]}")
    with Bundle.open(example_bundle()) as bundle:
        formats = {artifact.format for artifact in bundle.manifest.models[0].artifacts}
    if formats.isdisjoint(BACKENDS[backend].formats):
        pytest.skip(f"the shipped student has no artifact of the format {BACKENDS[backend].formats[0]}")
    assert watched(script("predict", example_bundle(), backend), tmp_path=tmp_path) == ([], [])


STUDENT = Path(__file__).parent / "files" / "student.ckpt"
COMMANDS = {
    "train": f"student {shipped_dataset()} --modality acc --preset tiny --steps 40 -o s.ckpt",
    "export": f"{STUDENT} -o s.edge",
    "bench": f"tune {example_bundle()} --duration-s 4 --threads 1",
    "run": f"{example_bundle()} --source csv:log.csv --sink jsonl:results.jsonl",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_nothing_of_the_kind(command, tmp_path):
    (tmp_path / "log.csv").write_text("ax,ay,az\n" + "0.1,0.2,0.9\n" * 500)
    arguments = COMMANDS[command].split()
    module = f"mmkd_app.commands.{command}"
    assert watched(script("command", module, *arguments), tmp_path=tmp_path) == ([], [])
    assert command != "run" or (tmp_path / "results.jsonl").read_text()
