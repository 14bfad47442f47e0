"""All commands; `hatch_build.py` makes the scripts from this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

DISTRIBUTION = "mmkd-edge"
ONE_NAME = "mmkd"
ONE_MAIN = "mmkd_app.cli.mmkd:main"


class Command(NamedTuple):
    """A command: its function as `module:function`, and the first line of its help."""

    main: str
    about: str


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "mmkd-demo": Command(
            "mmkd_app.commands.demo:main",
            "The whole chain on shipped recordings, or on yours: which one sensor is enough?",
        ),
        "mmkd-data": Command("mmkd_app.commands.data:main", "Import, check and describe dataset directories."),
        "mmkd-train": Command(
            "mmkd_app.commands.train:main",
            "Train a multimodal teacher, or a single-sensor student on labels only (the baseline).",
        ),
        "mmkd-distill": Command(
            "mmkd_app.commands.distill:main",
            "Distil one or more teachers into a student of one sensor; windows without labels (-1) teach too.",
        ),
        "mmkd-study": Command(
            "mmkd_app.commands.study:main",
            "Find the best student of one sensor within limits, and show what distillation buys.",
        ),
        "mmkd-evaluate": Command(
            "mmkd_app.commands.evaluate:main", "Judge a teacher, a student or a bundle on a dataset."
        ),
        "mmkd-adapt": Command("mmkd_app.commands.adapt:main", "Adapt a student to a new machine, person or campaign."),
        "mmkd-export": Command(
            "mmkd_app.commands.export:main", "Export a student to one verified bundle, ready for a device."
        ),
        "mmkd-run": Command(
            "mmkd_app.commands.run:main",
            "Run a student continuously on live sensors; send results to files, databases, MQTT, OPC UA, Modbus or "
            "webhooks.",
        ),
        "mmkd-edge": Command(
            "mmkd_app.commands.edge:main", "Keys for signatures, and the bundles installed on this device."
        ),
        "mmkd-bench": Command(
            "mmkd_app.commands.bench:main", "Latency, memory and energy of a bundle on the machine that runs it."
        ),
        "mmkd-inspect": Command(
            "mmkd_app.commands.inspect:main", "Show what is inside a bundle, a checkpoint or an engine."
        ),
        "mmkd-doctor": Command(
            "mmkd_app.commands.doctor:main", "Show what this machine can run, and what installs the rest."
        ),
    }
)


def installed_commands() -> dict[str, Callable[[], Callable[[], object]]]:
    """Return loaders of the installed commands, in table order."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        installed = {entry.name: entry.load for entry in distribution(DISTRIBUTION).entry_points}
    except PackageNotFoundError:
        return {}
    return {name: installed[name] for name in COMMANDS if name in installed}
