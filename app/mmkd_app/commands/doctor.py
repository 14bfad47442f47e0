"""`mmkd-doctor`: what this machine can run and lacks. Needs only the runtime."""

from __future__ import annotations

from typing import Annotated, NoReturn

from mmkd_app.cli.options import Command, Option, run_plain
from mmkd_app.cli.run import loading, run_command
from mmkd_edge.errors import UnavailableError

_SIGNS = {"ok": "ok", "missing": "--", "problem": "!!"}


def main() -> NoReturn:
    """Run `mmkd-doctor`; exit with 3 if no bundle can be run."""
    run_command("mmkd-doctor", _run)


def _run(arguments: list[str]) -> None:
    run_plain("mmkd-doctor", arguments, [Command(function=doctor)])


def doctor(*, json: Annotated[bool, Option("Print one JSON document.")] = False) -> None:
    """Show what this machine can run, what is missing, and the command that installs it."""
    with loading("mmkd-doctor"):
        from mmkd_app.cli.show import json_text
        from mmkd_bench.machine.facts import read_power_mode
        from mmkd_export.inspect.doctor import examine

    diagnosis = examine(power_mode=read_power_mode)
    checks = (*diagnosis.machine, *diagnosis.checks)
    if json:
        print(json_text(diagnosis))
    else:
        width = max(len(check.what) for check in checks)
        for check in checks:
            print(f"{_SIGNS[check.status]}  {check.what:<{width}}  {check.found}".rstrip())
            if check.advice:
                print(f"    {'':<{width}}  -> {check.advice}")
        if diagnosis.runs_bundles:
            print("next: mmkd-inspect student.edge --selftest")
    if not diagnosis.runs_bundles:
        raise UnavailableError(f"no bundle can be run here; run: {diagnosis.checks[0].advice}")
