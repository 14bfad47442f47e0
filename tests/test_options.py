"""Every option of every command is used by a test: the list is made here, and a new option without a test ends it.

Options are read from the help of each command. A test uses one where the option stands among its words, as a whole
word, in a file that has the command's own words: `"mmkd-bench capacity"`, or its module and `"capacity"`.
"""

import ast
import re
from functools import cache
from pathlib import Path

import mmkd_edge
from tests import test_commands as commands

TESTS = Path(__file__).parent
# They read what commands say of themselves, and carry nothing out.
ABOUT_HELP = {"test_options.py", "test_commands.py", "test_docs.py", "test_site.py"}
OPTION = re.compile(r"^  ((?:-\w, )?--[a-z0-9-]+(?: / (?:-\w, )?--[a-z0-9-]+)?)", flags=re.MULTILINE)
OF_EVERY_COMMAND = ("--help", "--install-completion", "--show-completion")
REFERENCE = "none.json: expected a reference written by mmkd-data reference, found no such file; check the path"
PRECISION = "model 'acc' has no artifact of precision 'int8' for backend 'ort': 'acc/model.fp32.onnx' has the precision"
# What each option says of a value that it cannot take: it reaches the place where it counts, and names itself there.
REFUSED = {
    "mmkd-bench run BUNDLE --reference none.json": REFERENCE,
    "mmkd-bench capacity BUNDLE --rate 1 --backend ort --precision int8": PRECISION,
    "mmkd-bench capacity BUNDLE --rate 1 --reference none.json": REFERENCE,
    "mmkd-bench capacity BUNDLE --rate 1 --streams 0": "streams: expected a whole number from 1 to 1000000, got 0",
    "mmkd-bench capacity BUNDLE --rate 1 --threads 0": "threads: expected a whole number from 1 to 256, got 0",
    "mmkd-bench overhead BUNDLE --reference none.json": REFERENCE,
    "mmkd-bench compare BUNDLE --rivals --reference none.json": REFERENCE,
    "mmkd-bench compare BUNDLE --rivals --checkpoint none.ckpt": "--checkpoint none.ckpt: expected a checkpoint, found",
    "mmkd-bench compare BUNDLE --rivals --threads 0": "threads: expected a whole number from 1, got 0",
    "mmkd-bench compare BUNDLE BUNDLE --threads 0": "threads: expected a whole number from 1, got 0",
    "mmkd-export BUNDLE --drift-reference none": "none: expected a dataset directory, found none there",
    "mmkd-bench tune BUNDLE --max-drop-points -1": "max-drop-points: expected 0 to 100, got -1",
    "mmkd-run BUNDLE --source stdin --error-level 2": "error_level: expected a fraction above 0 and below 1, or None",
    "mmkd-run BUNDLE --source stdin --unknown-level 2": "unknown_level: expected a fraction above 0 and below 1",
    "mmkd-run BUNDLE --source stdin --threads 0": "Invalid value for '--threads': Input should be greater than or",
    "mmkd-run BUNDLE --source stdin --gap -1": "'stations[0].gap_s': expected a number above 0, got -1.0; correct it",
    "mmkd-run BUNDLE --source stdin --store s --store-size 3": "--store-size 3: expected a size such as 200MB, got",
    "mmkd-run BUNDLE --source stdin --time-unit weeks": "--time-unit weeks: expected one of s, ms, us, ns; choose",
    "mmkd-run BUNDLE --source stdin --keep-uncertain 1MB --uncertain-below 3": "Invalid value for '--uncertain-below'",
    "mmkd-run BUNDLE --tune-alarm data --alarm FEL --false-alarms-per-hour -1": "Invalid value for '--false-alarms",
}
# Further names of a command's module, where tests call it and not the program.
MODULES = {
    "mmkd-bench": "mmkd_bench.commands.cli",
    "mmkd-data": "mmkd_models.commands.data",
    "mmkd-demo": "mmkd_export.commands.demo",
    "mmkd-edge": "mmkd_edge.commands.edge",
    "mmkd-run": "mmkd_station.commands.run",
}


def module_of(program):
    return MODULES.get(program, f"commands.{program.removeprefix('mmkd-')}")


def words_of(node):
    """The words of every text below a node; `--option=value` is the word `--option` too."""
    texts = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    words = {word for text in texts for word in text.split()}
    return words | {word.partition("=")[0] for word in words}


@cache
def words_by_file():
    """Source and words of each file that has tests of commands."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("*.py")) if path.name not in ABOUT_HELP]
    return [(source, words_of(ast.parse(source))) for source in sources]


def has_command(source, words, command):
    program, *rest = command
    named = program in source or module_of(program) in source or f"import {program.removeprefix('mmkd-')}" in source
    return named and all(word in words for word in rest)


def untested(options):
    """`command option` for each option that no test uses; of `--a / --no-a`, or `-o, --out`, one name is enough."""
    return {
        f"{command} {option}"
        for command, known in options.items()
        for option in known
        if not is_used(command, set(option.replace(",", " ").replace("/", " ").split()))
    }


def is_used(command, names):
    """Whether a test gives a command the option of these names."""
    refused = any(line.startswith(f"{command} ") and names & set(line.split()) for line in REFUSED)
    return refused or any(
        names & words and has_command(source, words, command.split()) for source, words in words_by_file()
    )


def test_every_option_of_every_command_has_a_test():
    pages = commands.answers([f"{name} --help" for name in commands.SCRIPTS], blocked=(), columns=200)
    options = {
        line.removesuffix(" --help"): {name for name in OPTION.findall(text) if not name.endswith(OF_EVERY_COMMAND)}
        for line, (_, text) in pages.items()
    }
    assert sum(map(len, options.values())) > 250
    assert untested(options) == set()


def test_an_option_says_what_it_cannot_take():
    bundle = str(mmkd_edge.example_bundle())
    lines = {line.replace("BUNDLE", bundle): said for line, said in REFUSED.items()}
    found = commands.answers(list(lines), blocked=("torch",), columns=250)
    for line, said in lines.items():
        code, text = found[line]
        assert (code, said in text) == (2, True), f"{line}: {text}"
