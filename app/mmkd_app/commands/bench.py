"""The command `mmkd-bench`."""

from __future__ import annotations

from typing import NoReturn

from mmkd_app.cli.options import Command, run_line
from mmkd_app.cli.run import loading, run_command


def main() -> NoReturn:
    """Run `mmkd-bench`."""
    run_command("mmkd-bench", run_bench, needs=("typer", "rich", "psutil"), extra="bench")


def run_bench(arguments: list[str]) -> None:
    """Run `mmkd-bench`."""
    with loading("mmkd-bench"):  # only now: a device may lack psutil
        from mmkd_app.bench.functions import capacity, compare, overhead, page, run, tune
    functions = (run, tune, compare, capacity, overhead, page)
    run_line("mmkd-bench", arguments, [Command(function=function) for function in functions])
