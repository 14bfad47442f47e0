"""Options and groups of options, as typer reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from mmkd_app.cli.options import Argument, Command, Option, run_line, run_plain
from mmkd_edge.errors import UsageError

SEEN: list[object] = []


@dataclass(frozen=True, kw_only=True)
class Cooking:
    minutes: Annotated[int, Option("How long.", min=1)] = 7
    salt: Annotated[bool, Option("Whether it is salted.", ("--salt/--no-salt",))] = True
    spices: Annotated[list[str] | None, Option("One of them (repeat).", ("--spice",), "NAME")] = None


@dataclass(frozen=True, kw_only=True)
class Slowly(Cooking):
    minutes: Annotated[int, Option("How long.", min=1, shown="long")] = 90


QUICKLY = Cooking(minutes=3)


def boil(
    egg: Annotated[Path, Argument("EGG", "What is boiled.")],
    *,
    cooking: Cooking = QUICKLY,
    out: Annotated[Path, Option("Where to.", ("-o", "--out"), "PLATE")],
    recipe: Annotated[bool, Option("Print the recipe and stop.", ("--recipe",), says=lambda: "water")] = False,
) -> None:
    """Boil an egg."""
    SEEN.append((egg, cooking, out))


def bake(*, cooking: Slowly) -> None:
    """Bake. More of it."""
    SEEN.append(cooking)


def ended(*line: str, commands: Sequence[Command] = (Command(function=boil, epilog="Enjoy."),)) -> int | str | None:
    SEEN.clear()
    with pytest.raises(SystemExit) as caught:
        run_line("mmkd-data", line, commands)
    return caught.value.code


def test_groups_are_filled_unless_an_option_only_says_something(capsys):
    assert ended("egg", "--out", "plate", "--no-salt") == 0
    assert [(Path("egg"), Cooking(minutes=3, salt=False), Path("plate"))] == SEEN
    assert ended("egg", "--spice", "dill", "--spice", "chive", "-o", "plate", "--minutes", "4") == 0
    assert [(Path("egg"), Cooking(minutes=4, spices=["dill", "chive"]), Path("plate"))] == SEEN
    assert ended("--recipe") == 0
    assert (capsys.readouterr().out, SEEN) == ("water\n", [])


REFUSED = {
    "egg": "Missing option '-o' / '--out'; see mmkd-data --help",
    "egg -o plate --minutes 0": "--minutes: expected 1 or more, got '0'; correct it",
    "egg -o plate --minutes=0,5": "--minutes: expected a whole number, got '0,5'; write 0.5",
    "egg -o": "Option '-o' requires an argument; see mmkd-data --help",
    "egg -o plate spoon": "Got unexpected extra argument(s) (spoon); see mmkd-data --help",
    "--spice dill boil egg": "--spice: expected a command before the options; write one of boil, bake-slowly first",
    "boil egg -o plate --mintes 3": "No such option: --mintes (Possible options: --minutes); see mmkd-data boil --help",
}


@pytest.mark.parametrize(("line", "says"), REFUSED.items())
def test_what_cannot_be_read_is_one_of_our_errors(line: str, says: str) -> None:
    commands = [Command(function=boil), Command(function=bake, name="bake-slowly")]
    several = "boil" in line
    with pytest.raises(UsageError) as caught:
        run_line("mmkd-data", line.split(), commands if several else commands[:1])
    assert str(caught.value) == says


def test_the_standard_library_refuses_in_our_words_too() -> None:
    with pytest.raises(UsageError) as caught:
        run_plain("mmkd-edge", ["grill"], [Command(function=grill), Command(function=fry)])
    assert str(caught.value) == "the following arguments are required: FISH; see mmkd-edge grill --help"


def test_of_several_commands_the_first_word_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    commands = (Command(function=boil), Command(function=bake, name="bake-slowly"))
    assert ended("bake-slowly", "--no-salt", commands=commands) == 0
    assert [Slowly(minutes=90, salt=False)] == SEEN
    assert ended("bake-slowly", "--help", commands=commands) == 0
    assert "How long.  [default: (long); x>=1]\n" in capsys.readouterr().out
    assert ended("--help", commands=commands) == 0
    said = capsys.readouterr().out
    assert [said.index(part) for part in ("boil         Boil an egg", "bake-slowly  Bake.")] != []


def grill(
    fish: Annotated[Path, Argument("FISH", "What is grilled.")],
    side: Annotated[Path | None, Argument("SIDE", "What lies beside it.")] = None,
    *,
    minutes: Annotated[float, Option("How long.")] = 7.5,
    herbs: Annotated[list[str] | None, Option("One of them (repeat).", ("--herb",), "NAME")] = None,
    hot: Annotated[bool, Option("Whether it is hot.")] = False,
) -> None:
    """Grill a fish on charcoal, which takes longer to say than a line of help has room for on most terminals."""
    SEEN.append((fish, side, minutes, herbs, hot))


def fry(*, oil: Annotated[str, Option("Kind of oil.", metavar="KIND")]) -> None:
    """Fry."""
    SEEN.append(oil)


def test_the_standard_library_reads_the_same_declarations() -> None:
    SEEN.clear()
    run_plain("mmkd-edge", ["perch", "leek", "--herb", "dill", "--herb", "mint", "--hot"], [Command(function=grill)])
    run_plain("mmkd-edge", ["grill", "perch", "--minutes", "3"], [Command(function=grill), Command(function=fry)])
    run_plain("mmkd-edge", ["fry", "--oil", "rape"], [Command(function=grill), Command(function=fry)])
    assert [
        (Path("perch"), Path("leek"), 7.5, ["dill", "mint"], True), (Path("perch"), None, 3.0, None, False), "rape"
    ] == SEEN  # fmt: skip


@pytest.mark.parametrize("run", [run_line, run_plain])
def test_help_names_values_plainly_and_cuts_no_summary(run, capsys: pytest.CaptureFixture[str]) -> None:
    about = "Grill a fish on charcoal, which takes longer to say than a line of help has room for on most terminals."
    commands = [Command(function=grill), Command(function=fry)]
    with pytest.raises(SystemExit):
        run("mmkd-edge", ["--help"], commands)
    assert about in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        run("mmkd-edge", ["grill", "--help"], commands)
    said = " ".join(capsys.readouterr().out.split())
    assert "--minutes NUMBER How long" in said
    assert "7.5" in said
    assert "--herb NAME One of them (repeat)." in said


def test_no_command_shows_a_type_of_a_library() -> None:
    page = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [word for word in (" range>", "<int>", "<float>", "<str>") if word in page] == []
