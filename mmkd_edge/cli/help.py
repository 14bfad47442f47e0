"""How the help of every command looks: one page, whatever library reads the options, and no word broken in half.

Owns the layout. Needs the standard library alone; typer is imported where an app is made, because only the extras of
the commands install it.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import typer
    from typer.core import TyperCommand, TyperGroup

Rows = Sequence[tuple[str, str]]

ALWAYS: Rows = (
    ("--version", "Show the version and exit."),
    ("--debug", "Show the traceback of an error."),
    ("-h, --help", "Show this message and exit."),
)
_VALUES: dict[object, str] = {int: "N", float: "NUMBER", Path: "PATH"}
_HELP_NAMES = ["-h", "--help"]
# Earlier names of options, which still work and are not shown.
_RENAMED = {"--output": "--out", "--max-drop": "--max-drop-points"}
_MOST_COLUMNS, _FEWEST_COLUMNS = 80, 30
# Of the names of options; a longer one stands on a line of its own.
_MOST_OF_NAMES = 30
# Below this width explanations stand under the names, indented.
_SIDE_BY_SIDE_FROM = 64


def help_page(usage: str, about: str, sections: Iterable[tuple[str, Rows]], note: str = "") -> str:
    """A page of help, as wide as the terminal and at most 80 columns.

    Args:
        usage: the line after `Usage: `.
        sections: headings with names and what each means; a section without rows is left out.
    """
    columns = max(_FEWEST_COLUMNS, min(_MOST_COLUMNS, shutil.get_terminal_size().columns))
    paragraphs = [" ".join(part.split()) for part in about.strip().split("\n\n")]
    parts = [_wrapped(f"Usage: {usage}", columns, later=7), *(_wrapped(part, columns, first=2) for part in paragraphs)]
    parts += [f"{heading}:\n{_rows_text(rows, columns)}" for heading, rows in sections if rows]
    parts += [_wrapped(note, columns, first=2)] if note else []
    return "\n\n".join(parts)


def version_line(name: str) -> str:
    """What `--version` prints."""
    from mmkd_edge import __version__

    return f"{name} {__version__}"


def bare_help(name: str, about: str, *, extra: str) -> str:
    """The help of a command where the library that reads its options is not installed."""
    note = f"The options are read by typer, which this Python lacks; run: pip install 'mmkd-edge[{extra}]'"
    return help_page(f"{name} [OPTIONS] ...", f"{about}\n\n{note}", [("Options", ALWAYS)])


class CommandParser(argparse.ArgumentParser):
    """Reads the options of a command that needs no typer, and shows its help as the others do."""

    def __init__(self, name: str, *, usage: str, about: str) -> None:
        super().__init__(prog=name, usage=f"{name} {usage}", description=about, add_help=False)
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def format_help(self) -> str:
        """The page of help."""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        arguments = [(str(one.metavar), str(one.help)) for one in shown if not one.option_strings]
        options = [(", ".join(one.option_strings), str(one.help)) for one in shown if one.option_strings]
        sections: list[tuple[str, Rows]] = [("Arguments", arguments), ("Options", [*options, *ALWAYS])]
        return help_page(str(self.usage), str(self.description), sections) + "\n"


def commands_page(name: str, about: str, commands: Rows) -> str:
    """The help of a name with several commands that need no typer.

    Args:
        commands: the word for each, and what it does.
    """
    return help_page(f"{name} [OPTIONS] COMMAND ...", about, [("Options", ALWAYS), ("Commands", commands)]) + "\n"


def command_app(about: str = "") -> typer.Typer:
    """A command line with typer: `@app.command(cls=command_class())` adds a command to it.

    Args:
        about: what it does, where it has several commands; that of a single one is its docstring.
    """
    import typer

    return typer.Typer(
        help=about or None,
        cls=_group_class(),
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


@cache
def command_class() -> type[TyperCommand]:
    """The class of every command of an app: it has our help."""
    from typer.core import TyperCommand

    class Command(TyperCommand):
        """A command with our help; earlier names of its options still work."""

        def get_help_option_names(self, ctx: Any) -> list[str]:
            return _HELP_NAMES

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, _with_new_names(args))

        def collect_usage_pieces(self, ctx: Any) -> list[str]:
            return _usage_of(self, ctx)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            formatter.write(_page_of(self, ctx, []))

    return Command


@cache
def _group_class() -> type[TyperGroup]:
    from typer.core import TyperGroup

    class Group(TyperGroup):
        """Several commands with our help."""

        def get_help_option_names(self, ctx: Any) -> list[str]:
            return _HELP_NAMES

        def format_help(self, ctx: Any, formatter: Any) -> None:
            commands = [(name, one) for name in self.list_commands(ctx) if (one := self.get_command(ctx, name))]
            shown = [(name, _first_sentence(one.help or "")) for name, one in commands if not one.hidden]
            formatter.write(_page_of(self, ctx, shown))

    return Group


def _with_new_names(arguments: Sequence[str]) -> list[str]:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parts = [argument.partition("=") for argument in arguments[:end]]
    return ["".join((_RENAMED.get(name, name), mark, value)) for name, mark, value in parts] + list(arguments[end:])


def _usage_of(command: Any, ctx: Any) -> list[str]:
    """What follows a command's name in its usage."""
    arguments = [one for one in command.get_params(ctx) if one.param_type_name == "argument"]
    return ["[OPTIONS]", *(_name_of(one) if one.required else f"[{_name_of(one)}]" for one in arguments)]


def _page_of(command: Any, ctx: Any, commands: Rows) -> str:
    """The page of a command that typer read; what its releases call types differs, and is not shown."""
    types = get_type_hints(command.callback) if command.callback is not None else {}
    shown: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is None or "--help" in param.opts:
            continue
        is_option = param.param_type_name == "option"
        name = _option_of(param, types.get(param.name)) if is_option else _name_of(param)
        shown[param.param_type_name].append((name, record[1]))
    usage = [ctx.command_path, *_usage_of(command, ctx), *(["COMMAND [ARGS]..."] if commands else [])]
    sections = [("Arguments", shown["argument"]), ("Options", [*shown["option"], *ALWAYS]), ("Commands", commands)]
    return help_page(" ".join(usage), command.help or "", sections, command.epilog or "")


def _name_of(argument: Any) -> str:
    return argument.metavar or str(argument.name).upper()


def _option_of(option: Any, kind: object) -> str:
    """`-o, --out FILE` or `--grid / --no-grid`."""
    names = ", ".join(sorted(option.opts, key=len))
    if option.is_flag:
        return " / ".join([names, *option.secondary_opts])
    return f"{names} {option.metavar or _value_of(kind)}"


def _value_of(kind: Any) -> str:
    """A word for the values of a type, or the values where they are few."""
    origin = get_origin(kind)
    if origin is Literal:
        return "|".join(map(str, get_args(kind)))
    if origin in (list, Union, UnionType):
        return _value_of(next(part for part in get_args(kind) if part is not type(None)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(one.value) for one in kind)
    return _VALUES.get(kind, "TEXT")


def _first_sentence(text: str) -> str:
    """The first sentence of what a command does, without its full stop."""
    first = " ".join(text.strip().partition("\n\n")[0].split())
    return first.removesuffix(".")


def _rows_text(rows: Rows, columns: int) -> str:
    if columns < _SIDE_BY_SIDE_FROM:
        both = ((_wrapped(name, columns, first=2, later=4), _wrapped(text, columns, first=6)) for name, text in rows)
        return "\n".join(part for pair in both for part in pair if part.strip())
    width = min(max(len(name) for name, _ in rows), _MOST_OF_NAMES) + 4
    lines: list[str] = []
    for name, text in rows:
        wrapped = _wrapped(text, columns, first=width).splitlines() or [""]
        if len(name) + 4 <= width:
            lines.append(f"  {name:<{width - 2}}{wrapped[0].strip()}".rstrip())
            lines += wrapped[1:]
        else:
            lines += [_wrapped(name, columns, first=2, later=4), *wrapped]
    return "\n".join(lines)


def _wrapped(text: str, columns: int, *, first: int = 0, later: int | None = None) -> str:
    """Lines of whole words; one that is longer than a line stays whole."""
    return textwrap.fill(
        text,
        columns,
        initial_indent=" " * first,
        subsequent_indent=" " * (first if later is None else later),
        break_long_words=False,
        break_on_hyphens=False,
    )
