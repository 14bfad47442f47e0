"""`mmkd`: the one name for all commands, and its completion in a shell that really runs."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path

import pytest

import mmkd_edge
from mmkd_edge.cli.catalogue import COMMANDS, ONE_MAIN, ONE_NAME

BIN = Path(sys.executable).parent
MMKD = BIN / "mmkd"
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "typer", "rich")
WITHOUT = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from mmkd_edge.commands.mmkd import main
sys.argv = ["mmkd", *sys.argv[1:]]
main()
"""


def run(*words: object, blocked: bool = False) -> tuple[int, str, str]:
    command = [sys.executable, "-c", WITHOUT] if blocked else [MMKD]
    environment = os.environ | {"COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *map(str, words)], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def completed(*words: str) -> list[str]:
    code, out, err = run("--complete", "--", *words)
    assert (code, err) == (0, "")
    return [line.partition("\t")[0] for line in out.splitlines()]


def test_the_table_names_every_command_of_the_distribution() -> None:
    scripts = {name: command.main for name, command in COMMANDS.items()}
    installed = {one.name: one.value for one in distribution("mmkd-edge").entry_points}
    assert installed == {ONE_NAME: ONE_MAIN, **scripts}


def test_help_lists_every_command_without_any_library() -> None:
    code, out, err = run(blocked=True)
    assert (code, err) == (0, "")
    assert (code, out, err) == run("--help")
    listed = re.findall(r"^  ([a-z]+)  ", out.partition("Commands:\n")[2].partition("\n\n")[0], flags=re.MULTILINE)
    assert [f"mmkd-{name}" for name in listed] == list(COMMANDS)
    for command in COMMANDS.values():
        assert command.about in " ".join(out.split())
    assert run("--version") == (0, f"mmkd {mmkd_edge.__version__}\n", "")


@pytest.mark.parametrize("line", [["edge", "--help"], ["inspect", "--version"], ["edge", "list", "nowhere"]])
def test_a_command_by_the_one_name_is_the_command(line: list[str]) -> None:
    own = subprocess.run(
        [BIN / f"mmkd-{line[0]}", *line[1:]],
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run(*line) == (own.returncode, own.stdout, own.stderr)


def test_debug_before_the_command_is_the_commands() -> None:
    code, _, err = run("--debug", "edge", "fly")
    assert code == 2
    assert err.startswith("Traceback")
    assert err.endswith("mmkd-edge: 'fly' is unknown; expected one of keygen, install, list, rollback, verify\n")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("bnech", "did you mean bench? "),
        ("mmkd-destill", "did you mean distill? "),
        ("xyz", ""),
        ("--verison", "did you mean --version? "),
    ],
)
def test_a_mistyped_command_is_answered_with_the_nearest(word: str, hint: str) -> None:
    assert run(word, blocked=True) == (2, "", f"mmkd: '{word}' is unknown; {hint}'mmkd --help' lists all commands\n")


def test_words_that_do_not_fit_an_option_are_refused() -> None:
    wrong = "mmkd: 'zsh' is one word too many; expected one shell\n"
    assert run("--show-completion", "bash", "zsh") == (2, "", wrong)
    wrong = "mmkd: --complete: expected a command and the word to complete; give both after --\n"
    assert run("--complete", "--", "mmkd") == (2, "", wrong)


def test_commands_subcommands_options_and_values_are_completed() -> None:
    assert completed("mmkd", "e") == ["evaluate", "export", "edge"]
    assert completed("mmkd", "--s") == ["--show-completion"]
    assert completed("mmkd", "edge", "") == ["keygen", "install", "list", "rollback", "verify"]
    assert completed("/opt/mmkd/bin/mmkd-edge", "install", "--k") == ["--keys"]
    assert completed("mmkd-nothing", "") == []
    pytest.importorskip("typer")
    assert completed("mmkd", "bench", "run", "--du") == ["--duration-s"]
    assert completed("mmkd-run", "--rep") == ["--replay-speed"]
    assert completed("mmkd-run", "--time", "") == ["source", "arrival"]


@pytest.mark.parametrize("line", [["mmkd-distill", "--mod"], ["mmkd", "train", "teacher", "--st"], ["mmkd-run", "--"]])
def test_completing_needs_no_heavy_library(line: list[str]) -> None:
    pytest.importorskip("typer")
    program = WITHOUT.replace("'typer', 'rich'", "'sklearn', 'optuna'")
    command = [sys.executable, "-c", program, "--complete", "--", *line]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(line[-1])


def in_a_terminal(command: list[str], typed: str, expected: str, environment: dict[str, str]) -> str:
    """What a program shows in a terminal after something was typed, until it shows what is expected."""
    ours, theirs = pty.openpty()
    shown = ""
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        until = time.monotonic() + 60
        while expected not in shown and time.monotonic() < until:
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 4096).decode(errors="replace")
        process.kill()
    os.close(ours)
    return shown


def test_bash_completes_in_a_terminal_after_the_installation(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": f"{BIN}:/usr/bin:/bin", "TERM": "dumb", "SHELL": "/bin/bash"}
    done = subprocess.run(
        [MMKD, "--install-completion"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    script = tmp_path / ".local/share/mmkd-edge/completion.bash"
    assert done == f"{tmp_path}/.bashrc reads {script}\nwrote {script}; next: open a new bash\n"
    bash = ["/bin/bash", "-i"]
    assert "mmkd-edge install --allow-downgrade " in in_a_terminal(
        bash, "mmkd-edge ins\t--al\t", "mmkd-edge install --allow-downgrade ", environment
    )
    (tmp_path / "student.edge").touch()
    line = f"{BIN}/mmkd edge verify {tmp_path}/stu\t"
    assert "student.edge " in in_a_terminal(bash, line, "student.edge ", environment)


COMPLETE_IN = {
    "bash": "source SCRIPT; COMP_WORDS=(mmkd-edge install --allow); COMP_CWORD=2; _mmkd mmkd-edge; "
    'printf "%s\\n" "${COMPREPLY[@]}"',
    "fish": "source SCRIPT; complete -C 'mmkd-edge install --allow'",
    "zsh": "compdef() { : }; _describe() { print -l -- $found }; source SCRIPT; words=(mmkd-edge install --allow); "
    "CURRENT=3; _mmkd",
}


@pytest.mark.parametrize("shell", sorted(COMPLETE_IN))
def test_the_script_of_each_shell_finds_an_option(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(run("--show-completion", shell)[1])
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed on this machine")
    done = subprocess.run(
        [shell, "-c", COMPLETE_IN[shell].replace("SCRIPT", str(script))],
        env={"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("--allow-downgrade")
