"""A system without POSIX's calls is told so in one line, by commands and by `import`; here they are hidden."""

import subprocess
import sys

import pytest

HIDE = "import sys\nfor name in ('fcntl', 'pwd', 'resource'): sys.modules[name] = None\n"
REFUSAL = (
    f"this is {sys.platform}, and mmkd-edge needs Linux or macOS: whole files, locks and limits of processes are made "
    "of POSIX's calls; on Windows run it in WSL 2"
)


def run(program):
    done = subprocess.run([sys.executable, "-c", HIDE + program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("mmkd_edge.commands.mmkd", ["mmkd", "edge", "list", "state"]),
        ("mmkd_station.commands.run", ["mmkd-run", "student.edge"]),
        ("mmkd_bench.commands.cli", ["mmkd-bench", "run", "student.edge"]),
    ],
)
def test_a_command_is_refused_there_with_what_to_do(module, line):
    name = "-".join(line[:2]) if line[1:2] == ["edge"] else line[0]
    said = run(f"sys.argv = {line!r}\nfrom {module} import main\nmain()")
    assert said == (3, "", f"{name}: {REFUSAL}\n")


def test_the_predictor_is_refused_there_and_errors_can_be_caught():
    program = """
from mmkd_edge import MmkdError
try:
    from mmkd_edge import EdgePredictor
except MmkdError as error:
    print(error)
"""
    assert run(program) == (0, f"{REFUSAL}\n", "")
