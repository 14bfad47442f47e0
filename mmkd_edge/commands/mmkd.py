"""`mmkd`: the one name that lists all commands. `mmkd COMMAND` is the same as `mmkd-COMMAND`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from mmkd_edge.cli.catalogue import COMMANDS, ONE_NAME, installed_commands, nearest
from mmkd_edge.cli.help import ALWAYS, help_page
from mmkd_edge.cli.interrupts import loading
from mmkd_edge.cli.run import run_command
from mmkd_edge.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_ABOUT = (
    "Distil a multimodal teacher into a student of one sensor, export it, and run it on a device.\n\n"
    "'mmkd COMMAND' is the same as 'mmkd-COMMAND'; 'mmkd COMMAND --help' explains a command."
)
_OPTIONS = (
    ("--install-completion [SHELL]", "Let bash, zsh or fish complete commands and options; else the shell of SHELL."),
    ("--show-completion [SHELL]", "Print the script for that."),
    ("--complete -- WORD...", "Print what may stand in place of the last word, for shells."),
)
_NOTE = (
    "Exit codes: 0 ok, 1 internal, 2 usage or bad input file, 3 missing library, device or backend, 4 accuracy or "
    "parity gate, 5 performance gate, 6 damaged or incompatible file, 130 interrupted."
)


def main() -> NoReturn:
    """Runs `mmkd`."""
    with loading(ONE_NAME):
        commands = installed_commands()
    given = sys.argv[1:]
    word = next((one for one in given if one != "--debug"), "")
    name = f"{ONE_NAME}-{word}"
    if name in commands:
        given.remove(word)
        with loading(name):
            command = commands[name]()
        sys.argv = [name, *given]
        command()
    run_command(ONE_NAME, _run)


def _run(arguments: list[str]) -> None:
    word, *rest = arguments or ["--help"]
    match word:
        case "-h" | "--help":
            sys.stdout.write(_page())
        case "--show-completion":
            _show(rest)
        case "--install-completion":
            _install(rest)
        case "--complete":
            _complete(rest[1:] if rest[:1] == ["--"] else rest)
        case _:
            raise UsageError(_unknown(word))


def _page() -> str:
    commands = [(name.removeprefix(f"{ONE_NAME}-"), COMMANDS[name].about) for name in installed_commands()]
    sections = [("Options", (*_OPTIONS, *ALWAYS)), ("Commands", commands)]
    return help_page(f"{ONE_NAME} [OPTIONS] COMMAND [ARGS]...", _ABOUT, sections, _NOTE) + "\n"


def _unknown(word: str) -> str:
    options = [option.partition(" ")[0] for option, _ in (*_OPTIONS, *ALWAYS)]
    known = options if word.startswith("-") else [name.removeprefix(f"{ONE_NAME}-") for name in installed_commands()]
    near = nearest(word.removeprefix(f"{ONE_NAME}-"), known)
    hint = f"did you mean {near}? " if near else ""
    return f"{word!r} is unknown; {hint}'{ONE_NAME} --help' lists all commands"


def _show(words: Sequence[str]) -> None:
    from mmkd_edge.cli.shells import script_of, shell_named

    sys.stdout.write(script_of(shell_named(_only(words)), _names()))


def _install(words: Sequence[str]) -> None:
    from mmkd_edge.cli.shells import install_script, shell_named

    shell = shell_named(_only(words))
    script, start = install_script(shell, _names())
    if start is not None:
        print(f"{start} reads {script}")
    print(f"wrote {script}; next: open a new {shell}")


def _only(words: Sequence[str]) -> str | None:
    if len(words) > 1:
        raise UsageError(f"{words[1]!r} is one word too many; expected one shell")
    return words[0] if words else None


def _names() -> list[str]:
    return [ONE_NAME, *installed_commands()]


def _complete(words: Sequence[str]) -> None:
    from mmkd_edge.cli.completion import candidates

    if len(words) < 2:
        raise UsageError("--complete: expected a command and the word to complete; give both after --")
    program, *rest = words
    name = program.rpartition("/")[2]
    for word, about in candidates([name, *rest], _help_of):
        print(f"{word}\t{about}")


def _help_of(path: Sequence[str]) -> str:
    """The help of a command, in this process: help imports nothing heavy; nothing where there is no such command."""
    import contextlib
    import io
    import os

    name, *words = path
    if name == ONE_NAME and not words:
        os.environ["COLUMNS"] = "80"
        return _page()
    if name == ONE_NAME:
        name, *words = (f"{ONE_NAME}-{words[0]}", *words[1:])
    load = installed_commands().get(name)
    if load is None:
        return ""
    os.environ["COLUMNS"] = "80"  # this process does nothing else
    sys.argv = [name, *words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        load()()
    return said.getvalue()
