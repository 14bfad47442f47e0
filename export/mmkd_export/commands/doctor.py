"""`mmkd-doctor`: what this machine can run and what it lacks. Needs nothing but the runtime, and installs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from mmkd_edge.cli.help import CommandParser
from mmkd_edge.cli.interrupts import loading
from mmkd_edge.errors import UnavailableError

if TYPE_CHECKING:
    from mmkd_export.inspect.doctor import Check, Diagnosis

_SIGNS = {"ok": "ok", "missing": "--", "problem": "!!"}

_ABOUT = "Show what this machine can run, what is missing, and the command that installs it."


def main() -> NoReturn:
    """Runs `mmkd-doctor`; exits with 3 where no bundle can be run."""
    with loading("mmkd-doctor"):
        from mmkd_edge.cli.run import run_command
    run_command("mmkd-doctor", _run)


def _run(arguments: list[str]) -> None:
    parser = CommandParser("mmkd-doctor", usage="[OPTIONS]", about=_ABOUT)
    parser.add_argument("--json", action="store_true", help="Print one JSON document.")
    options = parser.parse_args(arguments)
    with loading("mmkd-doctor"):
        import msgspec

        from mmkd_bench.machine.facts import read_power_mode
        from mmkd_export.inspect.doctor import examine

    diagnosis = examine(power_mode=read_power_mode)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(diagnosis), indent=2).decode())
    else:
        _show(diagnosis)
    if not diagnosis.runs_bundles:
        raise UnavailableError(f"no bundle can be run here; run: {diagnosis.checks[0].advice}")


def _show(diagnosis: Diagnosis) -> None:
    checks = (*diagnosis.machine, *diagnosis.checks)
    width = max(len(check.what) for check in checks)
    for check in checks:
        print(_line(check, width))
    if diagnosis.runs_bundles:
        print("next: mmkd-inspect student.edge --selftest")


def _line(check: Check, width: int) -> str:
    text = f"{_SIGNS[check.status]}  {check.what:<{width}}  {check.found}".rstrip()
    return f"{text}\n    {'':<{width}}  -> {check.advice}" if check.advice else text
