"""The command `mmkd-bench`."""

from __future__ import annotations

from mmkd_app.cli.interrupts import loading

with loading("mmkd-bench"):
    from typing import TYPE_CHECKING, NoReturn

    from mmkd_app.cli.catalogue import COMMANDS
    from mmkd_app.cli.run import run_command

if TYPE_CHECKING:
    import typer


def main() -> NoReturn:
    """Run `mmkd-bench`."""
    run_command("mmkd-bench", _bench, needs=("typer", "rich", "psutil"), extra="bench")


def make_app() -> typer.Typer:
    """Return the command line."""
    # Only now: a device may lack typer and rich.
    from mmkd_app.bench.measuring import capacity, overhead, run, tune
    from mmkd_app.bench.reports import compare, page
    from mmkd_app.cli.options import make_app as make_empty_app

    app = make_empty_app(COMMANDS["mmkd-bench"].about)
    for command in (run, tune, compare, capacity, overhead, page):
        app.command(command.__name__)(command)
    return app


def _bench(arguments: list[str]) -> None:
    with loading("mmkd-bench"):
        app = make_app()
    app(arguments, prog_name="mmkd-bench")
