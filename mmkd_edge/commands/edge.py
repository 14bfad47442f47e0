"""`mmkd-edge`: keys for signatures, and what is installed on this device. Needs nothing but the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mmkd_edge.cli.help import CommandParser, commands_page
from mmkd_edge.cli.interrupts import loading
from mmkd_edge.cli.run import run_command, shell_line
from mmkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mmkd_edge.install.slots import Slot, Slots

_NAME = "mmkd-edge"
_ABOUT = "Keys for signatures, and the bundles that are installed on this device."
_STATE = "The state folder of the device, such as /var/lib/mmkd."


def main() -> NoReturn:
    """Runs `mmkd-edge`."""
    run_command(_NAME, _run)


def _run(arguments: list[str]) -> None:
    word, *rest = arguments or ["--help"]
    if word in ("-h", "--help"):
        print(commands_page(_NAME, _ABOUT, [(name, about) for name, (about, _) in _COMMANDS.items()]), end="")
        return
    if word not in _COMMANDS:
        raise UsageError(f"{word!r} is unknown; expected one of {', '.join(_COMMANDS)}")
    about, command = _COMMANDS[word]
    command(rest, about)


def _keygen(arguments: list[str], about: str) -> None:
    parser = CommandParser(f"{_NAME} keygen", usage="[OPTIONS] FILE", about=about)
    parser.add_argument("file", type=Path, metavar="FILE", help="The private key; the public one is FILE.pub.")
    parser.add_argument("--valid-days", type=int, metavar="N", help="After so many days it does not count any more.")
    options = parser.parse_args(arguments)
    if options.valid_days is not None and options.valid_days < 1:
        raise UsageError(f"--valid-days {options.valid_days}: expected at least 1")
    with loading(_NAME):
        from mmkd_edge.install.keys import make_keys
    public, path = make_keys(options.file, valid_days=options.valid_days)
    print(f"key {public.key_id}, {f'until {public.expires_utc}' if public.expires_utc else 'without an end'}")
    print(f"{options.file} signs and stays where bundles are exported; {path} goes into a folder on each device")
    line = shell_line("mmkd-export", "student.ckpt", "--sign", options.file)
    print(f"wrote {options.file}, {path}; next: {line}")


def _install(arguments: list[str], about: str) -> None:
    parser = CommandParser(f"{_NAME} install", usage="[OPTIONS] BUNDLE STATE", about=about)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="What is installed.")
    parser.add_argument("state", type=Path, metavar="STATE", help=_STATE)
    parser.add_argument("--allow-downgrade", action="store_true", help="Take a release before one that was here.")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="What it is tried in; else what is best.")
    parser.add_argument("--keys", type=Path, metavar="KEYS", help="Public keys, one of which must have signed it.")
    options = parser.parse_args(arguments)
    with loading(_NAME):
        from mmkd_edge import Bundle, EdgePredictor
        from mmkd_edge.install.keys import check_signed
        from mmkd_edge.install.slots import install
    with Bundle.open(options.bundle) as bundle:
        check_signed(bundle, options.keys)

    def prove(path: Path) -> None:
        with EdgePredictor.open(path, backend=options.backend, keys=options.keys) as predictor:
            result = predictor.selftest()
        print(f"{result.windows} golden windows within {result.max_abs_error:.2g} (tolerance {result.tolerance:.2g})")

    slots = install(options.state, options.bundle, prove=prove, allow_downgrade=options.allow_downgrade)
    print(_told(slots))
    print(f"wrote {options.state}; next: EdgePredictor.open({str(options.state)!r}), or restart the service")


def _list(arguments: list[str], about: str) -> None:
    parser = CommandParser(f"{_NAME} list", usage="[OPTIONS] STATE", about=about)
    parser.add_argument("state", type=Path, metavar="STATE", help=_STATE)
    parser.add_argument("--json", action="store_true", help="Print one JSON document.")
    options = parser.parse_args(arguments)
    with loading(_NAME):
        from mmkd_edge.cli.show import json_text
        from mmkd_edge.install.slots import read_slots
    slots = read_slots(options.state)
    print(json_text(slots) if options.json else _told(slots))


def _rollback(arguments: list[str], about: str) -> None:
    parser = CommandParser(f"{_NAME} rollback", usage="[OPTIONS] STATE", about=about)
    parser.add_argument("state", type=Path, metavar="STATE", help=_STATE)
    options = parser.parse_args(arguments)
    with loading(_NAME):
        from mmkd_edge.install.slots import rollback
    print(_told(rollback(options.state)))
    print(f"wrote {options.state}; next: restart the service")


def _verify(arguments: list[str], about: str) -> None:
    parser = CommandParser(f"{_NAME} verify", usage="[OPTIONS] STATE", about=about)
    parser.add_argument("state", type=Path, metavar="STATE", help=_STATE)
    parser.add_argument("--keys", type=Path, metavar="KEYS", help="Public keys, one of which must have signed each.")
    options = parser.parse_args(arguments)
    with loading(_NAME):
        from mmkd_edge import Bundle
        from mmkd_edge.install.keys import check_signed
        from mmkd_edge.install.slots import check_slot, path_of, read_slots
    slots = read_slots(options.state)
    for slot in filter(None, (slots.current, slots.previous)):
        check_slot(options.state, slot)
        with Bundle.open(path_of(options.state, slot)) as bundle:
            key = check_signed(bundle, options.keys)
        print(f"{slot.sha256}  every byte verified{f', signed by key {key}' if key else ''}")
    print(f"next: {shell_line(_NAME, 'list', options.state)}")


def _told(slots: Slots) -> str:
    lines = [_line("current", slots.current)]
    if slots.previous is not None:
        lines.append(_line("previous", slots.previous))
    return "\n".join(lines)


def _line(place: str, slot: Slot) -> str:
    from mmkd_edge.printable import printable

    reason = f": {slot.reason}" if slot.reason else ""
    text = f"{place:<9} release {slot.release}  {slot.model_id}  {slot.sha256[:12]}  {slot.installed_utc}  "
    return printable(f"{text}{slot.condition}{reason}")


_COMMANDS: Mapping[str, tuple[str, Callable[[list[str], str], None]]] = {
    "keygen": ("Make a key that signs bundles, and the public key that devices know it by.", _keygen),
    "install": ("Install a bundle: verified, tried and tested first; the one before it stays to return to.", _install),
    "list": ("Show what is installed, and what there is to return to.", _list),
    "rollback": ("Return to the bundle before.", _rollback),
    "verify": ("Verify every byte of what is installed, and who signed it.", _verify),
}
