"""Every option of every command is used by a test: the list is made here, and a new option without a test ends it.

Options are read from the page of commands, which test_commands.py compares with the help. A test uses one where the
option stands among its words, as a whole word, in a file that has the command's own words: `"mmkd-bench capacity"`, or
its module and `"capacity"`.
"""

import re
from functools import cache
from pathlib import Path

import mmkd_edge
from tests import test_commands as commands

TESTS = Path(__file__).parent
# They read what commands say of themselves, and carry nothing out.
ABOUT_HELP = {"test_options.py", "test_commands.py", "test_docs.py", "test_site.py"}
OPTION = re.compile(r"^  ((?:-\w, )?--[a-z0-9-]+(?: / (?:-\w, )?--[a-z0-9-]+)?)", flags=re.MULTILINE)
REFERENCE = "none.json: expected a reference written by mmkd-data reference, found no such file; check the path"
PRECISION = "model 'acc' has no artifact of precision 'int8' for backend 'ort': 'acc/model.fp32.onnx' has the precision"
# What each option says of a value that it cannot take: it reaches the place where it counts, and names itself there.
REFUSED = {
    "mmkd-bench run BUNDLE --reference none.json": REFERENCE,
    "mmkd-bench capacity BUNDLE --rate 1 --backend ort --precision int8": PRECISION,
    "mmkd-bench capacity BUNDLE --rate 1 --reference none.json": REFERENCE,
    "mmkd-bench capacity BUNDLE --rate 1 --streams 0": "--streams: expected a whole number from 1 to 1000000, got 0",
    "mmkd-bench capacity BUNDLE --rate 1 --threads 0": "threads: expected a whole number from 1 to 256, got 0",
    "mmkd-bench overhead BUNDLE --reference none.json": REFERENCE,
    "mmkd-bench compare BUNDLE --rivals --reference none.json": REFERENCE,
    "mmkd-bench compare BUNDLE --rivals --checkpoint none.ckpt": "--checkpoint none.ckpt: expected a checkpoint, found",
    "mmkd-bench compare BUNDLE --rivals --threads 0": "--threads: expected a whole number from 1, got 0",
    "mmkd-bench compare BUNDLE BUNDLE --threads 0": "--threads: expected a whole number from 1, got 0",
    "mmkd-export BUNDLE --drift-reference none": "none: expected a dataset directory, found none there",
    "mmkd-bench tune BUNDLE --max-drop-points -1": "--max-drop-points: expected 0 to 100, got -1",
    "mmkd-run BUNDLE --source stdin --error-level 2": "error_level: expected a fraction above 0 and below 1, or None",
    "mmkd-run BUNDLE --source stdin --unknown-level 2": "unknown_level: expected a fraction above 0 and below 1",
    "mmkd-run BUNDLE --source stdin --threads 0": "--threads: expected 1 or more, got '0'; correct it",
    "mmkd-run BUNDLE --source stdin --gap -1": "'stations[0].gap_s': expected a number above 0, got -1.0; correct it",
    "mmkd-run BUNDLE --source stdin --store s --store-size 3": "--store-size 3: expected a size such as 200MB, got",
    "mmkd-run BUNDLE --source stdin --store s --store-loss 90s": "'store_loss_s': expected 0 to 60 s, got 90",
    "mmkd-run BUNDLE --source stdin --time-unit weeks": "--time-unit weeks: expected one of s, ms, us, ns; choose",
    "mmkd-run BUNDLE --source stdin --keep-uncertain 1MB --uncertain-below 3": "--uncertain-below: expected at most 1",
    "mmkd-run BUNDLE --tune-alarm data --alarm FEL --false-alarms-per-hour -1": "--false-alarms-per-hour: expected 0",
}
# Further names of a command's module, where tests call it and not the program.
MODULES = {
    "mmkd-bench": "mmkd_app.commands.bench",
    "mmkd-data": "mmkd_app.commands.data",
    "mmkd-demo": "mmkd_app.commands.demo",
    "mmkd-edge": "mmkd_app.commands.edge",
    "mmkd-run": "mmkd_app.commands.run",
}


@cache
def words_by_file():
    """Source and words of each file that has tests of commands; `--option=value` is the word `--option` too."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("*.py")) if path.name not in ABOUT_HELP]
    return [(source, set(re.split(r"[\s\"'=]+", source))) for source in sources]


def has_command(source, words, command):
    program, *rest = command.split()
    modules = MODULES.get(program, f"commands.{program[5:]}"), f"import {program[5:]}"
    return any(name in source for name in (program, *modules)) and words.issuperset(rest)


def untested(options):
    """`command option` for each option that no test uses; of `--a / --no-a`, or `-o, --out`, one name is enough."""
    return {
        f"{command} {option}"
        for command, known in options.items()
        for option in known
        if not is_used(command, set(option.replace(",", " ").replace("/", " ").split()))
    }


def is_used(command, names):
    refused = any(line.startswith(f"{command} ") and names & set(line.split()) for line in REFUSED)
    return refused or any(names & words and has_command(source, words, command) for source, words in words_by_file())


def test_every_option_of_every_command_has_a_test():
    options = {line: set(OPTION.findall(text)) for line, text in commands.documented().items()}
    assert sum(map(len, options.values())) > 250
    assert untested(options) == set()


def test_an_option_says_what_it_cannot_take():
    bundle = str(mmkd_edge.example_bundle())
    lines = {line.replace("BUNDLE", bundle): said for line, said in REFUSED.items()}
    found = commands.answers(list(lines), blocked=("torch",), columns=250)
    for line, said in lines.items():
        code, text = found[line]
        assert (code, said in text) == (2, True), f"{line}: {text}"
