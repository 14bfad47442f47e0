"""`mmkd-export`: the command's door. Its work is in `export_cli`, which needs typer and rich."""

from __future__ import annotations

from mmkd_edge.command.interrupts import loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_ABOUT = "Export a student to one verified bundle, ready for a device."


def main() -> NoReturn:
    """Runs `mmkd-export`; where typer or rich are missing, says which extra brings them and exits with 3."""
    with loading("mmkd-export"):
        from mmkd_edge.command.run import run_command

    run_command("mmkd-export", _run, needs=("typer", "rich"), extra="export", about=_ABOUT)


def _run(arguments: list[str]) -> None:
    with loading("mmkd-export"):
        from mmkd_export.commands.export import app

    app(args=arguments, prog_name="mmkd-export")
