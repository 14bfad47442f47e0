"""The command `mmkd-bench tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mmkd_bench.commands import options
from mmkd_bench.sheets import profile_sheet
from mmkd_bench.sheets import show as show_sheet
from mmkd_bench.tune import tune_bundle
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import cache_folder
from mmkd_edge.cli.run import shell_line
from mmkd_edge.cli.show import json_text, say
from mmkd_edge.opening.profile import ExecutionProfile, find_profile, write_profile


class ShownProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Output of `--show --json`: path, the profile that applies, or why none does."""

    path: str
    reason: str
    profile: ExecutionProfile | None


def tune(
    bundle: options.BundleArgument,
    *,
    duration_s: Annotated[float, typer.Option("--duration-s", help="Measured seconds over all configs.")] = 40.0,
    threads: Annotated[
        str | None,
        typer.Option(help="Numbers of threads to try, separated by commas.", show_default="1,2,4,8 up to the cores"),
    ] = None,
    max_drop_points: Annotated[
        float, typer.Option(help="Points of the task's metric that a lower precision may lose.")
    ] = 0.5,
    show: Annotated[bool, typer.Option("--show", help="Show the profile that applies here; measure nothing.")] = False,
    json: options.JsonOption = False,
) -> None:
    """Find the fastest backend, precision and threads on this machine; EdgePredictor.open then uses them."""
    if show:
        _show(bundle, json=json)
        return
    counts = None if threads is None else options.parse_numbers(threads, name="threads", example="1,2,4")
    cache_folder("profiles")  # raise its error before measuring for a minute
    profile = tune_bundle(
        bundle,
        duration_s=duration_s,
        threads=counts,
        max_drop_points=max_drop_points,
        progress=say,
    )
    path = write_profile(profile)
    if json:
        print(json_text(profile))
    else:
        show_sheet(profile_sheet(profile))
    say(f"wrote {path}; next: {shell_line('mmkd-bench', 'run', bundle)}")


def _show(bundle: Path, *, json: bool) -> None:
    with Bundle.open(bundle) as opened:
        match = find_profile(opened.sha256)
    path = "" if match.path is None else str(match.path)
    if json:
        print(json_text(ShownProfile(path=path, reason=match.reason, profile=match.profile)))
    elif match.profile is None:
        print(match.reason)
    else:
        show_sheet(profile_sheet(match.profile))
        say(f"from {path}")
    if match.profile is None:
        say(f"next: {shell_line('mmkd-bench', 'tune', bundle)}")
