"""The command line of `mmkd-bench`: which commands there are."""

from __future__ import annotations

import typer

from mmkd_bench.commands import ABOUT
from mmkd_bench.commands.frames import frames
from mmkd_bench.commands.in_turn import overhead, pair, rivals, teacher
from mmkd_bench.commands.reports import compare, page
from mmkd_bench.commands.run import run
from mmkd_bench.commands.scaling import capacity, plan
from mmkd_bench.commands.tune import tune
from mmkd_edge.cli.help import command_app, command_class


def make_app() -> typer.Typer:
    """The whole command line."""
    app, cls = command_app(ABOUT), command_class()
    for command in (run, compare, page, pair, teacher, overhead, frames, rivals, capacity, plan, tune):
        app.command(command.__name__, cls=cls)(command)
    return app
