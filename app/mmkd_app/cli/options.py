"""Options of commands, declared once: read by typer, or by the standard library where no extra installs typer."""

from __future__ import annotations

import inspect
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

from mmkd_app.cli.catalogue import COMMANDS
from mmkd_edge.errors import UsageError

_EMPTY = inspect.Parameter.empty
_METAVARS = {int: "NUMBER", float: "NUMBER", Path: "PATH", str: "TEXT"}


@dataclass(frozen=True)
class Argument:
    """A positional argument: `Annotated[Path, Argument("DATA", "...")]`."""

    metavar: str | None
    help: str


@dataclass(frozen=True)
class Option:
    """An option: `Annotated[int, Option("Optimisation steps.", min=1)]`."""

    help: str
    names: Sequence[str] = ()
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    shown: str | bool = True  # the default in words; False hides it
    says: Callable[[], str] | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command's function, and the last lines of its help."""

    function: Callable[..., None]
    name: str | None = None
    epilog: str | None = None

    @property
    def called(self) -> str:
        """Its word on the command line."""
        return self.name or self.function.__name__

    @property
    def about(self) -> str:
        """The first line of its help."""
        return (self.function.__doc__ or "").partition("\n")[0]


def run_line(name: str, arguments: Sequence[str], commands: Sequence[Command]) -> None:
    """Run the function of a command line's command; of several the first word chooses.

    A dataclass of options is one parameter.
    """
    import typer

    app = typer.Typer(
        help=COMMANDS[name].about if len(commands) > 1 else None,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    names = [command.called for command in commands] if len(commands) > 1 else []
    if len(arguments) > 1 and arguments[1] in names and arguments[0] not in names and arguments[0][:1] != "-":
        raise UsageError(f"{arguments[0]}: expected a command first, got {arguments[1]!r} after it; swap the two")
    for command in commands:
        function = _without_groups(command.function)
        app.command(command.called, epilog=command.epilog, short_help=command.about)(function)
    try:
        code = app(args=list(arguments), prog_name=name, standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's, of any version, have it
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        raise UsageError(_refusal(error, arguments, names, name)) from error
    sys.exit(code or 0)


# How typer says what a value should be, and how we do.
_SHOULD_BE = {
    r"a valid number.*": "a number",
    r"a valid integer.*": "a whole number",
    r"greater than or equal to (.+)": r"\1 or more",
    r"less than or equal to (.+)": r"at most \1",
}


def _refusal(error: Any, arguments: Sequence[str], names: Sequence[str], program: str) -> str:
    """Return what typer refuses, in the words of our own errors."""
    where = program if error.ctx is None else error.ctx.command_path
    if (
        names
        and error.ctx is not None
        and where == program
        and (option := getattr(error, "option_name", None)) is not None
    ):
        return f"{option}: expected a command before the options; write one of {', '.join(names)} first"
    words = [part for word in arguments for part in (word.partition("=")[::2] if word[:2] == "--" else (word,)) if part]
    options = getattr(getattr(error, "param", None), "opts", ())
    place = next((place for place, word in enumerate(words[:-1]) if word[:1] == "-" and word in options), None)
    should = str(error.message).partition("Input should be ")[2]
    if place is None or not should:
        return f"{error.format_message().rstrip('.').replace('Value error, ', '')}; see {where} --help"
    option, given = words[place : place + 2]
    for typers, ours in _SHOULD_BE.items():
        should = re.sub(f"^{typers}$", ours, should)
    cure = f"write {given.replace(',', '.')}" if re.fullmatch(r"-?\d*,\d+", given) else "correct it"
    return f"{option}: expected {should}, got {given!r}; {cure}"


class _PlainParser(ArgumentParser):
    """One whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def run_plain(name: str, arguments: Sequence[str], commands: Sequence[Command]) -> None:
    """Do as `run_line`, with the standard library alone."""
    options = vars(plain_parser(name, commands).parse_args(arguments))
    options.pop("_function")(**options)


def plain_parser(name: str, commands: Sequence[Command]) -> ArgumentParser:
    """Return the parser of `run_plain`."""
    if len(commands) == 1:
        parser = _PlainParser(prog=name, description=commands[0].about, epilog=commands[0].epilog)
        parsers = [parser]
    else:
        parser = _PlainParser(prog=name, description=COMMANDS[name].about)
        add = parser.add_subparsers(title="Commands", metavar="COMMAND", required=True).add_parser
        parsers = [add(one.called, help=one.about, description=one.about, epilog=one.epilog) for one in commands]
    for command, own in zip(commands, parsers, strict=True):
        own.set_defaults(_function=command.function)
        hints = get_type_hints(command.function, include_extras=True)
        for parameter in inspect.signature(command.function).parameters.values():
            _add_plain(own, parameter.name, *get_args(hints[parameter.name]), default=parameter.default)
    return parser


def _add_plain(parser: ArgumentParser, name: str, values: Any, declared: Argument | Option, *, default: Any) -> None:
    inner, is_list = _one_value(values)
    is_needed, text = default is _EMPTY, declared.help
    if isinstance(declared, Argument):
        parser.add_argument(name, type=inner, metavar=declared.metavar, help=text, nargs=None if is_needed else "?")
        return
    names = declared.names or [f"--{name.replace('_', '-')}"]
    if inner is bool:
        parser.add_argument(*names, action="store_true", help=text)
        return
    usual = f"{default:g}" if isinstance(default, float) else default
    if not is_needed and (shown := usual if declared.shown is True else declared.shown):
        text = f"{text.removesuffix('.')} (default {shown})."
    parser.add_argument(
        *names,
        dest=name,
        type=inner,
        default=None if is_needed else default,
        required=is_needed,
        metavar=declared.metavar or _METAVARS[inner],
        help=text,
        action="append" if is_list else "store",
    )


def _without_groups(function: Callable[..., None]) -> Callable[..., None]:
    import typer

    hints = get_type_hints(function, localns={"typer": typer}, include_extras=True)
    groups: dict[str, list[str]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind, default = hints[parameter.name], parameter.default
        if not is_dataclass(kind):
            parameters.append(_typer_parameter(parameter.name, kind, default))
            continue
        inner = get_type_hints(kind, include_extras=True)
        groups[parameter.name] = [field.name for field in fields(kind)]
        for field in fields(kind):
            own = _EMPTY if field.default is MISSING else field.default
            value = own if default is _EMPTY else getattr(default, field.name)
            parameters.append(_typer_parameter(field.name, inner[field.name], value))

    def call(**values: Any) -> None:
        made = {name: hints[name](**{field: values.pop(field) for field in names}) for name, names in groups.items()}
        function(**values, **made)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what inspect reads first
    return call


def _typer_parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """Keyword-only, so that one without a default may come last."""
    if get_origin(kind) is Annotated:
        values, declared, *_ = get_args(kind)
        kind = Annotated[values, _typer_info(declared, values)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _typer_info(declared: Argument | Option, values: Any) -> Any:
    import typer

    if isinstance(declared, Argument):
        return typer.Argument(metavar=declared.metavar, help=declared.help)
    says = declared.says

    def print_and_stop(is_given: bool) -> None:
        if is_given and says is not None:
            sys.stdout.write(says() + "\n")
            raise typer.Exit

    return typer.Option(
        *declared.names,
        metavar=declared.metavar or _metavar(values),
        help=declared.help,
        min=declared.min,
        max=declared.max,
        show_default=declared.shown,
        is_eager=says is not None,
        callback=None if says is None else print_and_stop,
    )


def _metavar(values: Any) -> str | None:
    """Return what stands for a value in help; None leaves a choice's names."""
    return _METAVARS.get(_one_value(values)[0])


def _one_value(values: Any) -> tuple[Any, bool]:
    """Return the type of one value, None aside, and whether there may be several."""
    inner = next((kind for kind in get_args(values) if kind is not type(None)), values)
    inner = inner if get_origin(values) is not list else values
    return (get_args(inner)[0], True) if get_origin(inner) is list else (inner, False)
