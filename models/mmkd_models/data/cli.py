"""`mmkd-data`: the command's door. Its work is in `data_cli`, which needs typer and rich."""

from __future__ import annotations

from typing import NoReturn

from mmkd_edge.command import run_command

_ABOUT = "Import, check and describe dataset directories."


def main() -> NoReturn:
    """Runs `mmkd-data`; where typer or rich are missing, says which extra brings them and exits with 3."""
    run_command("mmkd-data", _run, needs=("typer", "rich"), extra="train", about=_ABOUT)


def _run(arguments: list[str]) -> None:
    from mmkd_models.data.data_cli import app

    app(args=arguments, prog_name="mmkd-data")
