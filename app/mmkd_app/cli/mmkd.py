"""`mmkd` lists all commands; `mmkd COMMAND` is `mmkd-COMMAND`."""

from __future__ import annotations

import sys
from typing import NoReturn

from mmkd_app.cli.catalogue import COMMANDS, ONE_NAME, installed_commands
from mmkd_app.cli.run import run_command
from mmkd_edge.errors import UsageError

_PAGE = """\
Usage: mmkd [OPTIONS] COMMAND [ARGS]...

  Distil a multimodal teacher into a student of one sensor, export it, and run
  it on a device.

  'mmkd COMMAND' is the same as 'mmkd-COMMAND'; 'mmkd COMMAND --help' explains a
  command.

Options of every command:
  --version   Show the version and exit.
  --debug     Show the traceback of an error.
  -h, --help  Show the help and exit.

Commands:
{}

Exit codes: 0 ok, 1 internal, 2 usage or bad input file, 3 missing library,
device or backend, 4 accuracy or parity gate, 5 performance gate, 6 damaged or
incompatible file, 130 interrupted.
"""


def main() -> NoReturn:
    """Run `mmkd`."""
    commands = installed_commands()
    given = sys.argv[1:]
    word = next((word for word in given if word != "--debug"), "")
    name = f"{ONE_NAME}-{word}"
    if name in commands:
        given.remove(word)
        sys.argv = [name, *given]
        commands[name]()()
    run_command(ONE_NAME, _run)


def _run(arguments: list[str]) -> None:
    from difflib import get_close_matches
    from textwrap import fill

    word = arguments[0] if arguments else "--help"
    names = [name.removeprefix(f"{ONE_NAME}-") for name in installed_commands()]
    if word in ("-h", "--help"):
        rows = (f"{name:<10}{COMMANDS[f'{ONE_NAME}-{name}'].about}" for name in names)
        lines = (fill(row, 80, initial_indent="  ", subsequent_indent=" " * 12) for row in rows)
        print(_PAGE.format("\n".join(lines)), end="")
        return
    near = get_close_matches(word.lower().removeprefix(f"{ONE_NAME}-"), names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"{word!r} is unknown; {hint}'{ONE_NAME} --help' lists all commands")
