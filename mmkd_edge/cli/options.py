"""Options of commands, said without the library that reads them, alone or as groups that several commands share.

A group is a dataclass whose fields are options; a command takes it as one parameter. Needs the standard library alone:
typer is imported where the line of a command is read.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Argument:
    """What stands without a name on the command line, in `Annotated[Path, Argument("DATA", "...")]`."""

    metavar: str | None
    help: str


@dataclass(frozen=True)
class Option:
    """An option, in `Annotated[int, Option("Optimisation steps.", min=1)]`.

    Attributes:
        help: what it does.
        names: as they are typed; else the parameter's.
        metavar: what stands for its value; else a word for the type.
        shown: its default in words; False hides it.
        says: prints what this gives and stops, whatever else is on the line.
    """

    help: str
    names: Sequence[str] = ()
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    shown: str | bool = True
    says: Callable[[], str] | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """A function and how its line of the help ends."""

    function: Callable[..., None]
    name: str | None = None
    epilog: str | None = None


def run_line(name: str, arguments: Sequence[str], commands: Sequence[Command], *, about: str = "") -> None:
    """Reads a command line and calls the function of its command; of several the first word says which.

    Args:
        commands: one, whose docstring is its help, or several.
        about: what several do together.
    """
    from mmkd_edge.cli.help import command_app, command_class

    app = command_app(about if len(commands) > 1 else "")
    for one in commands:
        app.command(one.name, cls=command_class(), epilog=one.epilog)(_flat(one.function))
    app(args=list(arguments), prog_name=name)


def _flat(function: Callable[..., None]) -> Callable[..., None]:
    """The function as typer reads it: an option for every field of a group."""
    import typer

    hints = get_type_hints(function, localns={"typer": typer}, include_extras=True)
    parts: dict[str, dict[str, inspect.Parameter]] = {}
    for given in inspect.signature(function).parameters.values():
        kind = hints[given.name]
        parts[given.name] = _fields_of(kind, given.default) if is_dataclass(kind) else {"": _parameter(given, kind)}

    def call(**values: Any) -> None:
        function(**{name: _argument(hints[name], name, part, values) for name, part in parts.items()})

    flat = [parameter for part in parts.values() for parameter in part.values()]
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined] # what inspect reads first
    return call


def _argument(kind: Any, name: str, part: Mapping[str, inspect.Parameter], values: Mapping[str, Any]) -> Any:
    return values[name] if "" in part else kind(**{field: values[field] for field in part})


def _fields_of(group: Any, default: Any) -> dict[str, inspect.Parameter]:
    """An option of each field; the defaults are those of a group that is the default, else the fields' own."""
    hints = get_type_hints(group, include_extras=True)
    return {field.name: _typed(field.name, hints[field.name], _default_of(field, default)) for field in fields(group)}


def _default_of(field: Field[Any], group: Any) -> Any:
    if group is not inspect.Parameter.empty:
        return getattr(group, field.name)
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _parameter(given: inspect.Parameter, kind: Any) -> inspect.Parameter:
    return _typed(given.name, kind, given.default)


def _typed(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """An option or argument as typer takes it; keyword-only, so that one without a default may come last."""
    if get_origin(kind) is Annotated:
        kind = Annotated[get_args(kind)[0], _info_of(get_args(kind)[1])]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _info_of(said: Argument | Option) -> Any:
    import typer

    if isinstance(said, Argument):
        return typer.Argument(metavar=said.metavar, help=said.help)
    return typer.Option(
        *said.names,
        metavar=said.metavar,
        help=said.help,
        min=said.min,
        max=said.max,
        show_default=said.shown,
        is_eager=said.says is not None,
        callback=None if said.says is None else _stop_after(said.says),
    )


def _stop_after(says: Callable[[], str]) -> Callable[[bool], None]:
    def stop(wanted: bool) -> None:
        if wanted:
            import typer

            sys.stdout.write(says() + "\n")
            raise typer.Exit

    return stop
