"""`mmkd`: the one name for all commands; and completion in shells."""

import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import mmkd_edge
from mmkd_app.cli.catalogue import COMMANDS, ONE_MAIN, ONE_NAME
from mmkd_app.cli.mmkd import main

BIN = Path(sys.executable).parent
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "typer", "rich")
WITHOUT = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from mmkd_app.cli.mmkd import main
sys.argv = ["mmkd", *sys.argv[1:]]
main()
"""


def run(*command):
    environment = os.environ | {"COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_table_names_every_command_of_the_distribution():
    scripts = {name: command.main for name, command in COMMANDS.items()}
    installed = {one.name: one.value for one in distribution("mmkd-edge").entry_points}
    assert installed == {ONE_NAME: ONE_MAIN, **scripts}


def test_help_lists_every_command_without_any_library(ran, monkeypatch):
    code, out, err = run(sys.executable, "-c", WITHOUT)
    assert (code, err) == (0, "")
    monkeypatch.setenv("COLUMNS", "80")
    assert ran(main, "mmkd", "--help") == (0, out, "")
    listed = re.findall(r"^  ([a-z]+)  ", out.partition("Commands:\n")[2].partition("\n\n")[0], flags=re.MULTILINE)
    assert [f"mmkd-{name}" for name in listed] == list(COMMANDS)
    for command in COMMANDS.values():
        assert command.about in " ".join(out.split())
    assert ran(main, "mmkd", "--version") == (0, f"mmkd {mmkd_edge.__version__}\n", "")


@pytest.mark.parametrize("line", [["edge", "--help"], ["edge", "list", "nowhere"]])
def test_a_command_by_the_one_name_is_the_command(line):
    assert run(BIN / "mmkd", *line) == run(BIN / f"mmkd-{line[0]}", *line[1:])


@pytest.mark.parametrize(
    ("word", "hint"), [("bnech", "did you mean bench? "), ("mmkd-destill", "did you mean distill? "), ("xyz", "")]
)
def test_a_mistyped_command_is_answered_with_the_nearest(word, hint, ran):
    assert ran(main, "mmkd", word) == (2, "", f"mmkd: '{word}' is unknown; {hint}'mmkd --help' lists all commands\n")


@pytest.mark.parametrize(
    ("typed", "expected"), [("mmkd-bench ", {"run", "tune", "capacity"}), ("mmkd-run --rep", {"--replay-speed"})]
)
def test_a_shell_completes_commands_and_options(typed, expected):
    pytest.importorskip("typer")
    program = typed.split()[0]
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    environment = os.environ | {variable: "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": "1"}
    done = subprocess.run([BIN / program], env=environment, capture_output=True, text=True, check=False)
    assert (expected - set(done.stdout.split()), done.stderr) == (set(), "")
