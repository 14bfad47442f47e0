"""`mmkd-bench`: latency, memory and energy of a bundle on the machine that runs it."""

from __future__ import annotations

from mmkd_bench.commands import ABOUT
from mmkd_edge.cli.interrupts import loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_NEEDS = ("typer", "rich", "psutil")


def main() -> NoReturn:
    """Runs `mmkd-bench`."""
    with loading("mmkd-bench"):
        from mmkd_edge.cli.run import run_command

    run_command("mmkd-bench", _bench, needs=_NEEDS, extra="bench", about=ABOUT)


def _bench(arguments: list[str]) -> None:
    # Only now: they import typer and rich, which a device may lack.
    with loading("mmkd-bench"):
        from mmkd_bench.commands.app import make_app

    make_app()(arguments, prog_name="mmkd-bench")
