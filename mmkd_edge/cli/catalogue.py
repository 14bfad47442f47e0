"""Every command of the distribution: what it is called, what runs it and, in a line, what it is for. Imports none.

The scripts that an installation gets are made from this table, by `hatch_build.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

DISTRIBUTION = "mmkd-edge"
ONE_NAME = "mmkd"
ONE_MAIN = "mmkd_edge.commands.mmkd:main"


class Command(NamedTuple):
    """What a command is made of.

    Attributes:
        main: the function that runs it, as `module:function`.
        about: in a line, what it is for.
    """

    main: str
    about: str


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "mmkd-demo": Command(
            "mmkd_export.commands.demo:main",
            "The whole chain on shipped recordings, or on yours: which one sensor is enough?",
        ),
        "mmkd-data": Command("mmkd_models.commands.data:main", "Import, check and describe dataset directories."),
        "mmkd-train": Command("mmkd_models.commands.train:main", "Train a teacher, or a student on labels only."),
        "mmkd-distill": Command("mmkd_models.commands.distill:main", "Distil teachers into a student of one sensor."),
        "mmkd-study": Command("mmkd_models.commands.study:main", "Find the best student of one sensor within limits."),
        "mmkd-evaluate": Command(
            "mmkd_models.commands.evaluate:main", "Judge a teacher or a student, also with sensors missing."
        ),
        "mmkd-adapt": Command(
            "mmkd_models.commands.adapt:main", "Adapt a student to a new machine, person or campaign."
        ),
        "mmkd-export": Command("mmkd_export.commands.export:main", "Export a student to one verified bundle."),
        "mmkd-run": Command("mmkd_station.commands.run:main", "Answer for sensors day and night."),
        "mmkd-edge": Command(
            "mmkd_edge.commands.edge:main", "Keys for signatures, and the bundles installed on this device."
        ),
        "mmkd-bench": Command(
            "mmkd_bench.commands.cli:main", "Latency, memory and energy on the machine that runs a bundle."
        ),
        "mmkd-inspect": Command(
            "mmkd_export.commands.inspect:main", "Show what is inside a bundle, a checkpoint or an engine."
        ),
        "mmkd-doctor": Command(
            "mmkd_export.commands.doctor:main", "Show what this machine can run, and what installs the rest."
        ),
    }
)
"""In the order of the work: from recordings to a device."""


def installed_commands() -> dict[str, Callable[[], Callable[[], object]]]:
    """The commands that the installed distribution has, in the order of the table; each gives its `main` when called.

    Empty where it is not installed but lies on the path, as a copied folder does.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = {one.name: one.load for one in distribution(DISTRIBUTION).entry_points}
    except PackageNotFoundError:
        return {}
    return {name: found[name] for name in COMMANDS if name in found}


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that a mistyped one most resembles; None where none is near."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word.lower(), known, n=1)), None)
