"""`mmkd-bench`: latency, memory and energy of a bundle on the machine that runs it."""

from __future__ import annotations

from typing import NoReturn

from mmkd_edge.command import run_command

_NEEDS = ("typer", "rich", "psutil")


def main() -> NoReturn:
    """Runs `mmkd-bench`."""
    run_command("mmkd-bench", _bench, needs=_NEEDS, extra="bench")


def _bench(arguments: list[str]) -> None:
    # Only now: they import typer and rich, which a device may lack.
    from mmkd_bench.commands_cli import make_app

    make_app()(arguments, prog_name="mmkd-bench")
