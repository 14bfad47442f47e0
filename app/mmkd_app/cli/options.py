"""Options of commands, declared without typer, which only extras install; a dataclass of them is one parameter."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from mmkd_app.cli.catalogue import COMMANDS
from mmkd_edge.errors import UsageError

if TYPE_CHECKING:
    import typer

_EMPTY = inspect.Parameter.empty


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


def make_app(about: str = "") -> typer.Typer:
    """Make a command line; `about` is the help of one with several commands."""
    import typer

    return typer.Typer(
        help=about or None,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run_line(name: str, arguments: Sequence[str], commands: Sequence[Command]) -> None:
    """Run the function of a command line's command; of several the first word chooses."""
    app = make_app(COMMANDS[name].about if len(commands) > 1 else "")
    names = [command.name or command.function.__name__ for command in commands] if len(commands) > 1 else []
    if len(arguments) > 1 and arguments[1] in names and arguments[0] not in names and arguments[0][:1] != "-":
        raise UsageError(f"{arguments[0]}: expected a command first, got {arguments[1]!r} after it; swap the two")
    for command in commands:
        app.command(command.name, epilog=command.epilog)(_without_groups(command.function))
    app(args=list(arguments), prog_name=name)


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
        kind = Annotated[get_args(kind)[0], _typer_info(get_args(kind)[1])]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _typer_info(declared: Argument | Option) -> Any:
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
        metavar=declared.metavar,
        help=declared.help,
        min=declared.min,
        max=declared.max,
        show_default=declared.shown,
        is_eager=says is not None,
        callback=None if says is None else print_and_stop,
    )
