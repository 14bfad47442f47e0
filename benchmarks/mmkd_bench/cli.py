"""`mmkd-bench`: latency, memory and energy of a bundle on the machine that runs it."""

from __future__ import annotations

from typing import NoReturn

from mmkd_edge.command import INTERRUPTED_EXIT_CODE, run_command

_NEEDS = ("typer", "rich", "psutil")

ABOUT = "Latency, memory and energy of a bundle on the machine that runs it."


def main() -> NoReturn:
    """Runs `mmkd-bench`."""
    run_command("mmkd-bench", _bench, needs=_NEEDS, extra="bench", about=ABOUT)


def _bench(arguments: list[str]) -> None:
    # Only now: they import typer and rich, which a device may lack.
    from mmkd_bench.commands_cli import make_app

    try:
        make_app()(arguments, prog_name="mmkd-bench")
    except SystemExit as ended:
        # typer turns Ctrl-C into this code and says nothing.
        if ended.code == INTERRUPTED_EXIT_CODE:
            raise KeyboardInterrupt from None
        raise
